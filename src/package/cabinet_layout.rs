//! The tables of a cabinet, checked before anything is unpacked.
//!
//! Source of the format: MS-CAB, sections 2.1 to 2.4.

use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};

use super::{Error, MAX_ENTRIES, MAX_INFLATED, damaged};
use crate::transfer::pace::PacedFile;

/// Data blocks in all folders together: twice what 8 GiB need.
const MAX_BLOCKS: u64 = 2 * (MAX_INFLATED >> 15);
/// Inflated bytes of one block at most.
const MAX_BLOCK: u16 = 0x8000;
/// Packed bytes of one block at most.
const MAX_PACKED: u16 = 0x8000 + 6144;
/// Bytes of a file's name at most.
const MAX_NAME: usize = 255;
/// Bytes of the header before its optional parts.
pub(super) const HEADER: usize = 36;

/// What the tables say.
#[derive(Debug)]
pub(super) struct Layout {
    /// The header as it stands in the file.
    pub(super) header: [u8; HEADER],
    /// Length of the file on disk.
    pub(super) length: u64,
    /// Bytes stand behind the cabinet, or its header has room for a signature.
    pub(super) is_signed: bool,
    /// Inflated bytes of each folder.
    pub(super) folders: Vec<u64>,
    pub(super) files: Vec<FileEntry>,
}

#[derive(Debug)]
pub(super) struct FileEntry {
    /// With `/` between its parts.
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) offset: u64,
    pub(super) folder: usize,
    /// Where its date stands in the cabinet.
    pub(super) date_at: u64,
}

struct Tables {
    reader: BufReader<PacedFile>,
    end: u64,
}

impl Tables {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(cut)?;
        Ok(bytes)
    }

    fn u16(&mut self) -> Result<u16, Error> {
        self.bytes().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn seek(&mut self, to: u64) -> Result<(), Error> {
        if to > self.end {
            return Err(damaged("one of its tables points behind its end"));
        }
        self.reader.seek(SeekFrom::Start(to))?;
        Ok(())
    }

    fn skip(&mut self, count: u64) -> Result<(), Error> {
        let at = self.reader.stream_position()?;
        self.seek(at.saturating_add(count))
    }

    fn name(&mut self) -> Result<Vec<u8>, Error> {
        let mut name = Vec::new();
        loop {
            match self.bytes::<1>()? {
                [0] => return Ok(name),
                [_] if name.len() == MAX_NAME => return Err(damaged("a file's name is longer than 255 bytes")),
                [byte] => name.push(byte),
            }
        }
    }
}

fn cut(error: std::io::Error) -> Error {
    if error.kind() == ErrorKind::UnexpectedEof { damaged("it ends too early") } else { Error::Io(error) }
}

impl Layout {
    /// Reads and checks the tables.
    pub(super) fn read(file: PacedFile) -> Result<Self, Error> {
        let length = file.inner().metadata()?.len();
        let mut tables = Tables { reader: BufReader::new(file), end: length };
        let header: [u8; HEADER] = tables.bytes()?;
        let word = |at: usize| header.get(at..at + 2).and_then(|two| two.try_into().ok()).map_or(0, u16::from_le_bytes);
        let long =
            |at: usize| header.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes);
        if !header.starts_with(b"MSCF") {
            return Err(damaged("it is not a cabinet: it does not begin with MSCF"));
        }
        let total = u64::from(long(8));
        if length > u64::from(u32::MAX) || total > u64::from(u32::MAX >> 1) {
            return Err(Error::TooLarge("it is larger than the 2 GiB of a cabinet".to_owned()));
        }
        if total > length {
            return Err(damaged(format!("it is cut off: {total} bytes are announced, {length} are there")));
        }
        tables.end = total;
        if (header.get(25), header.get(24)) != (Some(&1), Some(&3)) {
            return Err(damaged("its version is not 1.3"));
        }
        let (folders, files, flags) = (word(26), word(28), word(30));
        if flags & 3 != 0 {
            return Err(damaged("it is one part of a set of cabinets; make a single one"));
        }
        if usize::from(files) > MAX_ENTRIES {
            return Err(Error::TooLarge(format!("it has {files} files, at most {MAX_ENTRIES} are read")));
        }
        if folders == 0 && files > 0 {
            return Err(damaged("it has files and no folder"));
        }
        let (mut header_reserve, mut folder_reserve, mut data_reserve) = (0, 0, 0);
        if flags & 4 != 0 {
            header_reserve = tables.u16()?;
            [folder_reserve, data_reserve] = tables.bytes::<2>()?;
            tables.skip(u64::from(header_reserve))?;
        }
        let mut starts = Vec::with_capacity(usize::from(folders));
        for _ in 0..folders {
            let (offset, blocks, compression) = (tables.u32()?, tables.u16()?, tables.u16()?);
            tables.skip(u64::from(folder_reserve))?;
            starts.push((u64::from(offset), blocks, compression));
        }
        if starts.iter().map(|(_, blocks, _)| u64::from(*blocks)).sum::<u64>() > MAX_BLOCKS {
            return Err(Error::TooLarge("it has too many data blocks".to_owned()));
        }
        let files_at = u64::from(long(16));
        let mut layout = Self {
            header,
            length,
            is_signed: length > total || header_reserve >= 20,
            folders: Vec::new(),
            files: Vec::new(),
        };
        layout.files = entries(&mut tables, files_at, files, folders)?;
        for (offset, blocks, compression) in starts {
            layout.folders.push(inflated(&mut tables, offset, blocks, compression, data_reserve)?);
        }
        layout.check_sizes()?;
        Ok(layout)
    }

    fn check_sizes(&self) -> Result<(), Error> {
        let folders: u64 = self.folders.iter().sum();
        let files = self.files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.size));
        if folders.max(files) > MAX_INFLATED {
            return Err(Error::TooLarge(format!("it inflates to more than {} GiB", MAX_INFLATED >> 30)));
        }
        for file in &self.files {
            let end = file.offset.saturating_add(file.size);
            if self.folders.get(file.folder).is_none_or(|inflated| end > *inflated) {
                return Err(damaged(format!("the file {} lies behind the end of its data", file.path)));
            }
        }
        Ok(())
    }
}

fn entries(tables: &mut Tables, at: u64, files: u16, folders: u16) -> Result<Vec<FileEntry>, Error> {
    tables.seek(at)?;
    let mut entries = Vec::with_capacity(usize::from(files));
    for _ in 0..files {
        let (size, offset, folder) = (tables.u32()?, tables.u32()?, tables.u16()?);
        let date_at = tables.reader.stream_position()?;
        let [_, _, _, _, low, _] = tables.bytes::<6>()?;
        let name = tables.name()?;
        if name.is_empty() {
            return Err(damaged("a file has no name"));
        }
        if folder >= folders {
            return Err(damaged("a file names a folder that is not there, or goes on in another cabinet"));
        }
        // Without the mark for UTF-8 a name is in the code page of whoever packed it; most are plain ASCII.
        let name = match String::from_utf8(name) {
            Ok(name) => name,
            Err(bytes) if low & 0x80 == 0 => encoding_rs::WINDOWS_1252.decode(bytes.as_bytes()).0.into_owned(),
            Err(_) => return Err(damaged("a file's name is not the UTF-8 that it is marked to be")),
        };
        entries.push(FileEntry {
            path: name.replace('\\', "/"),
            size: u64::from(size),
            offset: u64::from(offset),
            folder: usize::from(folder),
            date_at,
        });
    }
    Ok(entries)
}

/// Walks the blocks of one folder and adds up what they inflate to.
fn inflated(tables: &mut Tables, offset: u64, blocks: u16, compression: u16, reserve: u8) -> Result<u64, Error> {
    match compression & 0xf {
        0 | 1 | 3 => {}
        2 => {
            return Err(damaged("it is packed with Quantum, which nobody unpacks any more; pack it with MSZIP or LZX"));
        }
        _ => return Err(damaged("it is packed in an unknown way")),
    }
    tables.seek(offset)?;
    let mut sum = 0_u64;
    for _ in 0..blocks {
        let [_, _, _, _, packed_low, packed_high, low, high] = tables.bytes::<8>()?;
        let (packed, size) = (u16::from_le_bytes([packed_low, packed_high]), u16::from_le_bytes([low, high]));
        let is_sound = (1..=MAX_BLOCK).contains(&size)
            && (1..=MAX_PACKED).contains(&packed)
            && (compression & 0xf != 0 || packed == size);
        if !is_sound {
            return Err(damaged("one of its data blocks has an impossible size"));
        }
        tables.skip(u64::from(reserve).saturating_add(u64::from(packed)))?;
        sum = sum.saturating_add(u64::from(size));
    }
    Ok(sum)
}

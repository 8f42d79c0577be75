//! `.hlkx`, `.hckx` and signed packages: zip archives, listed and read within caps.
//!
//! The end of the central directory is read by ourselves first: how many entries, and whether it is Zip64.

use std::{
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use super::{Error, MAX_INFLATED, damaged, guarded};
use crate::transfer::pace::{Pace, PacedFile, Trouble};

/// Entries of an archive at most: what fits without Zip64.
const MAX_ENTRIES: u64 = 0xffff;
/// Bytes of the central directory at most.
const MAX_DIRECTORY: u64 = 64 << 20;
/// The end record and the longest comment behind it.
const MAX_END: u64 = 22 + 0xffff;

/// An archive that can be listed.
#[derive(Debug)]
pub struct Archive {
    zip: zip::ZipArchive<BufReader<PacedFile>>,
    entries: Vec<Entry>,
    trouble: Trouble,
}

/// One file of an archive; folders are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path, with `/` between the parts.
    pub path: String,
    /// Its length as the directory says it.
    pub size: u64,
    index: usize,
}

impl Archive {
    /// Opens an archive; a Zip64 one only where `zip64` allows it.
    ///
    /// # Errors
    /// [`Error`] says what is wrong with it.
    pub fn open(path: &Path, zip64: bool) -> Result<Self, Error> {
        Self::open_paced(path, zip64, &Pace::default())
    }

    /// The same at somebody's pace, which every later read keeps, too.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_paced(path: &Path, zip64: bool, pace: &Pace) -> Result<Self, Error> {
        let mut file = pace.open(path)?;
        let trouble = file.trouble();
        let end = End::read(&mut file)?;
        if end.is_zip64 && !zip64 {
            return Err(Error::Zip64);
        }
        if end.entries > MAX_ENTRIES || end.directory > MAX_DIRECTORY {
            return Err(Error::TooLarge(format!("it has {} entries, at most {MAX_ENTRIES} are read", end.entries)));
        }
        let (zip, entries) = guarded(&trouble, || {
            let zip = zip::ZipArchive::new(BufReader::new(file)).map_err(|error| unpacked(&error))?;
            let mut entries = Vec::with_capacity(zip.len());
            let mut total = 0_u64;
            for index in 0..zip.len() {
                let entry = zip.by_index_data(index).map_err(|error| unpacked(&error))?;
                if entry.size() >= u64::from(u32::MAX) && !zip64 {
                    return Err(Error::Zip64);
                }
                total = total.saturating_add(entry.size());
                if !entry.is_dir() {
                    let path = entry.name().map_err(|error| unpacked(&error))?.replace('\\', "/");
                    entries.push(Entry { path, size: entry.size(), index });
                }
            }
            if total > MAX_INFLATED {
                return Err(Error::TooLarge(format!("it inflates to more than {} GiB", MAX_INFLATED >> 30)));
            }
            Ok((zip, entries))
        })?;
        Ok(Self { zip, entries, trouble })
    }

    /// Its files.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Reads one file, piece by piece; its checksum and length are checked.
    ///
    /// # Errors
    /// [`Error`] when it is damaged or longer than the directory says, or the disk failed.
    pub fn read(&mut self, entry: &Entry, mut piece: impl FnMut(&[u8])) -> Result<(), Error> {
        guarded(&self.trouble, || {
            let mut file = self.zip.by_index(entry.index).map_err(|error| unpacked(&error))?;
            let mut buffer = vec![0; 64 << 10];
            let mut size = 0_u64;
            loop {
                let count = match file.read(&mut buffer) {
                    Ok(0) if size == entry.size => return Ok(()),
                    Ok(0) => return Err(damaged(format!("{} ends too early", entry.path))),
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(damaged(format!("{} is damaged: {error}", entry.path))),
                };
                size = size.saturating_add(count as u64);
                if size > entry.size {
                    return Err(damaged(format!("{} is longer than its directory says", entry.path)));
                }
                piece(buffer.get(..count).unwrap_or_default());
            }
        })
    }
}

fn unpacked(error: &zip::result::ZipError) -> Error {
    damaged(format!("it is damaged: {error}"))
}

/// The end of the central directory.
#[derive(Debug, PartialEq, Eq)]
struct End {
    entries: u64,
    directory: u64,
    is_zip64: bool,
}

impl End {
    fn read(file: &mut (impl Read + Seek)) -> Result<Self, Error> {
        let length = file.seek(SeekFrom::End(0))?;
        let start = length.saturating_sub(MAX_END + 20);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(MAX_END + 20).read_to_end(&mut bytes)?;
        let at = (0..bytes.len().saturating_sub(21)).rev().find(|at| is_end(&bytes, *at));
        let at = at.ok_or_else(|| damaged("it is not a zip archive: it has no central directory"))?;
        let (entries, directory) = (number(&bytes, at + 10, 2), number(&bytes, at + 12, 4));
        let locator = at.checked_sub(20).filter(|at| bytes.get(*at..).is_some_and(|b| b.starts_with(b"PK\x06\x07")));
        let Some(locator) = locator else { return Ok(Self { entries, directory, is_zip64: false }) };
        let record_at = number(&bytes, locator + 8, 8);
        if record_at >= length {
            return Err(damaged("the end of its central directory is damaged"));
        }
        file.seek(SeekFrom::Start(record_at))?;
        let mut record = Vec::new();
        file.take(56).read_to_end(&mut record)?;
        if !record.starts_with(b"PK\x06\x06") || record.len() < 56 {
            return Err(damaged("the end of its central directory is damaged"));
        }
        Ok(Self { entries: number(&record, 32, 8), directory: number(&record, 40, 8), is_zip64: true })
    }
}

fn is_end(bytes: &[u8], at: usize) -> bool {
    let comment = usize::try_from(number(bytes, at + 20, 2)).unwrap_or(usize::MAX);
    bytes.get(at..).is_some_and(|b| b.starts_with(b"PK\x05\x06")) && at.saturating_add(22 + comment) == bytes.len()
}

/// A little-endian number of so many bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    let bytes = bytes.get(at..at.saturating_add(length)).unwrap_or_default();
    bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{fs, io::Write, sync::LazyLock};

    use proptest::prelude::*;
    use zip::write::SimpleFileOptions;

    use super::*;

    pub(crate) fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut zip = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        for (path, content) in files {
            zip.start_file(*path, SimpleFileOptions::default()).unwrap();
            zip.write_all(content).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    fn open(bytes: &[u8]) -> Result<Archive, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        Archive::open(file.path(), false)
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let mut archive = open(bytes)?;
        let mut all = Vec::new();
        for entry in archive.entries().to_vec() {
            let mut content = Vec::new();
            archive.read(&entry, |piece| content.extend_from_slice(piece))?;
            all.push((entry.path, content));
        }
        Ok(all)
    }

    #[test]
    fn an_archive_is_listed_and_read() {
        let all = read_all(&zip_of(&[("a\\b.inf", b"one"), ("c/d.cat", b"two")])).unwrap();
        assert_eq!(all, [("a/b.inf".to_owned(), b"one".to_vec()), ("c/d.cat".to_owned(), b"two".to_vec())]);
    }

    /// The same archive with the end records of Zip64.
    fn as_zip64(bytes: &[u8], entries: u64) -> Vec<u8> {
        let (front, end) = bytes.split_at(bytes.len() - 22);
        let directory = number(end, 12, 4);
        let mut zip = front.to_vec();
        zip.extend(b"PK\x06\x06");
        zip.extend(44_u64.to_le_bytes());
        zip.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for field in [entries, entries, directory, number(end, 16, 4)] {
            zip.extend(field.to_le_bytes());
        }
        zip.extend(b"PK\x06\x07\0\0\0\0");
        zip.extend((front.len() as u64).to_le_bytes());
        zip.extend([1, 0, 0, 0]);
        zip.extend(end);
        zip
    }

    #[test]
    fn zip64_is_told_apart_and_taken_only_where_allowed() {
        let zip = as_zip64(&zip_of(&[("a", b"b")]), 1);
        assert!(matches!(open(&zip), Err(Error::Zip64)));
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &zip).unwrap();
        assert_eq!(Archive::open(file.path(), true).unwrap().entries().len(), 1);
        fs::write(file.path(), as_zip64(&zip_of(&[("a", b"b")]), 1 << 40)).unwrap();
        assert!(matches!(Archive::open(file.path(), true), Err(Error::TooLarge(_))));
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        for bad in [&b""[..], b"PK\x05\x06", b"MSCF", &[0; 22]] {
            assert!(open(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn damaged_archives_are_survived(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
            static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
                zip_of(&[("drv/nic.inf", b"[Version]\r\nClass=Net\r\n"), ("drv/nic.sys", &[7; 5000])])
            });
            let mut bytes = GOOD.clone();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let _survived = read_all(&bytes);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _survived = read_all(&bytes);
            let mut with_end = bytes.clone();
            with_end.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0\x10\0\0\0\0\0\0\0\0\0");
            let _survived = read_all(&with_end);
        }
    }
}

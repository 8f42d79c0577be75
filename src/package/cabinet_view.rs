//! A cabinet shown to the `cab` crate as one file per folder.
//!
//! The crate finds a file by name and inflates its folder from the start each time, and it panics when a file's offset lies
//! behind its folder's blocks. Shown one file per folder, from offset 0, every folder is inflated once, in order, and no
//! offset of the package's own ever reaches the crate.

use std::io::{self, Read, Seek, SeekFrom};

use super::cabinet_layout::{HEADER, Layout};
use crate::transfer::pace::PacedFile;

pub(super) struct View {
    file: PacedFile,
    header: [u8; HEADER],
    length: u64,
    tail: Vec<u8>,
    at: u64,
}

impl View {
    /// The view, and the names of its files: folder `n` is called `n`.
    pub(super) fn of(file: PacedFile, layout: &Layout) -> io::Result<Self> {
        let too_large = |_| io::Error::other("too large for a cabinet");
        let mut header = layout.header;
        let files_at = u32::try_from(layout.length).map_err(too_large)?.to_le_bytes();
        let files = u16::try_from(layout.folders.len()).map_err(too_large)?.to_le_bytes();
        for (to, from) in header.iter_mut().skip(16).zip(files_at) {
            *to = from;
        }
        for (to, from) in header.iter_mut().skip(28).zip(files) {
            *to = from;
        }
        let mut tail = Vec::new();
        for (number, size) in (0_u16..).zip(&layout.folders) {
            tail.extend(u32::try_from(*size).map_err(too_large)?.to_le_bytes());
            tail.extend([0; 4]);
            tail.extend(number.to_le_bytes());
            tail.extend([0x21, 0, 0, 0, 0, 0]);
            tail.extend(number.to_string().bytes());
            tail.push(0);
        }
        Ok(Self { file, header, length: layout.length, tail, at: 0 })
    }
}

impl Read for View {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let within = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let mut behind = if self.at < HEADER as u64 {
            self.header.get(within(self.at)..).unwrap_or_default()
        } else if self.at >= self.length {
            self.tail.get(within(self.at - self.length)..).unwrap_or_default()
        } else {
            self.file.seek(SeekFrom::Start(self.at))?;
            let room = self.length - self.at;
            let count = (&mut self.file).take(room).read(buffer)?;
            self.at = self.at.saturating_add(count as u64);
            return Ok(count);
        };
        let count = behind.read(buffer)?;
        self.at = self.at.saturating_add(count as u64);
        Ok(count)
    }
}

impl Seek for View {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let end = self.length.saturating_add(self.tail.len() as u64);
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => end.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

//! Cabinets: listed, read and written.
//!
//! The tables are checked first (`cabinet_layout`), then each folder is inflated once, in order, and handed on piece by piece.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::{Error, cabinet_layout::Layout, cabinet_view::View, damaged, guarded};
use crate::transfer::pace::Pace;

/// Bytes handed on at once.
const PIECE: usize = 64 << 10;

/// A cabinet whose tables are sound.
#[derive(Debug)]
pub struct Cabinet {
    path: PathBuf,
    pace: Pace,
    layout: Layout,
    entries: Vec<Entry>,
}

/// One file of a cabinet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path, with `/` between the parts.
    pub path: String,
    /// Its length.
    pub size: u64,
}

impl Cabinet {
    /// Opens a cabinet and checks its tables.
    ///
    /// # Errors
    /// [`Error`] says what is wrong with it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_paced(path, &Pace::default())
    }

    /// The same at somebody's pace, which every later read keeps, too.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_paced(path: &Path, pace: &Pace) -> Result<Self, Error> {
        let layout = Layout::read(pace.open(path)?)?;
        let entries = layout.files.iter().map(|file| Entry { path: file.path.clone(), size: file.size }).collect();
        Ok(Self { path: path.to_owned(), pace: pace.clone(), layout, entries })
    }

    /// Its files, in the order of its table.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Is there room for a signature: a reserve in the header, or bytes behind the cabinet? It is not verified.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.layout.is_signed
    }

    /// Inflates everything once; `piece` hears the bytes of each file in order, by the file's place in [`Self::entries`].
    ///
    /// # Errors
    /// [`Error`] when a block is damaged or ends too early, or the disk failed.
    pub fn read(&self, mut piece: impl FnMut(usize, &[u8])) -> Result<(), Error> {
        let file = self.pace.open(&self.path)?;
        guarded(&file.trouble(), || {
            let view = View::of(file, &self.layout)?;
            let mut cabinet = cab::Cabinet::new(view).map_err(unpacked)?;
            for folder in 0..self.layout.folders.len() {
                self.read_folder(&mut cabinet, folder, &mut piece)?;
            }
            Ok(())
        })
    }

    /// The content of the files that `is_wanted` picks, each cut off at `max` bytes.
    ///
    /// # Errors
    /// As [`Self::read`]; the whole cabinet is inflated.
    pub fn read_files(&self, max: u64, is_wanted: impl Fn(&Entry) -> bool) -> Result<Vec<(usize, Vec<u8>)>, Error> {
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        let mut found: Vec<Option<Vec<u8>>> =
            self.entries.iter().map(|entry| is_wanted(entry).then(Vec::new)).collect();
        self.read(|index, bytes| {
            if let Some(Some(content)) = found.get_mut(index) {
                let room = max.saturating_sub(content.len());
                content.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
            }
        })?;
        Ok(found
            .into_iter()
            .enumerate()
            .filter_map(|(index, content)| content.map(|content| (index, content)))
            .collect())
    }

    fn read_folder(
        &self,
        cabinet: &mut cab::Cabinet<View>,
        folder: usize,
        piece: &mut impl FnMut(usize, &[u8]),
    ) -> Result<(), Error> {
        let size = self.layout.folders.get(folder).copied().unwrap_or(0);
        let mut files: Vec<(usize, u64, u64)> = (self.layout.files.iter().enumerate())
            .filter(|(_, file)| file.folder == folder && file.size > 0)
            .map(|(index, file)| (index, file.offset, file.offset + file.size))
            .collect();
        files.sort_by_key(|(_, start, _)| *start);
        if size == 0 {
            return Ok(());
        }
        let mut reader = cabinet.read_file(&folder.to_string()).map_err(unpacked)?;
        let mut buffer = vec![0; PIECE];
        let (mut at, mut first) = (0_u64, 0_usize);
        while at < size {
            let count = reader.read(&mut buffer).map_err(unpacked)?;
            let bytes = buffer.get(..count).filter(|bytes| !bytes.is_empty());
            let bytes = bytes.ok_or_else(|| damaged("its data ends too early"))?;
            let end = at.saturating_add(count as u64);
            while files.get(first).is_some_and(|(_, _, last)| *last <= at) {
                first += 1;
            }
            for (index, from, to) in files.iter().skip(first).take_while(|(_, from, _)| *from < end) {
                let within = |position: u64| usize::try_from(position.clamp(at, end) - at).unwrap_or(0);
                match bytes.get(within(*from)..within(*to)) {
                    Some([]) | None => {}
                    Some(part) => piece(*index, part),
                }
            }
            at = end;
        }
        Ok(())
    }
}

fn unpacked(error: impl std::fmt::Display) -> Error {
    damaged(format!("its data is damaged: {error}"))
}

/// One file of a cabinet to be.
pub struct NewFile<'a> {
    /// Its path within the cabinet; `/` becomes `\`.
    pub path: String,
    /// Its bytes, read once.
    pub content: Box<dyn Read + 'a>,
}

impl std::fmt::Debug for NewFile<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Writes a cabinet, packed with MSZIP, with flat memory; the same files make the same bytes.
///
/// # Errors
/// [`Error::Io`] when a file cannot be read or the cabinet cannot be written, or is larger than a cabinet may be.
pub fn write(files: Vec<NewFile<'_>>, path: &Path) -> Result<(), Error> {
    let mut builder = cab::CabinetBuilder::new();
    let folder = builder.add_folder(cab::CompressionType::MsZip);
    for file in &files {
        folder.add_file(file.path.replace('/', "\\"));
    }
    let mut writer = builder.build(BufWriter::with_capacity(256 << 10, File::create(path)?))?;
    for mut file in files {
        let mut to = writer.next_file()?.ok_or_else(|| damaged("the cabinet has no room for a file"))?;
        io::copy(&mut file.content, &mut to)?;
    }
    writer.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    stamp(path)
}

/// Gives every file the date 2026-01-01, so that a cabinet depends on its content alone.
fn stamp(path: &Path) -> Result<(), Error> {
    const DATE: u16 = (2026 - 1980) << 9 | 1 << 5 | 1;
    let layout = Layout::read(Pace::default().open(path)?)?;
    let mut file = OpenOptions::new().write(true).open(path)?;
    for entry in &layout.files {
        file.seek(SeekFrom::Start(entry.date_at))?;
        file.write_all(&DATE.to_le_bytes())?;
        file.write_all(&[0, 0])?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "cabinet_tests.rs"]
pub(crate) mod tests;

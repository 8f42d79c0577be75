//! What the system says of a file without reading it, beyond what std has on every system: whether it changed, and whether
//! it is still the one of its name.

use std::{
    fs::{File, Metadata},
    path::Path,
    time::{Duration, SystemTime},
};

use crate::clock;

/// A file's length and times.
///
/// On Unix the time of the last change of any kind is part of it, which no build tool can set: a file that is replaced by
/// another of the same length and the same modification time is seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
    changed: Option<(u64, i64, i64)>,
    /// The file had been left alone for longer than the system's times are coarse.
    is_settled: bool,
}

/// Times of files are no finer than some milliseconds: of a file that was written to just now they prove nothing.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let changed = {
            use std::os::unix::fs::MetadataExt;
            Some((metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
        };
        #[cfg(not(unix))]
        let changed: Option<(u64, i64, i64)> = None;
        let modified = metadata.modified().ok();
        let latest = changed
            .and_then(|(_, seconds, nanos)| jiff::Timestamp::new(seconds, i32::try_from(nanos).unwrap_or(0)).ok())
            .or_else(|| modified.and_then(|at| jiff::Timestamp::try_from(at).ok()));
        let is_settled = latest
            .and_then(|at| Duration::try_from(clock::now().duration_since(at)).ok())
            .is_some_and(|age| age > SETTLED_AFTER);
        Self { length: metadata.len(), modified, changed, is_settled }
    }

    pub(super) const fn length(&self) -> u64 {
        self.length
    }

    /// Does an equal stamp prove that nobody has written to the file since?
    pub(super) const fn tells(&self) -> bool {
        self.is_settled
    }

    /// Nobody has written to the file in between, as far as the system can tell.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.length, self.modified, self.changed) == (other.length, other.modified, other.changed)
    }
}
/// Is the file at this path the one that we hold?
#[cfg(unix)]
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let (held, there) = (file.metadata(), std::fs::metadata(path));
    matches!((held, there), (Ok(held), Ok(there)) if held.ino() == there.ino() && held.dev() == there.dev())
}

/// Elsewhere a file that is open under a lock keeps its name.
#[cfg(not(unix))]
pub(crate) fn is_at(_file: &File, path: &Path) -> bool {
    path.exists()
}

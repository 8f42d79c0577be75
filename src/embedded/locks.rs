//! Worker locks: the kernel's word on who is alive.
//!
//! Measured (docs/adr): freed within 4 ms of SIGKILL, also for zombies and processes that had children; kept through
//! SIGSTOP; valid across pid namespaces, which is why ids are random and no process ids.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use super::system;

/// The lock of one worker, held while this value lives. The descriptor is never handed to a child.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
    pub(super) path: PathBuf,
}

pub(super) fn path(workers: &Path, id: u128) -> PathBuf {
    workers.join(format!("{id:032x}.lock"))
}

/// Makes and locks the file of a new worker.
pub(super) fn take(workers: &Path, id: u128) -> io::Result<Lock> {
    let path = path(workers, id);
    let file = system::make_private_file(&path)?;
    file.try_lock().map_err(|error| match error {
        TryLockError::Error(error) => error,
        TryLockError::WouldBlock => io::Error::from(io::ErrorKind::WouldBlock),
    })?;
    Ok(Lock { _file: file, path })
}

/// Does the worker live? Probed shared and without making the file: of two exclusive probes of a dead worker the second
/// would say "alive". When nobody can tell, it lives.
pub(super) fn lives(workers: &Path, id: u128) -> bool {
    match File::open(path(workers, id)) {
        Ok(file) => match file.try_lock_shared() {
            Ok(()) => false,
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => true,
        },
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// The ids of all lock files.
pub(super) fn files(workers: &Path) -> io::Result<Vec<u128>> {
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(workers)? {
        let name = entry?.file_name();
        let id = name.to_str().and_then(|name| name.strip_suffix(".lock"));
        ids.extend(id.and_then(|id| u128::from_str_radix(id, 16).ok()));
    }
    Ok(ids)
}

/// Removes the file of a dead worker; one that is gone is fine.
pub(super) fn remove(workers: &Path, id: u128) {
    if let Err(error) = std::fs::remove_file(path(workers, id))
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(%error, "the lock file of a dead worker stays");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_lives_as_long_as_its_holder_and_probing_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!lives(folder.path(), 7));
        assert!(files(folder.path()).unwrap().is_empty(), "probing made a file");
        let lock = take(folder.path(), 7).unwrap();
        assert!(take(folder.path(), 7).is_err());
        assert!(lives(folder.path(), 7) && lives(folder.path(), 7));
        assert_eq!(files(folder.path()).unwrap(), [7]);
        drop(lock);
        assert!(!lives(folder.path(), 7) && !lives(folder.path(), 7));
        remove(folder.path(), 7);
        remove(folder.path(), 7);
        assert!(!lives(folder.path(), 7));
    }
}

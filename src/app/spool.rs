//! Where sources from the web lie while they are worked on: one folder for each process, under a lock of its own.
//!
//! The kernel frees the lock of a process that is gone, however it went; whoever spools next removes its folder. A lock of a
//! process and not of a worker, for whoever hands jobs in spools, too. Folders and files are for their owner alone.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use crate::clock;

/// The folder of this process; made when it is first needed, removed with this value.
#[derive(Debug)]
pub(super) struct Spool {
    root: PathBuf,
    folder: PathBuf,
    lock: Mutex<Option<File>>,
}

impl Spool {
    /// A folder below `root` that nobody else has. Makes nothing.
    pub(super) fn new(root: PathBuf) -> Self {
        let folder = root.join(clock::uuid_v4().simple().to_string());
        Self { root, folder, lock: Mutex::default() }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes the folder, and removes those of processes that are gone. Blocking.
    pub(super) fn ready(&self) -> io::Result<()> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_some() {
            return Ok(());
        }
        private_folder(&self.root)?;
        self.sweep()?;
        // ORDER: the lock before the folder, so that a folder without a lock belongs to nobody.
        let file = loop {
            let file = private_file(&lock_of(&self.folder))?;
            file.lock()?;
            // A sweep may have taken it for a dead one's between the two.
            if lock_of(&self.folder).exists() {
                break file;
            }
        };
        private_folder(&self.folder)?;
        *lock = Some(file);
        Ok(())
    }

    /// Removes what processes that are gone have left. Blocking.
    pub(super) fn sweep(&self) -> io::Result<()> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if path != self.folder && path != lock_of(&self.folder) {
                sweep_one(&path.with_extension(""));
            }
        }
        Ok(())
    }
}

/// Removes a folder unless somebody holds its lock. When nobody can tell, somebody does.
fn sweep_one(folder: &Path) {
    let lock = lock_of(folder);
    let held = match File::open(&lock) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return remove(folder),
        Err(_) => return,
    };
    if held.try_lock().is_ok() {
        // ORDER: the folder before its lock, so that a sweep that is cut short is gone on with.
        remove(folder);
        remove(&lock);
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if self.lock.get_mut().unwrap_or_else(PoisonError::into_inner).is_some() {
            remove(&self.folder);
            remove(&lock_of(&self.folder));
        }
    }
}

fn lock_of(folder: &Path) -> PathBuf {
    folder.with_extension("lock")
}

fn remove(path: &Path) {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = removed
        && error.kind() != ErrorKind::NotFound
    {
        tracing::debug!(path = %path.display(), %error, "what a process has spooled could not be removed");
    }
}

fn private_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(path)?;
    // One that an older version made.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

fn private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(root: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_dead_processes_left_goes_and_what_the_living_have_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("spool");
        let living = Spool::new(root.clone());
        living.ready().unwrap();
        living.ready().unwrap();
        fs::write(living.folder().join("source-1.cab"), b"x").unwrap();
        // Of a process that was killed: its lock is free. Of an older version: it had none.
        for dead in ["0a", "0b"] {
            fs::create_dir(root.join(dead)).unwrap();
            fs::write(root.join(dead).join("source-2.cab"), b"x").unwrap();
        }
        fs::write(root.join("0a.lock"), b"").unwrap();
        let next = Spool::new(root.clone());
        next.ready().unwrap();
        let mut wanted: Vec<String> = [&living, &next]
            .iter()
            .flat_map(|spool| [spool.folder().to_owned(), lock_of(spool.folder())])
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        wanted.sort();
        assert_eq!(names(&root), wanted);
        assert!(living.folder().join("source-1.cab").exists());
        drop((living, next));
        assert!(names(&root).is_empty());
        drop(Spool::new(root.clone()));
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_can_look_into_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(dir.path().join("spool"));
        spool.ready().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&spool.root), mode(spool.folder()), mode(&lock_of(spool.folder()))), (0o700, 0o700, 0o600));
    }
}

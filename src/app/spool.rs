//! Where sources from the web lie while they are worked on: one folder for each process, under a lock of its own.
//!
//! The kernel frees the lock of a process that is gone, however it went; whoever spools next removes its folder. A lock of a
//! process and not of a worker, for whoever hands jobs in spools, too. Folders and files are for their owner alone. All of it
//! may be deleted under a living process, to free a disk: what is needed next is made anew.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use crate::{clock, transfer::stamp::is_at};

/// How long a folder without a lock is left alone: a living process of an earlier build has none, and no source lies longer.
const UNLOCKED_FOR: Duration = Duration::from_hours(24);

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

    /// Makes the folder unless it stands, and removes those of processes that are gone. Blocking.
    pub(super) fn ready(&self) -> io::Result<()> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let path = lock_of(&self.folder);
        if let Some(held) = lock.as_ref()
            && is_at(held, &path)
        {
            // Somebody may have emptied the disk by hand.
            return if self.folder.is_dir() { Ok(()) } else { private_folder(&self.folder) };
        }
        private_folder(&self.root)?;
        self.sweep()?;
        // ORDER: the lock before the folder, so that a sweep finds no folder of ours without one.
        let file = loop {
            let file = private_file(&path)?;
            file.lock()?;
            // A sweep may have taken it for a dead one's between the two.
            if is_at(&file, &path) {
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

/// Removes a folder unless somebody holds its lock, or it has none and is not old. When nobody can tell, somebody does.
fn sweep_one(folder: &Path) {
    let lock = lock_of(folder);
    match File::open(&lock) {
        Ok(file) => sweep_locked(&file, folder),
        Err(error) if error.kind() == ErrorKind::NotFound && is_left_alone(folder) => remove(folder),
        Err(_) => {}
    }
}

/// Has nobody put anything into it, or taken it out, for a day?
fn is_left_alone(folder: &Path) -> bool {
    let modified = fs::metadata(folder).and_then(|found| found.modified());
    modified.is_ok_and(|at| SystemTime::from(clock::now()).duration_since(at).is_ok_and(|age| age > UNLOCKED_FOR))
}

/// Removes a folder whose lock file was opened, unless somebody holds it.
fn sweep_locked(held: &File, folder: &Path) {
    let lock = lock_of(folder);
    // Another sweep may have removed the file that was opened; its owner has made a new one then, and a living folder.
    if held.try_lock().is_ok() && is_at(held, &lock) {
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

    #[cfg(unix)]
    #[test]
    fn what_dead_processes_left_goes_and_what_the_living_have_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("spool");
        let living = Spool::new(root.clone());
        living.ready().unwrap();
        living.ready().unwrap();
        fs::write(living.folder().join("source-1.cab"), b"x").unwrap();
        // Of a process that was killed: its lock is free. Of an earlier build: it had none, and its process may live.
        for other in ["0a", "0b", "0c"] {
            fs::create_dir(root.join(other)).unwrap();
            fs::write(root.join(other).join("source-2.cab"), b"x").unwrap();
        }
        fs::write(root.join("0a.lock"), b"").unwrap();
        let old = SystemTime::from(clock::now()) - UNLOCKED_FOR - Duration::from_mins(1);
        File::open(root.join("0b")).unwrap().set_modified(old).unwrap();
        let next = Spool::new(root.clone());
        next.ready().unwrap();
        assert!(root.join("0c/source-2.cab").exists(), "it is not a day old");
        File::open(root.join("0c")).unwrap().set_modified(old).unwrap();
        next.sweep().unwrap();
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
    fn what_was_deleted_under_a_living_process_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("spool");
        let spool = Spool::new(root.clone());
        let (lock, other) = (lock_of(spool.folder()), Spool::new(root.clone()));
        for deleted in
            [vec![spool.folder().to_owned()], vec![lock.clone()], vec![spool.folder().to_owned(), lock], vec![root]]
        {
            spool.ready().unwrap();
            for path in &deleted {
                remove(path);
            }
            spool.ready().unwrap();
            fs::write(spool.folder().join("source-1.cab"), b"x").unwrap();
            other.sweep().unwrap();
            assert!(spool.folder().join("source-1.cab").exists(), "it is held again after {deleted:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_sweep_that_comes_too_late_removes_nothing_that_was_made_since() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(dir.path().join("spool"));
        fs::create_dir(&spool.root).unwrap();
        let path = lock_of(spool.folder());
        // Two sweeps have opened the file between its making and its locking; the first removes it.
        private_file(&path).unwrap();
        let late = File::open(&path).unwrap();
        sweep_one(spool.folder());
        assert!(!path.exists());
        spool.ready().unwrap();
        sweep_locked(&late, spool.folder());
        assert!(path.exists() && spool.folder().exists());
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

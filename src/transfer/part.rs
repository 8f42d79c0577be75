//! A download's bytes on the disk, from the first one to the file's own name.

use std::{
    fs::{self, File, TryLockError},
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    disk,
    download::{Downloaded, Wanted},
    pace::Pace,
    permanent,
    sink::is_plain_name,
    stamp::is_at,
    transient,
};
use crate::domain::{
    failure::{Cause, Failure, Kind},
    ids::Sha256,
};

/// Where the bytes, their tag, and what was refused lie.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    folder: PathBuf,
    pub(super) part: PathBuf,
    etag: PathBuf,
    rejected: PathBuf,
}

impl Paths {
    pub(super) fn of(target: &Path) -> Result<Self, Failure> {
        let name = target.file_name().and_then(|name| name.to_str()).filter(|name| is_plain_name(name));
        let (Some(name), Some(folder)) = (name, target.parent()) else {
            return Err(permanent(Kind::Sink, format!("{} is no file to download to", target.display())));
        };
        Ok(Self {
            folder: folder.to_owned(),
            part: folder.join(format!(".{name}.part")),
            etag: folder.join(format!(".{name}.part.etag")),
            rejected: folder.join(format!("{name}.rejected")),
        })
    }
}

/// What is on the disk so far.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) paths: Paths,
    pub(super) file: Arc<File>,
    pub(super) done: u64,
    pub(super) etag: Option<String>,
}

impl Part {
    pub(super) fn open(paths: &Paths) -> Result<Self, Failure> {
        let no = |error: &std::io::Error| disk("write", &paths.part, error);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&paths.part)
            .map_err(|e| no(&e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = format!("another process is at {}", paths.part.display());
                return Err(transient(Kind::LocalIo, text));
            }
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(no(&error)),
        }
        // Somebody may have finished and renamed the file between our opening and our locking it.
        if !is_at(&file, &paths.part) {
            return Err(transient(
                Kind::LocalIo,
                format!("another process has just finished {}", paths.part.display()),
            ));
        }
        let etag = fs::read_to_string(&paths.etag).ok().filter(|etag| is_strong(etag));
        let done = file.metadata().map_err(|error| no(&error))?.len();
        let mut part = Self { paths: paths.clone(), done, etag, file: Arc::new(file) };
        if part.etag.is_none() && done > 0 {
            part.restart(None)?;
        }
        Ok(part)
    }

    /// Begins anew, for content with this tag.
    pub(super) fn restart(&mut self, etag: Option<String>) -> Result<(), Failure> {
        // ORDER: the old tag goes before the old bytes, the new one comes after them; it never stands beside others.
        match fs::remove_file(&self.paths.etag) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(disk("write", &self.paths.etag, &error)),
            Ok(()) | Err(_) => {}
        }
        self.file.set_len(0).map_err(|error| disk("write", &self.paths.part, &error))?;
        self.done = 0;
        self.etag = etag.filter(|etag| is_strong(etag));
        if let Some(etag) = &self.etag {
            fs::write(&self.paths.etag, etag).map_err(|error| disk("write", &self.paths.etag, &error))?;
        }
        Ok(())
    }

    /// Hashes, flushes and renames; blocking.
    pub(super) fn place(self, wanted: &Wanted, size: u64, pace: &Pace) -> Result<Downloaded, Failure> {
        let part = &self.paths.part;
        self.file.sync_all().map_err(|error| disk("write", part, &error))?;
        let sha256 = hash(part, pace)?;
        let downloaded = |was_there| Downloaded { path: wanted.target.clone(), size, sha256, was_there };
        let is_same = || -> Result<bool, Failure> {
            let length = fs::metadata(&wanted.target).map_err(|error| disk("look at", &wanted.target, &error))?.len();
            Ok(length == size && hash(&wanted.target, pace)? == sha256)
        };
        if wanted.target.exists() && is_same()? {
            self.forget();
            return Ok(downloaded(true));
        }
        if !wanted.overwrite {
            match fs::hard_link(part, &wanted.target) {
                Ok(()) => {
                    self.forget();
                    sync_folder(&self.paths.folder);
                    return Ok(downloaded(false));
                }
                Err(error) if error.kind() != ErrorKind::AlreadyExists && !wanted.target.exists() => {} // no links here
                Err(_) if is_same()? => {
                    self.forget();
                    return Ok(downloaded(true));
                }
                Err(_) => {
                    self.forget();
                    let text =
                        format!("{} is there with other content and is not overwritten", wanted.target.display());
                    return Err(permanent(Kind::Sink, text));
                }
            }
        }
        fs::rename(part, &wanted.target).map_err(|error| disk("rename to", &wanted.target, &error))?;
        self.forget();
        sync_folder(&self.paths.folder);
        Ok(downloaded(false))
    }

    /// Sets the bytes aside when they were refused for good: a person may want to see them, and a retry begins anew.
    pub(super) fn checked<T>(&self, checked: Result<T, Failure>) -> Result<T, Failure> {
        let Err(Failure::Permanent(cause)) = checked else { return checked };
        let Paths { part, rejected, .. } = &self.paths;
        fs::rename(part, rejected).map_err(|error| disk("rename to", rejected, &error))?;
        self.forget();
        let (there, now) = (part.display().to_string(), rejected.display().to_string());
        Err(Failure::Permanent(Cause { message: cause.message.replace(&there, &now), ..cause }))
    }

    fn forget(&self) {
        for path in [&self.paths.etag, &self.paths.part] {
            if let Err(error) = fs::remove_file(path)
                && error.kind() != ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "a partial download could not be removed");
            }
        }
    }
}

/// Makes the new name last; systems that cannot flush a folder keep it by themselves.
fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder)
        && let Err(error) = folder.sync_all()
    {
        tracing::debug!(%error, "the folder of a download could not be flushed");
    }
}

fn hash(path: &Path, pace: &Pace) -> Result<Sha256, Failure> {
    let mut file = pace.open(path).map_err(|error| disk("read", path, &error))?;
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match std::io::Read::read(&mut file, &mut buffer) {
            Ok(0) => return Ok(super::package_file::finished(context)),
            Ok(count) => context.update(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(disk("read", path, &error)),
        }
    }
}

/// Only a strong tag proves that bytes are the same.
pub(super) fn is_strong(etag: &str) -> bool {
    etag.len() > 2
        && etag.len() <= 256
        && etag.starts_with('"')
        && etag.ends_with('"')
        && etag.bytes().all(|b| (0x21..0x7f).contains(&b))
}

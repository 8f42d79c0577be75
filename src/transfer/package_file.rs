//! A package on this machine: where it is, how long, and what its bytes hash to.

use std::{
    fs,
    io::{ErrorKind, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use md5::{Digest, Md5};

use super::{
    MAX_PACKAGE, disk,
    pace::{Pace, PacedFile},
    permanent,
    stamp::Stamp,
    transient,
};
use crate::domain::{
    failure::{Failure, Kind},
    ids::Sha256,
};

/// Bytes read at once while hashing.
const STRIDE: usize = 256 << 10;

/// A package on this machine, hashed once while it was read.
#[derive(Debug, Clone)]
pub struct LocalPackage {
    /// The file.
    pub path: PathBuf,
    /// Its length in bytes, never 0.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Sha256,
    /// Its MD5 as blob storage writes it: base64 of 16 bytes.
    pub md5: String,
    /// What the file's metadata said when its bytes were last known to be those of the hash.
    stamp: Arc<Mutex<Stamp>>,
    spool: Option<Arc<Spool>>,
}

/// A file of ours that goes when its last user has gone.
#[derive(Debug)]
pub(super) struct Spool(pub(super) PathBuf);

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "a spooled package could not be removed");
        }
    }
}

impl LocalPackage {
    /// Reads and hashes the file; blocking, flat memory.
    ///
    /// # Errors
    /// Permanent, kind `Source`: missing, unreadable, no regular file, empty, longer than `max` or than a package may be,
    /// or changed while it was read. Transient, kind `LocalIo`: the disk failed.
    pub fn measure(path: &Path, max: u64) -> Result<Self, Failure> {
        Self::measure_paced(path, max, &Pace::default())
    }

    /// The same at somebody's pace.
    ///
    /// # Errors
    /// As [`Self::measure`].
    pub fn measure_paced(path: &Path, max: u64, pace: &Pace) -> Result<Self, Failure> {
        let mut file = open(path, pace)?;
        let before = look_at(&file, path)?;
        let max = max.min(MAX_PACKAGE);
        if before.len() == 0 {
            return Err(permanent(Kind::Source, format!("the package {} is empty", path.display())));
        }
        if before.len() > max {
            let text = format!("the package {} has {} bytes, at most {max} are taken", path.display(), before.len());
            return Err(permanent(Kind::Source, text));
        }
        let (sha256, md5, size) = hashes(&mut file, before.len()).map_err(|error| disk("read", path, &error))?;
        let (stamp, after) = (Stamp::of(&before), Stamp::of(&look_at(&file, path)?));
        if size != before.len() || !after.is_same(&stamp) {
            return Err(changed(path));
        }
        let stamp = Arc::new(Mutex::new(stamp));
        Ok(Self { path: path.to_owned(), size, sha256, md5, stamp, spool: None })
    }

    /// Ties the life of the file to this value.
    pub(super) fn spooled(mut self, spool: Arc<Spool>) -> Self {
        self.spool = Some(spool);
        self
    }

    /// Is the file what it was? Its metadata first, its bytes only when those differ; blocking.
    ///
    /// # Errors
    /// Permanent, kind `Source`, "the source changed"; transient when the disk failed.
    pub fn recheck(&self, pace: &Pace) -> Result<(), Failure> {
        let mut file = open(&self.path, pace)?;
        self.recheck_open(&mut file).map(|_| ())
    }

    /// The same on an open file; returns its metadata.
    fn recheck_open(&self, file: &mut PacedFile) -> Result<Stamp, Failure> {
        let now = Stamp::of(&look_at(file, &self.path)?);
        if now.length() != self.size {
            return Err(changed(&self.path));
        }
        let known = self.stamp();
        if known.tells() && now.is_same(&known) {
            return Ok(now);
        }
        file.seek(SeekFrom::Start(0)).map_err(|error| disk("read", &self.path, &error))?;
        let (sha256, _, size) = hashes(file, self.size).map_err(|error| disk("read", &self.path, &error))?;
        let after = Stamp::of(&look_at(file, &self.path)?);
        if size != self.size || sha256 != self.sha256 || !after.is_same(&now) {
            return Err(changed(&self.path));
        }
        *self.stamp.lock().unwrap_or_else(PoisonError::into_inner) = now;
        Ok(now)
    }

    fn stamp(&self) -> Stamp {
        *self.stamp.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads one block and its MD5; blocking. The bytes are those that were hashed: a block's id speaks for its content.
    ///
    /// # Errors
    /// Permanent, kind `Source`, when the file has changed; transient when the disk failed.
    pub(super) fn read_block(&self, offset: u64, length: u64, pace: &Pace) -> Result<(Vec<u8>, String), Failure> {
        let length = usize::try_from(length).map_err(|_| permanent(Kind::Internal, "a block exceeds memory"))?;
        let mut bytes = vec![0; length];
        // Read again when somebody touched the file meanwhile: what was read in between may have been anything.
        for _ in 0..3 {
            let mut file = open(&self.path, pace)?;
            let stamp = Stamp::of(&look_at(&file, &self.path)?);
            file.seek(SeekFrom::Start(offset)).map_err(|error| disk("read", &self.path, &error))?;
            match file.read_exact(&mut bytes) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(changed(&self.path)),
                Err(error) => return Err(disk("read", &self.path, &error)),
            }
            if self.recheck_open(&mut file)?.is_same(&stamp) {
                let md5 = md5_of(&bytes);
                return Ok((bytes, md5));
            }
        }
        Err(changed(&self.path))
    }
}

fn look_at(file: &PacedFile, path: &Path) -> Result<fs::Metadata, Failure> {
    file.inner().metadata().map_err(|error| disk("look at", path, &error))
}

fn changed(path: &Path) -> Failure {
    permanent(Kind::Source, format!("the source changed: {}", path.display()))
}

fn open(path: &Path, pace: &Pace) -> Result<PacedFile, Failure> {
    pace.open(path).map_err(|error| {
        let text = format!("cannot read the package {}: {error}", path.display());
        let is_final = matches!(
            error.kind(),
            ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::NotADirectory | ErrorKind::InvalidInput
        );
        if is_final { permanent(Kind::Source, text) } else { transient(Kind::LocalIo, text) }
    })
}

/// SHA-256, MD5 and length of at most `most` bytes and one more.
fn hashes(file: &mut PacedFile, most: u64) -> std::io::Result<(Sha256, String, u64)> {
    let mut sha256 = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut md5 = Md5::new();
    let mut buffer = vec![0; STRIDE];
    let mut size = 0_u64;
    let mut reader = file.take(most.saturating_add(1));
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        sha256.update(bytes);
        md5.update(bytes);
        size = size.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }
    Ok((finished(sha256), STANDARD.encode(md5.finalize()), size))
}

/// The hash of all that a context was fed.
pub(super) fn finished(context: aws_lc_rs::digest::Context) -> Sha256 {
    let mut bytes = [0; 32];
    for (to, from) in bytes.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    Sha256::from_bytes(bytes)
}

/// MD5 as blob storage writes it.
pub(super) fn md5_of(bytes: &[u8]) -> String {
    STANDARD.encode(Md5::digest(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn md5_is_written_as_the_contract_writes_it() {
        let contract = include_str!("../../tests/contract/blob-upload.md");
        let fence = contract.split("```json example=ChecksumVectors\n").nth(1).unwrap().split("```").next().unwrap();
        for vector in serde_json::from_str::<Vec<serde_json::Value>>(fence).unwrap() {
            assert_eq!(md5_of(vector["text"].as_str().unwrap().as_bytes()), vector["md5"].as_str().unwrap());
        }
    }

    #[test]
    fn a_package_is_measured_and_a_changed_one_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.cab");
        fs::write(&path, b"hello").unwrap();
        let package = LocalPackage::measure(&path, MAX_PACKAGE).unwrap();
        assert_eq!((package.size, package.md5.as_str()), (5, "XUFAKrxLKna5cZ2REBfFkg=="));
        assert_eq!(package.sha256, Sha256::of(b"hello"));
        package.recheck(&Pace::default()).unwrap();

        let later = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
        File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        package.recheck(&Pace::default()).unwrap();
        fs::write(&path, b"hellO").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        assert!(package.recheck(&Pace::default()).unwrap_err().to_string().contains("the source changed"));
        fs::write(&path, b"hell").unwrap();
        assert!(package.recheck(&Pace::default()).is_err());
        assert!(package.read_block(3, 2, &Pace::default()).unwrap_err().to_string().contains("the source changed"));
    }

    #[test]
    fn no_block_of_other_bytes_is_read_under_the_hash_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.cab");
        fs::write(&path, b"hello").unwrap();
        let made = fs::metadata(&path).unwrap().modified().unwrap();
        let package = LocalPackage::measure(&path, MAX_PACKAGE).unwrap();
        assert_eq!(package.read_block(0, 5, &Pace::default()).unwrap().0, b"hello");
        // Of the same length and the same modification time, as reproducible builds make it, and a moment later.
        fs::write(&path, b"jello").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(made).unwrap();
        assert!(package.read_block(0, 5, &Pace::default()).unwrap_err().to_string().contains("the source changed"));
        // Put back: its bytes are those of the hash again, whatever its times say.
        fs::write(&path, b"hello").unwrap();
        assert_eq!(package.read_block(0, 5, &Pace::default()).unwrap().0, b"hello");
    }

    #[test]
    fn what_is_no_package_is_refused_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        fs::write(&empty, b"").unwrap();
        let large = dir.path().join("large");
        File::create(&large).unwrap().set_len(MAX_PACKAGE + 1).unwrap();
        for path in [dir.path(), &dir.path().join("missing"), &empty, &large, Path::new("a\0b")] {
            let failure = LocalPackage::measure(path, u64::MAX).unwrap_err();
            assert!(matches!(&failure, Failure::Permanent(cause) if cause.kind == Kind::Source), "{failure:?}");
        }
    }

    #[test]
    fn a_spooled_file_goes_with_its_last_user() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spooled");
        fs::write(&path, b"x").unwrap();
        let package = LocalPackage::measure(&path, 9).unwrap().spooled(Arc::new(Spool(path.clone())));
        let other = package.clone();
        drop(package);
        assert!(path.exists());
        drop(other);
        assert!(!path.exists());
    }
}

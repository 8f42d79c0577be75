//! Where downloads may be written: `file:` folders below the roots that the operator declares.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Component, Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use super::{disk, permanent};
use crate::domain::failure::{Failure, Kind};

/// Where downloads may be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SinkRules {
    /// Only below these folders; `None`: wherever the user can write.
    pub roots: Option<Vec<PathBuf>>,
}

impl SinkRules {
    /// The file that a download into `folder_url` gets; the folder is made when it is missing. Blocking.
    ///
    /// # Errors
    /// Permanent, kind `Sink`: no `file:` URL, outside the roots, a name that is more than a name, a file in the folder's
    /// place, or a folder that cannot be made. Transient, kind `LocalIo`: the disk is full or fails.
    pub fn resolve(&self, folder_url: &str, file_name: &str) -> Result<PathBuf, Failure> {
        if !is_plain_name(file_name) {
            return Err(refuse(format!("{file_name:?} is no file name")));
        }
        let folder = folder_of(folder_url)?;
        let existing = existing(&folder)?;
        self.check(existing, &folder)?;
        fs::create_dir_all(&folder).map_err(|error| not_made(&folder, &error))?;
        let folder = self.check(&folder, &folder)?;
        Ok(folder.join(file_name))
    }

    /// May downloads be written into `folder_url`? Leaves nothing behind; a folder that is missing is tried by another
    /// one beside it, for an instant. Blocking.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn permit(&self, folder_url: &str) -> Result<(), Failure> {
        static TRIED: AtomicU32 = AtomicU32::new(0);
        let folder = folder_of(folder_url)?;
        let existing = existing(&folder)?;
        let real = self.check(existing, &folder)?;
        if existing == folder {
            return Ok(());
        }
        let number = TRIED.fetch_add(1, Ordering::Relaxed);
        let trial = real.join(format!(".longshore-{}-{number}", std::process::id()));
        fs::create_dir(&trial).map_err(|error| not_made(&folder, &error))?;
        fs::remove_dir(&trial).map_err(|error| disk("remove the folder", &trial, &error))
    }

    /// The true place of `existing`, which must be below a root, or above `folder`, itself below one.
    fn check(&self, existing: &Path, folder: &Path) -> Result<PathBuf, Failure> {
        let real = existing.canonicalize().map_err(|error| disk("look at", existing, &error))?;
        let Some(roots) = &self.roots else { return Ok(real) };
        let rest = folder.strip_prefix(existing).unwrap_or(Path::new(""));
        let meant = real.join(rest);
        let is_below = !rest.components().any(|part| part == Component::ParentDir)
            && roots.iter().any(|root| {
                let root = root.canonicalize().unwrap_or_else(|_| root.clone());
                meant.starts_with(&root)
            });
        if is_below {
            Ok(real)
        } else {
            Err(refuse(format!("the sink {} is outside the sinks' roots", folder.display())))
        }
    }
}

/// The folder behind the URL, without the slash at its end: a file's path with one is no path of anything.
fn folder_of(url: &str) -> Result<PathBuf, Failure> {
    let folder = file_path(url).map_err(|why| refuse(format!("the sink cannot be written: {why}")))?;
    // `..` stays: it is for the roots to judge.
    Ok(folder.components().collect())
}

/// The deepest part of it that exists: a folder, or nothing can be put there.
fn existing(folder: &Path) -> Result<&Path, Failure> {
    let cannot = |part: &Path, why: &str| refuse(format!("the sink {} cannot be written: {why}", part.display()));
    match folder.ancestors().find(|part| part.exists()) {
        Some(part) if part.is_dir() => Ok(part),
        Some(part) => Err(cannot(part, "it is no folder")),
        None => Err(cannot(folder, "no part of it exists")),
    }
}

/// A folder that cannot be made will not be made by waiting, but for the want of room.
fn not_made(folder: &Path, error: &io::Error) -> Failure {
    let is_for_good = matches!(
        error.kind(),
        ErrorKind::NotADirectory
            | ErrorKind::AlreadyExists
            | ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
    );
    if is_for_good {
        return refuse(format!("the sink {} cannot be written: its folder cannot be made: {error}", folder.display()));
    }
    disk("make the folder", folder, error)
}

fn refuse(message: String) -> Failure {
    permanent(Kind::Sink, message)
}

/// A name for one file and nothing else, on every system we run on.
#[must_use]
pub fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 200
        && !name.starts_with('.')
        && !name.ends_with(['.', ' '])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// The path behind a `file:` URL, percent-decoded; drive letters and UNC names on Windows.
///
/// # Errors
/// A sentence: no `file:` URL, or one that names another machine.
pub fn file_path(url: &str) -> Result<PathBuf, String> {
    let shown = url.split(['?', '#']).next().unwrap_or_default();
    if !shown.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("file:/")) {
        return Err(format!("{shown:?} is no file URL such as file:///srv/builds/nic.cab"));
    }
    let parsed = url::Url::parse(shown).map_err(|error| format!("{shown:?} is no URL: {error}"))?;
    let path = parsed.to_file_path().map_err(|()| format!("{shown:?} names no file of this machine"))?;
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(format!("{shown:?} holds a zero byte"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url_of(path: &Path) -> String {
        url::Url::from_file_path(path).unwrap().to_string()
    }

    #[test]
    fn a_missing_folder_below_a_root_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let rules = SinkRules { roots: Some(vec![dir.path().to_owned()]) };
        let wanted = dir.path().join("a b").join("c");
        let path = rules.resolve(&url_of(&wanted), "signed_1.zip").unwrap();
        assert_eq!(path, wanted.canonicalize().unwrap().join("signed_1.zip"));
    }

    #[test]
    fn a_sink_outside_the_roots_is_refused_and_nothing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("in");
        fs::create_dir(&inside).unwrap();
        let rules = SinkRules { roots: Some(vec![inside.clone()]) };
        let inside = url_of(&inside);
        for bad in [
            url_of(&dir.path().join("out/new")),
            format!("{inside}/../out/new"),
            format!("{inside}/x/%2e%2e/%2e%2e/out"),
        ] {
            let failure = rules.resolve(&bad, "x.zip").unwrap_err();
            assert!(matches!(&failure, Failure::Permanent(cause) if cause.kind == Kind::Sink), "{failure:?}");
        }
        assert!(!dir.path().join("out").exists());
        for bad in ["https://h/x", "out", "", "file:out"] {
            assert!(rules.resolve(bad, "x.zip").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_in_the_place_of_the_folder_is_refused_with_or_without_a_slash_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("out");
        fs::write(&file, "mine").unwrap();
        for url in [url_of(&file), format!("{}/", url_of(&file)), url_of(&file.join("new"))] {
            for failure in [SinkRules::default().permit(&url), SinkRules::default().resolve(&url, "x.zip").map(drop)] {
                let failure = failure.unwrap_err();
                assert!(matches!(&failure, Failure::Permanent(cause) if cause.kind == Kind::Sink), "{failure:?}");
                assert!(failure.to_string().contains("it is no folder"), "{url}: {failure}");
            }
        }
    }

    #[test]
    fn a_missing_folder_is_tried_and_nothing_is_left_of_the_trial() {
        let dir = tempfile::tempdir().unwrap();
        SinkRules::default().permit(&url_of(&dir.path().join("a/b"))).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_folder_that_nobody_can_make_is_refused() {
        for failure in [
            SinkRules::default().permit("file:///proc/nowhere/"),
            SinkRules::default().resolve("file:///proc/nowhere/", "x.zip").map(drop),
        ] {
            let failure = failure.unwrap_err();
            assert!(matches!(&failure, Failure::Permanent(cause) if cause.kind == Kind::Sink), "{failure:?}");
            assert!(failure.to_string().contains("/proc/nowhere cannot be written"), "{failure}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_does_not_lead_out_of_the_roots() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        fs::create_dir(&inside).unwrap();
        fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        let rules = SinkRules { roots: Some(vec![inside.clone()]) };
        assert!(rules.resolve(&url_of(&inside.join("link/new")), "x.zip").is_err());
        assert!(!outside.join("new").exists());
    }

    #[test]
    fn a_name_is_a_name() {
        for bad in ["", "a/b", "..", ".hidden", "a\\b", "a:b", "a.", "C:", "a\0", "x y", &"a".repeat(201)] {
            assert!(!is_plain_name(bad), "{bad}");
        }
        assert!(is_plain_name("signedPackage_1152921505900000077.zip"));
    }
}

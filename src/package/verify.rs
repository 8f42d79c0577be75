//! Is a signed package what was submitted, signed?
//!
//! Its zip opens, every submitted INF is in it byte for byte, and it holds a catalog. The signature itself is for
//! Windows to judge. Source: contract/hardware-api.md, section 8.4.

use std::{collections::BTreeMap, path::Path};

use super::{Error, cabinet::Cabinet, disk, has_extension, hlkx::Archive, is_inf};
use crate::domain::{
    failure::{Cause, Failure, Kind},
    ids::Sha256,
};
use crate::transfer::pace::Pace;

/// A signed package that holds what was submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Files in it.
    pub files: usize,
    /// Submitted INF files found in it byte for byte.
    pub inf_files: Vec<String>,
    /// Its catalogs.
    pub catalogs: Vec<String>,
    /// What could not be looked at.
    pub warnings: Vec<String>,
}

/// What a signed package is compared with: the INF files that were submitted.
#[derive(Debug)]
pub struct Submission {
    infs: Vec<Submitted>,
    /// Why there is nothing to compare with.
    warning: Option<String>,
}

impl Submission {
    /// Reads what was submitted, at somebody's pace; blocking, flat memory.
    ///
    /// # Errors
    /// Transient, kind `LocalIo`: the disk failed.
    pub fn read(path: &Path, pace: &Pace) -> Result<Self, Failure> {
        match submitted_infs(path, pace) {
            Ok(infs) => Ok(Self {
                warning: infs.is_empty().then(|| "the submitted package holds no INF file to compare".to_owned()),
                infs,
            }),
            Err(Error::Io(error)) => Err(disk(path, &error)),
            Err(error @ (Error::Damaged(_) | Error::TooLarge(_) | Error::Zip64)) => Ok(Self::unread(format!(
                "the submitted package is no cabinet or archive that can be read ({error}); its INF files were not compared"
            ))),
        }
    }

    /// One that can no longer be read: the warning of whoever compares with it.
    #[must_use]
    pub const fn unread(warning: String) -> Self {
        Self { infs: Vec::new(), warning: Some(warning) }
    }
}

/// An INF as it was submitted.
#[derive(Debug)]
struct Submitted {
    path: String,
    sha256: Sha256,
    /// Does its folder have to be the same? Test results keep drivers under names of their own.
    by_path: bool,
}

/// The warning when what was submitted is gone.
pub const GONE: &str = "the submitted package can no longer be read; its INF files were not compared";

/// Compares a signed package with what was submitted; blocking, flat memory.
///
/// # Errors
/// Permanent, kind `Verification`: it does not open, lacks an INF or a catalog, or an INF is another one. Transient,
/// kind `LocalIo`: our disk failed.
pub fn verify(signed_zip: &Path, submitted: Option<&Path>) -> Result<Verified, Failure> {
    let pace = Pace::default();
    let gone = || Ok(Submission::unread(GONE.to_owned()));
    verify_paced(signed_zip, submitted.map_or_else(gone, |path| Submission::read(path, &pace))?, &pace)
}

/// The same at somebody's pace.
///
/// # Errors
/// As [`verify`].
pub fn verify_paced(signed_zip: &Path, submitted: Submission, pace: &Pace) -> Result<Verified, Failure> {
    let Submission { infs: wanted, warning } = submitted;
    let refuse = |why: String| failed(format!("the signed package {}: {why}", signed_zip.display()));
    let mut archive = match Archive::open_paced(signed_zip, true, pace) {
        Ok(archive) => archive,
        Err(Error::Io(error)) => return Err(disk(signed_zip, &error)),
        Err(error @ (Error::Damaged(_) | Error::TooLarge(_) | Error::Zip64)) => {
            return Err(refuse(format!("it does not open: {error}")));
        }
    };
    let mut signed: BTreeMap<String, Sha256> = BTreeMap::new();
    let entries = archive.entries().to_vec();
    for entry in entries.iter().filter(|entry| is_inf(&entry.path)) {
        let mut context = Hash::new();
        archive.read(entry, |piece| context.update(piece)).map_err(|error| match error {
            Error::Io(error) => disk(signed_zip, &error),
            error @ (Error::Damaged(_) | Error::TooLarge(_) | Error::Zip64) => refuse(error.to_string()),
        })?;
        signed.insert(entry.path.to_lowercase(), context.finish());
    }
    for inf in &wanted {
        compare(inf, &signed).map_err(refuse)?;
    }
    let catalogs: Vec<String> =
        entries.iter().filter(|entry| has_extension(&entry.path, "cat")).map(|entry| entry.path.clone()).collect();
    if catalogs.is_empty() {
        return Err(refuse("it holds no catalog (.cat)".to_owned()));
    }
    let inf_files = wanted.into_iter().map(|inf| inf.path).collect();
    Ok(Verified { files: entries.len(), inf_files, catalogs, warnings: warning.into_iter().collect() })
}

/// The service keeps the cabinet's folders, sometimes within one more: the deepest match counts, and any equal one will do.
fn compare(inf: &Submitted, signed: &BTreeMap<String, Sha256>) -> Result<(), String> {
    let path = inf.path.to_lowercase();
    let name = path.rsplit('/').next().unwrap_or_default();
    let wanted = if inf.by_path { path.as_str() } else { name };
    let is_match =
        |found: &str| found.strip_suffix(wanted).is_some_and(|before| before.is_empty() || before.ends_with('/'));
    let matches: Vec<(&String, &Sha256)> = signed.iter().filter(|(found, _)| is_match(found)).collect();
    if matches.iter().any(|(_, sha256)| **sha256 == inf.sha256) {
        return Ok(());
    }
    match matches.iter().max_by_key(|(found, _)| found.matches('/').count()) {
        Some((found, _)) => Err(format!("{found} is not the {} that was submitted", inf.path)),
        None => Err(format!("it lacks {}", inf.path)),
    }
}

fn submitted_infs(path: &Path, pace: &Pace) -> Result<Vec<Submitted>, Error> {
    let mut start = [0; 4];
    let is_cabinet = {
        let mut file = pace.open(path)?;
        match std::io::Read::read_exact(&mut file, &mut start) {
            Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => return Err(Error::Io(error)),
            read => read.is_ok() && &start == b"MSCF",
        }
    };
    if !is_cabinet {
        let mut archive = Archive::open_paced(path, true, pace)?;
        let entries: Vec<_> = archive.entries().iter().filter(|entry| is_inf(&entry.path)).cloned().collect();
        return entries
            .into_iter()
            .map(|entry| {
                let mut hash = Hash::new();
                archive.read(&entry, |piece| hash.update(piece))?;
                Ok(Submitted { path: entry.path, sha256: hash.finish(), by_path: false })
            })
            .collect();
    }
    let cabinet = Cabinet::open_paced(path, pace)?;
    let mut hashes: BTreeMap<usize, Hash> = (cabinet.entries().iter().enumerate())
        .filter(|(_, entry)| is_inf(&entry.path))
        .map(|(index, _)| (index, Hash::new()))
        .collect();
    cabinet.read(|index, piece| {
        if let Some(hash) = hashes.get_mut(&index) {
            hash.update(piece);
        }
    })?;
    let of = |(index, hash): (usize, Hash)| {
        let path = cabinet.entries().get(index)?.path.clone();
        Some(Submitted { path, sha256: hash.finish(), by_path: true })
    };
    Ok(hashes.into_iter().filter_map(of).collect())
}

struct Hash(aws_lc_rs::digest::Context);

impl Hash {
    fn new() -> Self {
        Self(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256))
    }

    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(self) -> Sha256 {
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(self.0.finish().as_ref()) {
            *to = *from;
        }
        Sha256::from_bytes(bytes)
    }
}

fn failed(message: String) -> Failure {
    Failure::Permanent(Cause::new(Kind::Verification, message))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{
        super::{cabinet::tests::cab_of, hlkx::tests::zip_of},
        *,
    };

    fn check(signed: &[u8], submitted: &[u8]) -> Result<Verified, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let (zip, cab) = (dir.path().join("signed.zip"), dir.path().join("submitted"));
        fs::write(&zip, signed).unwrap();
        fs::write(&cab, submitted).unwrap();
        verify(&zip, Some(&cab))
    }

    const INF: &[u8] = b"[Version]\r\nClass=Net\r\n";

    #[test]
    fn a_signed_package_with_every_inf_and_a_catalog_is_verified() {
        let cab = cab_of(&[("nic/nic.inf", INF), ("nic/nic.sys", b"MZ"), ("wifi/wifi.inf", b"[Version]")]);
        let zip = zip_of(&[("nic/NIC.inf", INF), ("nic/nic.cat", b"cat"), ("wifi/wifi.inf", b"[Version]")]);
        let verified = check(&zip, &cab).unwrap();
        assert_eq!((verified.files, verified.inf_files.len(), verified.catalogs.len()), (3, 2, 1));
        assert!(verified.warnings.is_empty());
    }

    #[test]
    fn one_more_folder_around_it_does_no_harm() {
        let cab = cab_of(&[("drivers/nic.inf", INF)]);
        let wrapped = zip_of(&[("drivers/drivers/nic.inf", INF), ("drivers/drivers/nic.cat", b"cat")]);
        assert!(check(&wrapped, &cab).is_ok());
    }

    #[test]
    fn whatever_is_missing_or_different_is_said() {
        let cab = cab_of(&[("nic/nic.inf", INF)]);
        for (zip, why) in [
            (zip_of(&[("nic/nic.cat", b"cat")]), "lacks nic/nic.inf"),
            (zip_of(&[("other/nic.inf", INF), ("nic/nic.cat", b"cat")]), "lacks nic/nic.inf"),
            (zip_of(&[("xnic/nic.inf", INF), ("nic/nic.cat", b"cat")]), "lacks nic/nic.inf"),
            (zip_of(&[("nic/nic.inf", b"[Version]\n"), ("nic/nic.cat", b"cat")]), "is not the"),
            (zip_of(&[("nic/nic.inf", INF)]), "no catalog"),
            (b"<html>not found</html>".to_vec(), "does not open"),
        ] {
            let failure = check(&zip, &cab).unwrap_err();
            assert!(matches!(&failure, Failure::Permanent(cause) if cause.kind == Kind::Verification), "{failure:?}");
            assert!(failure.to_string().contains(why), "{failure}");
        }
    }

    #[test]
    fn test_results_are_compared_by_name_and_bytes() {
        let hlkx = zip_of(&[("hck/data/1/nic.inf", INF)]);
        assert!(check(&zip_of(&[("drivers/nic.inf", INF), ("drivers/nic.cat", b"c")]), &hlkx).is_ok());
        assert!(check(&zip_of(&[("drivers/nic.inf", b"x"), ("drivers/nic.cat", b"c")]), &hlkx).is_err());
    }

    #[test]
    fn what_cannot_be_compared_is_told() {
        let verified = check(&zip_of(&[("nic.cat", b"c")]), b"not a package at all").unwrap();
        assert_eq!(verified.warnings.len(), 1);
        assert!(matches!(
            verify(Path::new("/nowhere.zip"), Some(Path::new("/nowhere.cab"))),
            Err(Failure::Transient(_))
        ));
    }

    #[test]
    fn a_read_that_fails_is_neither_damage_nor_a_warning_wherever_it_fails() {
        let dir = tempfile::tempdir().unwrap();
        let (zip, submitted) = (dir.path().join("signed.zip"), dir.path().join("submitted"));
        let inf: Vec<u8> = INF.iter().copied().cycle().take(100_000).collect();
        let files: [(&str, &[u8]); 2] = [("nic/nic.inf", &inf), ("nic/nic.cat", b"cat")];
        fs::write(&zip, stored(&files)).unwrap();
        for package in [cab_of(&files), stored(&files)] {
            fs::write(&submitted, package).unwrap();
            let checked = |beats| {
                let pace = Pace::left_after(beats);
                verify_paced(&zip, Submission::read(&submitted, &pace)?, &pace)
            };
            let mut beats = 0;
            let verified = loop {
                match checked(beats) {
                    Ok(verified) => break verified,
                    Err(Failure::Transient(cause)) if cause.kind == Kind::LocalIo => beats += 1,
                    Err(other) => panic!("after {beats} reads: {other:?}"),
                }
            };
            assert!(beats > 10 && verified.warnings.is_empty(), "after {beats} reads: {verified:?}");
        }
    }

    /// Without compression: a library makes other errors of a read within a packed entry than within a plain one.
    fn stored(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let plain = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        for (path, content) in files {
            zip.start_file(*path, plain).unwrap();
            std::io::Write::write_all(&mut zip, content).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    #[test]
    fn a_damaged_entry_is_found() {
        let cab = cab_of(&[("nic/nic.inf", INF)]);
        let mut zip = zip_of(&[("nic/nic.inf", INF), ("nic/nic.cat", b"cat")]);
        let at = zip.windows(5).position(|window| window == b"[Vers").unwrap_or(60);
        zip[at] ^= 0x55;
        assert!(check(&zip, &cab).is_err());
    }
}

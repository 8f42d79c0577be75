//! What the service would refuse after hours, found in seconds.
//!
//! All findings come at once, each with its rule, the file inside the package and the remedy. Source of the rules:
//! contract/hardware-api.md, section 9.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    io::{self, ErrorKind, Read},
    path::Path,
};

use serde::Serialize;

use super::{
    Error, MAX_INF,
    cabinet::Cabinet,
    disk, has_extension,
    hlkx::Archive,
    inf::{Architecture, Inf},
    is_inf,
};
use crate::{
    domain::failure::Failure,
    transfer::{MAX_PACKAGE, pace::Pace},
};

/// Where the rules stand.
const SOURCE: &str = "hardware-api 9";
/// A path within a package is shorter than this (hardware-api 9).
const MAX_PATH: usize = 160;
/// A folder's name is shorter than this (hardware-api 9).
const MAX_FOLDER: usize = 40;
/// Findings of one rule that are told one by one.
const MAX_PER_RULE: usize = 20;

/// What kind of package it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PackageKind {
    /// A cabinet, for attestation.
    Cabinet,
    /// A zip archive of HLK or HCK test results.
    Archive,
}

/// A package that may be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What kind it is.
    pub kind: PackageKind,
    /// The number of its files.
    pub files: usize,
    /// The paths of its INF files.
    pub inf_files: Vec<String>,
    /// Its length.
    pub bytes: u64,
    /// What may be wrong, but need not be.
    pub warnings: Vec<String>,
}

/// Everything that speaks against sending it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("the package is refused: {}", .findings.iter().map(Finding::to_string).collect::<Vec<_>>().join("; "))]
pub struct Refusal {
    /// At least one.
    pub findings: Vec<Finding>,
}

/// One rule that is broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A stable id.
    pub rule: &'static str,
    /// The file or folder inside the package.
    pub file: Option<String>,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
    /// Where the rule stands.
    pub source: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}: ")?;
        }
        write!(f, "{} [{}]: {}", self.problem, self.rule, self.remedy)
    }
}

#[derive(Default)]
struct Findings {
    list: Vec<Finding>,
    warnings: Vec<String>,
    /// The disk failed: nothing is known against the package.
    trouble: Option<io::Error>,
}

impl Findings {
    /// What cannot be read for good is a finding; what may be read later is none.
    fn unread(&mut self, error: io::Error) {
        let is_final = matches!(
            error.kind(),
            ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::NotADirectory | ErrorKind::InvalidInput
        );
        if is_final {
            self.add("package-readable", None, format!("cannot be read: {error}"), "check path and permissions");
        } else {
            self.trouble = Some(error);
        }
    }

    fn add(&mut self, rule: &'static str, file: Option<&str>, problem: impl Into<String>, remedy: &str) {
        match self.list.iter().filter(|finding| finding.rule == rule).count() {
            count if count > MAX_PER_RULE => {}
            count => {
                let is_last = count == MAX_PER_RULE;
                self.list.push(Finding {
                    rule,
                    file: file.filter(|_| !is_last).map(str::to_owned),
                    problem: if is_last { "and more of the same".to_owned() } else { problem.into() },
                    remedy: remedy.to_owned(),
                    source: SOURCE,
                });
            }
        }
    }
}

/// Looks through a package; blocking.
///
/// `harness` and `requested_signatures` are those of the product, in Microsoft's words (hardware-api 6.2).
///
/// # Errors
/// [`Refusal`] with every finding.
pub fn check(path: &Path, harness: &str, requested_signatures: &[String]) -> Result<Report, Refusal> {
    check_paced(path, harness, requested_signatures, &Pace::default()).unwrap_or_else(|failure| {
        let mut findings = Findings::default();
        findings.add("package-readable", None, failure.to_string(), "check the disk or network share, and try again");
        Err(Refusal { findings: findings.list })
    })
}

/// The same at somebody's pace: what was found, unless the disk failed.
///
/// # Errors
/// Transient, kind `LocalIo`: the package could not be read to its end.
pub fn check_paced(
    path: &Path,
    harness: &str,
    requested_signatures: &[String],
    pace: &Pace,
) -> Result<Result<Report, Refusal>, Failure> {
    let mut findings = Findings::default();
    let harness = harness.to_ascii_lowercase();
    let report = check_file(&Asked { path, harness: &harness, signatures: requested_signatures, pace }, &mut findings);
    if let Some(error) = findings.trouble {
        return Err(disk(path, &error));
    }
    Ok(match report {
        Some(report) if findings.list.is_empty() => Ok(Report { warnings: findings.warnings, ..report }),
        Some(_) | None => Err(Refusal { findings: findings.list }),
    })
}

/// What is to be looked through, and how.
struct Asked<'a> {
    path: &'a Path,
    harness: &'a str,
    signatures: &'a [String],
    pace: &'a Pace,
}

fn check_file(asked: &Asked<'_>, findings: &mut Findings) -> Option<Report> {
    let Asked { path, harness, signatures, pace } = *asked;
    check_os_codes(harness, signatures, findings);
    let bytes = match fs::metadata(path) {
        Ok(found) if found.is_file() => found.len(),
        Ok(_) => {
            findings.add("package-readable", None, "it is not a file", "name a .cab, .hlkx or .hckx file");
            return None;
        }
        Err(error) => {
            findings.unread(error);
            return None;
        }
    };
    if bytes == 0 {
        findings.add("package-size", None, "it is empty", "build the package again");
        return None;
    }
    if bytes > MAX_PACKAGE {
        let problem = format!("it has {bytes} bytes, the service takes less than 4 GiB");
        findings.add("package-size", None, problem, "leave out what the driver does not need, or split the package");
        return None;
    }
    let is_archive_wanted = matches!(harness, "hlk" | "hck");
    let kind = match kind_of(path, pace) {
        Ok(kind) => kind,
        Err(error) => {
            findings.unread(error);
            return None;
        }
    };
    match kind {
        Some(PackageKind::Cabinet) if is_archive_wanted => {
            let problem = format!("it is a cabinet, but test harness {harness} takes test results");
            findings.add(
                "package-kind",
                None,
                problem,
                "give the .hlkx or .hckx file, or use test harness attestation",
            );
            None
        }
        Some(PackageKind::Archive) if harness == "attestation" => {
            let problem = "it is a zip archive, but attestation takes a cabinet";
            findings.add("package-kind", None, problem, "pack the drivers into a .cab, or use test harness hlk");
            None
        }
        Some(PackageKind::Cabinet) => check_cabinet(asked, bytes, findings),
        Some(PackageKind::Archive) => check_archive(asked, bytes, findings),
        None => {
            let problem = "it is neither a cabinet nor a zip archive";
            findings.add(
                "package-kind",
                None,
                problem,
                "give a .cab for attestation, a .hlkx for hlk, a .hckx for hck",
            );
            None
        }
    }
}

fn kind_of(path: &Path, pace: &Pace) -> io::Result<Option<PackageKind>> {
    let mut start = [0; 4];
    match pace.open(path)?.read_exact(&mut start) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    Ok(match &start {
        b"MSCF" => Some(PackageKind::Cabinet),
        b"PK\x03\x04" | b"PK\x05\x06" => Some(PackageKind::Archive),
        _ => None,
    })
}

/// Attestation signs for client versions of Windows 10 and later only.
fn check_os_codes(harness: &str, signatures: &[String], findings: &mut Findings) {
    if harness != "attestation" {
        return;
    }
    for code in signatures {
        let upper = code.to_ascii_uppercase();
        if upper.contains("SERVER") {
            let problem =
                format!("{code} is a server version: it is accepted at first, and then the submission always fails");
            findings.add("os-code-server", None, problem, "leave the code out, or submit HLK results for servers");
        } else if !upper.starts_with("WINDOWS_V100_") {
            let problem = format!("{code} is not Windows 10 or later");
            findings.add("os-code-version", None, problem, "ask for WINDOWS_v100_* codes only");
        }
    }
}

fn check_cabinet(asked: &Asked<'_>, bytes: u64, findings: &mut Findings) -> Option<Report> {
    let Asked { path, harness, signatures, pace } = *asked;
    check_extension(path, &["cab"], findings);
    let unreadable = |error: Error, findings: &mut Findings| {
        match error {
            Error::Io(error) => findings.unread(error),
            Error::Damaged(_) | Error::TooLarge(_) | Error::Zip64 => {
                let remedy = "build the cabinet again, for example with makecab";
                findings.add("cab-readable", None, error.to_string(), remedy);
            }
        }
        None
    };
    let cabinet = match Cabinet::open_paced(path, pace) {
        Ok(cabinet) => cabinet,
        Err(error) => return unreadable(error, findings),
    };
    let entries = cabinet.entries();
    let paths: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
    check_paths(&paths, findings);
    check_folders(&paths, findings);
    let infs = match cabinet.read_files(MAX_INF, |entry| is_inf(&entry.path)) {
        Ok(infs) => infs,
        Err(error) => return unreadable(error, findings),
    };
    let infs: Vec<(&str, Inf)> = infs
        .iter()
        .filter_map(|(index, content)| Some((entries.get(*index)?.path.as_str(), Inf::read(content))))
        .collect();
    check_infs(&infs, signatures, findings);
    if harness == "attestation" && !cabinet.is_signed() {
        findings
            .warnings
            .push("the cabinet carries no signature; attestation asks for the account's EV certificate".to_owned());
    }
    let inf_files = infs.iter().map(|(path, _)| (*path).to_owned()).collect();
    Some(Report { kind: PackageKind::Cabinet, files: entries.len(), inf_files, bytes, warnings: Vec::new() })
}

fn check_extension(path: &Path, wanted: &[&str], findings: &mut Findings) {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let other = ["cab", "hlkx", "hckx"].into_iter().find(|known| !wanted.contains(known) && has_extension(name, known));
    if let Some(other) = other {
        let remedy = format!("name it .{}", wanted.join(" or ."));
        findings.add("package-extension", None, format!("its name ends in .{other}, which it is not"), &remedy);
    }
}

fn check_paths(paths: &[&str], findings: &mut Findings) {
    for path in paths {
        if path.starts_with('/') || path.contains(':') || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            findings.add("cab-path", Some(path), "it is not a relative path", "pack files under plain relative paths");
            continue;
        }
        if path.chars().count() >= MAX_PATH {
            let problem = format!("its path has {} characters", path.chars().count());
            findings.add("cab-path-length", Some(path), problem, "keep path and name under 160 characters");
        }
        if !path.contains('/') {
            let problem = "it lies in the root of the cabinet";
            findings.add("cab-root-file", Some(path), problem, "put each driver package into a folder of its own");
        }
    }
    let folders: BTreeSet<&str> =
        paths.iter().filter_map(|path| path.rsplit_once('/')).map(|(folder, _)| folder).collect();
    for folder in folders {
        for name in folder.split('/') {
            if name.chars().count() >= MAX_FOLDER {
                let problem = format!("the folder name has {} characters", name.chars().count());
                findings.add("cab-folder-name", Some(folder), problem, "keep folder names under 40 characters");
            }
            let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ');
            if let Some(special) = name.chars().find(|c| !is_plain(*c)) {
                let problem = format!("the folder name holds {special:?}");
                findings.add(
                    "cab-folder-name",
                    Some(folder),
                    problem,
                    "use letters, digits, '-', '_', '.' and blanks only",
                );
            }
        }
    }
}

fn check_folders(paths: &[&str], findings: &mut Findings) {
    if !paths.iter().any(|path| is_inf(path)) {
        findings.add("cab-inf", None, "it holds no INF file", "add the driver's .inf to its folder");
        return;
    }
    let mut has_inf: BTreeMap<&str, bool> = BTreeMap::new();
    for (folder, rest) in paths.iter().filter_map(|path| path.split_once('/')) {
        *has_inf.entry(folder).or_default() |= is_inf(rest);
    }
    for (folder, _) in has_inf.iter().filter(|(_, has_inf)| !**has_inf) {
        let problem = "the folder holds no INF file";
        findings.add("cab-folder-inf", Some(folder), problem, "add the driver's .inf, or move the files to its folder");
    }
}

fn check_infs(infs: &[(&str, Inf)], signatures: &[String], findings: &mut Findings) {
    let mut by_folder: BTreeMap<&str, BTreeSet<Architecture>> = BTreeMap::new();
    let mut is_unclear = false;
    for (path, inf) in infs {
        if !inf.has_section("Version") {
            findings.add(
                "inf-readable",
                Some(path),
                "it has no [Version] section",
                "check that it is a text file, UTF-16 or ANSI",
            );
            continue;
        }
        let found = inf.architectures();
        if found.is_empty() {
            is_unclear = true;
            findings.warnings.push(format!("{path} does not say for which processors it is; they are not compared"));
            continue;
        }
        by_folder.entry(path.split('/').next().unwrap_or_default()).or_default().extend(found);
    }
    let all: BTreeSet<Architecture> = by_folder.values().flatten().copied().collect();
    for (folder, found) in &by_folder {
        let missing: Vec<String> = all.difference(found).map(ToString::to_string).collect();
        if !missing.is_empty() && !is_unclear {
            let problem = format!("its INF files do not support {}, those of other folders do", missing.join(", "));
            findings.add("cab-folder-architectures", Some(folder), problem, "make one package per set of processors");
        }
    }
    if is_unclear || by_folder.is_empty() {
        return;
    }
    let wanted: BTreeMap<Architecture, &String> =
        signatures.iter().rev().map(|code| (Architecture::of_os_code(code), code)).collect();
    for (architecture, code) in &wanted {
        if !all.contains(architecture) {
            let has: Vec<String> = all.iter().map(ToString::to_string).collect();
            let problem = format!("{code} asks for {architecture}, the INF files have {}", has.join(", "));
            findings.add(
                "os-code-architecture",
                None,
                problem,
                "add the models section to the INF, or leave the code out",
            );
        }
    }
    for architecture in all.iter().filter(|found| !wanted.is_empty() && !wanted.contains_key(found)) {
        findings.warnings.push(format!("the INF files support {architecture}, no requested signature asks for it"));
    }
}

fn check_archive(asked: &Asked<'_>, bytes: u64, findings: &mut Findings) -> Option<Report> {
    let Asked { path, harness, pace, .. } = *asked;
    match harness {
        "hlk" => check_extension(path, &["hlkx"], findings),
        "hck" => check_extension(path, &["hckx"], findings),
        _ => check_extension(path, &["hlkx", "hckx"], findings),
    }
    let archive = match Archive::open_paced(path, false, pace) {
        Ok(archive) => archive,
        Err(Error::Zip64) => {
            let remedy = "leave out logs and symbols until it is below 4 GiB, and save it with HLK Studio again";
            findings.add("zip64", None, "it is a Zip64 archive, which the service refuses", remedy);
            return None;
        }
        Err(Error::Io(error)) => {
            findings.unread(error);
            return None;
        }
        Err(error @ (Error::Damaged(_) | Error::TooLarge(_))) => {
            findings.add("zip-readable", None, error.to_string(), "save the package with HLK Studio again");
            return None;
        }
    };
    let entries = archive.entries();
    if entries.is_empty() {
        findings.add("zip-empty", None, "it holds no file", "save the package with HLK Studio again");
    }
    // HLK Studio names these files, and the rule is that of the older WLK packages: told, not refused.
    if let Some(long) = entries.iter().find(|entry| entry.path.chars().count() >= MAX_PATH) {
        findings.warnings.push(format!("a path has 160 characters or more: {}", long.path));
    }
    let inf_files = entries.iter().filter(|entry| is_inf(&entry.path)).map(|entry| entry.path.clone()).collect();
    Some(Report { kind: PackageKind::Archive, files: entries.len(), inf_files, bytes, warnings: Vec::new() })
}

#[cfg(test)]
#[path = "preflight_tests.rs"]
mod tests;

//! What becomes of a package: the rules that decide whether it passes (hardware-api.md section 9), and the signed zip,
//! the driver metadata and the shell made from it.
//!
//! Everything here blocks and runs on a thread of its own. The `cab` crate panics on some damaged cabinets: that is
//! caught, and such a package fails like any other that cannot be read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest;
use serde_json::{Map, Value, json};
use zip::write::SimpleFileOptions;

use super::inf::Inf;
use super::state::Kind;
use super::store::{Content, Folder, Segment, hex};

/// More entries than any driver package has.
const MOST_ENTRIES: usize = 20_000;
/// The inflated size that is still worked on.
const MOST_BYTES: u64 = 8 << 30;
const MOST_INF_BYTES: u64 = 4 << 20;

/// What the package is judged by.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) product_id: u64,
    pub(super) submission_id: u64,
    pub(super) harness: String,
    pub(super) signatures: Vec<String>,
    pub(super) kind: Kind,
    pub(super) content: Option<Content>,
}

/// What became of it.
pub(super) enum Judgement {
    Good(Made),
    Bad { messages: Vec<String>, sha256: Option<String> },
}

/// The results of a good package.
pub(super) struct Made {
    pub(super) sha256: String,
    pub(super) signed: Arc<Segment>,
    pub(super) metadata: Arc<Segment>,
    pub(super) shell: Option<Arc<Segment>>,
    pub(super) is_extension: bool,
}

/// Why a package does not pass, for people.
enum Trouble {
    Rules(Vec<String>),
    Disk(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

fn rule(message: &str) -> Trouble {
    Trouble::Rules(vec![message.to_owned()])
}

/// Inspects a package and makes its results. Blocking.
pub(super) fn inspect(folder: &Arc<Folder>, order: &Order) -> Judgement {
    let Some(content) = &order.content else {
        return Judgement::Bad { messages: vec!["The package was not uploaded.".to_owned()], sha256: None };
    };
    let path = folder.fresh("package");
    let gathered = content.gather(&path);
    let judgement = match gathered {
        Err(error) => Judgement::Bad { messages: vec![unreadable(&error)], sha256: None },
        Ok(sha256) => {
            // A damaged cabinet may make its decoder panic; nothing outside this call is touched by then.
            let made = catch_unwind(AssertUnwindSafe(|| make(folder, order, &path, &sha256)));
            match made {
                Ok(Ok(made)) => Judgement::Good(made),
                Ok(Err(Trouble::Rules(messages))) => Judgement::Bad { messages, sha256: Some(sha256) },
                Ok(Err(Trouble::Disk(error))) => {
                    Judgement::Bad { messages: vec![unreadable(&error)], sha256: Some(sha256) }
                }
                Err(_) => {
                    let messages = vec!["The package is damaged and cannot be extracted.".to_owned()];
                    Judgement::Bad { messages, sha256: Some(sha256) }
                }
            }
        }
    };
    // It may never have been made; the folder goes in the end.
    std::fs::remove_file(&path).ok();
    judgement
}

fn unreadable(error: &io::Error) -> String {
    format!("The package cannot be extracted: {error}.")
}

fn make(folder: &Arc<Folder>, order: &Order, path: &Path, sha256: &str) -> Result<Made, Trouble> {
    let mut package = Package::open(path, &order.harness)?;
    let names = package.names()?;
    let problems = problems(order, &names, package.is_cabinet());
    if !problems.is_empty() {
        return Err(Trouble::Rules(problems));
    }
    let target = folder.fresh("signed");
    let made = sign(&mut package, &names, order, &target, sha256);
    let infs = match made {
        Ok(infs) => infs,
        Err(trouble) => {
            // What is left of it is of no use; the folder goes in the end.
            std::fs::remove_file(&target).ok();
            return Err(trouble);
        }
    };
    let signed = Segment::of_file(folder, target)?;
    let metadata = Segment::write(folder, metadata(order, &infs).to_string().as_bytes())?;
    let shell = if package.is_cabinet() { None } else { Some(Segment::write(folder, &shell(order)?)?) };
    let is_extension = infs.values().any(Inf::is_extension);
    Ok(Made { sha256: sha256.to_owned(), signed, metadata, shell, is_extension })
}

/// An uploaded package, opened.
enum Package {
    Cabinet(Box<cab::Cabinet<BufReader<File>>>),
    Zip(Box<zip::ZipArchive<BufReader<File>>>),
}

impl Package {
    fn open(path: &Path, harness: &str) -> Result<Self, Trouble> {
        let mut magic = [0; 4];
        let is_cabinet = File::open(path)?.read_exact(&mut magic).is_ok() && &magic == b"MSCF";
        let is_tested = ["hlk", "hck"].contains(&harness);
        if is_cabinet && !is_tested {
            let cabinet = cab::Cabinet::new(BufReader::new(File::open(path)?))
                .map_err(|error| rule(&format!("The package is not a valid cabinet file: {error}.")))?;
            return Ok(Self::Cabinet(Box::new(cabinet)));
        }
        if harness == "attestation" {
            return Err(rule("The package is not a cabinet file."));
        }
        let archive = zip::ZipArchive::new(BufReader::new(File::open(path)?))
            .map_err(|_| rule("Unable to extract and upload PackageInfo.xml."))?;
        Ok(Self::Zip(Box::new(archive)))
    }

    fn is_cabinet(&self) -> bool {
        match self {
            Self::Cabinet(_) => true,
            Self::Zip(_) => false,
        }
    }

    /// The path of each file with forward slashes, and the name it is read by.
    fn names(&mut self) -> Result<Vec<(String, String)>, Trouble> {
        let (names, size): (Vec<String>, u64) = match self {
            Self::Cabinet(cabinet) => {
                let files = || cabinet.folder_entries().flat_map(|folder| folder.file_entries());
                let size = files().map(|file| u64::from(file.uncompressed_size())).sum();
                (files().map(|file| file.name().to_owned()).take(MOST_ENTRIES + 1).collect(), size)
            }
            Self::Zip(archive) => {
                let mut size = 0_u64;
                let mut names = Vec::new();
                for index in 0..archive.len().min(MOST_ENTRIES + 1) {
                    let file = archive.by_index(index).map_err(|error| rule(&format!("Damaged archive: {error}.")))?;
                    size = size.saturating_add(file.size());
                    if file.is_file() {
                        let name = file.name().map_err(|error| rule(&format!("Damaged archive: {error}.")))?;
                        names.push(name.into_owned());
                    }
                }
                (names, size)
            }
        };
        if names.len() > MOST_ENTRIES || size > MOST_BYTES {
            return Err(rule("The package has too many files or is too large when extracted."));
        }
        let mut seen = BTreeSet::new();
        names
            .into_iter()
            .map(|name| {
                let path = name.replace('\\', "/");
                let is_plain = path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
                if !is_plain || path.contains(':') {
                    return Err(rule(&format!("The path {path} is not allowed.")));
                }
                if !seen.insert(path.to_lowercase()) {
                    return Err(rule(&format!("The file {path} is in the package more than once.")));
                }
                Ok((path, name))
            })
            .collect()
    }

    /// Copies one file out.
    fn copy(&mut self, name: &str, target: &mut dyn Write) -> Result<(), Trouble> {
        match self {
            Self::Cabinet(cabinet) => io::copy(&mut cabinet.read_file(name)?, &mut Through(target))?,
            Self::Zip(archive) => {
                let mut file = archive.by_name(name).map_err(|error| rule(&format!("Damaged archive: {error}.")))?;
                io::copy(&mut file, &mut Through(target))?
            }
        };
        Ok(())
    }
}

/// Lets `io::copy` write to what is behind a reference.
struct Through<'a>(&'a mut dyn Write);

impl Write for Through<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Everything that is wrong with the package by the rules.
fn problems(order: &Order, names: &[(String, String)], is_cabinet: bool) -> Vec<String> {
    let mut found = Vec::new();
    for (path, _) in names.iter().filter(|(path, _)| path.len() >= 160) {
        found.push(format!("The path {path} has 160 or more characters."));
    }
    if names.is_empty() {
        found.push("The package is empty.".to_owned());
    }
    if order.harness != "attestation" || !is_cabinet {
        return found;
    }
    if let Some((path, _)) = names.iter().find(|(path, _)| !path.contains('/')) {
        found.push(format!("Files were found at the root of the cabinet: {path}."));
    }
    let folders: BTreeSet<&str> =
        names.iter().filter_map(|(path, _)| path.split_once('/')).map(|(top, _)| top).collect();
    for folder in folders {
        let has_inf = names
            .iter()
            .any(|(path, _)| path.split_once('/').is_some_and(|(top, rest)| top == folder && is_kind(rest, ".inf")));
        if !has_inf {
            found.push(format!("No INF file was found in the driver folder {folder}."));
        }
        if folder.chars().count() >= 40 {
            found.push(format!("The folder name {folder} has 40 or more characters."));
        }
        if !folder.chars().all(|c| c.is_ascii_alphanumeric() || "-_. ".contains(c)) {
            found.push(format!("The folder name {folder} has special characters."));
        }
    }
    for code in &order.signatures {
        let upper = code.to_ascii_uppercase();
        if upper.contains("SERVER") {
            found.push(format!("Attestation signing is not available for server systems: {code}."));
        } else if !upper.starts_with("WINDOWS_V100") {
            found.push(format!("Attestation signing is only available for Windows 10 and later: {code}."));
        }
    }
    found
}

fn is_kind(path: &str, ending: &str) -> bool {
    path.to_ascii_lowercase().ends_with(ending)
}

/// Writes the signed package: every file under `drivers/`, catalogs in place of the submitted ones.
fn sign(
    package: &mut Package,
    names: &[(String, String)],
    order: &Order,
    target: &Path,
    sha256: &str,
) -> Result<BTreeMap<String, Inf>, Trouble> {
    let damaged = |error: zip::result::ZipError| Trouble::Disk(io::Error::other(error));
    let options = SimpleFileOptions::default().compression_level(Some(1));
    let mut out = zip::ZipWriter::new(BufWriter::new(File::create(target)?));
    let mut infs = BTreeMap::new();
    let mut folders: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (path, name) in names {
        let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
        let catalogs = folders.entry(folder).or_default();
        if is_kind(file, ".cat") {
            // The service puts its own catalog in place of the submitted one.
            catalogs.insert(file.to_owned());
            continue;
        }
        out.start_file(format!("drivers/{path}"), options).map_err(damaged)?;
        if is_kind(file, ".inf") {
            let mut bytes = Vec::new();
            package.copy(name, &mut bytes)?;
            out.write_all(&bytes)?;
            bytes.truncate(usize::try_from(MOST_INF_BYTES).unwrap_or(usize::MAX));
            infs.insert(path.clone(), Inf::read(&bytes));
        } else {
            package.copy(name, &mut out)?;
        }
    }
    for (folder, mut catalogs) in folders {
        if catalogs.is_empty() {
            catalogs
                .insert(format!("{}.cat", folder.rsplit('/').next().filter(|f| !f.is_empty()).unwrap_or("drivers")));
        }
        for catalog in catalogs {
            let path = [folder, &catalog].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("/");
            out.start_file(format!("drivers/{path}"), options).map_err(damaged)?;
            let digest = digest::digest(&digest::SHA256, format!("{sha256}/{path}").as_bytes());
            writeln!(out, "Simulated catalog, signed by nobody.\nfolder: {folder}\ndigest: {}", hex(digest.as_ref()))?;
        }
    }
    out.start_file("sandbox.json", options).map_err(damaged)?;
    let note = json!({
        "sha256": sha256,
        "productId": order.product_id.to_string(),
        "submissionId": order.submission_id.to_string(),
        "files": names.len(),
    });
    out.write_all(note.to_string().as_bytes())?;
    out.finish().map_err(damaged)?.flush()?;
    Ok(infs)
}

/// The driver metadata: one bundle per driver folder.
fn metadata(order: &Order, infs: &BTreeMap<String, Inf>) -> Value {
    let mut bundles: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for (path, inf) in infs {
        let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
        let name = file.to_lowercase();
        bundles.entry(folder).or_default().insert(name.clone(), inf.metadata(&name, &order.signatures));
    }
    let map: Map<String, Value> = bundles
        .into_iter()
        .map(|(folder, infs)| {
            // The same bundle has the same id whenever it is asked for.
            let name = format!("{}/{folder}", order.submission_id);
            let id = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, name.as_bytes());
            (id.to_string(), json!({ "Locales": ["English"], "InfInfoMap": infs }))
        })
        .collect();
    json!({ "BundleInfoMap": map })
}

/// The shell from which an update package is built.
fn shell(order: &Order) -> Result<Vec<u8>, Trouble> {
    let damaged = |error: zip::result::ZipError| Trouble::Disk(io::Error::other(error));
    let mut out = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    out.start_file("PackageInfo.xml", SimpleFileOptions::default()).map_err(damaged)?;
    writeln!(
        out,
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><PackageInfo Shell=\"true\" Type=\"{}\" Submission=\"{}\" />",
        order.kind.name(),
        order.submission_id
    )?;
    Ok(out.finish().map_err(damaged)?.into_inner())
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::store::Block;
    use super::*;

    pub(in crate::sandbox) const INF: &str = "[Version]\r\nClass = NET\r\nProvider = \"Example\"\r\n\
        DriverVer = 10/01/2026,2.4.1.0\r\n[Manufacturer]\r\n\"Example\" = Models,NTamd64\r\n[Models.NTamd64]\r\n\
        \"Example NIC\" = Install, PCI\\VEN_1234&DEV_0001\r\n";

    /// A cabinet with these files.
    pub(in crate::sandbox) fn cabinet(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = cab::CabinetBuilder::new();
        let folder = builder.add_folder(cab::CompressionType::MsZip);
        for (name, _) in files {
            folder.add_file(*name);
        }
        let mut writer = builder.build(io::Cursor::new(Vec::new())).unwrap();
        while let Some(mut file) = writer.next_file().unwrap() {
            let bytes = files.iter().find(|(name, _)| *name == file.file_name()).unwrap().1;
            file.write_all(bytes).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn judge(bytes: &[u8], harness: &str, codes: &[&str]) -> (Arc<Folder>, Judgement) {
        let folder = Arc::new(Folder::open(None).unwrap());
        // In two pieces, as if uploaded in blocks.
        let middle = bytes.len() / 2;
        let blocks = [&bytes[..middle], &bytes[middle..]].map(|piece| Block {
            id: String::new(),
            segment: Segment::write(&folder, piece).unwrap(),
            acknowledged: true,
        });
        let order = Order {
            product_id: 1,
            submission_id: 2,
            harness: harness.to_owned(),
            signatures: codes.iter().map(|code| (*code).to_owned()).collect(),
            kind: Kind::Initial,
            content: Some(Content::new(blocks.to_vec(), None, "x")),
        };
        let judgement = inspect(&folder, &order);
        (folder, judgement)
    }

    fn messages(bytes: &[u8], codes: &[&str]) -> String {
        match judge(bytes, "attestation", codes).1 {
            Judgement::Good(_) => panic!("it passed"),
            Judgement::Bad { messages, .. } => messages.join("\n"),
        }
    }

    const CLIENT: &str = "WINDOWS_v100_X64_GE_FULL";

    #[tokio::test]
    async fn the_signed_zip_holds_every_file_byte_for_byte_with_a_catalog_and_the_hash() {
        let big: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let bytes = cabinet(&[("nic\\nic.inf", INF.as_bytes()), ("nic\\nic.sys", &big), ("nic\\sub\\nic.cat", b"old")]);
        let (_folder, judgement) = judge(&bytes, "attestation", &[CLIENT]);
        let Judgement::Good(made) = judgement else { panic!("it failed") };
        let body = Content::single(made.signed.clone(), "x").stream(0, made.signed.size);
        let signed = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let mut archive = zip::ZipArchive::new(io::Cursor::new(signed)).unwrap();
        let mut read = |name: &str| {
            let mut bytes = Vec::new();
            archive.by_name(name).unwrap().read_to_end(&mut bytes).unwrap();
            bytes
        };
        assert_eq!(read("drivers/nic/nic.inf"), INF.as_bytes());
        assert_eq!(read("drivers/nic/nic.sys"), big);
        assert!(!read("drivers/nic/nic.cat").is_empty());
        assert_ne!(read("drivers/nic/sub/nic.cat"), b"old");
        let note: Value = serde_json::from_slice(&read("sandbox.json")).unwrap();
        let sha256 = hex(digest::digest(&digest::SHA256, &bytes).as_ref());
        assert_eq!((note["sha256"].as_str(), made.sha256.as_str()), (Some(sha256.as_str()), sha256.as_str()));
    }

    #[test]
    fn each_rule_is_told_with_its_file() {
        let inf = INF.as_bytes();
        assert!(messages(&cabinet(&[("nic.inf", inf)]), &[CLIENT]).contains("at the root of the cabinet: nic.inf"));
        assert!(messages(&cabinet(&[("nic\\nic.sys", b"x")]), &[CLIENT]).contains("No INF file"));
        let server = messages(&cabinet(&[("nic\\nic.inf", inf)]), &["WINDOWS_v100_SERVER_X64_GE_FULL"]);
        assert!(server.contains("server systems"));
        assert!(messages(b"MZ not a cabinet", &[CLIENT]).contains("not a cabinet"));
        assert!(messages(b"", &[CLIENT]).contains("not a cabinet"));
        assert!(messages(&cabinet(&[("..\\nic.inf", inf)]), &[CLIENT]).contains("not allowed"));
    }

    #[test]
    fn a_damaged_cabinet_fails_and_nothing_panics_through() {
        let whole = cabinet(&[("nic\\nic.inf", INF.as_bytes()), ("nic\\nic.sys", &vec![7; 70_000])]);
        for position in 4..whole.len().min(120) {
            let mut bytes = whole.clone();
            bytes[position] ^= 0xff;
            drop(judge(&bytes, "attestation", &[CLIENT]));
        }
        assert!(!messages(&whole[..whole.len() - 10], &[CLIENT]).is_empty());
    }

    #[test]
    fn a_tested_package_is_a_zip_and_brings_a_shell() {
        let mut out = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        out.start_file("hck/data/PackageInfo.xml", SimpleFileOptions::default()).unwrap();
        out.write_all(b"<x/>").unwrap();
        let bytes = out.finish().unwrap().into_inner();
        let (_folder, judgement) = judge(&bytes, "hlk", &["WINDOWS_v100_SERVER_X64_GE_FULL"]);
        assert!(matches!(judgement, Judgement::Good(Made { shell: Some(_), .. })));
        let (_folder, judgement) = judge(b"no zip", "hlk", &[CLIENT]);
        assert!(matches!(judgement, Judgement::Bad { messages, .. } if messages[0].contains("PackageInfo.xml")));
    }
}

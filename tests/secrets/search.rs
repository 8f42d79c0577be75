//! Looks for registered secrets in every file of a folder: any 16 bytes in a row, plain, percent-encoded, and in the
//! three alignments of base64 (both alphabets).

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

use super::run_folder::{BY_DESIGN, REGISTER};

/// Bytes in a row that give a secret away.
pub(crate) const WINDOW: usize = 16;

/// The bytes by which a pattern is looked up.
const KEY: usize = 8;

/// What a search came to.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Secrets that were looked for.
    pub(crate) secrets: usize,
    /// Files that were read.
    pub(crate) files: usize,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Files left out, for they hold a secret by design.
    pub(crate) left_out: usize,
    /// Files that hold a secret, and in which form; never the secret itself.
    pub(crate) found: BTreeSet<(PathBuf, &'static str)>,
}

/// Searches everything below the run's folder for what is registered there.
pub(crate) fn run(root: &Path) -> io::Result<Report> {
    let mut report = Report::default();
    let register = root.join(REGISTER);
    let mut secrets = BTreeSet::new();
    for entry in fs::read_dir(&register).into_iter().flatten() {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "secret") {
            secrets.insert(fs::read(path)?);
        }
    }
    let by_design = fs::read_to_string(register.join(BY_DESIGN)).unwrap_or_default();
    let mut left_out: BTreeSet<PathBuf> = by_design.lines().map(PathBuf::from).collect();
    left_out.insert(register);
    let needles = Needles::of(&secrets);
    report.secrets = secrets.len();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let path = entry.path();
            if left_out.contains(&path) {
                report.left_out += 1;
            } else if entry.file_type()?.is_dir() {
                open.push(path);
            } else if entry.file_type()?.is_file() {
                let bytes = match fs::read(&path) {
                    Ok(bytes) => bytes,
                    // SQLite removes its own side files when the last process lets go.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                };
                report.files += 1;
                report.bytes += u64::try_from(bytes.len()).unwrap_or(0);
                report.found.extend(needles.find(&bytes).into_iter().map(|form| (path.clone(), form)));
            }
        }
    }
    Ok(report)
}

/// Every form of every window of every secret, by its first bytes.
#[derive(Debug, Default)]
pub(crate) struct Needles {
    by_key: HashMap<[u8; KEY], Vec<Needle>>,
    /// One bit for each pair of first bytes: spares nearly every look-up.
    pairs: Vec<bool>,
}

#[derive(Debug)]
struct Needle {
    rest: Vec<u8>,
    form: &'static str,
}

impl Needles {
    pub(crate) fn of<'a>(secrets: impl IntoIterator<Item = &'a Vec<u8>>) -> Self {
        let mut needles = Self { by_key: HashMap::new(), pairs: vec![false; 1 << 16] };
        for secret in secrets {
            // A shorter one would be found everywhere; it must not be registered.
            assert!(secret.len() >= WINDOW, "a secret of {} bytes is registered, {WINDOW} is the least", secret.len());
            for window in secret.windows(WINDOW) {
                needles.add(window, "plain");
                for before in 0..3 {
                    let padded: Vec<u8> = std::iter::repeat_n(0, before).chain(window.iter().copied()).collect();
                    // Characters that depend on what stands before or behind the window are cut off.
                    let (first, last) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
                    for text in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
                        needles.add(text.as_bytes().get(first..last).unwrap_or_default(), "base64");
                    }
                }
            }
        }
        needles
    }

    fn add(&mut self, bytes: &[u8], form: &'static str) {
        let Some((key, rest)) = bytes.split_first_chunk::<KEY>() else { return };
        if let Some(is_there) = self.pairs.get_mut(pair(*key)) {
            *is_there = true;
        }
        let known = self.by_key.entry(*key).or_default();
        if !known.iter().any(|needle| needle.rest == rest) {
            known.push(Needle { rest: rest.to_vec(), form });
        }
    }

    /// The forms in which a secret stands in these bytes.
    pub(crate) fn find(&self, bytes: &[u8]) -> BTreeSet<&'static str> {
        let mut found = self.find_as_is(bytes);
        if found.is_empty() && bytes.contains(&b'%') {
            let decoded = percent_decoded(bytes);
            let forms = self.find_as_is(&decoded);
            found.extend(forms.into_iter().map(|form| if form == "plain" { "percent" } else { "base64, percent" }));
        }
        found
    }

    fn find_as_is(&self, bytes: &[u8]) -> BTreeSet<&'static str> {
        let mut found = BTreeSet::new();
        let mut rest = bytes;
        while let Some(key) = rest.first_chunk::<KEY>() {
            if self.pairs.get(pair(*key)) == Some(&true) {
                let behind = rest.get(KEY..).unwrap_or_default();
                let known = self.by_key.get(key).into_iter().flatten();
                found.extend(known.filter(|needle| behind.starts_with(&needle.rest)).map(|needle| needle.form));
            }
            rest = rest.get(1..).unwrap_or_default();
        }
        found
    }
}

/// Its first two bytes as one number.
fn pair([first, second, ..]: [u8; KEY]) -> usize {
    usize::from(first) << 8 | usize::from(second)
}

/// The bytes with every `%XX` as the byte it stands for: whichever characters somebody chose to encode, and in either case.
fn percent_decoded(bytes: &[u8]) -> Vec<u8> {
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if let (b'%', Some(high), Some(low)) = (byte, digit(at + 1), digit(at + 2)) {
            decoded.push(u8::try_from(high * 16 + low).unwrap_or(b'%'));
            at += 3;
        } else {
            decoded.push(*byte);
            at += 1;
        }
    }
    decoded
}

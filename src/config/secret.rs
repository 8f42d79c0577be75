//! Where a secret lies: settings hold references, never the secret itself.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use secrecy::SecretString;

/// The largest secret that is read from a file: a key with its certificates fits many times.
const MOST_BYTES: u64 = 1 << 20;

/// A place where a secret is kept: `env:NAME` or `file:PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SecretReference {
    /// An environment variable.
    Environment(String),
    /// A file; a path that is not absolute was relative to the file that named it, and is joined with its folder.
    File(PathBuf),
}

/// Why a reference gave no secret. Never holds any part of one.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {reference}: {problem}")]
pub struct SecretError {
    /// The setting that holds the reference.
    pub key: String,
    /// The reference itself.
    pub reference: SecretReference,
    /// What is wrong.
    pub problem: SecretProblem,
}

/// What is wrong with the place that a reference names.
#[derive(Debug, thiserror::Error)]
pub enum SecretProblem {
    /// The environment variable does not exist, or is not Unicode.
    #[error("the variable is not set")]
    NotSet,
    /// The variable or the file holds nothing.
    #[error("it is empty")]
    Empty,
    /// The file is larger than any secret.
    #[error("it is larger than 1 MiB, which no secret is")]
    TooLarge,
    /// The file is not text.
    #[error("it is not UTF-8 text")]
    NotText,
    /// The file cannot be read.
    #[error("it cannot be read: {}", io_words(.0))]
    Unreadable(io::Error),
}

/// Why a file cannot be read, without the system's error numbers.
pub(crate) fn io_words(error: &io::Error) -> String {
    let kind = error.kind();
    if kind == io::ErrorKind::NotFound { "no such file".to_owned() } else { kind.to_string() }
}

impl SecretReference {
    /// Reads `env:NAME` or `file:PATH`; a relative path is joined with `folder`. `None` when it is neither.
    #[must_use]
    pub fn parse(text: &str, folder: Option<&Path>) -> Option<Self> {
        if let Some(name) = text.strip_prefix("env:") {
            let fits = !name.is_empty() && !name.contains(['=', '\0']) && !name.contains(char::is_whitespace);
            return fits.then(|| Self::Environment(name.to_owned()));
        }
        let path = text.strip_prefix("file:").filter(|path| !path.is_empty())?;
        // `file:///run/x` is the same place as `file:/run/x`
        let path = path.strip_prefix("//").filter(|rest| rest.starts_with('/')).unwrap_or(path);
        Some(Self::File(folder.map_or_else(|| PathBuf::from(path), |folder| folder.join(path))))
    }

    /// Fetches the secret, without the line end behind it. `key` is the setting that holds the reference.
    ///
    /// # Errors
    /// [`SecretError`] names the setting and the reference, never what was found there.
    pub fn resolve(&self, key: &str) -> Result<SecretString, SecretError> {
        self.resolve_with(key, |name| std::env::var(name).ok())
    }

    /// As [`Self::resolve`], with another way to look up a variable.
    ///
    /// # Errors
    /// The same.
    pub fn resolve_with(
        &self,
        key: &str,
        variable: impl FnOnce(&str) -> Option<String>,
    ) -> Result<SecretString, SecretError> {
        let found = match self {
            Self::Environment(name) => variable(name).ok_or(SecretProblem::NotSet),
            Self::File(path) => read(path),
        };
        found
            .map(|text| SecretString::from(text.trim_end_matches(['\r', '\n']).to_owned()))
            .and_then(|secret| {
                let empty = secrecy::ExposeSecret::expose_secret(&secret).is_empty();
                if empty { Err(SecretProblem::Empty) } else { Ok(secret) }
            })
            .map_err(|problem| SecretError { key: key.to_owned(), reference: self.clone(), problem })
    }
}

fn read(path: &Path) -> Result<String, SecretProblem> {
    let length = fs::metadata(path).map_err(SecretProblem::Unreadable)?.len();
    if length > MOST_BYTES {
        return Err(SecretProblem::TooLarge);
    }
    let bytes = fs::read(path).map_err(SecretProblem::Unreadable)?;
    String::from_utf8(bytes).map_err(|error| {
        zeroize::Zeroize::zeroize(&mut error.into_bytes());
        SecretProblem::NotText
    })
}

impl fmt::Display for SecretReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_reference_names_a_variable_or_a_file() {
        let parse = |text| SecretReference::parse(text, Some(Path::new("/etc/longshore")));
        assert_eq!(parse("env:A_B"), Some(SecretReference::Environment("A_B".into())));
        assert_eq!(parse("file:key.pem"), Some(SecretReference::File("/etc/longshore/key.pem".into())));
        assert_eq!(parse("file:///run/key"), Some(SecretReference::File("/run/key".into())));
        for plain in ["hunter2", "env:", "file:", "env:A B", "ENV:A", "", "https://x"] {
            assert_eq!(parse(plain), None, "{plain}");
        }
    }

    #[test]
    fn a_secret_is_fetched_without_its_line_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "s3cret\r\n").unwrap();
        let secret = SecretReference::File(path).resolve("accounts.a.credential").unwrap();
        assert_eq!(secret.expose_secret(), "s3cret");
        let reference = SecretReference::Environment("X".into());
        assert_eq!(reference.resolve_with("k", |_| Some("v\n".into())).unwrap().expose_secret(), "v");
    }

    #[test]
    fn a_reference_to_nothing_says_which_setting_and_where_and_shows_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let missing = SecretReference::File(folder.path().join("missing"));
        let message = missing.resolve("accounts.a.credential").unwrap_err().to_string();
        assert!(message.starts_with("accounts.a.credential: file:"), "{message}");
        assert!(message.ends_with("it cannot be read: no such file"), "{message}");

        let unset = SecretReference::Environment("NOT_SET".into()).resolve_with("k", |_| None).unwrap_err();
        assert_eq!(unset.to_string(), "k: env:NOT_SET: the variable is not set");
        let empty = SecretReference::Environment("E".into()).resolve_with("k", |_| Some("\n".into())).unwrap_err();
        assert_eq!(empty.to_string(), "k: env:E: it is empty");

        let binary = folder.path().join("binary");
        fs::write(&binary, b"hunter-two\xff").unwrap();
        let error = SecretReference::File(binary).resolve("k").unwrap_err();
        assert!(matches!(error.problem, SecretProblem::NotText));
        assert!(!format!("{error:?}").contains("hunter"), "{error:?}");
        let large = folder.path().join("large");
        fs::File::create(&large).unwrap().set_len(MOST_BYTES + 1).unwrap();
        assert!(matches!(SecretReference::File(large).resolve("k").unwrap_err().problem, SecretProblem::TooLarge));
    }
}

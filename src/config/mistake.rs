//! What is wrong with a configuration: every mistake with its key and where it came from.

use std::{fmt, path::PathBuf};

/// Where a value came from. Ordered as the layers are, the lowest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// `config/default.toml`, which is compiled in.
    Default {
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
    },
    /// A file.
    File {
        /// Its place among the files that were read.
        number: usize,
        /// As it was named.
        path: PathBuf,
        /// Line, from 1; 0 when the file itself is meant.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
    },
    /// An environment variable.
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default { line, column } => write!(f, "default.toml:{line}:{column}"),
            Self::File { path, line: 0, .. } => write!(f, "{}", path.display()),
            Self::File { path, line, column, .. } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where it stands; `None` for something that stands nowhere, a missing setting for instance.
    pub origin: Option<Origin>,
    /// The key, `accounts.contoso.tenant_id`; empty when a whole file is meant.
    pub key: String,
    /// What is wrong. Never holds the value, which may be a secret in the wrong place.
    pub problem: String,
    /// What was probably meant, or what to write instead.
    pub hint: Option<String>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin} ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

/// All mistakes of a configuration, in the order of the layers and lines; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration has {}:{}", count(list.len()), lines(list))]
pub struct Mistakes {
    /// Each of them.
    pub list: Vec<Mistake>,
}

fn count(number: usize) -> String {
    if number == 1 { "a mistake".to_owned() } else { format!("{number} mistakes") }
}

fn lines(list: &[Mistake]) -> String {
    list.iter().fold(String::new(), |lines, mistake| lines + "\n  " + &mistake.to_string())
}

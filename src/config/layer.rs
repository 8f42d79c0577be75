//! The layers a configuration is made of, each value with its origin, and their merging: later layers win.
//!
//! Tables are merged key by key, everything else is replaced whole; so is an account's `credential`, since one kind of
//! credential must not be mixed with another.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use config::{Config, Map, Source, Value, ValueKind};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    mistake::{Mistake, Origin},
    secret::io_words,
};

/// Begins every environment variable that sets a value: `LONGSHORE__SECTION__KEY`.
pub const VARIABLE_PREFIX: &str = "LONGSHORE__";

/// The largest configuration file that is read.
const MOST_BYTES: u64 = 4 << 20;

/// The key under which a layer is handed to the merging, so that no key of a file is taken for a path.
const ROOT: &str = "settings";

type Table = Map<String, Value>;

/// Where every value of a configuration came from, by its key.
pub(crate) type Origins = BTreeMap<String, Origin>;

/// The layers read so far, the lowest first.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    tables: Vec<Table>,
    files: usize,
    pub(crate) origins: Origins,
    pub(crate) mistakes: Vec<Mistake>,
}

#[derive(Clone, Debug)]
struct Layer(Table);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Table, config::ConfigError> {
        Ok(Map::from_iter([(ROOT.to_owned(), Value::from(self.0.clone()))]))
    }
}

/// `at.key`, the key in quotes when it would not read as one.
pub(crate) fn join(at: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if at.is_empty() { key } else { format!("{at}.{key}") }
}

impl Layers {
    /// Adds the layer that is compiled in.
    pub(crate) fn add_default(&mut self, text: &str) {
        self.add_text(text, &|line, column| Origin::Default { line, column });
    }

    /// Adds a file; one that cannot be read is a mistake.
    pub(crate) fn add_file(&mut self, path: &Path, folder: &Path) {
        self.files += 1;
        let number = self.files;
        let shown = path.to_owned();
        let origin = move |line, column| Origin::File { number, path: shown.clone(), line, column };
        match read(&folder.join(path)) {
            Ok(text) => self.add_text(&text, &origin),
            Err(problem) => {
                self.mistakes.push(Mistake { origin: Some(origin(0, 0)), key: String::new(), problem, hint: None });
            }
        }
    }

    fn add_text(&mut self, text: &str, origin: &dyn Fn(usize, usize) -> Origin) {
        let (document, errors) = DeTable::parse_recoverable(text);
        let place = |at: usize| {
            let (line, column) = position(text, at);
            origin(line, column)
        };
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            self.mistakes.push(Mistake {
                origin: Some(place(at)),
                key: String::new(),
                problem: format!("not TOML: {}", error.message().trim()),
                hint: None,
            });
        }
        let table = self.table(document.get_ref(), "", &place);
        self.tables.push(table);
    }

    fn table(&mut self, table: &DeTable<'_>, at: &str, place: &dyn Fn(usize) -> Origin) -> Table {
        let mut read = Table::new();
        for (key, value) in table {
            let path = join(at, key.get_ref());
            self.origins.insert(path.clone(), place(key.span().start));
            let value = self.value(value, &path, place);
            read.insert(key.get_ref().to_string(), value);
        }
        read
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>, at: &str, place: &dyn Fn(usize) -> Origin) -> Value {
        let kind = match value.get_ref() {
            DeValue::String(text) => ValueKind::String(text.to_string()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).map_or_else(
                |_| {
                    self.mistakes.push(Mistake {
                        origin: Some(place(value.span().start)),
                        key: at.to_owned(),
                        problem: "the number is too large".to_owned(),
                        hint: None,
                    });
                    ValueKind::Nil
                },
                ValueKind::I64,
            ),
            DeValue::Float(number) => number.as_str().parse().map_or(ValueKind::Nil, ValueKind::Float),
            DeValue::Boolean(is) => ValueKind::Boolean(*is),
            DeValue::Datetime(time) => ValueKind::String(time.to_string()),
            DeValue::Array(values) => {
                let elements = values.iter().enumerate().map(|(index, value)| {
                    let path = format!("{at}[{index}]");
                    self.origins.insert(path.clone(), place(value.span().start));
                    self.value(value, &path, place)
                });
                ValueKind::Array(elements.collect())
            }
            DeValue::Table(table) => ValueKind::Table(self.table(table, at, place)),
        };
        Value::new(None, kind)
    }

    /// Adds every `LONGSHORE__…` variable.
    pub(crate) fn add_variables(&mut self, variables: &BTreeMap<String, String>) {
        let mut layer = Table::new();
        for (name, value) in variables {
            let Some(rest) = name.strip_prefix(VARIABLE_PREFIX) else { continue };
            let origin = Origin::Variable(name.clone());
            let keys: Vec<String> = rest.split("__").map(str::to_lowercase).collect();
            if keys.iter().any(String::is_empty) {
                self.mistakes.push(Mistake {
                    origin: Some(origin),
                    key: String::new(),
                    problem: "names no setting".to_owned(),
                    hint: Some("write LONGSHORE__SECTION__KEY".to_owned()),
                });
                continue;
            }
            let keys: Vec<String> = keys
                .iter()
                .enumerate()
                // no account has a '_' in its name, and few shells let a variable have a '-'
                .map(|(at, key)| {
                    let is_account = at == 1 && keys.first().is_some_and(|first| first == "accounts");
                    if is_account { key.replace('_', "-") } else { key.clone() }
                })
                .collect();
            let mut path = String::new();
            for key in &keys {
                path = join(&path, key);
                self.origins.entry(path.clone()).or_insert_with(|| origin.clone());
            }
            self.origins.insert(path, origin);
            insert(&mut layer, &keys, value);
        }
        self.tables.push(layer);
    }

    /// The lowest layer as it was read.
    pub(crate) fn lowest(&self) -> Value {
        self.tables.first().cloned().unwrap_or_default().into()
    }

    /// One table of all layers, where later ones win.
    ///
    /// # Errors
    /// None that a layer could cause; the merging's own signature has one.
    pub(crate) fn merge(&mut self) -> Result<Table, config::ConfigError> {
        let mut replaced = BTreeSet::new();
        for table in self.tables.iter_mut().rev() {
            for (name, account) in accounts(table) {
                if replaced.contains(name) {
                    account.remove("credential");
                } else if account.contains_key("credential") {
                    replaced.insert(name.clone());
                }
            }
        }
        let mut builder = Config::builder();
        for table in self.tables.drain(..) {
            builder = builder.add_source(Layer(table));
        }
        builder.build()?.get_table(ROOT)
    }
}

fn accounts(table: &mut Table) -> impl Iterator<Item = (&String, &mut Table)> {
    let accounts = table.get_mut("accounts").and_then(as_table);
    accounts.into_iter().flatten().filter_map(|(name, account)| Some((name, as_table(account)?)))
}

fn as_table(value: &mut Value) -> Option<&mut Table> {
    if let ValueKind::Table(table) = &mut value.kind { Some(table) } else { None }
}

fn insert(table: &mut Table, keys: &[String], text: &str) {
    let Some((first, rest)) = keys.split_first() else { return };
    if rest.is_empty() {
        table.insert(first.clone(), Value::from(text));
        return;
    }
    let inner = table.entry(first.clone()).or_insert_with(|| Value::from(Table::new()));
    if as_table(inner).is_none() {
        // a shorter variable set the whole; the longer one is more exact
        *inner = Value::from(Table::new());
    }
    if let Some(inner) = as_table(inner) {
        insert(inner, rest, text);
    }
}

fn read(path: &Path) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {}", io_words(&error));
    if fs::metadata(path).map_err(unreadable)?.len() > MOST_BYTES {
        return Err("larger than 4 MiB, which no configuration is".to_owned());
    }
    String::from_utf8(fs::read(path).map_err(unreadable)?).map_err(|_| "not UTF-8 text".to_owned())
}

/// Line and column, both from 1, the column in characters.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

/// The folder that paths in a value with this origin are relative to.
pub(crate) fn folder_of(origin: Option<&Origin>, working: &Path) -> PathBuf {
    match origin {
        Some(Origin::File { path, .. }) => {
            working.join(path).parent().map_or_else(|| working.to_owned(), Path::to_owned)
        }
        Some(Origin::Default { .. } | Origin::Variable(_)) | None => working.to_owned(),
    }
}

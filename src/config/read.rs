//! Reading the merged table into typed settings, and telling every mistake on the way, not only the first.

use std::{
    collections::BTreeMap,
    fmt::Display,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use config::{Map, Value, ValueKind};
use uuid::Uuid;

use super::{
    layer::{Origins, folder_of, join},
    mistake::{Mistake, Origin},
    nearest::nearest,
    quantity::{Size, Span},
    secret::SecretReference,
};
use crate::domain::ids::AccountName;

/// Reads values and collects what is wrong with them.
pub(crate) struct Reader<'a> {
    pub(crate) origins: &'a Origins,
    /// The working folder of the process.
    pub(crate) folder: &'a Path,
    /// What stands in for a value that is wrong, so that reading goes on and finds the other mistakes.
    pub(crate) defaults: Value,
    pub(crate) mistakes: Vec<Mistake>,
}

/// A value that a setting can have.
pub(crate) trait Setting: Sized {
    /// Reads it; what is wrong is told to the reader.
    fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self>;

    /// What stands for a setting that no layer names; `None` when one must.
    fn absent() -> Option<Self> {
        None
    }

    /// Adds the settings in here, `at` being their key.
    fn describe(at: &str, into: &mut Vec<Described>) {
        into.push(Described { key: at.to_owned(), range: None });
    }
}

/// A setting, as far as its document is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its key.
    pub key: String,
    /// The range it must lie in, in words.
    pub range: Option<String>,
}

/// What a value must hold to beyond its type.
pub(crate) trait Rule<T> {
    /// What is wrong with it, in words.
    fn check(&self, value: &T) -> Result<(), String>;
    /// The range, in words.
    fn text(&self) -> String;
}

/// The range that every value of a list must lie in, each above the one before.
pub(crate) struct Rising<T>(pub(crate) RangeInclusive<T>);

/// A value that can be shown as it is written.
pub(crate) trait Shown {
    fn shown(&self) -> String;
}

macro_rules! shown {
    ($($type:ty),+) => { $(impl Shown for $type {
        fn shown(&self) -> String {
            self.to_string()
        }
    })+ };
}
shown!(u32, f64, Size);

impl Shown for Duration {
    fn shown(&self) -> String {
        Span(*self).to_string()
    }
}

impl<T: PartialOrd + Shown> Rule<T> for RangeInclusive<T> {
    fn check(&self, value: &T) -> Result<(), String> {
        if self.contains(value) {
            return Ok(());
        }
        Err(format!("{} is out of range, {}", value.shown(), self.text()))
    }

    fn text(&self) -> String {
        format!("{} to {}", self.start().shown(), self.end().shown())
    }
}

impl<T: PartialOrd + Shown> Rule<Vec<T>> for Rising<T> {
    fn check(&self, values: &Vec<T>) -> Result<(), String> {
        if values.is_empty() {
            return Err("empty: at least one is needed".to_owned());
        }
        values.iter().try_for_each(|value| self.0.check(value))?;
        if values.is_sorted_by(|before, after| before < after) {
            Ok(())
        } else {
            Err("each must be later than the one before".to_owned())
        }
    }

    fn text(&self) -> String {
        Rule::<T>::text(&self.0)
    }
}

impl<'a> Reader<'a> {
    pub(crate) fn new(origins: &'a Origins, folder: &'a Path, defaults: Value) -> Self {
        Self { origins, folder, defaults, mistakes: Vec::new() }
    }

    /// Where the value of this key came from: its own place, or that of something in it.
    pub(crate) fn origin(&self, at: &str) -> Option<&'a Origin> {
        self.origins.get(at).or_else(|| {
            let within = |key: &str| key.strip_prefix(at).is_some_and(|rest| rest.starts_with(['.', '[']));
            self.origins.range(at.to_owned()..).find(|(key, _)| within(key)).map(|(_, origin)| origin)
        })
    }

    /// Tells a mistake in the value of this key.
    pub(crate) fn wrong(&mut self, at: &str, problem: impl Into<String>) {
        self.wrong_with_hint(at, problem, None);
    }

    pub(crate) fn wrong_with_hint(&mut self, at: &str, problem: impl Into<String>, hint: Option<String>) {
        let origin = self.origin(at).cloned();
        self.mistakes.push(Mistake { origin, key: at.to_owned(), problem: problem.into(), hint });
    }

    /// A path as it is meant: relative to the file that names it.
    fn path(&self, at: &str, text: &str) -> PathBuf {
        folder_of(self.origin(at), self.folder).join(text)
    }

    fn is_variable(&self, at: &str) -> bool {
        matches!(self.origin(at), Some(Origin::Variable(_)))
    }

    /// The table at this key, with every unknown key told.
    pub(crate) fn table(&mut self, value: &Value, at: &str, known: &[&'static str]) -> Option<Map<String, Value>> {
        let ValueKind::Table(table) = &value.kind else {
            let hint = self.is_variable(at).then(|| "set its members, each with a variable of its own".to_owned());
            self.wrong_with_hint(at, format!("must be a table, {} is not", kind(value)), hint);
            return None;
        };
        for key in table.keys().filter(|key| !known.contains(&key.as_str())) {
            let hint = nearest(key, known.iter().copied()).map(|meant| format!("did you mean {meant:?}?"));
            self.wrong_with_hint(&join(at, key), "no such setting", hint);
        }
        Some(table.clone())
    }

    /// The value of one key of a table.
    pub(crate) fn field<T: Setting>(
        &mut self,
        table: &Map<String, Value>,
        at: &str,
        key: &str,
        rule: Option<&dyn Rule<T>>,
    ) -> Option<T> {
        let path = join(at, key);
        let Some(value) = table.get(key).filter(|value| !matches!(value.kind, ValueKind::Nil)) else {
            let absent = T::absent();
            // a value that could not be read has been told already
            if absent.is_none() && !table.contains_key(key) {
                let origin = self.origin(at).cloned();
                self.mistakes.push(Mistake { origin, key: path, problem: "missing".to_owned(), hint: None });
            }
            return absent;
        };
        let Some(read) = T::read(value, &path, self) else { return self.stand_in(&path) };
        if let Some(Err(problem)) = rule.map(|rule| rule.check(&read)) {
            self.wrong(&path, problem);
            return self.stand_in(&path);
        }
        Some(read)
    }

    /// The default of this key, for a value whose mistake has been told.
    fn stand_in<T: Setting>(&mut self, path: &str) -> Option<T> {
        let mut value = &self.defaults;
        for key in path.split('.') {
            let ValueKind::Table(table) = &value.kind else { return None };
            value = table.get(key)?;
        }
        let value = value.clone();
        let told = self.mistakes.len();
        let read = T::read(&value, path, self);
        self.mistakes.truncate(told);
        read
    }

    /// The text at this key.
    pub(crate) fn text<'v>(&mut self, value: &'v Value, at: &str) -> Option<&'v str> {
        if let ValueKind::String(text) = &value.kind {
            return Some(text);
        }
        self.wrong(at, format!("must be a text in quotes, {} is not", kind(value)));
        None
    }

    /// Reads a text with its own parser.
    pub(crate) fn parsed<T: std::str::FromStr<Err: Display>>(&mut self, value: &Value, at: &str) -> Option<T> {
        let text = self.text(value, at)?;
        text.parse().map_err(|error: T::Err| self.wrong(at, error.to_string())).ok()
    }
}

/// What a value is, in words; never the value.
fn kind(value: &Value) -> &'static str {
    match value.kind {
        ValueKind::Nil => "nothing",
        ValueKind::Boolean(_) => "true or false",
        ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => "a whole number",
        ValueKind::Float(_) => "a number",
        ValueKind::String(_) => "a text",
        ValueKind::Table(_) => "a table",
        ValueKind::Array(_) => "a list",
    }
}

/// The text of an environment variable, which may stand for a value of any type.
fn variable<'v>(value: &'v Value, at: &str, reader: &Reader<'_>) -> Option<&'v str> {
    if let ValueKind::String(text) = &value.kind { Some(text.trim()).filter(|_| reader.is_variable(at)) } else { None }
}

/// A whole number; a variable's text is read as one.
fn whole(value: &Value, at: &str, reader: &Reader<'_>) -> Option<i64> {
    if let ValueKind::I64(number) = value.kind {
        return Some(number);
    }
    variable(value, at, reader)?.parse().ok()
}

impl Setting for u32 {
    fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let read = whole(value, at, reader).and_then(|number| Self::try_from(number).ok());
        if read.is_none() {
            reader.wrong(at, "must be a whole number, 0 or more");
        }
        read
    }
}

impl Setting for f64 {
    fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let small = whole(value, at, reader).and_then(|number| i32::try_from(number).ok()).map(Self::from);
        let read = small.or_else(|| {
            if let ValueKind::Float(number) = value.kind {
                return Some(number);
            }
            variable(value, at, reader)?.parse().ok()
        });
        if read.is_none() {
            reader.wrong(at, "must be a number");
        }
        read
    }
}

impl Setting for bool {
    fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let read = if let ValueKind::Boolean(is) = value.kind {
            Some(is)
        } else {
            variable(value, at, reader).and_then(|text| text.parse().ok())
        };
        if read.is_none() {
            reader.wrong(at, "must be true or false");
        }
        read
    }
}

impl Setting for String {
    fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self> {
        reader.text(value, at).map(str::to_owned)
    }
}

impl Setting for Duration {
    fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self> {
        if matches!(value.kind, ValueKind::I64(_) | ValueKind::Float(_)) {
            reader.wrong_with_hint(at, "a number without its unit", Some("write \"30s\"".to_owned()));
            return None;
        }
        reader.parsed::<Span>(value, at).map(|span| span.0)
    }
}

impl Setting for Size {
    fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self> {
        if let Some(bytes) = whole(value, at, reader).and_then(|number| u64::try_from(number).ok()) {
            return Some(Self(bytes));
        }
        reader.parsed(value, at)
    }
}

impl Setting for PathBuf {
    fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let text = reader.text(value, at)?;
        if text.is_empty() {
            reader.wrong(at, "an empty path");
            return None;
        }
        Some(reader.path(at, text))
    }
}

impl Setting for SocketAddr {
    fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let read = reader.text(value, at)?.parse().ok();
        if read.is_none() {
            reader.wrong(at, "not an address with a port, like \"127.0.0.1:0\"");
        }
        read
    }
}

impl Setting for Uuid {
    fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let text = reader.text(value, at)?;
        // of the four ways to write one only the plain: it is compared with what the service writes
        let read = Some(text).filter(|text| text.len() == 36).and_then(|text| Self::try_parse(text).ok());
        if read.is_none_or(|id| id.is_nil()) {
            reader.wrong(at, "not a GUID");
            return None;
        }
        read
    }
}

impl Setting for SecretReference {
    fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let text = reader.text(value, at)?;
        let read = Self::parse(text, Some(&folder_of(reader.origin(at), reader.folder)));
        if read.is_none() {
            let hint = "a secret never stands here, only where it lies: \"env:NAME\" or \"file:PATH\"".to_owned();
            reader.wrong_with_hint(at, "not a reference to a secret", Some(hint));
        }
        read
    }
}

impl<T: Setting> Setting for Option<T> {
    fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self> {
        T::read(value, at, reader).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn describe(at: &str, into: &mut Vec<Described>) {
        T::describe(at, into);
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self> {
        // all are read before the first failure counts, so that every mistake is told
        let read: Vec<Option<T>> = if let ValueKind::Array(elements) = &value.kind {
            let element = |(index, element)| T::read(element, &format!("{at}[{index}]"), reader);
            elements.iter().enumerate().map(element).collect()
        } else if let Some(text) = variable(value, at, reader) {
            let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
            words.map(|word| T::read(&Value::from(word), at, reader)).collect()
        } else {
            reader.wrong(at, format!("must be a list, {} is not", kind(value)));
            return None;
        };
        read.into_iter().collect()
    }
}

impl<T: Setting> Setting for BTreeMap<AccountName, T> {
    fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let ValueKind::Table(table) = &value.kind else {
            reader.wrong(at, format!("must be a table, {} is not", kind(value)));
            return None;
        };
        let mut read = Self::new();
        for (name, value) in table {
            let path = join(at, name);
            let name =
                AccountName::parse(name).map_err(|error| reader.wrong(&path, format!("no name: {}", error.rule))).ok();
            let value = T::read(value, &path, reader);
            // one with a mistake is left out: it has been told, and the others are read on
            read.extend(name.zip(value));
        }
        Some(read)
    }

    fn describe(at: &str, into: &mut Vec<Described>) {
        T::describe(&format!("{at}.*"), into);
    }
}

/// Declares a table of settings: a plain struct, and how it is read. `=>` gives the rule that a value must hold to.
macro_rules! section {
    ($(#[$doc:meta])* pub struct $name:ident {
        $($(#[$field_doc:meta])* pub $field:ident: $type:ty $(=> $rule:expr)?),+ $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)+
        }

        impl $crate::config::read::Setting for $name {
            fn read(
                value: &::config::Value,
                at: &str,
                reader: &mut $crate::config::read::Reader<'_>,
            ) -> Option<Self> {
                let table = reader.table(value, at, &[$(stringify!($field)),+])?;
                $(let $field = reader.field::<$type>(
                    &table, at, stringify!($field), $crate::config::read::section!(@rule $type $(, $rule)?),
                );)+
                Some(Self { $($field: $field?),+ })
            }

            fn describe(at: &str, into: &mut Vec<$crate::config::read::Described>) {
                $({
                    let first = into.len();
                    let key = $crate::config::layer::join(at, stringify!($field));
                    <$type as $crate::config::read::Setting>::describe(&key, into);
                    let rule = $crate::config::read::section!(@rule $type $(, $rule)?);
                    if let (Some(described), Some(rule)) = (into.get_mut(first), rule) {
                        described.range = Some(rule.text());
                    }
                })+
            }
        }
    };
    (@rule $type:ty) => { None::<&dyn $crate::config::read::Rule<$type>> };
    (@rule $type:ty, $rule:expr) => { Some(&$rule as &dyn $crate::config::read::Rule<$type>) };
}
pub(crate) use section;

/// Declares a setting that is one of a few words.
macro_rules! choice {
    ($(#[$doc:meta])* pub enum $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// The word as settings write it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl $crate::config::read::Setting for $name {
            fn read(
                value: &::config::Value,
                at: &str,
                reader: &mut $crate::config::read::Reader<'_>,
            ) -> Option<Self> {
                let words = [$($text),+];
                let text = reader.text(value, at)?;
                $(if text == $text {
                    return Some(Self::$variant);
                })+
                let hint = $crate::config::nearest::nearest(text, words).map(|meant| format!("did you mean {meant:?}?"));
                reader.wrong_with_hint(at, format!("must be one of {words:?}"), hint);
                None
            }
        }
    };
}
pub(crate) use choice;

//! `config show`: every value in force and where it came from. Secrets are references, so there is nothing to hide.

use std::fmt::Write as _;

use super::{Loaded, layer::join, mistake::Origin};

/// One value in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Its key.
    pub key: String,
    /// The value as it was written.
    pub value: toml::Value,
    /// Where it came from.
    pub origin: Option<Origin>,
}

impl Value {
    /// The value as TOML writes it in one line.
    #[must_use]
    pub fn written(&self) -> String {
        inline(&self.value)
    }
}

/// All values in force, by key.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// Each of them, tables opened; lists stay whole.
    pub values: Vec<Value>,
    table: toml::Table,
}

impl Loaded {
    /// Every value in force with its origin.
    #[must_use]
    pub fn show(&self) -> Shown {
        let mut values = Vec::new();
        collect(self, &self.table, "", &mut values);
        Shown { values, table: self.table.clone() }
    }
}

fn collect(loaded: &Loaded, table: &toml::Table, at: &str, into: &mut Vec<Value>) {
    // a table's own values stand before the tables in it, else they would be read as theirs
    let (tables, values): (Vec<_>, Vec<_>) = table.iter().partition(|(_, value)| value.is_table());
    for (key, value) in values {
        let key = join(at, key);
        into.push(Value { origin: loaded.origin(&key).cloned(), key, value: value.clone() });
    }
    for (key, value) in tables {
        if let toml::Value::Table(inner) = value {
            collect(loaded, inner, &join(at, key), into);
        }
    }
}

impl Shown {
    /// As TOML that can be read again, each value with its origin in a comment.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut section = None;
        for value in &self.values {
            let (at, name) = value.key.rsplit_once('.').unwrap_or(("", &value.key));
            if section != Some(at) {
                let gap = if text.is_empty() { "" } else { "\n" };
                // writing into a String cannot fail
                writeln!(text, "{gap}[{at}]").unwrap_or_default();
                section = Some(at);
            }
            let origin = value.origin.as_ref().map(|origin| format!("  # {origin}")).unwrap_or_default();
            writeln!(text, "{name} = {}{origin}", value.written()).unwrap_or_default();
        }
        text
    }

    /// As JSON: `settings` as one object, and `origins` by key.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let origins: serde_json::Map<String, serde_json::Value> = self
            .values
            .iter()
            .filter_map(|value| Some((value.key.clone(), value.origin.as_ref()?.to_string().into())))
            .collect();
        serde_json::json!({ "schema": 1, "settings": json(&toml::Value::Table(self.table.clone())), "origins": origins })
    }
}

fn json(value: &toml::Value) -> serde_json::Value {
    match value {
        toml::Value::String(text) => text.clone().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(is) => (*is).into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(values) => values.iter().map(json).collect(),
        toml::Value::Table(table) => {
            serde_json::Value::Object(table.iter().map(|(key, value)| (key.clone(), json(value))).collect())
        }
    }
}

/// The value as TOML writes it in one line.
fn inline(value: &toml::Value) -> String {
    match value {
        // a JSON text is a TOML text, but for one control character that JSON leaves as it is
        toml::Value::String(text) => serde_json::Value::from(text.as_str()).to_string().replace('\u{7f}', "\\u007f"),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => format!("{number:?}"),
        toml::Value::Boolean(is) => is.to_string(),
        toml::Value::Datetime(time) => time.to_string(),
        toml::Value::Array(values) => format!("[{}]", values.iter().map(inline).collect::<Vec<_>>().join(", ")),
        toml::Value::Table(table) => {
            let members: Vec<_> =
                table.iter().map(|(key, value)| format!("{} = {}", join("", key), inline(value))).collect();
            format!("{{ {} }}", members.join(", "))
        }
    }
}

//! In which form results are printed, and printing them: tables for people, JSON for programs.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;

use crate::cli::exit::Exit;

/// The number that every JSON result carries; members are only ever added under it.
const SCHEMA: u32 = 1;

/// `--output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum OutputFormat {
    /// Tables on a terminal, JSON on a pipe.
    #[default]
    Auto,
    /// Tables and sentences.
    Table,
    /// One JSON document.
    Json,
    /// One JSON object a line, as things happen.
    Ndjson,
}

/// The form that was decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Tables and sentences.
    Table,
    /// One JSON document.
    Json,
    /// One JSON object a line.
    Ndjson,
}

impl OutputFormat {
    /// Decides, knowing whether stdout is a terminal.
    #[must_use]
    pub const fn decide(self, is_terminal: bool) -> Form {
        match self {
            Self::Auto if is_terminal => Form::Table,
            Self::Auto | Self::Json => Form::Json,
            Self::Table => Form::Table,
            Self::Ndjson => Form::Ndjson,
        }
    }
}

/// Nobody reads any more, or the output cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    /// The reader went away, as `head` does: end at once, quietly.
    #[error("nobody reads the output any more")]
    Reader,
    /// The output cannot be written, to a full disk for instance.
    #[error("the output cannot be written: {0}")]
    Failed(io::Error),
    /// A result cannot be written as JSON.
    #[error("a result cannot be written as JSON: {0}")]
    Json(serde_json::Error),
}

impl Closed {
    /// The code to end with, and whether to say why.
    #[must_use]
    pub const fn exit(&self) -> (Exit, bool) {
        match self {
            Self::Reader => (Exit::Done, false),
            Self::Failed(_) => (Exit::LocalIo, true),
            Self::Json(_) => (Exit::Internal, true),
        }
    }
}

impl From<io::Error> for Closed {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Reader } else { Self::Failed(error) }
    }
}

/// Prints results to stdout, or whatever stands for it; every print is flushed, since somebody may be following.
#[derive(Debug)]
pub struct Printer<W> {
    /// The form of results.
    pub form: Form,
    is_terminal: bool,
    out: W,
}

impl<W: Write> Printer<W> {
    /// Prints to `out`.
    pub const fn new(form: Form, is_terminal: bool, out: W) -> Self {
        Self { form, is_terminal, out }
    }

    /// Prints text as it is.
    ///
    /// # Errors
    /// [`Closed`] says how to end.
    pub fn text(&mut self, text: &str) -> Result<(), Closed> {
        self.out.write_all(text.as_bytes())?;
        Ok(self.out.flush()?)
    }

    /// Prints one JSON document: in lines on a terminal, else in one. An object gets its `schema` number.
    ///
    /// # Errors
    /// [`Closed`] says how to end.
    pub fn document(&mut self, result: &impl Serialize) -> Result<(), Closed> {
        let value = with_schema(result)?;
        let text = if self.is_terminal { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        self.text(&(text.map_err(Closed::Json)? + "\n"))
    }

    /// Prints one line of NDJSON. An object gets its `schema` number.
    ///
    /// # Errors
    /// [`Closed`] says how to end.
    pub fn line(&mut self, result: &impl Serialize) -> Result<(), Closed> {
        let text = serde_json::to_string(&with_schema(result)?).map_err(Closed::Json)?;
        self.text(&(text + "\n"))
    }
}

fn with_schema(result: &impl Serialize) -> Result<Value, Closed> {
    let mut value = serde_json::to_value(result).map_err(Closed::Json)?;
    if let Value::Object(members) = &mut value {
        members.entry("schema").or_insert_with(|| SCHEMA.into());
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn people_get_tables_and_programs_get_json() {
        assert_eq!(OutputFormat::Auto.decide(true), Form::Table);
        assert_eq!(OutputFormat::Auto.decide(false), Form::Json);
        assert_eq!(OutputFormat::Table.decide(false), Form::Table);
        assert_eq!(OutputFormat::Json.decide(true), Form::Json);
        assert_eq!(OutputFormat::Ndjson.decide(true), Form::Ndjson);
    }

    #[test]
    fn every_object_carries_its_schema_number() {
        let mut out = Vec::new();
        let mut printer = Printer::new(Form::Json, false, &mut out);
        printer.document(&json!({ "job": "nic", "product_id": "14300000000000001" })).unwrap();
        printer.line(&json!({ "event": "accepted", "schema": 2 })).unwrap();
        printer.document(&json!([1])).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "{\"job\":\"nic\",\"product_id\":\"14300000000000001\",\"schema\":1}\n{\"event\":\"accepted\",\"schema\":2}\n[1]\n"
        );
    }

    struct Gone(io::ErrorKind);

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_went_away_ends_it_quietly_and_a_full_disk_does_not() {
        let end = |kind| Printer::new(Form::Json, false, Gone(kind)).line(&json!({})).unwrap_err().exit();
        assert_eq!(end(io::ErrorKind::BrokenPipe), (Exit::Done, false));
        assert_eq!(end(io::ErrorKind::StorageFull), (Exit::LocalIo, true));
    }
}

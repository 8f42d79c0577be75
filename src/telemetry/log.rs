//! Log lines: to stderr only, for people on a terminal and as JSON otherwise, without secrets and without escapes.

use std::{
    borrow::Cow,
    io::{self, Write},
    sync::Arc,
};

use tracing_subscriber::{
    EnvFilter,
    field::MakeExt,
    fmt::{MakeWriter, format::debug_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use super::redact::redact;
use crate::config::{LogFormat, Telemetry};

/// How lines look, decided at the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looks {
    /// Does stderr show on a terminal?
    pub is_terminal: bool,
    /// May lines be coloured?
    pub is_coloured: bool,
}

/// Sends the log lines of this process to stderr from now on.
///
/// # Errors
/// The filter is not one, or lines are sent somewhere already.
pub fn start(telemetry: &Telemetry, looks: Looks) -> Result<(), StartError> {
    subscriber(telemetry, looks, Lines::new(looks.is_coloured, io::stderr))?.try_init().map_err(StartError::Twice)
}

/// Why log lines cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The filter is not one.
    #[error("telemetry.log is not a filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody started before.
    #[error("log lines are sent already: {0}")]
    Twice(tracing_subscriber::util::TryInitError),
}

fn subscriber(
    telemetry: &Telemetry,
    looks: Looks,
    lines: Lines,
) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, StartError> {
    // A message that comes back is logged there whole, as numbers that no redaction reads.
    let filter = EnvFilter::builder().parse(telemetry.log.as_str())?;
    let filter = filter.add_directive("lapin::returned_messages=off".parse()?);
    let is_json = match telemetry.format {
        LogFormat::Json => true,
        LogFormat::Human => false,
        LogFormat::Auto => !looks.is_terminal,
    };
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(lines);
    Ok(if is_json {
        Box::new(registry.with(layer.json().flatten_event(true).with_current_span(true).with_span_list(false)))
    } else {
        // what data holds is made harmless before the colours of the format are put around it
        let fields = debug_fn(|writer, field, value| {
            let value = format!("{value:?}");
            let value = neutral(&value, false);
            if field.name() == "message" {
                write!(writer, "{value}")
            } else {
                write!(writer, "{}={value}", field.name())
            }
        });
        let fields = fields.delimited(" ");
        Box::new(registry.with(layer.with_ansi(looks.is_coloured).with_target(false).fmt_fields(fields)))
    })
}

/// The sink of log lines: one line for each event, whatever the data in it holds.
///
/// Secrets are replaced, line ends within an event and control characters are written as `\u{1b}`. Where lines are
/// coloured, the colours of the format itself stay.
#[derive(Clone)]
pub struct Lines {
    is_coloured: bool,
    open: Arc<dyn Fn() -> Box<dyn Write> + Send + Sync>,
}

impl Lines {
    /// Lines that go where `open` says.
    pub fn new<W: Write + 'static>(is_coloured: bool, open: impl Fn() -> W + Send + Sync + 'static) -> Self {
        Self { is_coloured, open: Arc::new(move || Box::new(open())) }
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line { lines: self.clone(), buffer: Vec::new() }
    }
}

/// One event, written when it is whole.
pub struct Line {
    lines: Lines,
    buffer: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(&self.buffer);
        let mut line = neutral(&redact(text.trim_end_matches('\n')), self.lines.is_coloured).into_owned();
        line.push('\n');
        // a closed stderr must not end the work
        drop((self.lines.open)().write_all(line.as_bytes()));
    }
}

/// Text from outside, safe to show in one line: control characters and those that turn the direction of writing are
/// made visible.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    neutral(text, false)
}

/// Is this no letter, but an order to the screen?
fn is_order(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

/// The text with control characters made visible; `ESC [ … m` stays where lines are coloured.
fn neutral(text: &str, is_coloured: bool) -> Cow<'_, str> {
    if !text.contains(is_order) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let colour = if is_coloured { colour(rest) } else { None };
        let length = colour.unwrap_or(c.len_utf8());
        let piece = rest.get(..length).unwrap_or("");
        match c {
            _ if colour.is_some() => out.push_str(piece),
            '\n' => out.push_str("\\n"),
            '\t' => out.push(' '),
            c if is_order(c) => out.extend(c.escape_unicode()),
            _ => out.push(c),
        }
        rest = rest.get(length..).unwrap_or("");
    }
    Cow::Owned(out)
}

/// The length of `ESC [ digits ; … m` at the start.
fn colour(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|c: char| !(c.is_ascii_digit() || c == ';'))?;
    parameters.get(end..)?.starts_with('m').then_some(2 + end + 1)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, looks: Looks, log: impl FnOnce()) -> String {
        let kept = Kept::default();
        let sink = kept.clone();
        let telemetry = Telemetry { format, ..crate::config::defaults().telemetry };
        let lines = Lines::new(looks.is_coloured, move || sink.clone());
        tracing::subscriber::with_default(subscriber(&telemetry, looks, lines).unwrap(), log);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    const PIPE: Looks = Looks { is_terminal: false, is_coloured: false };
    const TERMINAL: Looks = Looks { is_terminal: true, is_coloured: true };

    #[test]
    fn lines_are_json_on_a_pipe_and_for_people_on_a_terminal() {
        let log = || tracing::info!(delay_ms = 5, "parked");
        let line = logged(LogFormat::Auto, PIPE, log);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&value["level"], &value["message"], &value["delay_ms"]),
            (&"INFO".into(), &"parked".into(), &5.into())
        );
        let line = logged(LogFormat::Auto, TERMINAL, log);
        assert!(line.contains("parked") && line.contains("\u{1b}[") && !line.starts_with('{'), "{line}");
        let line = logged(LogFormat::Human, PIPE, log);
        assert!(line.ends_with(" INFO parked delay_ms=5\n"), "{line}");
    }

    #[test]
    fn what_is_below_the_filter_is_not_written() {
        assert_eq!(logged(LogFormat::Human, PIPE, || tracing::debug!("quiet")), "");
    }

    #[test]
    fn secrets_are_hidden_in_messages_fields_and_spans() {
        for looks in [PIPE, TERMINAL] {
            for format in [LogFormat::Human, LogFormat::Json] {
                let line = logged(format, looks, || {
                    let span = tracing::info_span!("job", url = "https://h/?sig=SPANSECRET");
                    let _entered = span.enter();
                    tracing::info!(body = %"{\"access_token\":\"FIELDSECRET\"}", "sent client_secret=MESSAGESECRET");
                });
                assert!(line.contains("[hidden]") && !line.contains("SECRET"), "{line}");
            }
        }
    }

    #[test]
    fn an_event_is_one_line_and_its_data_cannot_paint() {
        for (looks, format) in [
            (PIPE, LogFormat::Human),
            (TERMINAL, LogFormat::Human),
            (PIPE, LogFormat::Json),
            (TERMINAL, LogFormat::Json),
        ] {
            let line = logged(format, looks, || {
                tracing::info!(name = %"a\u{1b}[31mred\u{1b}]0;title\u{7}\nERROR forged", "name \u{1b}[2J read");
            });
            assert_eq!(line.matches('\n').count(), 1, "{line:?}");
            for painted in ["\u{1b}[31m", "\u{1b}]", "\u{1b}[2J", "\u{7}"] {
                assert!(!line.contains(painted), "{line:?}");
            }
        }
    }
}

//! Errors as people read them: what happened, why or by which rule, what to type next, ids for support in full.

use super::style::{Paint, Style};
use crate::config::Mistakes;

/// Columns before the text of a line: two blanks, a label of up to eight letters, a blank.
const INDENT: usize = 11;

/// An error, in the user's words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problem {
    /// What failed, in one line, lower case, without a full stop.
    pub summary: String,
    /// What happened; several things that are wrong are told at once.
    pub what: Vec<String>,
    /// By which rule.
    pub rule: Option<String>,
    /// What to type or change next, one line each.
    pub next: Vec<String>,
    /// Ids for Microsoft's support, never shortened.
    pub trace: Option<String>,
}

impl Problem {
    /// A problem with nothing but its summary.
    pub fn new(summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), ..Self::default() }
    }

    /// Adds what happened.
    #[must_use]
    pub fn what(mut self, what: impl Into<String>) -> Self {
        self.what.push(what.into());
        self
    }

    /// Names the rule.
    #[must_use]
    pub fn rule(mut self, rule: impl Into<String>) -> Self {
        self.rule = Some(rule.into());
        self
    }

    /// Adds what to do next.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next.push(next.into());
        self
    }

    /// Names the ids for Microsoft's support.
    #[must_use]
    pub fn trace(mut self, trace: impl Into<String>) -> Self {
        self.trace = Some(trace.into());
        self
    }

    /// The error on a screen of this style, with a line end behind it. Secrets in it are hidden.
    #[must_use]
    pub fn render(&self, style: &Style) -> String {
        let mut out = format!("{} {}\n", style.paint(Paint::Bad, "error:"), shown(style, &self.summary));
        lines(&mut out, style, "what", &self.what);
        lines(&mut out, style, "rule", self.rule.as_slice());
        lines(&mut out, style, "next", &self.next);
        lines(&mut out, style, "trace", self.trace.as_slice());
        out
    }
}

fn shown(style: &Style, text: &str) -> String {
    style.text(&in_words(text)).into_owned()
}

/// What somebody else's error says, for people: without secrets and without the system's numbers.
#[must_use]
pub fn in_words(text: &str) -> String {
    without_numbers(&crate::telemetry::redact(text))
}

/// The system's own words without its number for them, ` (os error 2)`: a person has no use for it.
fn without_numbers(text: &str) -> String {
    const BEFORE: &str = " (os error ";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once(BEFORE) {
        out.push_str(before);
        match behind.split_once(')') {
            Some((number, behind)) if number.bytes().all(|byte| byte.is_ascii_digit()) => rest = behind,
            Some(_) | None => {
                out.push_str(BEFORE);
                rest = behind;
            }
        }
    }
    out.push_str(rest);
    out
}

fn lines(out: &mut String, style: &Style, label: &str, texts: &[String]) {
    let mut label = label;
    for text in texts {
        for (number, line) in Style::wrap(&shown(style, text), style.width.saturating_sub(INDENT)).iter().enumerate() {
            let head = if number == 0 { format!("{label:<8}") } else { " ".repeat(8) };
            out.push_str("  ");
            out.push_str(&style.paint(Paint::Strong, &head));
            out.push(' ');
            out.push_str(line);
            out.push('\n');
        }
        label = "";
    }
}

impl From<&Mistakes> for Problem {
    fn from(mistakes: &Mistakes) -> Self {
        let number = mistakes.list.len();
        let summary = if number == 1 {
            "the configuration has a mistake".to_owned()
        } else {
            format!("the configuration has {number} mistakes")
        };
        Self {
            summary,
            what: mistakes.list.iter().map(ToString::to_string).collect(),
            next: vec!["longshore config check".to_owned()],
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_numbers_are_left_out_and_its_words_stay() {
        let text = "/srv/a.cab: No such file or directory (os error 2); /srv/b: File exists (os error 17)";
        assert_eq!(without_numbers(text), "/srv/a.cab: No such file or directory; /srv/b: File exists");
        for other in ["a (os error 2", "a (os error two)", "plain"] {
            assert_eq!(without_numbers(other), other);
        }
    }
}

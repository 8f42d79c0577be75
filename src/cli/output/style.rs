//! How things look: colour, marks, width and movement, decided once from what the terminal can show.

use std::{borrow::Cow, collections::BTreeMap};

use crate::telemetry::visible;

/// Columns when the terminal does not say.
const USUAL_WIDTH: usize = 80;

/// The narrowest width that is laid out for.
const LEAST_WIDTH: usize = 40;

/// `--color`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ColorChoice {
    /// On a terminal that can show it.
    #[default]
    Auto,
    /// Also on a pipe.
    Always,
    /// Not at all.
    Never,
}

/// What is known of where the output goes.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Is it a terminal?
    pub is_terminal: bool,
    /// Its columns, where it says.
    pub columns: Option<u16>,
    /// Environment variables.
    pub variables: BTreeMap<String, String>,
}

impl Seen {
    /// What is known of this process's stdout.
    #[must_use]
    pub fn stdout() -> Self {
        Self::of(std::io::IsTerminal::is_terminal(&std::io::stdout()))
    }

    /// What is known of this process's stderr.
    #[must_use]
    pub fn stderr() -> Self {
        Self::of(std::io::IsTerminal::is_terminal(&std::io::stderr()))
    }

    fn of(is_terminal: bool) -> Self {
        let columns = comfy_table::Table::new().width();
        Self { is_terminal, columns, variables: std::env::vars().collect() }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// How things look from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four abilities of a screen, each with or without the others")]
pub struct Style {
    /// Does a person watch? Else the output is read by a program.
    pub is_terminal: bool,
    /// May there be colour?
    pub is_coloured: bool,
    /// May there be more than ASCII?
    pub is_unicode: bool,
    /// May a line change after it was written?
    pub is_live: bool,
    /// Columns.
    pub width: usize,
}

/// What a colour says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// It went well.
    Good,
    /// It went wrong.
    Bad,
    /// A person may want to look.
    Warning,
    /// Less important than what stands around it.
    Dim,
    /// More important.
    Strong,
}

/// A sign in front of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Done.
    Done,
    /// Failed.
    Failed,
    /// Under way.
    Running,
    /// Waiting.
    Waiting,
    /// Not known.
    Unknown,
}

impl Style {
    /// Decides from `--color` and from what is known. `NO_COLOR` and `TERM=dumb` count for `auto`.
    #[must_use]
    pub fn new(choice: ColorChoice, seen: &Seen) -> Self {
        let is_dumb = seen.variable("TERM") == Some("dumb");
        let is_coloured = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => seen.variable("NO_COLOR").is_none() && seen.is_terminal && !is_dumb,
        };
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| seen.variable(name));
        let is_utf8 = |locale: &str| {
            let locale = locale.to_ascii_lowercase();
            locale.ends_with("utf-8") || locale.ends_with("utf8")
        };
        let named = seen.variable("COLUMNS").and_then(|columns| columns.parse().ok());
        let columns = named.or(seen.columns).filter(|columns| *columns > 0).map_or(USUAL_WIDTH, usize::from);
        Self {
            is_terminal: seen.is_terminal,
            is_coloured,
            // consoles of Windows have no locale variables and show Unicode
            is_unicode: locale.map_or(cfg!(windows), is_utf8) && !is_dumb,
            is_live: seen.is_terminal && !is_dumb,
            width: columns.max(LEAST_WIDTH),
        }
    }

    /// No colour, ASCII, 80 columns: what is written to a file.
    #[must_use]
    pub const fn plain() -> Self {
        Self { is_terminal: false, is_coloured: false, is_unicode: false, is_live: false, width: USUAL_WIDTH }
    }

    /// The text in a colour, where there is colour.
    #[must_use]
    pub fn paint(&self, paint: Paint, text: &str) -> String {
        if !self.is_coloured || text.is_empty() {
            return text.to_owned();
        }
        let code = match paint {
            Paint::Good => "32",
            Paint::Bad => "1;31",
            Paint::Warning => "33",
            Paint::Dim => "2",
            Paint::Strong => "1",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// The sign, in its colour.
    #[must_use]
    pub fn mark(&self, mark: Mark) -> String {
        let (unicode, ascii, paint) = match mark {
            Mark::Done => ("✔", "+", Paint::Good),
            Mark::Failed => ("✘", "x", Paint::Bad),
            Mark::Running => ("●", "*", Paint::Strong),
            Mark::Waiting => ("…", ".", Paint::Dim),
            Mark::Unknown => ("?", "?", Paint::Warning),
        };
        self.paint(paint, if self.is_unicode { unicode } else { ascii })
    }

    /// Text from wherever, safe to show: control characters are made visible, and our own signs fit the locale.
    #[must_use]
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let visible = visible(text);
        if self.is_unicode || visible.is_ascii() {
            return visible;
        }
        let mut ascii = String::with_capacity(visible.len());
        for c in visible.chars() {
            match c {
                '·' | '–' | '—' => ascii.push('-'),
                '…' => ascii.push_str("..."),
                '→' => ascii.push_str("->"),
                '÷' => ascii.push('/'),
                '“' | '”' => ascii.push('"'),
                '‘' | '’' => ascii.push('\''),
                '\u{a0}' | '\u{202f}' => ascii.push(' '),
                c => ascii.push(c),
            }
        }
        Cow::Owned(ascii)
    }

    /// The words in lines of at most `width` columns; a word that is longer stands whole on a line of its own.
    #[must_use]
    pub fn wrap(text: &str, width: usize) -> Vec<String> {
        let mut lines = Vec::new();
        for paragraph in text.lines() {
            let mut line = String::new();
            for word in paragraph.split(' ') {
                let length = line.chars().count();
                if length > 0 && length + 1 + word.chars().count() > width {
                    lines.push(std::mem::take(&mut line));
                }
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
            }
            lines.push(line);
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn style(choice: ColorChoice, is_terminal: bool, variables: &[(&str, &str)]) -> Style {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Style::new(choice, &Seen { is_terminal, columns: Some(120), variables })
    }

    #[test]
    fn colour_is_for_terminals_that_want_it() {
        use ColorChoice::{Always, Auto, Never};
        for (choice, is_terminal, variables, expected) in [
            (Auto, true, &[][..], true),
            (Auto, false, &[], false),
            (Auto, true, &[("NO_COLOR", "1")], false),
            (Auto, true, &[("NO_COLOR", "")], true),
            (Auto, true, &[("TERM", "dumb")], false),
            (Never, true, &[], false),
            (Always, false, &[("NO_COLOR", "1")], true),
        ] {
            assert_eq!(
                style(choice, is_terminal, variables).is_coloured,
                expected,
                "{choice:?} {is_terminal} {variables:?}"
            );
        }
        assert!(!style(Auto, true, &[("TERM", "dumb")]).is_live);
    }

    #[cfg(unix)]
    #[test]
    fn a_c_locale_gets_ascii() {
        for (variables, expected) in [
            (&[][..], false),
            (&[("LANG", "C")], false),
            (&[("LANG", "de_DE.UTF-8")], true),
            (&[("LANG", "de_DE.UTF-8"), ("LC_ALL", "C")], false),
            (&[("LANG", "C"), ("LC_CTYPE", "C.utf8")], true),
        ] {
            assert_eq!(style(ColorChoice::Auto, true, variables).is_unicode, expected, "{variables:?}");
        }
        assert_eq!(Style::plain().mark(Mark::Done), "+");
        assert_eq!(Style::plain().text("a · b … c → d"), "a - b ... c -> d");
    }

    #[test]
    fn names_from_outside_cannot_steer_the_terminal() {
        let shown = Style::plain().text("a\u{1b}[2Jb\u{202e}c\n").into_owned();
        assert_eq!(shown, "a\\u{1b}[2Jb\\u{202e}c\\n");
    }

    #[test]
    fn long_words_stay_whole() {
        assert_eq!(Style::wrap("a bb ccc 11111111-2222 d", 6), ["a bb", "ccc", "11111111-2222", "d"]);
        assert_eq!(Style::wrap("", 6), Vec::<String>::new());
    }

    #[test]
    fn the_width_is_that_of_the_terminal_within_reason() {
        assert_eq!(style(ColorChoice::Auto, true, &[]).width, 120);
        assert_eq!(style(ColorChoice::Auto, true, &[("COLUMNS", "60")]).width, 60);
        assert_eq!(style(ColorChoice::Auto, true, &[("COLUMNS", "3")]).width, LEAST_WIDTH);
        assert_eq!(Style::new(ColorChoice::Auto, &Seen::default()).width, USUAL_WIDTH);
    }
}

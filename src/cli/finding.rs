//! What a command found when it looked: good, bad with a code and a next step, or open. One form for all that look.

use serde_json::{Value, json};

use super::{
    exit::Exit,
    output::{Mark, Paint, Style},
    text::Put as _,
};

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) what: &'static str,
    pub(super) exit: Exit,
    pub(super) is_known: bool,
    pub(super) text: String,
    pub(super) next: Option<String>,
}

impl Finding {
    /// Nothing is to be done.
    pub(super) fn good(what: &'static str, text: impl Into<String>) -> Self {
        Self { what, exit: Exit::Done, is_known: true, text: text.into(), next: None }
    }

    /// Something is wrong, and this is what to do.
    pub(super) fn bad(what: &'static str, exit: Exit, text: impl Into<String>, next: impl Into<String>) -> Self {
        Self { what, exit, is_known: true, text: text.into(), next: Some(next.into()) }
    }

    /// It cannot be told, or a person judges it.
    pub(super) fn open(what: &'static str, text: impl Into<String>) -> Self {
        Self { is_known: false, ..Self::good(what, text) }
    }

    /// The same with what may be done about it.
    pub(super) fn and_next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// For programs.
    pub(super) fn row(&self) -> Value {
        json!({
            "what": self.what,
            "good": self.is_known.then_some(self.exit == Exit::Done),
            "exit": self.exit.code(),
            "message": self.text,
            "next_step": self.next,
        })
    }

    const fn mark(&self) -> Mark {
        match (self.is_known, self.exit) {
            (false, _) => Mark::Unknown,
            (true, Exit::Done) => Mark::Done,
            (true, _) => Mark::Failed,
        }
    }
}

/// `1 job`, `2 jobs`.
pub(super) fn counted(count: impl TryInto<u64>, word: &str) -> String {
    let count = count.try_into().unwrap_or(u64::MAX);
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

/// All of them on a screen; findings of one subject stand below one label.
pub(super) fn screen(style: &Style, findings: &[Finding]) -> String {
    let label_width = findings.iter().map(|finding| finding.what.len()).max().unwrap_or_default() + 1;
    // The label, its mark, and a blank before and behind it.
    let indent = label_width + 3;
    let (mut out, mut last) = (String::new(), "");
    for finding in findings {
        let label = if finding.what == last { "" } else { finding.what };
        last = finding.what;
        let wrap = |text: &str| Style::wrap(&style.text(text), style.width.saturating_sub(indent));
        let next = finding.next.as_ref().map(|next| format!("next: {next}"));
        let lines = wrap(&finding.text).into_iter().chain(next.iter().flat_map(|next| wrap(next)));
        for (number, line) in lines.enumerate() {
            if number == 0 {
                let label = style.paint(Paint::Strong, &format!("{label:<label_width$}"));
                out.put(format_args!("{label} {} {line}\n", style.mark(finding.mark())));
            } else {
                out.put(format_args!("{:indent$}{line}\n", ""));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::{ColorChoice, Seen};

    #[test]
    fn findings_of_one_subject_stand_below_one_label_and_every_line_begins_in_one_column() {
        let seen = Seen { columns: Some(60), ..Seen::default() };
        let style = Style::new(ColorChoice::Never, &seen);
        let next = "rabbitmqctl set_permissions -p / worker '^$' '^longshore' '^longshore'";
        let findings = [
            Finding::good("broker", "it is there"),
            Finding::bad("memory", Exit::WrongState, "it evicts", next),
            Finding::open("memory", "its clock"),
        ];
        let screen = screen(&style, &findings);
        assert_eq!(screen.matches("memory").count(), 1, "{screen}");
        assert_eq!(screen.matches("next: ").count(), 1, "{screen}");
        for line in screen.lines() {
            let before: String = line.chars().take(10).collect();
            let text = line.chars().nth(10);
            assert!(before.ends_with(' ') && text.is_some_and(|first| first != ' '), "{screen}");
        }
    }
}

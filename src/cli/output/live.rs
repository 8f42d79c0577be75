//! Rows that move while work goes on: redrawn in place on a terminal, one line per change on a pipe.

use std::{
    io::Write,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    human::{rate, size},
    style::{Mark, Paint, Style},
};

/// Letters of a bar.
const BAR: usize = 20;

/// Columns that a text needs beside its label, else it stands below it.
const LEAST_ROOM: usize = 30;

/// Several rows, one for each thing that is under way.
#[derive(Clone)]
pub struct Rows {
    style: Style,
    target: Target,
}

#[derive(Clone)]
enum Target {
    Live(MultiProgress),
    Lines(Arc<Mutex<dyn Write + Send>>),
}

impl Rows {
    /// Rows of this style: live on stderr where lines can change, else lines to `lines`.
    pub fn new(style: Style, lines: impl Write + Send + 'static) -> Self {
        let target = if style.is_live {
            Target::Live(MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)))
        } else {
            Target::Lines(Arc::new(Mutex::new(lines)))
        };
        Self { style, target }
    }

    /// Adds a row below the others. `label` stands in front of whatever it says, `columns` wide.
    #[must_use]
    pub fn row(&self, label: &str, columns: usize) -> Row {
        let bar = match &self.target {
            Target::Live(rows) => {
                let bar = rows.add(ProgressBar::new_spinner());
                // A moving row stays on one line however narrow the screen is; its last word may take more.
                bar.set_style(template("{wide_msg}"));
                Some(bar)
            }
            Target::Lines(_) => None,
        };
        let label = self.style.text(label);
        Row { rows: self.clone(), bar, label: format!("{label:<columns$}"), said: None }
    }

    /// Prints a line above the live rows, or among the lines.
    pub fn print(&self, line: &str) {
        match &self.target {
            // a closed stderr must not end the work
            Target::Live(rows) => drop(rows.println(line)),
            Target::Lines(lines) => {
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                drop(lines.write_all(format!("{line}\n").as_bytes()).and_then(|()| lines.flush()));
            }
        }
    }
}

/// What is under way in one row.
pub struct Row {
    rows: Rows,
    bar: Option<ProgressBar>,
    label: String,
    said: Option<String>,
}

impl Row {
    /// Says what is being done.
    pub fn doing(&mut self, text: &str) {
        self.say(Mark::Running, text, false);
    }

    /// Says what is being done in words that change with the clock: nothing on a pipe, where each would be a line.
    pub fn ticking(&mut self, text: &str) {
        if self.bar.is_some() {
            self.doing(text);
        }
    }

    /// Says what is waited for.
    pub fn waiting(&mut self, text: &str) {
        self.say(Mark::Waiting, text, false);
    }

    /// Says how it ended well.
    pub fn done(&mut self, text: &str) {
        self.say(Mark::Done, text, true);
    }

    /// Says how it failed.
    pub fn failed(&mut self, text: &str) {
        self.say(Mark::Failed, text, true);
    }

    /// Shows bytes that went by; on a pipe a line for each quarter of them.
    pub fn bytes(&mut self, done: u64, total: Option<u64>, span: Duration) {
        let style = self.rows.style;
        if let Some(bar) = &self.bar {
            bar.set_message(line(&style, &self.label, None, &transferred(&style, done, total, span)));
            return;
        }
        let quarters = total.filter(|total| *total > 0).map_or(0, |total| done.saturating_mul(4) / total);
        let said = format!("bytes {quarters}");
        if self.said.as_deref() != Some(&said) {
            self.rows.print(&line(&style, &self.label, None, &transferred(&style, done, total, span)));
            self.said = Some(said);
        }
    }

    fn say(&mut self, mark: Mark, text: &str, is_last: bool) {
        let style = self.rows.style;
        let said = line(&style, &self.label, Some(mark), text);
        match &self.bar {
            Some(bar) if is_last => {
                bar.set_style(template("{msg}"));
                bar.finish_with_message(folded(&style, &self.label, mark, text).unwrap_or(said));
            }
            Some(bar) => bar.set_message(said),
            None if self.said.as_deref() == Some(&said) => {}
            None => {
                self.rows.print(&said);
                self.said = Some(said);
            }
        }
    }
}

/// A fixed template is always one.
fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn line(style: &Style, label: &str, mark: Option<Mark>, text: &str) -> String {
    let mark = mark.map(|mark| style.mark(mark) + " ").unwrap_or_default();
    format!("  {} {mark}{}", style.paint(Paint::Strong, label), style.text(text))
}

/// A line that is longer than the screen, over several: below its own beginning, or, where that leaves no room, below its
/// label. None when it fits.
fn folded(style: &Style, label: &str, mark: Mark, text: &str) -> Option<String> {
    // Two blanks, the label, a blank, the mark, a blank.
    let before = label.chars().count() + 5;
    if before + text.chars().count() <= style.width {
        return None;
    }
    let room = style.width.saturating_sub(before);
    let (indent, room) = if room >= LEAST_ROOM { (before, room) } else { (4, style.width.saturating_sub(4)) };
    let rest = Style::wrap(&style.text(text), room).join(&format!("\n{:indent$}", ""));
    let first = line(style, label, Some(mark), "");
    Some(if indent == before { first + &rest } else { format!("{}\n{:indent$}{rest}", first.trim_end(), "") })
}

/// `▕██████▌    ▏ 6.1 MiB of 8.0 MiB, 3.2 MiB/s, 1 s left`; without a total what is known.
fn transferred(style: &Style, done: u64, total: Option<u64>, span: Duration) -> String {
    let speed = rate(done, span).map(|rate| format!(", {rate}")).unwrap_or_default();
    let Some(total) = total else { return format!("{}{speed}", size(done)) };
    let left = total.saturating_sub(done);
    let millis = (done > 0).then(|| u128::from(left).saturating_mul(span.as_millis()) / u128::from(done));
    let left = millis
        .and_then(|millis| u64::try_from(millis).ok())
        .filter(|millis| *millis >= 1_000)
        .map(|millis| format!(", {} left", super::human::duration(Duration::from_secs(millis / 1_000))))
        .unwrap_or_default();
    format!("{} {} of {}{speed}{left}", bar(style, done, total), size(done), size(total))
}

fn bar(style: &Style, done: u64, total: u64) -> String {
    let eighths =
        usize::try_from(u128::from(done.min(total)) * 8 * (BAR as u128) / u128::from(total.max(1))).unwrap_or(0);
    let (full, part) = (eighths / 8, eighths % 8);
    if !style.is_unicode {
        return format!("[{}{}]", "#".repeat(full), " ".repeat(BAR.saturating_sub(full)));
    }
    let part = [" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"].get(part).copied().filter(|_| full < BAR).unwrap_or("");
    format!("▕{}{part}{}▏", "█".repeat(full), " ".repeat(BAR.saturating_sub(full + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn on_a_pipe_every_change_is_one_line_and_repeats_are_none() {
        let kept = Kept::default();
        let rows = Rows::new(Style::plain(), kept.clone());
        let mut row = rows.row("netcard", 10);
        row.doing("create product");
        row.doing("create product");
        row.ticking("next look in 32 s");
        row.ticking("next look in 31 s");
        for done in 0..=100_u64 {
            row.bytes(done << 20, Some(100 << 20), Duration::from_secs(done));
        }
        row.done("signed · verified");
        rows.row("audio", 10).failed("rejected \u{1b}[2J");
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        insta::assert_snapshot!(text);
    }

    #[test]
    fn an_end_that_is_wider_than_the_screen_is_folded_below_itself() {
        let text = "signed, downloaded, verified    8.0 s   looked once, adopted 14300000000000002";
        let label = format!("{:<10} {:<32}", "audio", "the answer to \"create\" is lost");
        let shown = |width| {
            let style = Style { is_terminal: true, is_live: true, is_unicode: true, width, ..Style::plain() };
            folded(&style, &label, Mark::Done, text)
        };
        assert_eq!(shown(140), None);
        for width in [60, 80, 110] {
            let folded = shown(width).unwrap();
            assert!(folded.lines().all(|line| line.chars().count() <= width), "{folded}");
            assert!(folded.contains("14300000000000002"), "an id is never cut: {folded}");
        }
        insta::assert_snapshot!([60, 110].map(|width| shown(width).unwrap()).join("\n\n"));
    }

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        let unicode = Style { is_unicode: true, ..Style::plain() };
        for (done, total) in [(0, 8), (1, 16), (4, 8), (8, 8), (9, 8), (0, 0), (u64::MAX, u64::MAX)] {
            for style in [&unicode, &Style::plain()] {
                assert_eq!(
                    bar(style, done, total).chars().count(),
                    BAR + 2,
                    "{done} of {total}: {}",
                    bar(style, done, total)
                );
            }
        }
        assert_eq!(bar(&unicode, 61, 80), "▕███████████████▎    ▏");
        assert_eq!(bar(&Style::plain(), 4, 8), "[##########          ]");
    }

    #[test]
    fn live_rows_survive_a_terminal_that_is_none() {
        let style = Style { is_live: true, ..Style::plain() };
        let rows = Rows::new(style, std::io::sink());
        let mut row = rows.row("netcard", 10);
        row.doing("x");
        row.bytes(1, None, Duration::ZERO);
        row.done("y");
        rows.print("z");
        assert!(row.bar.is_some_and(|bar| bar.is_finished()));
    }
}

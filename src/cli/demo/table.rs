//! The demo's screen: one row per driver that moves while it is under way; on a pipe one line per change.

use std::{collections::BTreeMap, io, time::Instant};

use super::{
    super::{
        context::Context,
        output::{Paint, Row, Rows, Style},
        stop::Stop,
        told, watch,
    },
    drivers::Driver,
    findings::Findings,
};
use crate::{
    clock,
    domain::{
        event::{Event, Name},
        ids::JobKey,
        step::Step,
    },
    embedded::{JobView, State},
    sandbox::Sandbox,
};

/// Columns of the two first columns.
const NAME: usize = 10;
const TROUBLE: usize = 32;

/// The screen.
pub(super) struct Table {
    rows: BTreeMap<JobKey, Shown>,
}

struct Shown {
    row: Row,
    is_over: bool,
    moving_since: Option<Instant>,
}

impl Table {
    /// Prints the head and one row for each driver.
    pub(super) fn new(
        context: &mut Context,
        sandbox: &Sandbox,
        workers: usize,
        drivers: &[Driver],
    ) -> Result<Self, Stop> {
        let style = context.style;
        let head = style
            .text(&format!(
                "longshore demo · sandbox {} · {workers} workers · waits shortened by config/sandbox.toml",
                sandbox.address()
            ))
            .into_owned();
        let titles = format!("  {:<NAME$} {:<TROUBLE$} now", "driver", "what goes wrong");
        let is_live = style.is_live && context.aside.is_live;
        if !is_machine(context) {
            context.out.text(&format!("{head}\n\n{}\n", style.paint(Paint::Dim, &titles)))?;
        }
        let style = Style { is_live, ..style };
        let rows = if is_machine(context) { Rows::new(style, io::stderr()) } else { Rows::new(style, io::stdout()) };
        let rows = drivers
            .iter()
            .map(|driver| {
                let label = format!("{:<NAME$} {:<TROUBLE$}", driver.name, driver.trouble.words());
                let mut row = rows.row(&label, NAME + TROUBLE + 1);
                if is_live {
                    row.waiting("waits for a worker");
                }
                (driver.key(), Shown { row, is_over: false, moving_since: None })
            })
            .collect();
        Ok(Self { rows })
    }

    /// Something happened to a driver.
    pub(super) fn event(&mut self, event: &Event) {
        let Some(shown) = self.rows.get_mut(&event.job) else { return };
        let Some(told) = told::tell(event) else { return };
        shown.moving_since = None;
        if event.name.is_end() {
            // Its row is closed with what was found out about it, when all is over; until then it says so much.
            shown.is_over = true;
            if event.name == Name::Completed { shown.row.doing(&told) } else { shown.row.failed(&told) }
        } else if !shown.is_over {
            shown.row.doing(&words(&told));
        }
    }

    /// How a driver stands: bytes that move.
    pub(super) fn look(&mut self, view: &JobView) {
        let Some(shown) = self.rows.get_mut(&view.summary.key) else { return };
        let is_moving = matches!(Step::from_number(view.summary.place.step), Some(Step::Upload | Step::Download));
        let Some(transfer) =
            view.transfer.filter(|_| is_moving && view.state() == State::Running).filter(watch::is_fresh)
        else {
            return;
        };
        if !shown.is_over && transfer.done < transfer.total {
            let since = *shown.moving_since.get_or_insert_with(clock::monotonic);
            let span = clock::monotonic().saturating_duration_since(since);
            shown.row.bytes(transfer.done, Some(transfer.total), span);
        }
    }

    /// Closes every row with what was found out about its driver.
    pub(super) fn close(mut self, findings: &Findings) {
        for story in &findings.stories {
            let Some(shown) = self.rows.get_mut(&story.job) else { continue };
            if story.is_good { shown.row.done(&story.text) } else { shown.row.failed(&story.text) }
        }
    }
}

/// Does a program read the result?
pub(super) fn is_machine(context: &Context) -> bool {
    use super::super::output::OutputFormat;
    matches!(context.global.output, OutputFormat::Json | OutputFormat::Ndjson)
}

/// Blanks that line up a list of steps are none in a row.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

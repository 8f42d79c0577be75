//! What a person sees: a bar for each account and a line for each thing that breaks; on a pipe a line for each change.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use longshore::clock;

use super::arena::Arena;

/// On a pipe the accounts are told of so often.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// The screen.
pub(crate) struct Board {
    rows: Option<MultiProgress>,
    bars: Vec<(String, ProgressBar)>,
    workers: ProgressBar,
    broker: ProgressBar,
    memory: ProgressBar,
    begun: Instant,
    told: Option<Instant>,
    broker_down: Option<Instant>,
    count: usize,
}

impl Board {
    pub(crate) fn new(arena: &Arena, jobs: usize, workers: usize, seed: u64) -> Self {
        let (rabbit, redis) = (arena.broker.server.version().0, arena.memory.primary.version());
        println!(
            "longshore fleet-demo · RabbitMQ {rabbit} · {redis} · sandbox {} · {workers} workers · {jobs} submissions · seed {seed}",
            arena.sandbox.address(),
        );
        println!("a worker is killed every 2 s, the broker once, and the memory is emptied once\n");
        let is_live = std::io::stderr().is_terminal();
        let rows = is_live.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)));
        let row = |bar: ProgressBar| match &rows {
            Some(rows) => rows.add(bar),
            None => bar,
        };
        let bars = arena
            .accounts
            .iter()
            .map(|account| {
                let all = arena.jobs.iter().filter(|job| job.key.account.as_str() == account.name).count();
                let bar = row(ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()));
                bar.set_length(u64::try_from(all).unwrap_or(u64::MAX));
                bar.set_style(style("  {prefix:10} ▕{bar:30}▏ {pos:>3} of {len:3} signed  {msg}"));
                bar.set_prefix(account.name.clone());
                (account.name.clone(), bar)
            })
            .collect();
        let line = |name: &'static str, text: &'static str| {
            let bar = row(ProgressBar::new_spinner());
            bar.set_style(style("  {prefix:10} {wide_msg}"));
            bar.set_prefix(name);
            bar.set_message(text);
            bar
        };
        let (workers_line, broker, memory) =
            (line("workers", "none killed yet"), line("broker", "up"), line("memory", "up"));
        let mut board = Self {
            rows,
            bars,
            workers: workers_line,
            broker,
            memory,
            begun: clock::monotonic(),
            told: None,
            broker_down: None,
            count: workers,
        };
        board.say("");
        board
    }

    fn at(&self) -> String {
        format!("{:5.1} s", self.begun.elapsed().as_secs_f64())
    }

    /// On a pipe, one line.
    fn say(&mut self, text: &str) {
        if self.rows.is_none() && !text.is_empty() {
            println!("{}  {text}", self.at());
        }
    }

    /// Reads how far every account is; returns how many jobs have ended.
    pub(crate) fn look(&mut self, arena: &Arena) -> usize {
        let (mut all_ended, mut words) = (0, Vec::new());
        for (name, bar) in &self.bars {
            let of = arena.jobs.iter().filter(|job| job.key.account.as_str() == name);
            let (mut signed, mut other, mut under_way, mut waiting) = (0, 0, 0, 0);
            for job in of {
                match arena.heard.last_end(&job.key) {
                    Some((_, end)) if end.name == "completed" => signed += 1,
                    Some(_) => other += 1,
                    None if arena.heard.has_started(&job.key) => under_way += 1,
                    None => waiting += 1,
                }
            }
            all_ended += signed + other;
            bar.set_position(signed);
            let failed = if other > 0 { format!(" · {other} ended otherwise") } else { String::new() };
            bar.set_message(format!("{under_way} under way · {waiting} waiting{failed}"));
            words.push(format!("{name} {signed} signed, {under_way} under way, {waiting} waiting{failed}"));
        }
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            self.told = Some(clock::monotonic());
            self.say(&words.join(" · "));
        }
        usize::try_from(all_ended).unwrap_or(usize::MAX)
    }

    pub(crate) fn killed(&mut self, killed: usize) {
        let text = format!("{} at work · {killed} killed so far", self.count);
        self.workers.set_message(text);
    }

    pub(crate) fn broker_down(&mut self) {
        let text = format!("killed at {}, starts again ...", self.at().trim());
        self.broker_down = Some(clock::monotonic());
        self.broker.set_message(text);
        self.say("the broker is killed");
    }

    pub(crate) fn broker_up(&mut self) {
        let took = self.broker_down.map_or(Duration::ZERO, |at| at.elapsed());
        let text = format!("was killed; up again after {:.1} s, at {}", took.as_secs_f64(), self.at().trim());
        self.broker.set_message(text.clone());
        self.say(&format!("the broker {text}"));
    }

    pub(crate) fn emptied(&mut self, open: usize) {
        let text =
            format!("emptied at {} with {open} jobs not ended: each looks before its next write", self.at().trim());
        self.memory.set_message(text.clone());
        self.say(&format!("the memory is {text}"));
    }

    /// The rows stay as they are.
    pub(crate) fn close(&self) {
        let lines = [&self.workers, &self.broker, &self.memory];
        for bar in self.bars.iter().map(|(_, bar)| bar).chain(lines) {
            bar.abandon();
        }
        if self.rows.is_some() {
            eprintln!();
        }
    }
}

/// A fixed template is always one.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("█▉▊▋▌▍▎▏ ")
}

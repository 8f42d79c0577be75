//! How figures are told: the machine first, then one line each, medians with their range.

use std::{fs, process::Stdio};

use anyhow::Result;
use tokio::process::Command;

/// One line.
pub(crate) fn say(line: &str) {
    println!("{line}");
}

/// A number told by the environment, or its default.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.replace('_', "").parse().ok()).unwrap_or(default)
}

/// Cores, processor, load and versions: figures of another machine are other figures.
pub(crate) async fn machine() -> Result<()> {
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let cores = processors.lines().filter(|line| line.starts_with("processor")).count();
    let memory = fs::read_to_string("/proc/meminfo")?;
    let gib = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<f64>().ok())
        .unwrap_or_default()
        / f64::from(1 << 20);
    let load = fs::read_to_string("/proc/loadavg")?;
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    say(&format!(
        "machine: {cores} cores ({}), {gib:.0} GiB, load {} at the start",
        model.map_or("unknown", |(_, name)| name.trim()),
        load.join(" ")
    ));
    let redis = first_line("redis-server", &["--version"]).await;
    let rust = first_line("rustc", &["--version"]).await;
    let rabbit = first_line("dpkg-query", &["-W", "-f", "${Version}", "rabbitmq-server"]).await;
    say(&format!("rabbitmq-server {rabbit}; {redis}; {rust}; {} build", built()));
    say("waits: the overlay config/sandbox.toml, where a part does not say otherwise");
    Ok(())
}

const fn built() -> &'static str {
    if cfg!(debug_assertions) { "debug (figures of no worth)" } else { "release" }
}

async fn first_line(program: &str, arguments: &[&str]) -> String {
    let ran = Command::new(program).args(arguments).stderr(Stdio::null()).output().await;
    let text = ran.map(|ran| String::from_utf8_lossy(&ran.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

/// Figures of several runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures(Vec<f64>);

impl Figures {
    pub(crate) fn add(&mut self, figure: f64) {
        self.0.push(figure);
        self.0.sort_by(f64::total_cmp);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The figure below which this part of them lies; `NaN` when there is none.
    pub(crate) fn part(&self, part: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a count of runs")]
        let place = (part * self.0.len() as f64).ceil() - 1.0;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a list, from 0 on")]
        let place = place.max(0.0) as usize;
        self.0.get(place.min(self.0.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.part(0.5)
    }

    pub(crate) fn most(&self) -> f64 {
        self.part(1.0)
    }

    pub(crate) fn least(&self) -> f64 {
        self.part(0.0)
    }

    /// Median and range.
    pub(crate) fn spread(&self, digits: usize) -> String {
        format!("{:.digits$} ({:.digits$} to {:.digits$})", self.median(), self.least(), self.most())
    }
}

impl FromIterator<f64> for Figures {
    fn from_iter<I: IntoIterator<Item = f64>>(figures: I) -> Self {
        let mut all: Vec<f64> = figures.into_iter().collect();
        all.sort_by(f64::total_cmp);
        Self(all)
    }
}

/// Whether a figure keeps to its goal, as a word behind it.
pub(crate) const fn verdict(is_kept: bool) -> &'static str {
    if is_kept { "kept" } else { "MISSED" }
}

impl Figures {
    /// Adds one of very many; [`Figures::sort`] comes after the last.
    pub(crate) fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    pub(crate) fn sort(&mut self) {
        self.0.sort_by(f64::total_cmp);
    }
}

impl Figures {
    /// All of them, the least first.
    pub(crate) fn all(&self) -> impl Iterator<Item = f64> {
        self.0.iter().copied()
    }
}

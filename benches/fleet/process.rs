//! What the system tells of a process: its processor time with that of its children, and its memory.

use std::fs;

use anyhow::{Context as _, Result};

/// The kernel counts processor time for other programs in hundredths of a second.
const TICKS: f64 = 100.0;

/// The process and all that come from it.
fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(parent) = all.get(at).copied() {
        at += 1;
        let threads = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
        for thread in threads {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    all
}

/// Seconds of processor time so far.
pub(crate) fn cpu(pid: u32) -> Result<f64> {
    let mut ticks = 0.0;
    for pid in tree(pid) {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The name before may hold anything but a closing bracket behind which nothing more is bracketed.
        let (_, rest) = stat.rsplit_once(')').context("a process without a name")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |place: usize| fields.get(place).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
        ticks += field(11) + field(12);
    }
    Ok(ticks / TICKS)
}

/// Mebibytes that are resident now, of the process and all that come from it.
pub(crate) fn resident(pid: u32) -> f64 {
    tree(pid).into_iter().map(|pid| status(pid, "VmRSS:")).sum()
}

/// The most mebibytes that were ever resident.
pub(crate) fn most_resident(pid: u32) -> f64 {
    tree(pid).into_iter().map(|pid| status(pid, "VmHWM:")).sum()
}

fn status(pid: u32, name: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}

//! Sixteen worker processes on one account: how many permits they are given in any ten seconds, how many calls the
//! service sees in any minute, and how much of the rate is used while more is wanted than there is.
//!
//! Each process has 50 tickets and makes one call at a time. Three runs: the overlay's 20 calls a second; 4 a second,
//! where most tickets are refused; and 20 a second with a `FLUSHALL` in the middle. `QUOTA_SECONDS` (from 70 on).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use longshore::{clock, sandbox::Sandbox};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::{
    bed::{self, Bed, Role},
    clients::{Clients, Permits},
    figures::{number, say, verdict},
};

const PROCESSES: usize = 16;
const TICKETS: usize = 50;
const USED_GOAL: f64 = 0.97;
/// In which the processes find their pace.
const START: i64 = 5_000;

pub(crate) async fn run() -> Result<()> {
    let bed = Bed::new().await?;
    let sandbox = bed::sandbox(&bed.path(""), &["steady", "slow", "flushed"]).await?;
    one(&bed, &sandbox, ("steady", 0), 1_200.0, false).await?;
    one(&bed, &sandbox, ("slow", 1), 240.0, false).await?;
    one(&bed, &sandbox, ("flushed", 2), 1_200.0, true).await?;
    sandbox.stop().await;
    Ok(())
}

async fn one(bed: &Bed, sandbox: &Sandbox, account: (&str, usize), per_minute: f64, flush: bool) -> Result<()> {
    let seconds = number("QUOTA_SECONDS", 90);
    let told = Clients {
        store: bed.redis.url(),
        account: account.0.to_owned(),
        per_minute,
        tickets: TICKETS,
        seconds,
        url: format!("{}/v2.0/my/hardware/products/1", sandbox.url()),
        token: bed::token(bed, sandbox, account).await?,
    };
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        let mut process: Role = Role::start("clients", &told)?;
        process.heard("ready").await?;
        processes.push(process);
    }
    let begun = clock::moment().as_millis();
    for process in &mut processes {
        process.tell("go").await?;
    }
    if flush {
        sleep(Duration::from_secs(seconds / 2)).await;
        bed.redis.flush();
        sleep(Duration::from_secs(seconds / 2)).await;
    } else {
        sleep(Duration::from_secs(seconds)).await;
    }
    let (mut at, mut refused) = (Vec::new(), 0);
    for process in &mut processes {
        let line = timeout(Duration::from_secs(60), process.line()).await.context("a client does not end")??;
        let permits: Permits = serde_json::from_str(&line)?;
        at.extend(permits.at);
        refused += permits.refused;
    }
    at.sort_unstable();
    ensure!(!at.is_empty(), "nobody was given a permit");
    let calls = calls_in_a_minute(&sandbox.verdict(), &bed::client_id(account.1))?;
    tell(account.0, per_minute / 60.0, &at, (calls, refused), (begun, begun + i64::try_from(seconds * 1_000)?, flush));
    Ok(())
}

/// The most calls that the service saw in any 60 seconds.
fn calls_in_a_minute(verdict: &Value, client: &str) -> Result<u64> {
    let calls = verdict.pointer(&format!("/calls/by_client/{client}/max_in_60_seconds"));
    calls.and_then(Value::as_u64).context("the sandbox has seen no calls")
}

#[expect(clippy::cast_precision_loss, reason = "counts of calls")]
fn tell(name: &str, rate: f64, at: &[i64], (calls, refused): (u64, u64), (begun, end, flush): (i64, i64, bool)) {
    let extra = if flush { PROCESSES as f64 } else { 0.0 };
    let most = most_within(at, 10_000) as f64;
    let bound = 10.0 * rate * 1.01 + 1.0 + extra;
    let calls_bound = 60.0 * rate * 1.01 + rate + extra;
    let from = begun + START;
    let used = at.iter().filter(|at| (from..end).contains(at)).count() as f64;
    let used = used / (rate * (end - from) as f64 / 1_000.0);
    let plus = if flush { format!(", {PROCESSES} calls under way at the flush among them") } else { String::new() };
    say(&format!("{name}: {rate} calls a second, {} permits, {refused} refusals", at.len()));
    say(&format!("  permits in any 10 s     {most}   bound {bound:.1}: {}{plus}", verdict(most <= bound)));
    let is_kept = calls as f64 <= calls_bound;
    say(&format!("  calls in any 60 s       {calls}   bound {calls_bound:.1}: {}{plus}", verdict(is_kept)));
    say(&format!(
        "  used of the rate        {:.1} %   goal ≥ {:.0} %: {}",
        used * 100.0,
        USED_GOAL * 100.0,
        verdict(used >= USED_GOAL)
    ));
}

/// The most instants within any span of so many milliseconds; they must be in order.
fn most_within(instants: &[i64], span: i64) -> usize {
    let (mut first, mut most) = (0, 0);
    for (n, at) in instants.iter().enumerate() {
        while instants.get(first).is_some_and(|earliest| at - earliest >= span) {
            first += 1;
        }
        most = most.max(n + 1 - first);
    }
    most
}

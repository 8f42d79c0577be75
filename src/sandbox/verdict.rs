//! What the journal adds up to: effects per correlation id, the busiest minute, and whether the invariants of
//! hardware-api.md 15.4 that the services can see were kept.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::operation::Operation;
use super::state::{Inspection, State};

const MINUTE: Duration = Duration::from_mins(1);
const TEN_SECONDS: Duration = Duration::from_secs(10);

/// Counts that the journal is too short for.
#[derive(Debug, Default)]
pub(super) struct Tally {
    all: Calls,
    by_client: BTreeMap<String, Calls>,
    tokens: BTreeMap<(String, String, String), TokenCount>,
    pub(super) bearer_to_blob: u64,
    pub(super) blocks: BlockCount,
    /// Commits that were refused because the submission was not pending any more.
    pub(super) repeated_commits: u64,
}

/// What arrived in blocks.
#[derive(Debug, Default)]
pub(super) struct BlockCount {
    pub(super) received: u64,
    pub(super) bytes: u64,
    /// Blocks sent again, with the same bytes, although the caller had been told that they are here.
    pub(super) acknowledged_again: u64,
    pub(super) acknowledged_again_bytes: u64,
}

/// Calls of the hardware API over time.
#[derive(Debug, Default)]
struct Calls {
    total: u64,
    writes: u64,
    throttled: u64,
    minute: Window,
    ten_seconds: Window,
    /// Calls that were let through, for the limiter.
    admitted: VecDeque<Instant>,
    /// Writes since the first 429.
    writes_after: Option<Window>,
}

/// The most that ever happened within one length of time.
#[derive(Debug, Default)]
struct Window {
    times: VecDeque<Instant>,
    most: usize,
}

impl Window {
    fn add(&mut self, now: Instant, length: Duration) {
        self.times.push_back(now);
        while self.times.front().is_some_and(|first| now.saturating_duration_since(*first) >= length) {
            self.times.pop_front();
        }
        self.most = self.most.max(self.times.len());
    }
}

#[derive(Debug, Default)]
struct TokenCount {
    requests: u64,
    issued: u64,
}

impl Calls {
    fn add(&mut self, now: Instant, is_write: bool) {
        self.total += 1;
        self.minute.add(now, MINUTE);
        self.ten_seconds.add(now, TEN_SECONDS);
        if is_write {
            self.writes += 1;
            if let Some(window) = &mut self.writes_after {
                window.add(now, MINUTE);
            }
        }
    }

    fn show(&self) -> Value {
        json!({
            "total": self.total,
            "writes": self.writes,
            "throttled": self.throttled,
            "max_in_60_seconds": self.minute.most,
            "max_in_10_seconds": self.ten_seconds.most,
            "max_writes_in_60_seconds_after_first_429": self.writes_after.as_ref().map(|window| window.most),
        })
    }
}

impl Tally {
    /// Counts one call of the hardware API.
    pub(super) fn call(&mut self, client_id: Option<&str>, operation: Operation) {
        let now = crate::clock::monotonic();
        self.all.add(now, operation.is_write());
        self.client(client_id).add(now, operation.is_write());
    }

    /// Counts one 429.
    pub(super) fn throttled(&mut self, client_id: Option<&str>) {
        for calls in [&mut self.all, self.by_client.entry(client_id.unwrap_or_default().to_owned()).or_default()] {
            calls.throttled += 1;
            calls.writes_after.get_or_insert_default();
        }
    }

    /// The limiter: none, and the call is counted, or how long the client must wait.
    pub(super) fn admit(&mut self, client_id: Option<&str>, per_minute: u32) -> Option<Duration> {
        let now = crate::clock::monotonic();
        let admitted = &mut self.client(client_id).admitted;
        while admitted.front().is_some_and(|first| now.saturating_duration_since(*first) >= MINUTE) {
            admitted.pop_front();
        }
        if admitted.len() < usize::try_from(per_minute).unwrap_or(usize::MAX) {
            admitted.push_back(now);
            return None;
        }
        Some(admitted.front().map_or(MINUTE, |first| MINUTE.saturating_sub(now.saturating_duration_since(*first))))
    }

    fn client(&mut self, client_id: Option<&str>) -> &mut Calls {
        self.by_client.entry(client_id.unwrap_or_default().to_owned()).or_default()
    }

    /// Counts one request for a token.
    pub(super) fn token(&mut self, tenant_id: &str, client_id: &str, audience: &str, is_issued: bool) {
        // Names come from the caller; a thousand keys are more than any test needs and no memory.
        if self.tokens.len() >= 1000 {
            return;
        }
        let key = (tenant_id.to_owned(), client_id.to_owned(), audience.to_owned());
        let count = self.tokens.entry(key).or_default();
        count.requests += 1;
        count.issued += u64::from(is_issued);
    }

    pub(super) fn token_keys(&self) -> Value {
        self.tokens
            .iter()
            .map(|((tenant_id, client_id, audience), count)| {
                json!({
                    "tenant_id": tenant_id, "client_id": client_id, "audience": audience,
                    "requests": count.requests, "issued": count.issued, "refused": count.requests - count.issued,
                })
            })
            .collect()
    }
}

/// What one correlation id brought about.
#[derive(Debug, Default)]
struct Effects {
    products: Vec<u64>,
    submissions: usize,
    committed: Vec<u64>,
    without_blob: usize,
    signed: usize,
    failed: usize,
    hashes: Vec<String>,
}

fn gather(state: &State) -> BTreeMap<String, Effects> {
    let mut all: BTreeMap<String, Effects> = BTreeMap::new();
    let key = |id: &Option<String>| id.clone().unwrap_or_default();
    for product in state.products.values() {
        all.entry(key(&product.correlation_id)).or_default().products.push(product.id);
    }
    for submission in state.submissions.values() {
        all.entry(key(&submission.correlation_id)).or_default().submissions += 1;
        let Some(commit) = &submission.commit else { continue };
        let effects = all.entry(key(&commit.correlation_id)).or_default();
        effects.committed.push(submission.id);
        effects.without_blob += usize::from(!commit.had_blob);
        match &commit.inspection {
            Inspection::Good(results) => {
                effects.signed += 1;
                effects.hashes.push(results.sha256.clone());
            }
            Inspection::Bad { sha256, .. } => {
                effects.failed += 1;
                effects.hashes.extend(sha256.clone());
            }
            Inspection::Pending => {}
        }
    }
    all
}

/// The verdict as it stands.
pub(super) fn verdict(state: &State) -> Value {
    let all = gather(state);
    let sum = |count: fn(&Effects) -> usize| -> usize { all.values().map(count).sum() };
    // Requests without a correlation id cannot be told apart, so nothing among them counts as doubled.
    let named = || all.iter().filter(|(id, _)| !id.is_empty());
    let doubled: usize = named().map(|(_, effects)| effects.products.len().saturating_sub(1)).sum();
    let commits_doubled: usize = named().map(|(_, effects)| effects.committed.len().saturating_sub(1)).sum();
    let without_blob = sum(|effects| effects.without_blob);
    let orphans: Vec<u64> = all
        .values()
        .filter(|effects| effects.committed.is_empty())
        .flat_map(|effects| effects.products.iter().copied())
        .collect();
    let bearer = state.tally.bearer_to_blob;
    let mut violations = Vec::new();
    for (count, what) in [
        (doubled, "products doubled"),
        (commits_doubled, "more than one committed submission for one correlation id"),
        (without_blob, "commits without a complete blob"),
        (usize::try_from(bearer).unwrap_or(usize::MAX), "bearer tokens sent to the blob host"),
    ] {
        if count > 0 {
            violations.push(format!("{what}: {count}"));
        }
    }
    let by_correlation: serde_json::Map<String, Value> = all
        .iter()
        .map(|(id, effects)| {
            let value = json!({
                "products": effects.products.len(),
                "product_ids": effects.products,
                "submissions": effects.submissions,
                "committed_submissions": effects.committed.len(),
                "committed_submission_ids": effects.committed,
                "commits_without_blob": effects.without_blob,
                "packages_good": effects.signed,
                "packages_bad": effects.failed,
                "package_sha256": effects.hashes,
            });
            (if id.is_empty() { "none".to_owned() } else { id.clone() }, value)
        })
        .collect();
    let tally = &state.tally;
    let by_client: serde_json::Map<String, Value> =
        tally.by_client.iter().map(|(id, calls)| (id.clone(), calls.show())).collect();
    let mut calls = tally.all.show();
    if let Some(members) = calls.as_object_mut() {
        members.insert("by_client".to_owned(), Value::Object(by_client));
    }
    json!({
        "clean": violations.is_empty(),
        "violations": violations,
        "totals": {
            "products": state.products.len(),
            "products_doubled": doubled,
            "orphans": orphans.len(),
            "submissions": state.submissions.len(),
            "committed_submissions": sum(|effects| effects.committed.len()),
            "committed_submissions_doubled": commits_doubled,
            "repeated_commits_refused": tally.repeated_commits,
            "commits_without_blob": without_blob,
            "packages_good": sum(|effects| effects.signed),
            "packages_bad": sum(|effects| effects.failed),
            "bearer_to_blob": bearer,
            "labels": 0,
            "blocks_received": tally.blocks.received,
            "block_bytes_received": tally.blocks.bytes,
            "acknowledged_blocks_sent_again": tally.blocks.acknowledged_again,
            "acknowledged_block_bytes_sent_again": tally.blocks.acknowledged_again_bytes,
        },
        "orphans": orphans,
        "calls": calls,
        "tokens": tally.token_keys(),
        "by_correlation": by_correlation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_remembers_its_fullest_moment() {
        let start = crate::clock::monotonic();
        let mut window = Window::default();
        for second in [0, 1, 2, 9, 11, 12, 40] {
            window.add(start + Duration::from_secs(second), TEN_SECONDS);
        }
        assert_eq!((window.most, window.times.len()), (4, 1));
    }

    #[test]
    fn the_limiter_lets_so_many_through_and_says_how_long_to_wait() {
        let mut tally = Tally::default();
        assert_eq!(tally.admit(Some("a"), 2), None);
        assert_eq!(tally.admit(Some("a"), 2), None);
        let wait = tally.admit(Some("a"), 2).unwrap();
        assert!(wait > Duration::from_secs(50) && wait <= MINUTE);
        assert_eq!(tally.admit(Some("b"), 2), None);
    }
}

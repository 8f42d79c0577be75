//! The journal of effects: one entry per request, bounded in memory, without SAS queries and tokens.

use std::collections::VecDeque;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::operation::{Call, Operation};

/// One request as it went.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Entry {
    pub(super) seq: u64,
    pub(super) at: Timestamp,
    pub(super) at_ms: i64,
    pub(super) operation: Operation,
    pub(super) method: String,
    pub(super) path: String,
    /// 0: no answer was sent.
    pub(super) status: u16,
    /// Whether something changed.
    pub(super) effect: bool,
    pub(super) fault: Option<String>,
    /// The caller went away before the request was answered.
    pub(super) aborted: bool,
    pub(super) correlation_id: Option<String>,
    pub(super) request_id: Option<String>,
    pub(super) client_id: Option<String>,
    pub(super) product_id: Option<u64>,
    pub(super) submission_id: Option<u64>,
    pub(super) product_name: Option<String>,
    pub(super) blob: Option<String>,
    pub(super) block_id: Option<String>,
    pub(super) size: Option<u64>,
    pub(super) md5: Option<String>,
    pub(super) violation: Option<&'static str>,
}

/// How a request went.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    pub(super) status: u16,
    pub(super) effect: bool,
    pub(super) fault: Option<String>,
    pub(super) aborted: bool,
    pub(super) violation: Option<&'static str>,
}

/// What of the journal is asked for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Filter {
    operation: Option<String>,
    correlation_id: Option<String>,
    request_id: Option<String>,
    client_id: Option<String>,
    product_id: Option<u64>,
    submission_id: Option<u64>,
    blob: Option<String>,
    effect: Option<bool>,
    faulted: Option<bool>,
    status: Option<u16>,
    since: Option<u64>,
    limit: Option<usize>,
    pub(super) format: Option<String>,
}

impl Filter {
    fn keeps(&self, entry: &Entry) -> bool {
        let text = |wanted: &Option<String>, is: &Option<String>| wanted.is_none() || wanted == is;
        self.operation.as_ref().is_none_or(|name| entry.operation.is_named(name))
            && text(&self.correlation_id, &entry.correlation_id)
            && text(&self.request_id, &entry.request_id)
            && text(&self.client_id, &entry.client_id)
            && text(&self.blob, &entry.blob)
            && self.product_id.is_none_or(|id| entry.product_id == Some(id))
            && self.submission_id.is_none_or(|id| entry.submission_id == Some(id))
            && self.effect.is_none_or(|effect| entry.effect == effect)
            && self.faulted.is_none_or(|faulted| entry.fault.is_some() == faulted)
            && self.status.is_none_or(|status| entry.status == status)
            && self.since.is_none_or(|seq| entry.seq > seq)
    }
}

/// The last entries.
#[derive(Debug)]
pub(super) struct Journal {
    entries: VecDeque<Entry>,
    bound: usize,
    next: u64,
}

impl Journal {
    pub(super) fn new(bound: usize) -> Self {
        Self { entries: VecDeque::new(), bound: bound.max(1), next: 1 }
    }

    pub(super) fn add(&mut self, at: Timestamp, call: &Call, outcome: Outcome) {
        if self.entries.len() >= self.bound {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry {
            seq: self.next,
            at,
            at_ms: at.as_millisecond(),
            operation: call.operation,
            method: call.method.to_string(),
            path: call.path.clone(),
            status: outcome.status,
            effect: outcome.effect,
            fault: outcome.fault,
            aborted: outcome.aborted,
            correlation_id: call.correlation_id.clone(),
            request_id: call.request_id.clone(),
            client_id: call.client_id.clone(),
            product_id: call.product_id,
            submission_id: call.submission_id,
            product_name: call.product_name.clone(),
            blob: call.blob.map(|id| id.to_string()),
            block_id: call.block_id.clone(),
            size: call.size,
            md5: call.md5.clone(),
            violation: outcome.violation,
        });
        self.next += 1;
    }

    /// The entries that the filter keeps; with a limit, the last ones.
    pub(super) fn read(&self, filter: &Filter) -> Vec<Entry> {
        let mut kept: Vec<Entry> = self
            .entries
            .iter()
            .rev()
            .filter(|entry| filter.keeps(entry))
            .take(filter.limit.unwrap_or(usize::MAX))
            .cloned()
            .collect();
        kept.reverse();
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Method;

    #[test]
    fn the_journal_forgets_its_oldest_entries_and_keeps_their_numbers() {
        let mut journal = Journal::new(3);
        for status in 200..205 {
            let call = Call::new(Operation::GetProduct, &Method::GET, "/products/1");
            journal.add(Timestamp::UNIX_EPOCH, &call, Outcome { status, ..Outcome::default() });
        }
        let seen: Vec<(u64, u16)> = journal.read(&Filter::default()).iter().map(|e| (e.seq, e.status)).collect();
        assert_eq!(seen, [(3, 202), (4, 203), (5, 204)]);
        let last = Filter { limit: Some(1), operation: Some("api".to_owned()), ..Filter::default() };
        assert_eq!(journal.read(&last).first().map(|e| e.seq), Some(5));
    }
}

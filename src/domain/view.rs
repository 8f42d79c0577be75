//! What people are shown of jobs: the same for every home, so that whoever shows it knows none.

use std::collections::BTreeMap;

use super::{
    event::End,
    ids::{AccountName, JobKey, Topic},
    plan::JobRecord,
    step::{Kind, Place},
    ticket::Ticket,
    time::Moment,
};

/// Where a job stands, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// In the queue, not yet claimed.
    Accepted,
    /// A worker has it.
    Running,
    /// Parked, or waiting for a worker.
    Waiting,
    /// Somebody wished it cancelled; it is when it wakes.
    Cancelling,
    /// The end: everything asked for was done.
    Completed,
    /// The end: the service or our own check said no.
    Failed,
    /// The end: somebody wished so.
    Cancelled,
    /// The end: the deadline came.
    TimedOut,
    /// The end: a person must decide.
    DeadLettered,
}

impl State {
    /// All states.
    pub const ALL: [Self; 9] = [
        Self::Accepted,
        Self::Running,
        Self::Waiting,
        Self::Cancelling,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::TimedOut,
        Self::DeadLettered,
    ];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Cancelling => "cancelling",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed-out",
            Self::DeadLettered => "dead-lettered",
        }
    }

    /// Is the job over?
    #[must_use]
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::TimedOut | Self::DeadLettered)
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no state of a job; there are {}", names()))
    }
}

/// Which jobs to list.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only in this state.
    pub state: Option<State>,
    /// Only of this account.
    pub account: Option<AccountName>,
    /// Only of this kind.
    pub kind: Option<Kind>,
    /// Only with this label.
    pub label: Option<(String, String)>,
    /// Only with this text in id, labels, product id or submission id; case does not count.
    pub text: Option<String>,
    /// At most so many; 0 for 100.
    pub limit: u32,
    /// Only those behind this one of an earlier page.
    pub before: Option<(Moment, JobKey)>,
}

/// One job in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct JobSummary {
    /// Which.
    pub key: JobKey,
    /// Of which kind; none for a job of which only the record is known.
    pub kind: Option<Kind>,
    /// The words that end its events' routing key, where the home tells them.
    pub topic: Option<Topic>,
    /// The producer's own notes.
    pub labels: BTreeMap<String, String>,
    /// Where it stands.
    pub state: State,
    /// The latest place.
    pub place: Place,
    /// When it was accepted.
    pub accepted_at: Moment,
    /// When it has to be over.
    pub deadline: Option<Moment>,
    /// When anything was last written about it.
    pub touched_at: Moment,
    /// When it ended.
    pub ended_at: Option<Moment>,
    /// Its product.
    pub product_id: Option<String>,
    /// Its submission.
    pub submission_id: Option<String>,
    /// When its ticket is due.
    pub next_due: Option<Moment>,
}

/// A transfer under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes that have arrived.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
    /// When this was written.
    pub at: Moment,
}

/// All that is known of one job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobView {
    /// What a list shows of it.
    pub summary: JobSummary,
    /// The content that its id stands for.
    pub hash: String,
    /// Its ticket: the one in the queue, else the one it ended with.
    pub ticket: Option<Ticket>,
    /// The worker that has it, if one lives.
    pub holder: Option<u128>,
    /// The record.
    pub record: Option<JobRecord>,
    /// When somebody wished it cancelled.
    pub wish_at: Option<Moment>,
    /// A write whose outcome is not known began then, or the job may have called before anybody remembers since then.
    pub doubt_since: Option<Moment>,
    /// How it ended.
    pub end: Option<End>,
    /// The transfer under way.
    pub transfer: Option<Transfer>,
}

impl JobView {
    /// Where it stands.
    #[must_use]
    pub const fn state(&self) -> State {
        self.summary.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_as_they_are_written() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        assert!("done".parse::<State>().unwrap_err().contains("dead-lettered"));
    }
}

//! What the world is told: CloudEvents 1.0 with ids that do not depend on who sends them, so a repeat is the same event.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    event_data::{self, Ended},
    failure::{Cause, Kind as CauseKind},
    ids::{JobKey, Topic},
    step::{Kind, Place, Step},
    ticket::Ticket,
    time::Moment,
    trace::Trace,
};

/// The events of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    /// The job is ours now.
    Accepted,
    /// A message never became a job.
    Refused,
    /// The first claim.
    Started,
    /// A step is done, or the service's workflow moved.
    Progressed,
    /// The service asked for a pause.
    Throttled,
    /// A step takes longer than it should.
    Stuck,
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

impl Name {
    /// All names, in the order of a job's life.
    pub const ALL: [Self; 11] = [
        Self::Accepted,
        Self::Refused,
        Self::Started,
        Self::Progressed,
        Self::Throttled,
        Self::Stuck,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::TimedOut,
        Self::DeadLettered,
    ];

    /// The `type` of its events.
    #[must_use]
    pub fn type_name(self) -> String {
        format!("dev.longshore.job.{self}.v1")
    }

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Started => "started",
            Self::Progressed => "progressed",
            Self::Throttled => "throttled",
            Self::Stuck => "stuck",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed-out",
            Self::DeadLettered => "dead-lettered",
        }
    }

    /// Does it end its generation?
    #[must_use]
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::TimedOut | Self::DeadLettered)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Deterministic: consumers keep the first of an id.
    pub id: Uuid,
    /// What happened.
    pub name: Name,
    /// To which job.
    pub job: JobKey,
    /// Of which kind.
    pub kind: Kind,
    /// `generation.step.try.n`, zero-padded: in order as text.
    pub sequence: String,
    /// When, by the memory's clock.
    pub time: Moment,
    /// The words that end the routing key.
    pub topic: Topic,
    /// The producer's own notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The trace that it belongs to; none for an event of before there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
    /// What there is to say.
    pub data: Value,
}

impl Event {
    /// An event of a ticket at its place; `n` counts within the try.
    #[must_use]
    pub fn of(ticket: &Ticket, name: Name, n: u32, time: Moment, data: Value) -> Self {
        let job = ticket.key();
        let Place { generation, step, r#try } = ticket.place;
        let sequence = format!("{generation:04}.{step:03}.{try:06}.{n:02}");
        let generation = generation.to_string();
        let id = match name {
            Name::Accepted => job.uuid(&[&generation, "accepted"]),
            name if name.is_end() => job.uuid(&[&generation, "end"]),
            Name::Refused | Name::Started | Name::Progressed | Name::Throttled | Name::Stuck => {
                job.uuid(&[&generation, name.as_str(), &sequence])
            }
            Name::Completed | Name::Failed | Name::Cancelled | Name::TimedOut | Name::DeadLettered => {
                job.uuid(&[&generation, "end"])
            }
        };
        Self {
            id,
            name,
            kind: ticket.job.kind,
            sequence,
            time,
            topic: ticket.job.topic(),
            labels: ticket.job.labels.clone(),
            trace: Some(ticket.trace_context()),
            job,
            data,
        }
    }

    /// What there is to say, with the producer's own notes.
    #[must_use]
    pub fn payload(&self) -> Value {
        let mut data = self.data.clone();
        if let Some(members) = data.as_object_mut().filter(|_| !self.labels.is_empty()) {
            members.insert("labels".to_owned(), json!(self.labels));
        }
        data
    }

    /// What it speaks of: the job; a `refused` event of a message, which never is a job's end.
    fn subject(&self) -> &str {
        let message = self.data.get("message_id").and_then(Value::as_str).filter(|_| self.name == Name::Refused);
        message.unwrap_or(self.job.id.as_str())
    }

    /// The CloudEvents envelope in structured mode.
    #[must_use]
    pub fn cloud_event(&self) -> Value {
        let mut event = json!({
            "specversion": "1.0",
            "id": self.id,
            "source": format!("/accounts/{}", self.job.account),
            "type": self.name.type_name(),
            "subject": self.subject(),
            "time": self.time.timestamp(),
            "sequence": self.sequence,
            "datacontenttype": "application/json",
            "data": self.payload(),
        });
        if let (Some(trace), Some(members)) = (&self.trace, event.as_object_mut()) {
            members.insert("traceparent".to_owned(), trace.parent().into());
            members.extend(trace.state().map(|state| ("tracestate".to_owned(), state.into())));
        }
        event
    }
}

/// How a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndName {
    /// Everything asked for was done.
    Completed,
    /// The service or our own check said no.
    Failed,
    /// Somebody wished so.
    Cancelled,
    /// The deadline came.
    TimedOut,
    /// A person must decide.
    DeadLettered,
}

impl EndName {
    /// The event that announces it.
    #[must_use]
    pub const fn event(self) -> Name {
        match self {
            Self::Completed => Name::Completed,
            Self::Failed => Name::Failed,
            Self::Cancelled => Name::Cancelled,
            Self::TimedOut => Name::TimedOut,
            Self::DeadLettered => Name::DeadLettered,
        }
    }
}

impl fmt::Display for EndName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.event().as_str())
    }
}

/// A recorded end: all that is needed to announce it again, and to set its ticket aside again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// How it ended.
    pub name: EndName,
    /// When.
    pub at: Moment,
    /// Why, for every end but `completed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The ticket as it ended: what a retry starts from, and what the result is told from.
    pub ticket: Box<Ticket>,
}

/// Why a job ended other than completed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Reason {
    /// A stable class that dead letters are counted by.
    pub class: Class,
    /// One plain sentence: what happened.
    pub message: String,
    /// What to do next, as a sentence or a command.
    pub next: String,
    /// At which step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// The evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Things that may be ours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
}

/// Classes of reason; dead letters are counted by them, exit codes follow them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The package breaks a rule that we check before any call.
    Preflight,
    /// The source cannot be read, or is not what it was.
    Source,
    /// 403: a role is missing.
    Forbidden,
    /// The service refused what we asked for.
    Rejected,
    /// The service's own workflow failed.
    WorkflowFailed,
    /// The blob service or our transfer failed.
    Transfer,
    /// What was downloaded is not what it should be.
    Verification,
    /// Every attempt was spent.
    AttemptsSpent,
    /// Somebody wished so.
    Cancelled,
    /// The deadline came.
    Deadline,
    /// Only a person can tell what is ours.
    NeedsPerson,
    /// It broke its workers again and again.
    Poison,
    /// Its account is no longer configured.
    AccountRemoved,
    /// It cannot be read.
    Undecodable,
    /// Its producer may not name its account.
    NotAllowed,
    /// Its id stands for other content.
    OtherContent,
    /// Our own files fail.
    LocalIo,
    /// What is at the service no longer fits the job.
    Changed,
    /// Our own mistake.
    Internal,
}

impl Class {
    /// The class's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Source => "source",
            Self::Forbidden => "forbidden",
            Self::Rejected => "rejected",
            Self::WorkflowFailed => "workflow-failed",
            Self::Transfer => "transfer",
            Self::Verification => "verification",
            Self::AttemptsSpent => "attempts-spent",
            Self::Cancelled => "cancelled",
            Self::Deadline => "deadline",
            Self::NeedsPerson => "needs-person",
            Self::Poison => "poison",
            Self::AccountRemoved => "account-removed",
            Self::Undecodable => "undecodable",
            Self::NotAllowed => "not-allowed",
            Self::OtherContent => "other-content",
            Self::LocalIo => "local-io",
            Self::Changed => "changed",
            Self::Internal => "internal",
        }
    }

    /// The class of a permanent failure.
    #[must_use]
    pub const fn of(kind: CauseKind) -> Self {
        match kind {
            CauseKind::Preflight => Self::Preflight,
            CauseKind::Source => Self::Source,
            CauseKind::Forbidden => Self::Forbidden,
            CauseKind::Transfer | CauseKind::SasExpired => Self::Transfer,
            CauseKind::Verification => Self::Verification,
            CauseKind::Sink | CauseKind::LocalIo => Self::LocalIo,
            CauseKind::Internal => Self::Internal,
            CauseKind::Changed => Self::Changed,
            CauseKind::Throttled
            | CauseKind::Unauthorized
            | CauseKind::NotFound
            | CauseKind::ServerError
            | CauseKind::Timeout
            | CauseKind::Disconnected
            | CauseKind::NotSent
            | CauseKind::RetryLater
            | CauseKind::AlreadyDone
            | CauseKind::Rejected
            | CauseKind::BadAnswer => Self::Rejected,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A thing at the service that may be ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Candidate {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made, by the service's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub created: Option<jiff::Timestamp>,
    /// What speaks for it and what against it.
    pub evidence: String,
}

impl End {
    /// The event that announces this end.
    #[must_use]
    pub fn event(&self) -> Event {
        Event::of(&self.ticket, self.name.event(), 99, self.at, self.data())
    }

    /// Must the ticket lie in the dead letters, so that a retry has something to start from?
    #[must_use]
    pub fn is_set_aside(&self) -> bool {
        self.name != EndName::Completed
    }

    /// What the end event says.
    #[must_use]
    pub fn data(&self) -> Value {
        let progress = &self.ticket.progress;
        event_data::json(&Ended {
            product_id: progress.product_id,
            submission_id: progress.submission_id,
            downloads: &progress.downloads,
            warnings: &progress.warnings,
            correlation_id: self.ticket.key().correlation_id(),
            labels: &self.ticket.job.labels,
            reason: self.reason.as_ref(),
        })
    }
}

//! What each event says: the shapes of `data`, from which the schemas are made.
//!
//! Every event also carries the producer's own `labels`, when there are any. Members are only ever added.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde_json::Value;

use super::{
    event::{Class, Name, Reason},
    ids::{CorrelationId, JobId, ProductId, Sha256, SubmissionId},
    step::Step,
    ticket::{Downloaded, StepResult, Ticket},
};

/// `accepted`: the job is ours now. A retry opens its generation with it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Accepted {
    /// The content that the job's id stands for, a SHA-256 in hexadecimal digits.
    #[schemars(with = "String")]
    pub hash: Sha256,
    /// When it has to be over.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub deadline: Timestamp,
}

impl Accepted {
    /// Of this ticket.
    #[must_use]
    pub fn of(ticket: &Ticket) -> Self {
        Self { hash: ticket.hash, deadline: ticket.deadline.timestamp() }
    }
}

/// `refused`: a message never became a job. It never ends a job.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Refused<'a> {
    /// Why.
    pub class: Class,
    /// One plain sentence: what happened.
    pub message: &'a str,
    /// The message's own id, the subject of the event; the content's hash when it had none.
    pub message_id: &'a str,
    /// The job that the message names.
    #[schemars(with = "String")]
    pub job: &'a JobId,
}

/// `started`: the first claim.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Started {}

/// `progressed`: a step is done, its outcome is in doubt, or the service's workflow moved.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Progressed<'a> {
    /// A step is done.
    Done {
        /// Which.
        step: Step,
        /// What came of it.
        done: &'a StepResult,
    },
    /// What became of a write is not known; it is looked for.
    InDoubt {
        /// Of which step.
        step: Step,
        /// Why, in one sentence.
        in_doubt: String,
    },
    /// The service's workflow moved.
    Moved {
        /// The step of the job that watches.
        step: Step,
        /// The service's own step, `currentStep`.
        workflow_step: Option<&'a str>,
        /// Its number among the documented ones.
        workflow_step_number: Option<usize>,
        /// Its state.
        workflow_state: Option<&'a str>,
    },
}

/// `throttled`: the service asked for a pause.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Throttled {
    /// At which step.
    pub step: Step,
    /// How long the job waits.
    pub wait_seconds: f64,
    /// What the service said.
    pub message: String,
}

/// `stuck`: a step takes longer than it should, or waits for a person.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Stuck<'a> {
    /// The service's workflow does not move.
    Workflow {
        /// The step of the job that watches.
        step: Step,
        /// The service's own step.
        workflow_step: Option<&'a str>,
        /// Since when.
        #[schemars(with = "String", extend("format" = "date-time"))]
        since: Timestamp,
    },
    /// Sign-in is refused: a person must change something.
    SignIn {
        /// At which step.
        step: Step,
        /// What the endpoint said, without secrets.
        message: &'a str,
        /// What a person does next.
        next: &'a str,
        /// Always `refused`.
        sign_in: Refusal,
    },
}

/// What sign-in says.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// No.
    Refused,
}

/// `completed`, `failed`, `cancelled`, `timed-out` and `dead-lettered`: the end of a generation.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Ended<'a> {
    /// The product, when one is known.
    #[schemars(with = "Option<String>")]
    pub product_id: Option<ProductId>,
    /// The submission, when one is known.
    #[schemars(with = "Option<String>")]
    pub submission_id: Option<SubmissionId>,
    /// What was fetched.
    pub downloads: &'a [Downloaded],
    /// What the producer should know although nothing failed.
    pub warnings: &'a [String],
    /// `MS-CorrelationId` of every call of the job, for Microsoft support.
    #[schemars(with = "String", extend("format" = "uuid"))]
    pub correlation_id: CorrelationId,
    /// The producer's own notes.
    pub labels: &'a BTreeMap<String, String>,
    /// Why it ended; absent when it is completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a Reason>,
}

/// What every event carries beside: the producer's own notes, when there are any.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Labelled {
    /// As the job has them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// The schema of what events of this name say; what several share is left with the generator.
#[must_use]
pub fn schema_of(name: Name, generator: &mut SchemaGenerator) -> Value {
    let own = match name {
        Name::Accepted => generator.subschema_for::<Accepted>(),
        Name::Refused => generator.subschema_for::<Refused<'_>>(),
        Name::Started => generator.subschema_for::<Started>(),
        Name::Progressed => generator.subschema_for::<Progressed<'_>>(),
        Name::Throttled => generator.subschema_for::<Throttled>(),
        Name::Stuck => generator.subschema_for::<Stuck<'_>>(),
        Name::Completed | Name::Failed | Name::Cancelled | Name::TimedOut | Name::DeadLettered => {
            generator.subschema_for::<Ended<'_>>()
        }
    };
    serde_json::json!({ "allOf": [own, generator.subschema_for::<Labelled>()] })
}

/// As JSON. None of these can fail to be written.
#[must_use]
pub fn json(data: &impl Serialize) -> Value {
    serde_json::to_value(data).unwrap_or_default()
}

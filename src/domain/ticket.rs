//! What travels in the broker: the job, all that is known of it so far, and its place.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    failure::Cause,
    ids::{JobKey, ProductId, Sha256, SharedProductId, SubmissionId},
    job::Job,
    step::{Kind, Place, Step},
    time::Moment,
    trace::Trace,
};

/// The newest form of ticket that this build reads and writes.
pub const VERSION: u16 = 1;

/// How many entries of a ticket's history are kept.
const HISTORY: usize = 20;

/// A job under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ticket {
    /// The form of the ticket.
    pub version: u16,
    /// The job as accepted, secrets sealed.
    pub job: Job,
    /// The content that the job's id stands for, taken before anything was sealed.
    pub hash: Sha256,
    /// The producer, as the broker or the command line verified it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub producer: Option<String>,
    /// When the job was accepted.
    pub accepted_at: Moment,
    /// When it has to be over.
    pub deadline: Moment,
    /// Where it stands.
    pub place: Place,
    /// What is known of it.
    pub progress: Progress,
    /// Failures of this step that spent an attempt.
    #[serde(default)]
    pub attempts: u32,
    /// Refusals of a permit in a row.
    #[serde(default)]
    pub refusals: u32,
    /// Marked by whoever handed it on: it may have called before.
    #[serde(default)]
    pub suspect: bool,
    /// Not to be touched before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Moment>,
    /// It was parked because sign-in is refused, and waits for nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign_in: Option<SignInRefused>,
    /// What happened lately, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Note>,
    /// The producer's trace context, when it brought one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
    /// Members of tomorrow, handed on as they came.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Ticket {
    /// A new job's ticket at its first place.
    #[must_use]
    pub fn new(job: Job, hash: Sha256, producer: Option<String>, accepted_at: Moment) -> Self {
        let deadline = job
            .deadline
            .map_or_else(|| accepted_at.after(super::job::DEFAULT_DEADLINE), |deadline| deadline.instant(accepted_at));
        Self {
            version: VERSION,
            job,
            hash,
            producer,
            accepted_at,
            deadline,
            place: Place::FIRST,
            progress: Progress::default(),
            attempts: 0,
            refusals: 0,
            suspect: false,
            due: None,
            sign_in: None,
            history: Vec::new(),
            trace: None,
            rest: Map::new(),
        }
    }

    /// Account and id together.
    #[must_use]
    pub fn key(&self) -> JobKey {
        self.job.key()
    }

    /// The trace that everything told of the job belongs to: the producer's, else the job's own.
    #[must_use]
    pub fn trace_context(&self) -> Trace {
        self.trace.clone().unwrap_or_else(|| Trace::of_job(&self.key()))
    }

    /// The step it stands at; `None` for a step of tomorrow.
    #[must_use]
    pub fn step(&self) -> Option<Step> {
        Step::from_number(self.place.step)
    }

    /// The lane it waits on.
    #[must_use]
    pub fn lane(&self) -> Kind {
        self.step().map_or(self.job.kind, Step::lane)
    }

    /// The same place again, not before `due`.
    #[must_use]
    pub fn parked(mut self, due: Moment) -> Self {
        self.due = Some(due);
        self.sign_in = None;
        self
    }

    /// The next call of the same step, not before `due`.
    #[must_use]
    pub fn next_try(mut self, due: Moment) -> Self {
        self.place = self.place.next_try();
        self.refusals = 0;
        self.due = Some(due);
        self.sign_in = None;
        self
    }

    /// The first call of the next step, at once.
    #[must_use]
    pub fn at_step(mut self, step: Step) -> Self {
        self.place = self.place.at_step(step.number());
        self.attempts = 0;
        self.refusals = 0;
        self.due = None;
        self.sign_in = None;
        self
    }

    /// The same step in the next generation, for a retry by a person, with a deadline of its own.
    #[must_use]
    pub fn retried(mut self, known_generation: u32, now: Moment) -> Self {
        let generation = self.place.generation.max(known_generation);
        let span = self.deadline.since(self.accepted_at);
        self.place = Place { generation, ..self.place }.next_generation();
        self.attempts = 0;
        self.refusals = 0;
        self.suspect = false;
        self.due = None;
        self.sign_in = None;
        if self.deadline <= now || self.job.deadline.is_none() {
            self.deadline = now.after(span);
        }
        self
    }

    /// Marked: whoever takes it must not trust that nothing was called.
    #[must_use]
    pub fn suspected(mut self, is_suspect: bool) -> Self {
        self.suspect |= is_suspect;
        self
    }

    /// Adds a line to the history and forgets the oldest beyond twenty.
    pub fn note(&mut self, at: Moment, what: impl Into<String>) {
        self.history.push(Note { at, place: self.place, what: what.into() });
        let excess = self.history.len().saturating_sub(HISTORY);
        self.history.drain(..excess);
    }
}

/// Why a ticket waits for sign-in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignInRefused {
    /// When it was refused, by the memory's clock.
    pub at: Moment,
    /// What the endpoint said, in words without secrets.
    pub message: String,
    /// What a person does next.
    pub next: String,
}

/// One line of a ticket's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// When.
    pub at: Moment,
    /// At which place.
    pub place: Place,
    /// What happened, in words without secrets.
    pub what: String,
}

/// What is known of a job beyond its own text.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps that are done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<Step>,
    /// The package as it was first read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<PackageFacts>,
    /// The product.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product_id: Option<ProductId>,
    /// Its number for all accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_product_id: Option<SharedProductId>,
    /// The submission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submission_id: Option<SubmissionId>,
    /// When the latest of them was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_at: Option<Moment>,
    /// The watch over the submission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<Watch>,
    /// What was fetched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub downloads: Vec<Downloaded>,
    /// Things a person said are not ours, by step.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub not_ours: BTreeMap<Step, Vec<u64>>,
    /// Things a person said are ours, by step.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub adopt: BTreeMap<Step, u64>,
    /// Since when a worker has not known the job's account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_since: Option<Moment>,
    /// The job was suspect when it first arrived: it may have been accepted, and have called, long before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_acceptance_in_doubt: bool,
    /// What the producer should know although the job goes on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Members of tomorrow, handed on as they came.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// The package as it was first read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PackageFacts {
    /// Its hash.
    #[schemars(with = "String")]
    pub sha256: Sha256,
    /// Its length in bytes.
    pub size: u64,
    /// Files inside, when it was looked into.
    #[serde(default)]
    pub files: u64,
    /// INF files inside.
    #[serde(default)]
    pub inf_files: u64,
}

/// The watch over a submission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Watch {
    /// The first poll.
    pub since: Moment,
    /// `currentStep` as last read.
    pub step: Option<String>,
    /// `state` as last read.
    pub state: Option<String>,
    /// Since when both have been as they are.
    pub unchanged_since: Moment,
    /// A `stuck` event was sent for this step.
    #[serde(default)]
    pub said_stuck: bool,
    /// When the workflow was first seen complete, or the signed package first seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub almost_since: Option<Moment>,
}

/// A file that was fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Downloaded {
    /// Type in `downloads.items`.
    pub kind: String,
    /// Where it lies.
    pub path: String,
    /// Its hash.
    #[schemars(with = "String")]
    pub sha256: Sha256,
    /// Its length in bytes.
    pub size: u64,
    /// It is the signed package, and holds a catalog and every INF that was submitted, byte for byte.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_verified: bool,
    /// Why it was not, when there was something to compare it with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unverified: Option<String>,
}

/// What finishes a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub enum StepResult {
    /// The package was read and checked.
    Preflight {
        /// The facts; none when the job brings no package.
        package: Option<PackageFacts>,
        /// What is odd, but no reason to refuse.
        warnings: Vec<String>,
    },
    /// The product stands.
    CreateProduct {
        /// Its id.
        #[schemars(with = "String")]
        id: ProductId,
        /// Its number for all accounts.
        #[schemars(with = "Option<String>")]
        shared_id: Option<SharedProductId>,
        /// Found by a look, not by the answer to our call.
        adopted: bool,
    },
    /// The submission stands.
    CreateSubmission {
        /// Its id.
        #[schemars(with = "String")]
        id: SubmissionId,
        /// Found by a look, not by the answer to our call.
        adopted: bool,
    },
    /// The package is in its slot.
    Upload {
        /// Bytes of the package.
        bytes: u64,
    },
    /// The service has the submission.
    Commit {
        /// Found by a look, not by the answer to our call.
        adopted: bool,
    },
    /// The watch is over.
    Poll {
        /// The watch as it ended.
        watch: Watch,
        /// Why it ended early, if it did.
        warning: Option<String>,
    },
    /// Everything asked for was fetched; each file says whether it was verified.
    Download {
        /// The files.
        files: Vec<Downloaded>,
        /// What is odd about them, but no reason to refuse.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
    },
    /// The service, or our own check, said no.
    Refused {
        /// Why.
        cause: Cause,
    },
}

impl Progress {
    /// Takes in what finished a step.
    pub fn apply(&mut self, step: Step, result: &StepResult) {
        match result {
            StepResult::Preflight { package, warnings } => {
                self.package.clone_from(package);
                self.warnings.extend(warnings.iter().cloned());
            }
            StepResult::CreateProduct { id, shared_id, .. } => {
                self.product_id = Some(*id);
                self.shared_product_id = *shared_id;
            }
            StepResult::CreateSubmission { id, .. } => self.submission_id = Some(*id),
            StepResult::Poll { watch, warning } => {
                self.watch = Some(watch.clone());
                self.warnings.extend(warning.clone());
            }
            StepResult::Download { files, warnings } => {
                self.downloads.clone_from(files);
                self.warnings.extend(warnings.iter().cloned());
            }
            StepResult::Upload { .. } | StepResult::Commit { .. } | StepResult::Refused { .. } => {}
        }
        if !matches!(result, StepResult::Refused { .. }) && !self.done.contains(&step) {
            self.done.push(step);
        }
    }

    /// Was this thing named as not ours at this step?
    #[must_use]
    pub fn is_not_ours(&self, step: Step, id: u64) -> bool {
        self.not_ours.get(&step).is_some_and(|ids| ids.contains(&id))
    }
}

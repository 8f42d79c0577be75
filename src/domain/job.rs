//! A job as its producer wrote it, and the work it asks for.
//!
//! Decoded in two steps, the envelope and then the spec by kind, strictly: unknown members, arrays where objects are
//! meant, zero or two of `create` and `id`, repeated members and text after the document are refused by name and path.

use std::{collections::BTreeMap, time::Duration};

use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    ids::{AccountName, JobId, JobKey, Sha256, Topic},
    json::{self, Mistake, Object},
    step::Kind,
    time::{Moment, parse_duration},
    work::{StatusPollSpec, SubmissionSpec, UploadSpec},
};

pub use super::work::{DownloadSpec, NewSubmission, PackageSpec, Target, Wait, Work};

/// The largest job that is read, in bytes.
pub const MOST_BYTES: usize = 1 << 20;

/// The longest a job may wait for its end when it names no deadline.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(7 * 86_400);

/// A job, its envelope decoded, its spec checked and kept as it was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The caller's idempotency key within the account.
    pub id: JobId,
    /// What is asked for.
    pub kind: Kind,
    /// Who speaks.
    pub account: AccountName,
    /// A duration or an instant, as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Deadline>,
    /// May wait behind everything else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bulk: bool,
    /// The words that end its events' routing key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<Topic>,
    /// The producer's own notes, returned in every event.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The work, as written.
    pub spec: Value,
}

/// The envelope on the wire.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Job")]
struct Envelope {
    /// 1 to 128 of A-Z, a-z, 0-9, '.', '_', ':' and '-'. The caller's idempotency key within the account.
    #[schemars(with = "Option<String>")]
    id: Option<JobId>,
    /// What is asked for.
    kind: Kind,
    /// A configured account.
    #[schemars(with = "String")]
    account: AccountName,
    /// A duration such as "36h" or an RFC 3339 instant; 7 days when absent.
    #[schemars(with = "Option<String>")]
    deadline: Option<Deadline>,
    /// May wait behind everything else.
    #[serde(default)]
    bulk: bool,
    /// Words of a-z, 0-9, '_' and '-' joined by dots, at most 120 characters.
    #[schemars(with = "Option<String>")]
    topic: Option<Topic>,
    /// At most 32 names of 64 characters with values of 256.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// The work, by kind.
    spec: Value,
}

/// When a job has to be over: so long after its acceptance, or at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// So long after acceptance.
    After(Duration),
    /// At this instant.
    At(Moment),
}

impl Deadline {
    /// The instant, for a job accepted at `accepted`.
    #[must_use]
    pub fn instant(self, accepted: Moment) -> Moment {
        match self {
            Self::After(span) => accepted.after(span),
            Self::At(at) => at,
        }
    }
}

impl std::str::FromStr for Deadline {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(at) = text.parse::<jiff::Timestamp>() {
            return Ok(Self::At(at.into()));
        }
        parse_duration(text).map(Self::After).map_err(|error| format!("{error}, or an RFC 3339 instant"))
    }
}

impl Serialize for Deadline {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::After(span) => serializer.collect_str(&format_args!("{}ms", span.as_millis())),
            Self::At(at) => serializer.collect_str(at),
        }
    }
}

impl<'de> Deserialize<'de> for Deadline {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Job {
    /// Decodes a job; `new_id` names it when it brings no id.
    ///
    /// # Errors
    /// [`Mistake`] names the member's path and what is wrong with it.
    pub fn decode(bytes: &[u8], new_id: impl FnOnce() -> Option<JobId>) -> Result<Self, Mistake> {
        let envelope: Object<Envelope> = json::decode("", json::read(bytes)?)?;
        let Envelope { id, kind, account, deadline, bulk, topic, labels, spec } = envelope.0;
        check_labels(&labels)?;
        let id = id.or_else(new_id).ok_or_else(|| mistake("id", "a job needs an id"))?;
        let job = Self { id, kind, account, deadline, bulk, topic, labels, spec };
        job.work()?;
        Ok(job)
    }

    /// Account and id together.
    #[must_use]
    pub fn key(&self) -> JobKey {
        JobKey { account: self.account.clone(), id: self.id.clone() }
    }

    /// What makes two jobs the same: SHA-256 over the canonical JSON of `account`, `kind` and `spec`.
    #[must_use]
    pub fn content_hash(&self) -> Sha256 {
        let content = json!({ "account": self.account, "kind": self.kind, "spec": self.spec });
        Sha256::of(json::canonical(&content).as_bytes())
    }

    /// The topic of its events.
    #[must_use]
    pub fn topic(&self) -> Topic {
        self.topic.clone().unwrap_or_else(|| Topic::of_job(&self.id))
    }

    /// The work it asks for.
    ///
    /// # Errors
    /// [`Mistake`] names the member's path below `spec` and what is wrong with it.
    pub fn work(&self) -> Result<Work, Mistake> {
        match self.kind {
            Kind::Submission => json::decode::<Object<SubmissionSpec>>("spec", self.spec.clone())?.0.into_work(),
            Kind::Upload => Ok(json::decode::<Object<UploadSpec>>("spec", self.spec.clone())?.0.into_work()),
            Kind::StatusPoll => json::decode::<Object<StatusPollSpec>>("spec", self.spec.clone())?.0.into_work(),
        }
    }
}

pub(super) fn mistake(path: &str, problem: impl Into<String>) -> Mistake {
    Mistake { path: path.to_owned(), problem: problem.into() }
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Mistake> {
    if labels.len() > 32 {
        return Err(mistake("labels", format!("{} labels; at most 32 are kept", labels.len())));
    }
    for (name, value) in labels {
        if name.is_empty() || name.chars().count() > 64 {
            return Err(mistake(&format!("labels.{name}"), "a label's name has 1 to 64 characters"));
        }
        if value.chars().count() > 256 {
            return Err(mistake(&format!("labels.{name}"), "a label's value has at most 256 characters"));
        }
    }
    Ok(())
}

/// The schema of a job of this kind; what several share is left with the generator.
#[must_use]
pub fn schema_of(kind: Kind, generator: &mut SchemaGenerator) -> Value {
    let spec = match kind {
        Kind::Submission => generator.subschema_for::<SubmissionSpec>(),
        Kind::Upload => generator.subschema_for::<UploadSpec>(),
        Kind::StatusPoll => generator.subschema_for::<StatusPollSpec>(),
    };
    let mut job = Envelope::json_schema(generator).to_value();
    if let Some(members) = job.as_object_mut() {
        members.insert("title".to_owned(), kind.name().into());
        members.insert("description".to_owned(), "A job as its producer writes it.".into());
    }
    if let Some(members) = job.pointer_mut("/properties").and_then(Value::as_object_mut) {
        members.insert("kind".to_owned(), json!({ "const": kind }));
        members.insert("spec".to_owned(), spec.to_value());
    }
    job
}

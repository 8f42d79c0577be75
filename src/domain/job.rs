//! A job as its producer wrote it, and the work it asks for.
//!
//! Decoded in two steps, the envelope and then the spec by kind, strictly: unknown members, arrays where objects are
//! meant, zero or two of `create` and `id`, repeated members and text after the document are refused by name and path.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    ids::{AccountName, JobId, JobKey, ProductId, Sha256, SubmissionId, Topic},
    json::{self, Mistake, Object},
    new_product::NewProduct,
    service::SubmissionKind,
    step::{Kind, Step},
    time::{Moment, parse_duration},
};

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

fn mistake(path: &str, problem: impl Into<String>) -> Mistake {
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

/// What a job of any kind asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// The package to check and send.
    pub package: Option<PackageSpec>,
    /// The product: an existing one, or what to make.
    pub product: Target<ProductId, Map<String, Value>>,
    /// The submission: an existing one, or what to make; none when only the product is wanted.
    pub submission: Option<Target<SubmissionId, NewSubmission>>,
    /// Hand the submission to the service.
    pub commit: bool,
    /// How long to stay with it.
    pub wait: Wait,
    /// What to fetch at the end.
    pub download: Option<DownloadSpec>,
}

/// An existing thing, or what to make.
#[derive(Debug, Clone, PartialEq)]
pub enum Target<I, N> {
    /// The thing with this id.
    Existing(I),
    /// Make, or adopt, this.
    Create(N),
}

impl Work {
    /// Is this step part of the work? `preflight` always is: every job begins there.
    #[must_use]
    pub fn includes(&self, step: Step) -> bool {
        match step {
            Step::Preflight => true,
            Step::CreateProduct => matches!(self.product, Target::Create(_)),
            Step::CreateSubmission => matches!(self.submission, Some(Target::Create(_))),
            Step::Upload => self.package.is_some() && self.submission.is_some(),
            Step::Commit => self.commit && self.submission.is_some(),
            Step::Poll => self.wait != Wait::None && self.submission.is_some(),
            Step::Download => self.download.is_some(),
        }
    }

    /// The step behind this one; `None` when it is the last.
    #[must_use]
    pub fn step_after(&self, step: Step) -> Option<Step> {
        Step::ALL.into_iter().find(|later| *later > step && self.includes(*later))
    }

    /// The product's name, when one is to be made.
    #[must_use]
    pub fn product_name(&self) -> Option<&str> {
        self.product_member("productName")
    }

    /// What the product's packages are tested with, when one is to be made.
    #[must_use]
    pub fn test_harness(&self) -> Option<&str> {
        self.product_member("testHarness")
    }

    fn product_member(&self, name: &str) -> Option<&str> {
        match &self.product {
            Target::Create(members) => members.get(name).and_then(Value::as_str),
            Target::Existing(_) => None,
        }
    }
}

/// A package and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PackageSpec {
    /// A `file:` or `https:` URL.
    pub source: String,
    /// SHA-256 of the package, 64 hexadecimal digits. Optional on one machine, needed for `file:` in the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub sha256: Option<Sha256>,
    /// Check the package before any call.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub preflight: bool,
    /// A header value for the source, by reference: `env:NAME` or `file:PATH`. The header is `Authorization`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_yes(flag: &bool) -> bool {
    *flag
}

const fn yes() -> bool {
    true
}

/// The submission to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSubmission {
    /// Its name; seen by the account alone.
    pub name: String,
    /// `initial` for the first of a product, `derived` for a later one.
    #[serde(rename = "type")]
    pub kind: SubmissionKind,
}

/// How long a job stays with its submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Wait {
    /// Until the last write is answered.
    None,
    /// Until the service shows the commit.
    Committed,
    /// Until the signed package is there.
    #[default]
    Signed,
    /// Until the driver metadata is there, at most 6 h; then completed with a warning.
    Metadata,
}

/// What to fetch, and where to put it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DownloadSpec {
    /// A `file:` URL of a folder.
    pub to: String,
    /// Types of `downloads.items` (hardware-api 6.6).
    #[serde(default = "signed_package")]
    pub kinds: Vec<String>,
    /// Replace files of other content that stand in the way.
    #[serde(default)]
    pub overwrite: bool,
}

fn signed_package() -> Vec<String> {
    vec!["signedPackage".to_owned()]
}

/// `spec` of a `submission`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SubmissionSpec {
    package: Option<Object<PackageSpec>>,
    product: Object<ProductChoice>,
    submission: Option<Object<SubmissionChoice>>,
    #[serde(default = "yes")]
    commit: bool,
    wait: Option<Wait>,
    download: Option<Object<DownloadSpec>>,
    #[serde(default = "yes")]
    preflight: bool,
    #[schemars(skip)]
    shipping_labels: Option<Value>,
}

/// Exactly one of the two.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ProductChoice {
    /// A product to make: Microsoft's own member names.
    #[schemars(with = "Option<NewProduct>")]
    create: Option<Value>,
    /// An existing product.
    #[schemars(with = "Option<String>")]
    id: Option<ProductId>,
}

/// Exactly one of the two.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SubmissionChoice {
    /// A submission to make.
    create: Option<Object<NewSubmission>>,
    /// An existing submission.
    #[schemars(with = "Option<String>")]
    id: Option<SubmissionId>,
}

/// `spec` of an `upload`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UploadSpec {
    package: Object<PackageSpec>,
    product: Object<Existing<ProductId>>,
    submission: Object<Existing<SubmissionId>>,
}

/// `spec` of a `status-poll`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StatusPollSpec {
    product: Object<Existing<ProductId>>,
    submission: Object<Existing<SubmissionId>>,
    wait: Option<Wait>,
    download: Option<Object<DownloadSpec>>,
}

/// A thing that exists at the service.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Existing<I> {
    /// Its id.
    #[schemars(with = "String")]
    id: I,
}

impl SubmissionSpec {
    fn into_work(self) -> Result<Work, Mistake> {
        if self.shipping_labels.is_some() {
            return Err(mistake("spec.shipping_labels", "shipping labels are not available in this version"));
        }
        let product = match (self.product.0.create, self.product.0.id) {
            (Some(create), None) => Target::Create(new_product(create)?),
            (None, Some(id)) => Target::Existing(id),
            (Some(_), Some(_)) => return Err(mistake("spec.product", "names both create and id; give one of them")),
            (None, None) => return Err(mistake("spec.product", "needs create or id")),
        };
        let submission = match self.submission.map(|choice| (choice.0.create, choice.0.id)) {
            None => None,
            Some((Some(create), None)) => Some(Target::Create(checked_name(create.0)?)),
            Some((None, Some(id))) => Some(Target::Existing(id)),
            Some((Some(_), Some(_))) => {
                return Err(mistake("spec.submission", "names both create and id; give one of them"));
            }
            Some((None, None)) => return Err(mistake("spec.submission", "needs create or id")),
        };
        if matches!(product, Target::Create(_)) && matches!(submission, Some(Target::Existing(_))) {
            return Err(mistake("spec.submission.id", "a product that is still to be made has no submission yet"));
        }
        let package =
            self.package.map(|package| PackageSpec { preflight: package.0.preflight && self.preflight, ..package.0 });
        if submission.is_none() {
            for (is_there, path) in [
                (package.is_some(), "spec.package"),
                (self.wait.is_some_and(|wait| wait != Wait::None), "spec.wait"),
                (self.download.is_some(), "spec.download"),
            ] {
                if is_there {
                    return Err(mistake(path, "needs spec.submission"));
                }
            }
        }
        if matches!(submission, Some(Target::Create(_))) && self.commit && package.is_none() {
            return Err(mistake("spec.package", "a new submission cannot be committed without a package"));
        }
        let commit = self.commit && submission.is_some();
        let is_new = matches!(submission, Some(Target::Create(_)));
        let wait = wait_of(self.wait, commit || !is_new, submission.is_some())?;
        let download = download_of(self.download, wait)?;
        Ok(Work { package, product, submission, commit, wait, download })
    }
}

fn wait_of(asked: Option<Wait>, can_move: bool, has_submission: bool) -> Result<Wait, Mistake> {
    match asked {
        Some(wait) if wait != Wait::None && !can_move => {
            Err(mistake("spec.wait", "a submission that is not committed never gets there; use \"none\""))
        }
        Some(wait) => Ok(wait),
        None if can_move && has_submission => Ok(Wait::Signed),
        None => Ok(Wait::None),
    }
}

fn download_of(asked: Option<Object<DownloadSpec>>, wait: Wait) -> Result<Option<DownloadSpec>, Mistake> {
    let Some(Object(download)) = asked else { return Ok(None) };
    if download.kinds.is_empty() {
        return Err(mistake("spec.download.kinds", "names nothing to fetch; leave it out for the signed package"));
    }
    if wait < Wait::Signed {
        return Err(mistake("spec.download", "needs \"wait\": \"signed\" or \"metadata\": nothing is there before"));
    }
    Ok(Some(download))
}

fn new_product(create: Value) -> Result<Map<String, Value>, Mistake> {
    let product: Object<NewProduct> = json::decode("spec.product.create", create)?;
    Ok(product.0.to_service().members)
}

fn checked_name(submission: NewSubmission) -> Result<NewSubmission, Mistake> {
    if submission.name.trim().is_empty() {
        return Err(mistake("spec.submission.create.name", "is empty"));
    }
    if submission.name.chars().count() > 120 {
        return Err(mistake("spec.submission.create.name", "has more than 120 characters"));
    }
    Ok(submission)
}

impl UploadSpec {
    fn into_work(self) -> Work {
        Work {
            package: Some(self.package.0),
            product: Target::Existing(self.product.0.id),
            submission: Some(Target::Existing(self.submission.0.id)),
            commit: false,
            wait: Wait::None,
            download: None,
        }
    }
}

impl StatusPollSpec {
    fn into_work(self) -> Result<Work, Mistake> {
        let wait = self.wait.unwrap_or_default();
        let download = download_of(self.download, wait)?;
        Ok(Work {
            package: None,
            product: Target::Existing(self.product.0.id),
            submission: Some(Target::Existing(self.submission.0.id)),
            commit: false,
            wait,
            download,
        })
    }
}

/// JSON Schemas of the envelope and of every kind's spec.
#[must_use]
pub fn schemas() -> Value {
    let mut envelope = schemars::schema_for!(Envelope).to_value();
    if let Some(object) = envelope.as_object_mut() {
        object.insert("title".to_owned(), Value::from("Job"));
    }
    json!({
        "job": envelope,
        "spec": {
            "submission": schemars::schema_for!(SubmissionSpec),
            "upload": schemars::schema_for!(UploadSpec),
            "status-poll": schemars::schema_for!(StatusPollSpec),
        },
    })
}

//! The work that a job asks for: its spec, decoded by kind and turned into one form for all.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    ids::{ProductId, Sha256, SubmissionId},
    job::mistake,
    json::{self, Mistake, Object},
    new_product::NewProduct,
    service::SubmissionKind,
    step::Step,
};

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
pub(super) struct SubmissionSpec {
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
pub(super) struct UploadSpec {
    package: Object<PackageSpec>,
    product: Object<Existing<ProductId>>,
    submission: Object<Existing<SubmissionId>>,
}

/// `spec` of a `status-poll`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusPollSpec {
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
    pub(super) fn into_work(self) -> Result<Work, Mistake> {
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
    pub(super) fn into_work(self) -> Work {
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
    pub(super) fn into_work(self) -> Result<Work, Mistake> {
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

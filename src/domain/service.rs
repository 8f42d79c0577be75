//! What the engine asks of the hardware service and what it hears, in our own words.
//!
//! The wire types live in `partner_center/`; this is the meaning they are read into. Source of every fact:
//! contract/hardware-api.md, sections 5 to 7.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    failure::RetryClass,
    ids::{ProductId, SharedProductId, SubmissionId},
};

/// One call of the hardware API.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// `POST /products` with Microsoft's own members.
    CreateProduct(NewProduct),
    /// `GET /products`, the first page or the page behind a link.
    ListProducts {
        /// The link of the page, from the page before.
        next: Option<PageLink>,
    },
    /// `GET /products/{p}`.
    GetProduct(ProductId),
    /// `POST /products/{p}/submissions`.
    CreateSubmission {
        /// The product.
        product: ProductId,
        /// The submission's name, marker included.
        name: String,
        /// Initial or derived.
        kind: SubmissionKind,
    },
    /// `GET /products/{p}/submissions`, the first page or the page behind a link.
    ListSubmissions {
        /// The product.
        product: ProductId,
        /// The link of the page, from the page before.
        next: Option<PageLink>,
    },
    /// `GET /products/{p}/submissions/{s}`.
    GetSubmission {
        /// The product.
        product: ProductId,
        /// The submission.
        submission: SubmissionId,
    },
    /// `POST /products/{p}/submissions/{s}/commit`.
    Commit {
        /// The product.
        product: ProductId,
        /// The submission.
        submission: SubmissionId,
    },
}

impl Request {
    /// The operation's name in hardware-api.md A.1.
    #[must_use]
    pub const fn operation(&self) -> &'static str {
        match self {
            Self::CreateProduct(_) => "createProduct",
            Self::ListProducts { .. } => "listProducts",
            Self::GetProduct(_) => "getProduct",
            Self::CreateSubmission { kind: SubmissionKind::Initial, .. } => "createInitialSubmission",
            Self::CreateSubmission { kind: SubmissionKind::Derived, .. } => "createDerivedSubmission",
            Self::ListSubmissions { .. } => "listSubmissions",
            Self::GetSubmission { .. } => "getSubmission",
            Self::Commit { .. } => "commitSubmission",
        }
    }

    /// What an unclear answer to it means.
    #[must_use]
    pub const fn retry_class(&self) -> RetryClass {
        match self {
            Self::CreateProduct(_) | Self::CreateSubmission { kind: SubmissionKind::Derived, .. } => RetryClass::Create,
            Self::CreateSubmission { kind: SubmissionKind::Initial, .. } | Self::Commit { .. } => RetryClass::Guarded,
            Self::ListProducts { .. }
            | Self::GetProduct(_)
            | Self::ListSubmissions { .. }
            | Self::GetSubmission { .. } => RetryClass::Read,
        }
    }
}

/// What came back for a [`Request`].
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// For `CreateProduct` and `GetProduct`.
    Product(Product),
    /// For `ListProducts`.
    Products(Page<Product>),
    /// For `CreateSubmission` and `GetSubmission`.
    Submission(Box<Submission>),
    /// For `ListSubmissions`.
    Submissions(Page<Submission>),
    /// For `Commit`: accepted, the body is empty.
    Accepted,
}

impl Response {
    /// The product, when it is one.
    #[must_use]
    pub fn into_product(self) -> Option<Product> {
        if let Self::Product(product) = self { Some(product) } else { None }
    }

    /// The page of products, when it is one.
    #[must_use]
    pub fn into_products(self) -> Option<Page<Product>> {
        if let Self::Products(page) = self { Some(page) } else { None }
    }

    /// The submission, when it is one.
    #[must_use]
    pub fn into_submission(self) -> Option<Submission> {
        if let Self::Submission(submission) = self { Some(*submission) } else { None }
    }

    /// The page of submissions, when it is one.
    #[must_use]
    pub fn into_submissions(self) -> Option<Page<Submission>> {
        if let Self::Submissions(page) = self { Some(page) } else { None }
    }
}

/// A response and what its envelope said.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The content.
    pub response: Response,
    /// The HTTP status.
    pub http_status: u16,
    /// The service's clock: the `Date` header.
    pub date: Option<jiff::Timestamp>,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The entries.
    pub items: Vec<T>,
    /// The link to the next page, path and query on the configured host.
    pub next: Option<PageLink>,
}

/// Path and query of a next page, already re-based on the configured host (hardware-api 10).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PageLink(pub String);

/// The body of `createProduct`: hardware-api 6.2, already checked by the job's decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct NewProduct {
    /// The members as the producer wrote them, `productName` with our marker when that is switched on.
    pub members: Map<String, Value>,
}

/// `initial` or `derived`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SubmissionKind {
    /// The first of its product.
    Initial,
    /// A later one.
    Derived,
}

/// A product as read. What the answer left out is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Product {
    /// The private id.
    pub id: ProductId,
    /// The id that all accounts share.
    pub shared_id: Option<SharedProductId>,
    /// `productName`.
    pub name: String,
    /// `isCommitted`.
    pub is_committed: Option<bool>,
    /// `createdDateTime`, by the service's clock.
    pub created: Option<jiff::Timestamp>,
    /// The other members that a caller can set, as they came, under Microsoft's names (hardware-api 6.2).
    pub fields: Map<String, Value>,
}

/// A submission as read. What the answer left out is `None` or empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// Its id.
    pub id: SubmissionId,
    /// Its product.
    pub product: ProductId,
    /// Its name.
    pub name: String,
    /// `type`, as text: an open set.
    pub kind: String,
    /// `commitStatus`.
    pub commit_status: Option<CommitStatus>,
    /// `workflowStatus`.
    pub workflow: Option<Workflow>,
    /// `downloads.items`; `None` when the answer has no `downloads` at all.
    pub downloads: Option<Vec<Download>>,
    /// `createdDateTime`.
    pub created: Option<jiff::Timestamp>,
}

impl Submission {
    /// The download of this type (compared without case) that has a URL.
    #[must_use]
    pub fn download(&self, kind: &str) -> Option<&Download> {
        self.downloads.iter().flatten().find(|item| item.kind.eq_ignore_ascii_case(kind))
    }

    /// The verdict of hardware-api 7.1, first match wins.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let workflow = self.workflow.as_ref();
        let state =
            |wanted: &str| workflow.is_some_and(|w| w.state.as_deref().is_some_and(|s| s.eq_ignore_ascii_case(wanted)));
        let step =
            |wanted: &str| workflow.is_some_and(|w| w.step.as_deref().is_some_and(|s| s.eq_ignore_ascii_case(wanted)));
        let pending = self.commit_status.as_ref().is_none_or(|status| *status == CommitStatus::Pending);
        if self.commit_status == Some(CommitStatus::Failed) || state("failed") {
            Verdict::Failed
        } else if self.download("signedPackage").is_some() {
            Verdict::Signed
        } else if step("finalizeIngestion") && state("completed") {
            Verdict::Almost
        } else if pending && (workflow.is_none() || state("notStarted")) {
            Verdict::Open
        } else {
            Verdict::Processing
        }
    }

    /// Has the service taken the commit? `None` when this read does not tell.
    ///
    /// `commitReceived`, `commitComplete` and their kin, or a workflow step that has started, mean yes; pending with no
    /// progress means no (hardware-api 5.11, 7.1).
    #[must_use]
    pub fn is_committed(&self) -> Option<bool> {
        let moving = self.workflow.as_ref().is_some_and(|w| {
            w.state
                .as_deref()
                .is_some_and(|s| ["started", "completed", "failed"].iter().any(|t| s.eq_ignore_ascii_case(t)))
        });
        match &self.commit_status {
            Some(CommitStatus::Accepted | CommitStatus::Failed) => Some(true),
            Some(CommitStatus::Pending) => Some(moving),
            None | Some(CommitStatus::Other(_)) => Some(moving || self.download("signedPackage").is_some()),
        }
    }
}

/// What one look at a submission says (hardware-api 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Dead: neither commit nor replacement is possible.
    Failed,
    /// The signed package can be downloaded.
    Signed,
    /// The workflow is over, the signed package is not shown yet.
    Almost,
    /// Upload and commit are still possible.
    Open,
    /// The service is at work.
    Processing,
}

/// `commitStatus`, compared without case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommitStatus {
    /// `commitPending`.
    Pending,
    /// `commitReceived`, `commitStarted`, `commitComplete`, `commitCompleted`.
    Accepted,
    /// `commitFailed`.
    Failed,
    /// A value of tomorrow.
    Other(String),
}

impl CommitStatus {
    /// Reads the wire's text.
    #[must_use]
    pub fn read(text: &str) -> Self {
        match text.to_ascii_lowercase().as_str() {
            "commitpending" => Self::Pending,
            "commitreceived" | "commitstarted" | "commitcomplete" | "commitcompleted" => Self::Accepted,
            "commitfailed" => Self::Failed,
            _ => Self::Other(text.to_owned()),
        }
    }
}

/// `workflowStatus`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workflow {
    /// `currentStep`, text; a number is kept as its digits.
    pub step: Option<String>,
    /// `state`.
    pub state: Option<String>,
    /// `messages`.
    #[serde(default)]
    pub messages: Vec<String>,
    /// `errorReport`: a signed URL. `None` for an absent or empty one.
    #[serde(skip)]
    pub error_report: Option<SignedUrl>,
}

/// The steps of a submission's workflow in their documented order (hardware-api 7.1).
pub const WORKFLOW_STEPS: [&str; 8] = [
    "packageInfoValidation",
    "preparation",
    "scanning",
    "validation",
    "catalogCreation",
    "manualReview",
    "signing",
    "finalizeIngestion",
];

impl Workflow {
    /// Number of the current step in the documented order, counted from 1; `None` for numbers and steps of tomorrow.
    #[must_use]
    pub fn step_number(&self) -> Option<usize> {
        let step = self.step.as_deref()?;
        WORKFLOW_STEPS.iter().position(|known| known.eq_ignore_ascii_case(step)).map(|index| index + 1)
    }
}

/// One item of `downloads.items` that has a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// `type`, an open set.
    pub kind: String,
    /// The URL.
    pub url: SignedUrl,
}

/// A URL whose query is a credential: opaque text, kept byte for byte, never stored, never shown with its query.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedUrl(String);

impl SignedUrl {
    /// Keeps the URL as it came.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The whole URL, query included: for the one request that uses it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The URL up to its query.
    #[must_use]
    pub fn without_query(&self) -> &str {
        self.0.split(['?', '#']).next().unwrap_or_default()
    }
}

impl fmt::Debug for SignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}?…", self.without_query())
    }
}

impl fmt::Display for SignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

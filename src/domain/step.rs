//! The steps of a job and its place among them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::failure::RetryClass;

/// One step of a `submission`, `upload` or `status-poll`. Numbers never shift; left-out steps are skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Reads the package, hashes it and checks it, before any call.
    Preflight,
    /// Makes or adopts the product.
    CreateProduct,
    /// Makes or adopts the submission.
    CreateSubmission,
    /// Sends the package to the submission's slot.
    Upload,
    /// Hands the submission to the service. It cannot be undone.
    Commit,
    /// Watches the submission to its verdict.
    Poll,
    /// Fetches and verifies what the service made.
    Download,
}

impl Step {
    /// All steps, in order.
    pub const ALL: [Self; 7] = [
        Self::Preflight,
        Self::CreateProduct,
        Self::CreateSubmission,
        Self::Upload,
        Self::Commit,
        Self::Poll,
        Self::Download,
    ];

    /// The fixed number that stands in a place.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Preflight => 0,
            Self::CreateProduct => 10,
            Self::CreateSubmission => 20,
            Self::Upload => 30,
            Self::Commit => 40,
            Self::Poll => 50,
            Self::Download => 60,
        }
    }

    /// The step with this number.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.number() == number)
    }

    /// The name in markers, crash points and events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::CreateProduct => "create-product",
            Self::CreateSubmission => "create-submission",
            Self::Upload => "upload",
            Self::Commit => "commit",
            Self::Poll => "poll",
            Self::Download => "download",
        }
    }

    /// The kind of lane its tickets travel on, so that uploads never starve polls.
    #[must_use]
    pub const fn lane(self) -> Kind {
        match self {
            Self::Preflight | Self::CreateProduct | Self::CreateSubmission | Self::Commit => Kind::Submission,
            Self::Upload | Self::Download => Kind::Upload,
            Self::Poll => Kind::StatusPoll,
        }
    }

    /// The quota class of its calls; `None` when it makes none.
    #[must_use]
    pub const fn quota_class(self) -> Option<QuotaClass> {
        match self {
            Self::Preflight => None,
            Self::CreateProduct | Self::CreateSubmission | Self::Upload | Self::Commit => Some(QuotaClass::Write),
            Self::Poll => Some(QuotaClass::Poll),
            Self::Download => Some(QuotaClass::Download),
        }
    }

    /// The retry class of its write; creating a derived submission is a [`RetryClass::Create`] (see the request).
    #[must_use]
    pub const fn retry_class(self) -> RetryClass {
        match self {
            Self::Preflight | Self::Poll | Self::Download => RetryClass::Read,
            Self::CreateProduct => RetryClass::Create,
            Self::CreateSubmission | Self::Commit => RetryClass::Guarded,
            Self::Upload => RetryClass::Overwrite,
        }
    }

    /// Does it change something at the service?
    #[must_use]
    pub const fn is_write(self) -> bool {
        matches!(self, Self::CreateProduct | Self::CreateSubmission | Self::Upload | Self::Commit)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a job asks for; each kind has lanes of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A driver package from file to signed download.
    Submission,
    /// A package to an existing submission's slot.
    Upload,
    /// An existing submission watched to its end.
    StatusPoll,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Submission, Self::Upload, Self::StatusPoll];

    /// The kind's name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Submission => "submission",
            Self::Upload => "upload",
            Self::StatusPoll => "status-poll",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| format!("{text:?} is no kind of job; there are submission, upload and status-poll"))
    }
}

/// Classes of the quota: writes and looks pass the common limit, the others a share of it as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuotaClass {
    /// Writes: the common limit alone.
    Write,
    /// Looks at what a write may have left: the common limit alone, and a slot is kept free for one that was refused.
    Look,
    /// Downloads: also four fifths of the rate.
    Download,
    /// Polls: also half of the rate.
    Poll,
}

impl QuotaClass {
    /// All classes.
    pub const ALL: [Self; 4] = [Self::Write, Self::Look, Self::Download, Self::Poll];

    /// The class's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Look => "look",
            Self::Download => "download",
            Self::Poll => "poll",
        }
    }
}

/// Where in its job a ticket stands: generation, step, try, compared in that order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// 1 for the first run of a job, one more for each retry by a person.
    pub generation: u32,
    /// The step's fixed number.
    pub step: u16,
    /// One call each, counted from 0.
    #[serde(rename = "try")]
    pub r#try: u32,
}

impl Place {
    /// Where every new job stands.
    pub const FIRST: Self = Self { generation: 1, step: 0, r#try: 0 };

    /// The next call of the same step.
    #[must_use]
    pub const fn next_try(self) -> Self {
        Self { r#try: self.r#try.saturating_add(1), ..self }
    }

    /// The first call of another step.
    #[must_use]
    pub const fn at_step(self, step: u16) -> Self {
        Self { step, r#try: 0, ..self }
    }

    /// The same step in the next generation.
    #[must_use]
    pub const fn next_generation(self) -> Self {
        Self { generation: self.generation.saturating_add(1), step: self.step, r#try: 0 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.generation, self.step, self.r#try)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

//! Why a call gave no usable answer, sorted by what the worker may do next.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// Why a call gave no usable answer, sorted by what the worker may do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// The request took no effect. Send it again after a backoff; costs one attempt.
    #[error("{0}")]
    Transient(Cause),
    /// The service asked for a pause. Costs no attempt; the job's deadline ends it.
    #[error("{0}")]
    Throttled(Pause),
    /// A write may or may not have taken effect. Look for its effect first; repeat only if there is none.
    #[error("outcome unknown: {0}")]
    Indeterminate(Cause),
    /// Repeating cannot help. Recorded, announced as failed, never retried.
    #[error("{0}")]
    Permanent(Cause),
    /// 401: the request was not executed because its token was refused. Renew the token, then the same call again.
    #[error("token refused: {0}")]
    Unauthorized(Cause),
}

impl Failure {
    /// The evidence behind the failure.
    #[must_use]
    pub fn cause(&self) -> &Cause {
        match self {
            Self::Transient(cause)
            | Self::Indeterminate(cause)
            | Self::Permanent(cause)
            | Self::Unauthorized(cause) => cause,
            Self::Throttled(pause) => &pause.cause,
        }
    }

    /// Is it certain that the service did not execute the request?
    #[must_use]
    pub fn is_not_executed(&self) -> bool {
        match self {
            Self::Indeterminate(_) => false,
            Self::Transient(_) | Self::Throttled(_) | Self::Permanent(_) | Self::Unauthorized(_) => true,
        }
    }
}

/// What went wrong, for the log, the event and the person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Cause {
    /// The kind, a closed set.
    pub kind: Kind,
    /// One plain sentence without secrets: operation, and what happened.
    pub message: String,
    /// The HTTP status, when there was an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// The service's own error code, when it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_code: Option<String>,
    /// `Retry-After` of an answer that is no throttle; it delays the next look or try, never shortens it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Duration>,
    /// The service's own request or activity id, for Microsoft support.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_request_id: Option<String>,
}

impl Cause {
    /// A cause of this kind with nothing but a sentence.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            http_status: None,
            api_code: None,
            retry_after: None,
            service_request_id: None,
        }
    }

    /// The same with the HTTP status of the answer.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.http_status = Some(status);
        self
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The kinds of cause. Metrics and exit codes go by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "CauseKind")]
pub enum Kind {
    /// 429 or the like.
    Throttled,
    /// 401 of a resource.
    Unauthorized,
    /// 403: a role is missing or the object is not ours.
    Forbidden,
    /// 404.
    NotFound,
    /// 5xx.
    ServerError,
    /// No answer within the time-out.
    Timeout,
    /// The connection broke after the first byte was sent.
    Disconnected,
    /// Nothing was sent: refused connection, DNS, proxy, TLS.
    NotSent,
    /// The service says it may work later.
    RetryLater,
    /// The service says that it stands already: read before judging (hardware-api 12.4).
    AlreadyDone,
    /// The service refused what we asked for.
    Rejected,
    /// What is at the service no longer fits the job: a person's hand, or another program's.
    Changed,
    /// An answer that cannot be read.
    BadAnswer,
    /// The upload URL is refused or about to expire.
    SasExpired,
    /// The blob service or our transfer failed.
    Transfer,
    /// The source cannot be read, or is not what it was.
    Source,
    /// The sink cannot be written.
    Sink,
    /// The package breaks a rule that we check before any call.
    Preflight,
    /// What was downloaded is not what it should be.
    Verification,
    /// Our own files fail.
    LocalIo,
    /// Our own mistake.
    Internal,
}

/// A pause that the service asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// How long, as told; `None` when the answer did not say.
    pub retry_after: Option<Duration>,
    /// The evidence.
    pub cause: Cause,
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.retry_after {
            Some(wait) => write!(f, "throttled for {} s: {}", wait.as_secs(), self.cause),
            None => write!(f, "throttled: {}", self.cause),
        }
    }
}

/// Retry classes of hardware-api.md 5.2: what an unclear answer means for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryClass {
    /// Safe to repeat.
    Read,
    /// Safe to repeat whole.
    Overwrite,
    /// Compare, then repeat.
    Converge,
    /// The service's state guards against a second one; look, then repeat.
    Guarded,
    /// A repeat may make a second one; never repeat blindly.
    Create,
}

impl RetryClass {
    /// Must a claim be marked as begun before the first byte is sent?
    #[must_use]
    pub const fn needs_begin(self) -> bool {
        matches!(self, Self::Guarded | Self::Create)
    }
}

//! The one object that `submit`, `sign` and `job` print for a job.

use serde::Serialize;

use super::ending;
use crate::{
    domain::{
        ids::{CorrelationId, JobKey, Sha256},
        step::Kind,
        ticket::Downloaded,
    },
    embedded::{JobView, State},
};

/// How a job stands, for programs. Ids are text.
#[derive(Debug, Clone, Serialize)]
pub(super) struct JobResult {
    pub(super) schema: u32,
    /// None when the input did not even tell its id.
    pub(super) job: Option<String>,
    pub(super) account: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) state: String,
    pub(super) product_id: Option<String>,
    pub(super) submission_id: Option<String>,
    pub(super) downloads: Vec<Download>,
    pub(super) warnings: Vec<String>,
    pub(super) error: Option<JobError>,
}

/// One file that was fetched.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Download {
    pub(super) kind: String,
    pub(super) path: String,
    pub(super) sha256: Sha256,
    /// It is the signed package, and was compared with what was submitted.
    pub(super) is_verified: bool,
}

/// Why a job did not complete, or does not go on.
#[derive(Debug, Clone, Serialize)]
pub(super) struct JobError {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) http_status: Option<u16>,
    pub(super) correlation_id: Option<CorrelationId>,
    pub(super) next_step: String,
    pub(super) retryable: bool,
}

impl JobResult {
    /// A job that was refused before it was one.
    pub(super) fn refused(job: Option<String>, account: Option<String>, kind: Option<Kind>, error: JobError) -> Self {
        Self::bare(job, account, kind, "refused", Some(error))
    }

    /// A job of which nothing but this state is known.
    pub(super) fn bare(
        job: Option<String>,
        account: Option<String>,
        kind: Option<Kind>,
        state: &str,
        error: Option<JobError>,
    ) -> Self {
        Self {
            schema: 1,
            job,
            account,
            kind: kind.map(|kind| kind.name().to_owned()),
            state: state.to_owned(),
            product_id: None,
            submission_id: None,
            downloads: Vec::new(),
            warnings: Vec::new(),
            error,
        }
    }

    /// A job that was just accepted.
    pub(super) fn accepted(job: &JobKey, kind: Kind, warnings: Vec<String>) -> Self {
        let (id, account) = (job.id.to_string(), job.account.to_string());
        Self { warnings, ..Self::bare(Some(id), Some(account), Some(kind), State::Accepted.as_str(), None) }
    }

    /// A job as the home shows it.
    pub(super) fn of(view: &JobView) -> Self {
        let summary = &view.summary;
        let progress = view.ticket.as_ref().map(|ticket| &ticket.progress);
        let download = |file: &Downloaded| Download {
            kind: file.kind.clone(),
            path: file.path.clone(),
            sha256: file.sha256,
            is_verified: file.is_verified,
        };
        Self {
            product_id: summary.product_id.clone(),
            submission_id: summary.submission_id.clone(),
            downloads: progress.map(|p| p.downloads.iter().map(download).collect()).unwrap_or_default(),
            warnings: progress.map(|p| p.warnings.clone()).unwrap_or_default(),
            error: error_of(view),
            ..Self::bare(
                Some(summary.key.id.to_string()),
                Some(summary.key.account.to_string()),
                summary.kind,
                summary.state.as_str(),
                None,
            )
        }
    }
}

fn error_of(view: &JobView) -> Option<JobError> {
    let reason = view.end.as_ref()?.reason.as_ref()?;
    Some(JobError {
        code: reason.class.to_string(),
        message: reason.message.clone(),
        http_status: reason.cause.as_ref().and_then(|cause| cause.http_status),
        correlation_id: Some(view.summary.key.correlation_id()),
        next_step: reason.next.clone(),
        retryable: ending::is_retryable(reason.class),
    })
}

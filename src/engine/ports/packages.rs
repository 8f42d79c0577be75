//! Packages: sources, checks, blobs and sinks.

use std::future::Future;

use super::home::Unavailable;
use crate::domain::{
    failure::Failure,
    ids::{ProductId, SubmissionId},
    job::{DownloadSpec, Job, PackageSpec},
    service::SignedUrl,
    ticket::{Downloaded, PackageFacts},
};

/// What a transfer asks of the engine while it runs.
pub trait TransferHooks: Send + Sync {
    /// A newly signed URL for the same thing.
    fn fresh_url(&self) -> impl Future<Output = Result<SignedUrl, Failure>> + Send;

    /// Asked right before the request that replaces the blob: does the claim still hold?
    fn may_replace(&self) -> impl Future<Output = bool> + Send;

    /// Is the handler's deadline near? Then the transfer stops at a block border.
    fn is_out_of_time(&self) -> bool;

    /// Bytes that have arrived.
    fn progress(&self, done: u64, total: u64);
}

/// How an upload ended without a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upload {
    /// The whole package is in its slot.
    Done {
        /// Its length.
        bytes: u64,
    },
    /// It stopped at a block border: go on in the next turn.
    Paused,
    /// The claim no longer holds: nothing was replaced.
    NotHolder,
}

/// How a download ended without a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// The file is whole, compared with what was submitted where that was asked for, and in its place.
    Done {
        /// The file.
        file: Downloaded,
        /// What could not be compared.
        warnings: Vec<String>,
    },
    /// It stopped because the handler's time is up: go on in the next turn.
    Paused,
}

/// A thing to fetch.
#[derive(Debug, Clone)]
pub struct Fetch<'a> {
    /// Its product.
    pub product: ProductId,
    /// Its submission.
    pub submission: SubmissionId,
    /// Type in `downloads.items`.
    pub kind: &'a str,
    /// Where to put it.
    pub spec: &'a DownloadSpec,
    /// What was submitted: the signed package gets its name only when it holds that.
    pub submitted: Option<(&'a PackageSpec, &'a PackageFacts)>,
    /// Does a transient failure now end the job? Then what was submitted is compared if it can be, and told if not.
    pub is_last_attempt: bool,
}

/// Packages: sources, checks, blobs and sinks.
pub trait Packages: Send + Sync + 'static {
    /// Seals what is secret in a job, before anything keeps it. What is sealed already stays as it is.
    ///
    /// # Errors
    /// [`Unavailable`]: it cannot be sealed, and must not be kept.
    fn seal(&self, job: &mut Job) -> Result<(), Unavailable>;

    /// Reads, hashes and checks the package before any call.
    ///
    /// # Errors
    /// [`Failure::Permanent`] with kind preflight or source when a person must change something.
    fn inspect(
        &self,
        package: &PackageSpec,
        product: Option<&serde_json::Map<String, serde_json::Value>>,
    ) -> impl Future<Output = Result<(PackageFacts, Vec<String>), Failure>> + Send;

    /// Sends the package to its slot, going on from what the slot has.
    ///
    /// # Errors
    /// [`Failure`].
    fn upload<H: TransferHooks>(
        &self,
        package: &PackageSpec,
        facts: &PackageFacts,
        slot: SignedUrl,
        hooks: &H,
    ) -> impl Future<Output = Result<Upload, Failure>> + Send;

    /// Fetches one thing, going on from what is there, and compares it with what was submitted before it gets its name.
    ///
    /// # Errors
    /// [`Failure`]; [`Failure::Permanent`] with kind verification when it does not hold what was submitted.
    fn download<H: TransferHooks>(
        &self,
        fetch: &Fetch<'_>,
        url: SignedUrl,
        hooks: &H,
    ) -> impl Future<Output = Result<Fetched, Failure>> + Send;
}

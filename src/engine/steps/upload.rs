//! `upload`: the package to the submission's slot. Repeatable until the commit, so nothing is begun; the claim is asked
//! for right before the one request that replaces the blob.

use super::{Did, missing, source_changed};
use crate::{
    domain::{
        failure::{Cause, Failure, Kind},
        service::{SignedUrl, Submission},
        step::QuotaClass,
        ticket::StepResult,
    },
    engine::{
        claimed::{Claimed, Stop},
        ports::{Packages, Ports, TransferHooks, Upload, Views},
    },
};

/// The type of the download that is the upload slot (hardware-api 6.6).
const SLOT: &str = "initialPackage";

impl<P: Ports> Claimed<'_, P> {
    pub(super) async fn upload(&self) -> Result<Did, Stop> {
        let package = self.taken.work.package.as_ref().ok_or_else(|| missing("the package"))?;
        let facts = self.ticket().progress.package.as_ref().ok_or_else(|| missing("the package's hash"))?;
        if package.sha256.is_some_and(|told| told != facts.sha256) {
            let told = package.sha256.unwrap_or(facts.sha256);
            return Ok(Did::refused(Cause::new(Kind::Source, source_changed(&told, &facts.sha256))));
        }
        let submission = self.get_submission(QuotaClass::Write).await?;
        if submission.is_committed() == Some(true) {
            return Ok(self.found_committed(&submission));
        }
        let Some(slot) = submission.download(SLOT) else {
            let cause = Cause::new(Kind::RetryLater, "the submission shows no upload slot yet");
            return Err(Stop::Failed(Failure::Transient(cause)));
        };
        let hooks = Hooks { claimed: self };
        let upload = self.ports.packages().upload(package, facts, slot.url.clone(), &hooks);
        match self.sent(upload).await.map_err(|failure| self.transfer_stop(failure))? {
            Upload::Done { bytes } => Ok(Did::done(StepResult::Upload { bytes })),
            Upload::Paused => Err(self.next_turn()),
            Upload::NotHolder => Err(Stop::NotHolder),
        }
    }

    /// The submission is committed before our upload. A job that lost its record may have done so itself: the commit's
    /// own look and the verification of the download tell. Otherwise somebody else has, and the plan no longer fits.
    fn found_committed(&self, submission: &Submission) -> Did {
        if self.record.suspect_since.is_some() {
            return Did::done(StepResult::Upload { bytes: 0 });
        }
        let message = format!(
            "submission {} is committed already, and not by this job: its package can no longer be replaced",
            submission.id
        );
        Did::refused(Cause::new(Kind::Changed, message))
    }
}

/// What a transfer asks of its handler.
pub(super) struct Hooks<'a, 'b, P: Ports> {
    pub(super) claimed: &'a Claimed<'b, P>,
}

impl<P: Ports> TransferHooks for Hooks<'_, '_, P> {
    async fn fresh_url(&self) -> Result<SignedUrl, Failure> {
        fresh_url(self.claimed, SLOT, QuotaClass::Write).await
    }

    async fn may_replace(&self) -> bool {
        self.claimed.still_holds().await
    }

    fn is_out_of_time(&self) -> bool {
        self.claimed.is_out_of_time()
    }

    fn progress(&self, done: u64, total: u64) {
        self.claimed.ports.home().transferred(&self.claimed.key, done, total);
    }
}

/// Reads the submission again for a newly signed URL; a refused permit makes the transfer stop and come again.
pub(super) async fn fresh_url<P: Ports>(
    claimed: &Claimed<'_, P>,
    kind: &str,
    class: QuotaClass,
) -> Result<SignedUrl, Failure> {
    let later = |message: &str| Failure::Transient(Cause::new(Kind::RetryLater, message));
    match claimed.get_submission(class).await {
        Ok(submission) => submission
            .download(kind)
            .map(|item| item.url.clone())
            .ok_or_else(|| later(&format!("the submission no longer shows its {kind}"))),
        Err(Stop::Failed(failure)) => Err(failure),
        Err(stop) => {
            claimed.note_stop(stop);
            Err(later("no new URL can be had now"))
        }
    }
}

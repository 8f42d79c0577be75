//! `download`: fetches what was asked for and verifies the signed package.

use super::{Did, upload::fresh_url};
use crate::{
    domain::{
        failure::{Cause, Failure, Kind},
        service::SignedUrl,
        step::QuotaClass,
        ticket::StepResult,
    },
    engine::{
        claimed::{Claimed, Stop},
        ports::{Fetch, Fetched, Packages, Ports, TransferHooks, Views},
    },
};

/// The type of the download that the service signs (hardware-api 6.6).
const SIGNED: &str = "signedPackage";

impl<P: Ports> Claimed<'_, P> {
    pub(super) async fn download(&self) -> Result<Did, Stop> {
        let Some(spec) = &self.taken.work.download else {
            return Ok(Did::done(StepResult::Download { files: Vec::new(), warnings: Vec::new() }));
        };
        let (product, submission) = self.submission_ids()?;
        let read = self.get_submission(QuotaClass::Download).await?;
        let (mut files, mut warnings) = (Vec::new(), Vec::new());
        for kind in &spec.kinds {
            let Some(item) = read.download(kind) else {
                if kind.eq_ignore_ascii_case(SIGNED) {
                    let cause = Cause::new(Kind::RetryLater, "the submission does not show its signed package");
                    return Err(Stop::Failed(Failure::Transient(cause)));
                }
                continue;
            };
            let submitted = self.taken.work.package.as_ref().zip(self.ticket().progress.package.as_ref());
            let submitted = submitted.filter(|_| kind.eq_ignore_ascii_case(SIGNED));
            let is_last_attempt = self.ticket().attempts.saturating_add(1) >= self.settings.retry.max_attempts;
            let fetch = Fetch { product, submission, kind, spec, submitted, is_last_attempt };
            let hooks = Hooks { claimed: self, kind };
            let download = self.ports.packages().download(&fetch, item.url.clone(), &hooks);
            match self.sent(download).await.map_err(|failure| self.transfer_stop(failure))? {
                Fetched::Done { file, warnings: odd } => {
                    files.push(file);
                    warnings.extend(odd);
                }
                Fetched::Paused => return Err(self.next_turn()),
            }
        }
        Ok(Did::done(StepResult::Download { files, warnings }))
    }
}

struct Hooks<'a, 'b, P: Ports> {
    claimed: &'a Claimed<'b, P>,
    kind: &'a str,
}

impl<P: Ports> TransferHooks for Hooks<'_, '_, P> {
    async fn fresh_url(&self) -> Result<SignedUrl, Failure> {
        fresh_url(self.claimed, self.kind, QuotaClass::Download).await
    }

    async fn may_replace(&self) -> bool {
        self.claimed.may_call()
    }

    fn is_out_of_time(&self) -> bool {
        self.claimed.is_out_of_time()
    }

    fn progress(&self, done: u64, total: u64) {
        self.claimed.ports.home().transferred(&self.claimed.key, done, total);
    }
}

//! `poll`: watches the submission to its verdict. One look a turn; the next one is parked.

use std::time::Duration;

use serde_json::Value;

use super::Did;
use crate::{
    domain::{
        event_data::{self, Progressed},
        failure::{Cause, Kind},
        job::Wait,
        service::{Submission, Verdict},
        step::{QuotaClass, Step},
        ticket::{StepResult, Watch},
        time::Moment,
    },
    engine::{
        claimed::{Claimed, Stop},
        ports::{Ports, Quota},
    },
};

impl<P: Ports> Claimed<'_, P> {
    pub(super) async fn poll(&self) -> Result<Did, Stop> {
        let submission = self.get_submission(QuotaClass::Poll).await?;
        let now = self.now();
        let watch = watched(self.ticket().progress.watch.as_ref(), &submission, now);
        if submission.verdict() == Verdict::Failed {
            return Ok(Did::refused(failure(&submission)));
        }
        if let Some((is_over, warning)) = self.is_over(&submission, &watch, now)
            && is_over
        {
            return Ok(Did::done(StepResult::Poll { watch, warning }));
        }
        if self.is_commit_not_shown(&submission, &watch, now) {
            let message = "the service accepted the commit and does not show it".to_owned();
            return Ok(Did::Person { message, candidates: Vec::new() });
        }
        if submission.verdict() == Verdict::Almost
            && watch.almost_since.is_some_and(|since| now.since(since) >= self.settings.waits.almost_for)
        {
            let message = "the workflow is complete and the service does not show the signed package".to_owned();
            return Ok(Did::Person { message, candidates: Vec::new() });
        }
        let moved = self.moved(&watch, &submission);
        let at = now.after(self.next_poll(&watch, now).await?);
        Ok(Did::PollAgain { at, watch, moved })
    }

    /// Is what the job waits for there? With a warning when it waits no longer.
    fn is_over(&self, submission: &Submission, watch: &Watch, now: Moment) -> Option<(bool, Option<String>)> {
        match self.taken.work.wait {
            Wait::None => Some((true, None)),
            Wait::Committed => Some((submission.is_committed() == Some(true), None)),
            Wait::Signed => Some((submission.verdict() == Verdict::Signed, None)),
            Wait::Metadata if submission.verdict() != Verdict::Signed => None,
            Wait::Metadata if submission.download("driverMetadata").is_some() => Some((true, None)),
            Wait::Metadata => {
                let since = watch.almost_since.unwrap_or(now);
                let is_late = now.since(since) >= self.settings.waits.metadata_for;
                let warning = "the driver metadata was not there in time; the job is over without it";
                Some((is_late, Some(warning.to_owned())))
            }
        }
    }

    /// After an accepted commit a read may show it pending for a while (hardware-api 5.11).
    fn is_commit_not_shown(&self, submission: &Submission, watch: &Watch, now: Moment) -> bool {
        self.taken.work.includes(Step::Commit)
            && submission.verdict() == Verdict::Open
            && now.since(watch.since) >= self.settings.waits.commit_shown_for
    }

    /// What to announce when the workflow moved, or is stuck.
    fn moved(&self, watch: &Watch, submission: &Submission) -> Option<Value> {
        let before = self.ticket().progress.watch.as_ref();
        let is_news = before.is_none_or(|before| (&before.step, &before.state) != (&watch.step, &watch.state));
        let workflow = submission.workflow.as_ref()?;
        is_news.then(|| {
            event_data::json(&Progressed::Moved {
                step: Step::Poll,
                workflow_step: workflow.step.as_deref(),
                workflow_step_number: workflow.step_number(),
                workflow_state: workflow.state.as_deref(),
            })
        })
    }

    /// The larger of the ladder's interval and what the account's rate leaves each of its watches.
    async fn next_poll(&self, watch: &Watch, now: Moment) -> Result<Duration, Stop> {
        let ladder = self.settings.waits.poll_interval(now.since(watch.since));
        let home = self.ports.home();
        let in_flight = home.polls_in_flight(&self.key.account).await?;
        let per_minute = home.polls_per_minute(&self.key.account).max(f64::MIN_POSITIVE);
        #[expect(clippy::cast_precision_loss, reason = "a count of tickets; the quotient is a wait")]
        let fair = Duration::try_from_secs_f64(in_flight as f64 * 60.0 / per_minute).unwrap_or(ladder);
        Ok(ladder.max(fair))
    }
}

/// The watch after this read.
fn watched(before: Option<&Watch>, submission: &Submission, now: Moment) -> Watch {
    let workflow = submission.workflow.clone().unwrap_or_default();
    let is_almost = matches!(submission.verdict(), Verdict::Almost | Verdict::Signed);
    let same = before.filter(|b| b.step == workflow.step && b.state == workflow.state);
    Watch {
        since: before.map_or(now, |b| b.since),
        unchanged_since: same.map_or(now, |b| b.unchanged_since),
        said_stuck: same.is_some_and(|b| b.said_stuck),
        almost_since: before.and_then(|b| b.almost_since).or(is_almost.then_some(now)),
        step: workflow.step,
        state: workflow.state,
    }
}

/// Why the service's workflow failed, in its own words.
fn failure(submission: &Submission) -> Cause {
    let workflow = submission.workflow.clone().unwrap_or_default();
    let step = workflow.step.as_deref().unwrap_or("an unnamed step");
    let said = if workflow.messages.is_empty() {
        "the service gave no message".to_owned()
    } else {
        workflow.messages.join("; ")
    };
    let mut cause = Cause::new(Kind::Rejected, format!("submission {} failed at {step}: {said}", submission.id));
    cause.api_code = Some("workflowFailed".to_owned());
    cause
}

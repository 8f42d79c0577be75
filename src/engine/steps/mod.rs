//! What each step does once its place is taken and nothing is in doubt.

mod create_product;
mod create_submission;
mod download;
mod poll;
mod upload;

use serde_json::Value;

use super::{
    claimed::{Claimed, Stop, Waiting},
    ports::{Packages, Ports, TurnKey},
};
use crate::domain::{
    claim::Finished,
    event::Candidate,
    failure::{Cause, Failure, Kind},
    ids::{ProductId, SubmissionId},
    job::Target,
    plan::Ending,
    service::{Request, Submission},
    step::{QuotaClass, Step},
    ticket::{StepResult, Watch},
    time::Moment,
};

/// How a handler's turn with a step ended.
#[derive(Debug)]
pub(super) enum Did {
    /// The step is finished.
    Finished(Finished<StepResult>),
    /// A look decided nothing: the next one.
    LookAgain { at: Moment },
    /// A poll without an end: the next one.
    PollAgain { at: Moment, watch: Watch, moved: Option<Value> },
    /// Only a person can tell.
    Person { message: String, candidates: Vec<Candidate> },
    /// The job ends before a new call.
    End(Ending),
    /// The account is not configured, and has not been for long enough.
    AccountRemoved,
}

impl Did {
    pub(super) const fn done(result: StepResult) -> Self {
        Self::Finished(Finished::Done(result))
    }

    pub(super) const fn refused(cause: Cause) -> Self {
        Self::Finished(Finished::Refused(StepResult::Refused { cause }))
    }
}

impl<P: Ports> Claimed<'_, P> {
    /// Does the step.
    pub(super) async fn perform(&self) -> Result<Did, Stop> {
        match self.step() {
            Step::Preflight => self.preflight().await,
            Step::CreateProduct => self.create_product().await,
            Step::CreateSubmission => self.create_submission().await,
            Step::Upload => self.upload().await,
            Step::Commit => self.commit().await,
            Step::Poll => self.poll().await,
            Step::Download => self.download().await,
        }
    }

    async fn preflight(&self) -> Result<Did, Stop> {
        let Some(package) = &self.taken.work.package else {
            return Ok(Did::done(StepResult::Preflight { package: None, warnings: Vec::new() }));
        };
        let product = match &self.taken.work.product {
            Target::Create(members) => Some(members),
            Target::Existing(_) => None,
        };
        let (facts, warnings) = self.ports.packages().inspect(package, product).await.map_err(Stop::Failed)?;
        if let Some(first) = &self.ticket().progress.package
            && first.sha256 != facts.sha256
        {
            return Ok(Did::refused(Cause::new(Kind::Source, source_changed(&first.sha256, &facts.sha256))));
        }
        Ok(Did::done(StepResult::Preflight { package: Some(facts), warnings }))
    }

    async fn commit(&self) -> Result<Did, Stop> {
        let (product, submission) = self.submission_ids()?;
        self.write(&[self.product_turn()?], &Request::Commit { product, submission }).await?;
        self.spend_turn(self.product_turn()?);
        Ok(Did::done(StepResult::Commit { adopted: false }))
    }

    /// One write in flight at a time per product.
    pub(super) fn product_turn(&self) -> Result<TurnKey, Stop> {
        Ok(TurnKey::Product(self.key.account.clone(), self.product_id()?))
    }

    /// The ids that the step needs: from the spec, or learned on the way.
    pub(super) fn submission_ids(&self) -> Result<(ProductId, SubmissionId), Stop> {
        let submission = match &self.taken.work.submission {
            Some(Target::Existing(id)) => Some(*id),
            Some(Target::Create(_)) | None => self.ticket().progress.submission_id,
        };
        Ok((self.product_id()?, submission.ok_or_else(|| missing("the submission's id"))?))
    }

    pub(super) fn product_id(&self) -> Result<ProductId, Stop> {
        let id = match &self.taken.work.product {
            Target::Existing(id) => Some(*id),
            Target::Create(_) => self.ticket().progress.product_id,
        };
        id.ok_or_else(|| missing("the product's id"))
    }

    /// Reads the submission singly.
    pub(super) async fn get_submission(&self, class: QuotaClass) -> Result<Submission, Stop> {
        let (product, submission) = self.submission_ids()?;
        let answer = self.read(class, &Request::GetSubmission { product, submission }).await?;
        answer.response.into_submission().ok_or_else(|| unexpected("getSubmission"))
    }

    /// The handler's time is up: the same place again, soon.
    pub(super) fn next_turn(&self) -> Stop {
        Stop::Wait { until: self.now().after(self.settings.parks.next_turn), why: Waiting::NextTurn }
    }
}

pub(super) fn source_changed(first: &impl ToString, now: &impl ToString) -> String {
    format!("the source changed: its SHA-256 was {} and is {} now", first.to_string(), now.to_string())
}

/// A ticket that lacks what an earlier step must have left: our own mistake.
fn missing(what: &str) -> Stop {
    Stop::Failed(Failure::Permanent(Cause::new(Kind::Internal, format!("the ticket lacks {what}"))))
}

/// An answer of another kind than was asked for: our own mistake.
pub(super) fn unexpected(operation: &str) -> Stop {
    let message = format!("{operation} was answered with something else than was asked for");
    Stop::Failed(Failure::Permanent(Cause::new(Kind::Internal, message)))
}

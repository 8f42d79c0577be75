//! `create-submission`: makes the submission, one write at a time per product.

use super::{Did, unexpected};
use crate::{
    domain::{
        failure::{Cause, Failure, Kind},
        ids::Marker,
        job::{NewSubmission, Target},
        service::Request,
        step::Step,
        ticket::StepResult,
    },
    engine::{
        claimed::{Claimed, Stop},
        ports::Ports,
    },
};

impl<P: Ports> Claimed<'_, P> {
    pub(super) async fn create_submission(&self) -> Result<Did, Stop> {
        let product = self.product_id()?;
        let wanted = self.new_submission()?;
        let request = Request::CreateSubmission { product, name: wanted.name, kind: wanted.kind };
        // The turn outlives an unclear answer: the write may still be on its way.
        let answer = self.write(&[self.product_turn()?], &request).await?;
        self.spend_turn(self.product_turn()?);
        let submission = answer.response.into_submission().ok_or_else(|| unexpected("createSubmission"))?;
        Ok(Did::done(StepResult::CreateSubmission { id: submission.id, adopted: false }))
    }

    /// The submission that is sent: the name marked unless that is switched off.
    pub(in crate::engine) fn new_submission(&self) -> Result<NewSubmission, Stop> {
        let Some(Target::Create(wanted)) = &self.taken.work.submission else {
            let cause = Cause::new(Kind::Internal, "the job makes no submission");
            return Err(Stop::Failed(Failure::Permanent(cause)));
        };
        let mut wanted = wanted.clone();
        if self.settings.markers_of(&self.key.account).submissions {
            wanted.name = Marker::of(&self.key, Step::CreateSubmission.name()).mark(&wanted.name);
        }
        Ok(wanted)
    }
}

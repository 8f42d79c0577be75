//! One record per job, and its compare-and-swap.

use super::{Store, foreign, millis, view::Shown};
use crate::{
    domain::{
        claim::{Birth, Epoch, Loaded},
        event::End,
        ids::JobKey,
        plan::JobRecord,
        step::Step,
        ticket::StepResult,
        time::Moment,
    },
    engine::ports::{Memory, Swapped, Unavailable},
};

type Present = Loaded<StepResult, End>;

/// The answer of [`Store::swap_shown`].
#[derive(Debug, Clone, PartialEq)]
pub enum Written {
    /// The record is written, and this is its version.
    Done(u64),
    /// It is not: decide again on the present state.
    Refused(Box<Loaded<StepResult, End>>),
}

impl From<Written> for Swapped {
    fn from(written: Written) -> Self {
        match written {
            Written::Done(_) => Self::Done,
            Written::Refused(present) => Self::Refused(present),
        }
    }
}

/// What `present` of `birth.lua` answers.
pub(super) fn read(answer: &[String]) -> Result<Present, Unavailable> {
    let [epoch, at, is_clean, now, version, record] = answer else { return Err(foreign("the answer of a script")) };
    let moment = |text: &str| text.parse().map(Moment::from_millis).map_err(|_| foreign("an instant"));
    let epoch = u128::from_str_radix(epoch, 16).map(Epoch).map_err(|_| foreign("the birth mark"))?;
    let birth = Birth { epoch, at: moment(at)?, is_clean: is_clean == "1" };
    let now = moment(now)?;
    let record: Option<JobRecord> = match record.as_str() {
        "" => None,
        text => Some(serde_json::from_str(text).map_err(|error| foreign(&format!("a record ({error})")))?),
    };
    let holder_lives = record.as_ref().and_then(|record| record.holder).is_some_and(|holder| holder.until > now);
    let version = version.parse().map_err(|_| foreign("a version"))?;
    Ok(Loaded { record, version, birth, now, holder_lives })
}

impl Store {
    /// A ticket of the job is on its way to a poll. It counts until the job's record stands elsewhere.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn waits_for_poll(&self, job: &JobKey) -> Result<(), Unavailable> {
        let mut call = self.inner.scripts.waits.prepare_invoke();
        call.key(self.polls(&job.account)).arg(job.to_string()).arg(millis(self.options().retention));
        self.run("waits", &mut call).await.map(|_: u8| ())
    }

    /// As [`Memory::swap`], and writes what people are shown with it.
    ///
    /// # Errors
    /// [`Unavailable`]: it may have been written all the same.
    pub async fn swap_shown(
        &self,
        job: &JobKey,
        epoch: Epoch,
        version: u64,
        record: &JobRecord,
        shown: &Shown,
    ) -> Result<Written, Unavailable> {
        let text = serde_json::to_string(record)
            .map_err(|error| Unavailable { what: "memory", why: format!("the record cannot be written: {error}") })?;
        let polls = record.end.is_none() && Step::from_number(record.place.step) == Some(Step::Poll);
        let mut call = self.inner.scripts.swap.prepare_invoke();
        call.key(self.born()).key(self.record(job)).key(self.polls(&job.account));
        call.key(self.view(job)).key(self.view_index());
        call.arg(format!("{:032x}", epoch.0)).arg(version).arg(text).arg(millis(self.options().retention));
        call.arg(if polls { "1" } else { "0" }).arg(job.to_string()).arg(millis(self.options().shown_for));
        for (name, value) in shown.fields(record) {
            call.arg(name).arg(value);
        }
        let answer: Vec<String> = self.run("swap", &mut call).await?;
        if let [version] = answer.as_slice() {
            return Ok(Written::Done(version.parse().map_err(|_| foreign("a version"))?));
        }
        let present = read(&answer)?;
        self.saw(present.birth, present.now);
        Ok(Written::Refused(Box::new(present)))
    }
}

impl Memory for Store {
    async fn load(&self, job: &JobKey) -> Result<Present, Unavailable> {
        let mut call = self.inner.scripts.load.prepare_invoke();
        call.key(self.born()).key(self.record(job));
        let answer: Vec<String> = self.run("load", &mut call).await?;
        let present = read(&answer)?;
        self.saw(present.birth, present.now);
        Ok(present)
    }

    async fn swap(&self, job: &JobKey, epoch: Epoch, version: u64, record: &JobRecord) -> Result<Swapped, Unavailable> {
        self.swap_shown(job, epoch, version, record, &Shown::default()).await.map(Swapped::from)
    }
}

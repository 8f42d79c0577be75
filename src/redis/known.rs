//! What this process knows of the memory without asking it: the life it saw last, and the records it wrote itself.
//!
//! A guess that spares a `load`, never a fact: whoever acts on it swaps at once, and the memory refuses the swap when the
//! guess was wrong, and brings what is there.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::Store;
use crate::{
    clock,
    domain::{
        claim::{Birth, Epoch, Loaded},
        event::End,
        ids::JobKey,
        plan::JobRecord,
        ticket::StepResult,
        time::Moment,
    },
};

/// What was seen longer ago is no longer guessed from: the server's clock may have been set.
const FRESH: Duration = Duration::from_secs(30);

/// Records that are kept at most; each belongs to a handler that is at work.
const MOST: usize = 4_096;

#[derive(Debug, Default)]
pub(super) struct Known {
    seen: Mutex<Option<Seen>>,
    held: Mutex<BTreeMap<JobKey, Held>>,
}

/// The memory's life and its clock, without what tests move, and ours then.
#[derive(Debug, Clone, Copy)]
struct Seen {
    birth: Birth,
    now: Moment,
    at: Duration,
}

/// A record as this process wrote it.
#[derive(Debug, Clone)]
struct Held {
    epoch: Epoch,
    version: u64,
    record: JobRecord,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Notes the life and the clock that an answer told.
    pub(super) fn saw(&self, birth: Birth, now: Moment) {
        let now = Moment::from_millis(now.as_millis().saturating_sub(self.options().shift.millis()));
        let before = lock(&self.inner.known.seen).replace(Seen { birth, now, at: clock::boot_time() });
        if before.is_some_and(|before| before.birth.epoch != birth.epoch) {
            tracing::warn!("the memory is in another life: it was emptied, started anew, or failed over");
            self.options().metrics.epoch_changed();
        }
    }

    /// Notes that this process holds a job by a record that it wrote.
    pub(crate) fn remember(&self, job: &JobKey, epoch: Epoch, version: u64, record: &JobRecord) {
        let mut held = lock(&self.inner.known.held);
        if held.len() >= MOST {
            held.clear();
        }
        held.insert(job.clone(), Held { epoch, version, record: record.clone() });
    }

    /// The job is no longer in this process's hands.
    pub(crate) fn forget(&self, job: &JobKey) {
        lock(&self.inner.known.held).remove(job);
    }

    /// What a `load` brings of a job that the memory has never met.
    pub(crate) fn guess_new(&self) -> Option<Loaded<StepResult, End>> {
        let Seen { birth, now, at } = (*lock(&self.inner.known.seen))?;
        let since = clock::boot_time().saturating_sub(at);
        let now = now.after(since).as_millis().saturating_add(self.options().shift.millis());
        let now = Moment::from_millis(now);
        (since < FRESH).then_some(Loaded { record: None, version: 0, birth, now, holder_lives: false })
    }

    /// What a `load` brings if nobody has touched the job's record since this process wrote it.
    pub(crate) fn guess(&self, job: &JobKey) -> Option<Loaded<StepResult, End>> {
        let nothing = self.guess_new()?;
        let Held { epoch, version, record } = lock(&self.inner.known.held).get(job).cloned()?;
        let holder_lives = record.holder.is_some_and(|holder| holder.until > nothing.now);
        (epoch == nothing.birth.epoch).then_some(Loaded { record: Some(record), version, holder_lives, ..nothing })
    }
}

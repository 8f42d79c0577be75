//! The order of a step's end where broker and memory are apart: record, events, next ticket, delivery, letting go.
//!
//! [`settle()`] is the one implementation that the fleet and the simulation share; the proofs live here. The embedded home
//! has no need of it: there the same writes are one transaction.

use std::future::Future;

use super::{
    claimed::{SWAPS, contended},
    crash::{self, Arrow},
    ports::{Memory, Settled, Swapped, Unavailable},
};
use crate::domain::{
    event::{End, Event},
    ids::JobKey,
    plan::JobRecord,
    settlement::{Entry, Next, SetAside, Settlement, Writes, resolve},
    ticket::Ticket,
    time::Moment,
};

/// Proof that something was confirmed by the broker. Only the functions of this module make one.
#[derive(Debug)]
#[must_use]
pub struct Confirmed(());

/// Proof that a delivery may be settled: everything that must be safe before is confirmed.
#[derive(Debug)]
#[must_use]
pub struct Proof(());

/// The broker of a home whose memory is elsewhere. Each call returns when the broker has confirmed.
pub trait Broker: Send + Sync + 'static {
    /// What names a delivery.
    type Delivery: Send + Sync + 'static;

    /// Publishes a ticket to its return lane, not to be delivered before its `due`.
    ///
    /// # Errors
    /// [`Unavailable`]: it may have been published all the same.
    fn publish(&self, ticket: &Ticket) -> impl Future<Output = Result<(), Unavailable>> + Send;

    /// Publishes a text byte for byte to the lane of the delivery.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn publish_raw(
        &self,
        of: &Self::Delivery,
        body: &str,
        due: Moment,
    ) -> impl Future<Output = Result<(), Unavailable>> + Send;

    /// Announces an event.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn announce(&self, event: &Event) -> impl Future<Output = Result<(), Unavailable>> + Send;

    /// Sets an ended job's ticket aside.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn set_aside(&self, end: &End) -> impl Future<Output = Result<(), Unavailable>> + Send;

    /// Sets a message aside that never became a job, with where it came from.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn set_message_aside(
        &self,
        of: &Self::Delivery,
        message: &SetAside,
    ) -> impl Future<Output = Result<(), Unavailable>> + Send;

    /// Settles the delivery: it will not come again.
    ///
    /// # Errors
    /// [`Unavailable`]: it may come again.
    fn acknowledge(
        &self,
        delivery: Self::Delivery,
        proof: Proof,
    ) -> impl Future<Output = Result<(), Unavailable>> + Send;
}

/// Settles by the one written order.
///
/// # Errors
/// [`Unavailable`]: the delivery is not settled and comes again; repeats of what was written are harmless.
pub async fn settle<B: Broker, M: Memory>(
    broker: &B,
    memory: &M,
    delivery: B::Delivery,
    job: Option<&JobKey>,
    settlement: &Settlement,
) -> Result<Settled, Unavailable> {
    // ORDER: record before announce before hand on before acknowledge before let go (docs/protocol.md).
    let writes = recorded(memory, job, settlement).await?;
    if writes.record.is_some() {
        crash::arrow(Arrow::AfterRecord);
    }
    let announced = announced(broker, &writes).await?;
    if !writes.events.is_empty() {
        crash::arrow(Arrow::AfterEvents);
    }
    let proof = handed_on(broker, &delivery, &writes, announced).await?;
    crash::arrow(Arrow::AfterNext);
    broker.acknowledge(delivery, proof).await?;
    crash::arrow(Arrow::AfterAcknowledge);
    if let Some(job) = job {
        release(memory, job, settlement, &writes).await;
    }
    Ok(if writes.is_lost { Settled::Lost } else { Settled::Done })
}

async fn recorded<M: Memory>(memory: &M, job: Option<&JobKey>, settlement: &Settlement) -> Result<Writes, Unavailable> {
    let Some(job) = job.filter(|_| needs_memory(&settlement.entry)) else { return Ok(plain(settlement)) };
    // What this process wrote itself is not asked for again, as long as a swap decides whether it still stands: a
    // settlement that swaps nothing before it publishes must know.
    let guess = memory.guess(job).filter(|guess| resolve(guess, settlement).record.is_some());
    let mut loaded = match guess {
        Some(guess) => guess,
        None => memory.load(job).await?,
    };
    for _ in 0..SWAPS {
        let writes = resolve(&loaded, settlement);
        let Some(record) = &writes.record else { return Ok(writes) };
        match memory.swap(job, loaded.birth.epoch, loaded.version, record).await? {
            Swapped::Done => return Ok(writes),
            Swapped::Refused(present) => loaded = *present,
        }
    }
    Err(contended())
}

const fn needs_memory(entry: &Entry) -> bool {
    match entry {
        Entry::Nothing | Entry::EndAgain { .. } | Entry::LetGoIfHeld => false,
        Entry::Outcome(_) | Entry::LetGo | Entry::Panicked | Entry::End { .. } => true,
    }
}

/// The writes of a settlement that asks nothing of memory.
fn plain(settlement: &Settlement) -> Writes {
    let mut writes = Writes {
        record: None,
        events: settlement.events.clone(),
        set_aside: None,
        next: settlement.next.clone(),
        release: None,
        is_lost: false,
    };
    if let Entry::EndAgain { end, set_aside } = &settlement.entry {
        writes.events.push(end.event());
        writes.set_aside = (*set_aside && end.is_set_aside()).then(|| end.clone());
    }
    writes
}

async fn announced<B: Broker>(broker: &B, writes: &Writes) -> Result<Confirmed, Unavailable> {
    for event in &writes.events {
        broker.announce(event).await?;
    }
    Ok(Confirmed(()))
}

async fn handed_on<B: Broker>(
    broker: &B,
    delivery: &B::Delivery,
    writes: &Writes,
    _announced: Confirmed,
) -> Result<Proof, Unavailable> {
    match &writes.next {
        Next::Nothing => {}
        Next::Ticket(ticket) => broker.publish(ticket).await?,
        Next::Raw { body, due } => broker.publish_raw(delivery, body, *due).await?,
        Next::SetAside(message) => broker.set_message_aside(delivery, message).await?,
    }
    if let Some(end) = &writes.set_aside {
        broker.set_aside(end).await?;
    }
    Ok(Proof(()))
}

/// Lets the record go. A later place may have taken it already: then there is nothing to let go.
async fn release<M: Memory>(memory: &M, job: &JobKey, settlement: &Settlement, writes: &Writes) {
    let wants = writes.release.is_some() || matches!(settlement.entry, Entry::LetGoIfHeld);
    if !wants {
        return;
    }
    let Ok(loaded) = memory.load(job).await else { return };
    let record: Option<JobRecord> = resolve(&loaded, settlement).release;
    if let Some(record) = record
        && let Err(down) = memory.swap(job, loaded.birth.epoch, loaded.version, &record).await
    {
        tracing::debug!(%down, "a claim was not let go; its lease runs out");
    }
}

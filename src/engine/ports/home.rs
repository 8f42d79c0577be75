//! One home: queue, memory, turns, listings, quota and what people are shown.

use std::{future::Future, time::Duration};

use super::super::intake::Taken;
use crate::domain::{
    claim::{Epoch, Loaded},
    event::End,
    ids::{AccountName, JobKey, ProductId},
    plan::JobRecord,
    quota::Admission,
    service::{PageLink, Product},
    settlement::Settlement,
    step::{Kind, QuotaClass},
    ticket::StepResult,
    time::Moment,
    trace::Trace,
};

/// The queue or the memory does not answer, or answers with an error. The engine parks and comes again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is not available: {why}")]
pub struct Unavailable {
    /// Which part.
    pub what: &'static str,
    /// The evidence, without secrets.
    pub why: String,
}

/// Where a message came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A producer's own message: a job, decoded strictly, at its first place.
    Producer,
    /// A job that the command line or the console made into a ticket at its first place before it stored it.
    Accepted,
    /// A ticket that a worker handed on.
    Return,
}

/// A message as it was received. It stays the worker's until it is settled, or until the worker is gone.
#[derive(Debug)]
pub struct Received<D> {
    /// What the queue needs to settle it.
    pub delivery: D,
    /// Where it came from.
    pub origin: Origin,
    /// The text.
    pub body: String,
    /// The queue gave it out before and saw no settlement.
    pub is_redelivered: bool,
    /// The queue has given it out as often as it may: its job ends if its claims were lost, too.
    pub is_spent: bool,
    /// The user name that the broker verified.
    pub producer: Option<String>,
    /// The message's own id, where its queue has such a thing: the job's id when the job names none.
    pub message_id: Option<String>,
    /// When it was published, by the publisher's clock.
    pub published_at: Option<Moment>,
    /// The producer's trace context, where its message brought one.
    pub trace: Option<Trace>,
}

/// What came of settling a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Everything was written and confirmed, the delivery is settled.
    Done,
    /// Another claim has the job: nothing was announced, the own ticket went back, marked.
    Lost,
}

/// Gives a producer's job what every stored job has: a deadline and a seal on what is secret in it.
pub type Completes<'a> = dyn Fn(&mut Taken) -> Result<(), Unavailable> + Send + Sync + 'a;

/// The queue of one home.
pub trait Queue: Send + Sync + 'static {
    /// What names a delivery to the queue.
    type Delivery: Send + Sync + 'static;

    /// Waits for the next message of this lane that is due.
    ///
    /// Cancel safe: a message that was not returned is given out again.
    ///
    /// # Errors
    /// [`Unavailable`]; the caller backs off and asks again.
    fn receive(&self, lane: Kind) -> impl Future<Output = Result<Received<Self::Delivery>, Unavailable>> + Send;

    /// Takes nothing more until somebody receives again, and gives back what nobody has looked at. Best effort: what could
    /// not be given back comes again.
    ///
    /// `complete` is what a job is given before it is kept: what is given back becomes a ticket.
    fn rest(&self, _complete: &Completes<'_>) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Ends a step: record, events, next ticket, delivery, letting go, in this order or at once.
    ///
    /// `job` is none when the message never became a job.
    ///
    /// # Errors
    /// [`Unavailable`]: some of it may have been written; the message comes again.
    fn settle(
        &self,
        delivery: Self::Delivery,
        job: Option<&JobKey>,
        settlement: Settlement,
    ) -> impl Future<Output = Result<Settled, Unavailable>> + Send;
}

/// The answer of [`Memory::swap`].
#[derive(Debug, Clone, PartialEq)]
pub enum Swapped {
    /// The record is written.
    Done,
    /// It is not: decide again on the present state.
    Refused(Box<Loaded<StepResult, End>>),
}

/// One record per job.
pub trait Memory: Send + Sync + 'static {
    /// What memory knows of a job.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn load(&self, job: &JobKey) -> impl Future<Output = Result<Loaded<StepResult, End>, Unavailable>> + Send;

    /// Writes the record when epoch and version are still those of the `load`.
    ///
    /// # Errors
    /// [`Unavailable`]: it may have been written all the same.
    fn swap(
        &self,
        job: &JobKey,
        epoch: Epoch,
        version: u64,
        record: &JobRecord,
    ) -> impl Future<Output = Result<Swapped, Unavailable>> + Send;

    /// What a `load` would bring if nobody has touched this record since this process wrote it; none when it must be asked.
    ///
    /// A guess, for who goes on to swap at once: the memory refuses the swap when it was wrong.
    fn guess(&self, _job: &JobKey) -> Option<Loaded<StepResult, End>> {
        None
    }

    /// The same of a job that the memory has never met, by the life of the memory that this process saw last.
    fn guess_new(&self) -> Option<Loaded<StepResult, End>> {
        None
    }

    /// When to come again for a place that somebody alive holds: after the rest of the lease.
    ///
    /// A home that knows at once when a holder dies says now. How soon and how late at most is for the engine to say.
    fn busy_until(&self, lease_ends: Moment, _now: Moment) -> Moment {
        lease_ends
    }
}

/// What a turn is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TurnKey {
    /// Creating, and looking for, a product of this name.
    Name(AccountName, String),
    /// The one write in flight of a product.
    Product(AccountName, ProductId),
}

/// The answer of [`Turns::take_turn`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It is this job's.
    Ours {
        /// When its create began, if the turn was this job's before and still names it.
        begun_at: Option<Moment>,
    },
    /// Another job has it.
    Held,
}

/// Turns that jobs take, and facts about who made what. All of it may be lost; then more is asked of a person.
pub trait Turns: Send + Sync + 'static {
    /// Takes a turn, or keeps one that is this job's.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn take_turn(&self, key: &TurnKey, job: &JobKey) -> impl Future<Output = Result<Turn, Unavailable>> + Send;

    /// Stamps a turn with the instant at which the create begins; false when it is no longer this job's.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn stamp_turn(
        &self,
        key: &TurnKey,
        job: &JobKey,
        begun_at: Moment,
    ) -> impl Future<Output = Result<bool, Unavailable>> + Send;

    /// Gives a turn back; nothing when it is not this job's, or bears another stamp than `begun_at`, the last one that its
    /// giver knows of.
    ///
    /// A turn names the job and not the claim. A worker that stood still and lost its claim meanwhile may give back what it
    /// once took; by then a later claim of the same job has perhaps stamped the turn and its create is under way. Without
    /// the turn another job could begin a create of the same name, and adopt what the first one's makes. A turn that the
    /// later claim has taken but not yet stamped may go: its [`Turns::stamp_turn`] says so before anything is sent.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn end_turn(
        &self,
        key: &TurnKey,
        job: &JobKey,
        begun_at: Option<Moment>,
    ) -> impl Future<Output = Result<(), Unavailable>> + Send;

    /// Writes down that this job made or adopted a product. The first fact stays.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn own(
        &self,
        account: &AccountName,
        product: ProductId,
        job: &JobKey,
    ) -> impl Future<Output = Result<(), Unavailable>> + Send;

    /// The job that made or adopted a product.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn owner(
        &self,
        account: &AccountName,
        product: ProductId,
    ) -> impl Future<Output = Result<Option<JobKey>, Unavailable>> + Send;
}

/// How a listing stands for one who needs it.
#[derive(Debug, Clone, PartialEq)]
pub enum Listing {
    /// It is whole and was started late enough.
    Whole {
        /// False when a page could not be read five times: it proves presence, never absence.
        is_complete: bool,
    },
    /// It is ours to read on from this link (none: from the first page).
    Ours {
        /// The page to read next.
        next: Option<PageLink>,
    },
    /// Somebody alive is reading it: come again.
    Read,
}

/// Listings of an account's products: read once for all who wait, gone on with from the next link.
pub trait Listings: Send + Sync + 'static {
    /// Asks for a listing that was started at `not_before` or later, and takes the lease to read it when nobody has it.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn join_listing(
        &self,
        account: &AccountName,
        not_before: Moment,
        job: &JobKey,
    ) -> impl Future<Output = Result<Listing, Unavailable>> + Send;

    /// Adds a page and prolongs the lease; without a `next` the listing is whole. False when the lease is not ours.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn add_page(
        &self,
        account: &AccountName,
        job: &JobKey,
        products: &[Product],
        next: Option<&PageLink>,
    ) -> impl Future<Output = Result<bool, Unavailable>> + Send;

    /// Notes that the page could not be read and lets the lease go; the fifth time in a row makes it incomplete and whole.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn page_failed(&self, account: &AccountName, job: &JobKey) -> impl Future<Output = Result<(), Unavailable>> + Send;

    /// Lets the lease go: another goes on from the next link.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn leave_listing(
        &self,
        account: &AccountName,
        job: &JobKey,
    ) -> impl Future<Output = Result<(), Unavailable>> + Send;

    /// The products of this name in the latest listing.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn listed(
        &self,
        account: &AccountName,
        name: &str,
    ) -> impl Future<Output = Result<Vec<Product>, Unavailable>> + Send;
}

/// The account's rate, shared by all workers.
pub trait Quota: Send + Sync + 'static {
    /// Asks for one call.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn permit(
        &self,
        account: &AccountName,
        class: QuotaClass,
        refusals: u32,
        chance: f64,
    ) -> impl Future<Output = Result<Admission, Unavailable>> + Send;

    /// The service asked for a pause of so long. Returns when it ends.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn throttled(
        &self,
        account: &AccountName,
        pause: Duration,
    ) -> impl Future<Output = Result<Moment, Unavailable>> + Send;

    /// Until when nobody calls: a pause in force or a closed gate; an instant that has passed when there is none.
    ///
    /// Spends nothing: asked right before a call whose permit has grown old.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn paused_until(&self, account: &AccountName) -> impl Future<Output = Result<Moment, Unavailable>> + Send;

    /// A call was answered with a 5xx or not at all. Returns until when the gate is closed, if it is.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn failed(&self, account: &AccountName) -> impl Future<Output = Result<Option<Moment>, Unavailable>> + Send;

    /// A call was answered.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn succeeded(&self, account: &AccountName) -> impl Future<Output = Result<(), Unavailable>> + Send;

    /// Tickets of the account that wait for a poll.
    ///
    /// # Errors
    /// [`Unavailable`].
    fn polls_in_flight(&self, account: &AccountName) -> impl Future<Output = Result<u64, Unavailable>> + Send;

    /// The account's rate for polls, calls a minute, as configured.
    fn polls_per_minute(&self, account: &AccountName) -> f64;
}

/// What is shown to people while a handler is at work. Losing it loses nothing.
pub trait Views: Send + Sync + 'static {
    /// Bytes of the transfer under way. Never waits; may drop what comes too fast.
    fn transferred(&self, job: &JobKey, done: u64, total: u64);
}

/// One home.
pub trait Home: Queue + Memory + Turns + Listings + Quota + Views {}

impl<T: Queue + Memory + Turns + Listings + Quota + Views> Home for T {}

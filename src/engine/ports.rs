//! What the engine asks of the outside: a few small traits, bundled as [`Ports`].
//!
//! A home (queue, memory, events) is one set of adapters, the services are another. All homes pass the same port test
//! suite (`tests/ports/`). No method here blocks, and every one that waits for somebody else ends by a time-out of its own.

use std::{future::Future, time::Duration};

use secrecy::SecretString;

use super::tally::Happened;
use crate::domain::{
    claim::{Epoch, Loaded},
    event::End,
    failure::Failure,
    ids::{AccountName, CorrelationId, JobKey, ProductId, RequestId, SubmissionId},
    job::{DownloadSpec, PackageSpec},
    plan::JobRecord,
    quota::Admission,
    service::{Answer, PageLink, Product, Request, SignedUrl},
    settlement::Settlement,
    step::{Kind, QuotaClass},
    ticket::{Downloaded, PackageFacts, StepResult},
    time::Moment,
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
    /// The user name that the broker verified.
    pub producer: Option<String>,
    /// The message's own id, where its queue has such a thing: the job's id when the job names none.
    pub message_id: Option<String>,
    /// When it was published, by the publisher's clock.
    pub published_at: Option<Moment>,
}

/// What came of settling a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Everything was written and confirmed, the delivery is settled.
    Done,
    /// Another claim has the job: nothing was announced, the own ticket went back, marked.
    Lost,
}

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

/// A permit for one call, minted by the engine's quota gate alone.
#[derive(Debug)]
#[must_use]
pub struct Permit(());

impl Permit {
    pub(super) const fn granted() -> Self {
        Self(())
    }
}

/// A bearer token.
#[derive(Debug, Clone)]
pub struct Token {
    /// The token itself.
    pub secret: SecretString,
    /// Names it without giving it away: a 401 forces one renewal per version.
    pub version: String,
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignIn {
    /// Sign-in is refused: a person must change something. The account's jobs wait.
    #[error("sign-in is refused: {message}")]
    Refused {
        /// What the endpoint said, in words.
        message: String,
        /// What to do next.
        next: String,
        /// How long ago it was refused: the adapter may remember a refusal, and answer without asking again.
        ago: Duration,
        /// Ask again after this.
        again: Duration,
    },
    /// The token endpoint asked for a pause.
    #[error("no token for the moment: {message}")]
    Throttled {
        /// What happened.
        message: String,
        /// Ask again after this.
        again: Duration,
    },
    /// The token endpoint fails for the moment.
    #[error("no token for the moment: {message}")]
    Later {
        /// What happened.
        message: String,
        /// Ask again after this.
        again: Duration,
    },
}

/// Who asks, for Microsoft's support.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallIds {
    /// One per job.
    pub correlation: CorrelationId,
    /// One per (job, step, try).
    pub request: RequestId,
}

/// The hardware service and its sign-in.
pub trait Service: Send + Sync + 'static {
    /// Is this account configured?
    fn knows(&self, account: &AccountName) -> bool;

    /// A token for the account.
    ///
    /// # Errors
    /// [`SignIn`].
    fn sign_in(&self, account: &AccountName) -> impl Future<Output = Result<Token, SignIn>> + Send;

    /// A token other than the refused one.
    ///
    /// # Errors
    /// [`SignIn::Refused`] when the refused one was new already.
    fn renew(&self, account: &AccountName, refused: &Token) -> impl Future<Output = Result<Token, SignIn>> + Send;

    /// One call. Ends by its own response time-out.
    ///
    /// # Errors
    /// [`Failure`], sorted by what may be done next.
    fn call(
        &self,
        account: &AccountName,
        request: &Request,
        ids: CallIds,
        permit: Permit,
        token: &Token,
    ) -> impl Future<Output = Result<Answer, Failure>> + Send;
}

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

/// Time and chance.
pub trait Clock: Send + Sync + 'static {
    /// Time since some fixed instant, suspended time included.
    fn boot_time(&self) -> Duration;

    /// The wall clock.
    fn wall(&self) -> Moment;

    /// A number from 0 to 1.
    fn chance(&self) -> f64;

    /// Waits.
    fn sleep(&self, span: Duration) -> impl Future<Output = ()> + Send;
}

/// Everything that the engine asks of the outside.
pub trait Ports: Send + Sync + 'static {
    /// Queue, memory, quota.
    type Home: Home;
    /// The hardware service.
    type Service: Service;
    /// Packages.
    type Packages: Packages;
    /// Time and chance.
    type Clock: Clock;

    /// The home.
    fn home(&self) -> &Self::Home;
    /// The service.
    fn service(&self) -> &Self::Service;
    /// The packages.
    fn packages(&self) -> &Self::Packages;
    /// Time and chance.
    fn clock(&self) -> &Self::Clock;

    /// Something happened that is worth counting. Never waits; may drop it.
    fn note(&self, _happened: Happened) {}
}

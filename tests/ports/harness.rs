//! What the suite needs beside the ports: a fresh home, further workers on it, their death, and time.

use std::{collections::BTreeSet, future::Future, task::Poll, time::Duration};

use longshore::{
    domain::{
        claim::{Arrival, Claim, Claimant, Policy, claim},
        event::{Event, Name},
        ids::{AccountName, JobKey},
        job::Job,
        plan::JobRecord,
        settlement::{Entry, Next, Settlement},
        step::{Kind, Place},
        ticket::Ticket,
        time::Moment,
    },
    engine::ports::{Home, Memory, Origin, Queue, Received, Swapped},
};

/// The rate of the account `contoso` in every home under test, calls a minute.
pub(crate) const RATE: f64 = 600.0;

/// One home under test. Turns last 20 min, listings may be read for 10 min, the lease to read one
/// lasts longer than any page may take, and less than 40 min.
pub(crate) trait Harness: Sized {
    /// One worker's view of the home.
    type Home: Home;

    /// A home that has seen nothing.
    async fn fresh() -> Self;
    /// A worker on the home, and the id that its claims name.
    async fn worker(&self) -> (Self::Home, u128);
    /// Ends a worker as `kill -9` does; its deliveries are still in the test's hands.
    async fn kill(&self, worker: Self::Home);
    /// A worker that asks for nothing for a while; what a queue has sent it ahead goes back, unseen.
    async fn rest(&self, _worker: &Self::Home) {}
    /// How long a ticket is parked to see it come when it is due: short where the queue's time cannot be moved.
    const PARK: Duration = Duration::from_mins(10);
    /// Where a ticket comes from that was put into the queue at its first place.
    const PUT: Origin = Origin::Accepted;
    /// Puts a ticket into the queue as it is.
    async fn put(&self, ticket: &Ticket);
    /// Moves the home's clock ahead.
    async fn advance(&self, span: Duration);
    /// The memory forgets: a new epoch, an unclean birth.
    async fn lose_memory(&self);
    /// All events, in order; repeats of one id may be among them.
    async fn events(&self) -> Vec<Event>;
    /// The jobs of all dead letters; none for a message that never became a job.
    async fn set_aside(&self) -> Vec<Option<JobKey>>;
}

/// Waits for what must come.
pub(crate) async fn within<T>(coming: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), coming).await.expect("it did not come within 20 s")
}

/// Drops a future instead of polling it once more than so often: a crash, or a cancel, at any of its awaits.
pub(crate) async fn polled<T>(times: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = Box::pin(future);
    let mut left = times;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

/// Makes sure that a lane stays quiet for a while.
pub(crate) async fn assert_quiet(home: &impl Home, lane: Kind) {
    let received = tokio::time::timeout(Duration::from_millis(250), home.receive(lane)).await;
    assert!(received.is_err(), "{:?}", received.unwrap().map(|received| received.body));
}

pub(crate) fn account() -> AccountName {
    AccountName::parse("contoso").unwrap()
}

/// A ticket at its first place.
pub(crate) fn ticket(id: &str) -> Ticket {
    let text = format!(
        r#"{{"id":"{id}","kind":"status-poll","account":"contoso","labels":{{"build":"{id}"}},
            "spec":{{"product":{{"id":"1"}},"submission":{{"id":"2"}}}}}}"#
    );
    let job = Job::decode(text.as_bytes(), || None).unwrap();
    let hash = job.content_hash();
    Ticket::new(job, hash, None, longshore::clock::moment())
}

pub(crate) fn key(id: &str) -> JobKey {
    ticket(id).key()
}

pub(crate) fn read<D>(received: &Received<D>) -> Ticket {
    serde_json::from_str(&received.body).unwrap()
}

/// Receives the next ticket of its lane.
pub(crate) async fn receive<H: Home>(home: &H, lane: Kind) -> (Received<H::Delivery>, Ticket) {
    let received = within(home.receive(lane)).await.unwrap();
    let ticket = read(&received);
    (received, ticket)
}

/// Decides a claim for a ticket and writes it when it takes the place.
pub(crate) async fn try_claim(home: &impl Memory, ticket: &Ticket, me: Claimant, arrival: Arrival) -> Decided {
    loop {
        let loaded = home.load(&ticket.key()).await.unwrap();
        match claim(&loaded, &arrival, me, &Policy::default()) {
            Claim::Take { record, .. } => {
                let swapped = home.swap(&ticket.key(), loaded.birth.epoch, loaded.version, &record).await.unwrap();
                match swapped {
                    Swapped::Done => return Decided::Taken(Box::new(record)),
                    Swapped::Refused(_) => {}
                }
            }
            Claim::OtherContent => return Decided::OtherContent,
            Claim::Ended { .. } => return Decided::Ended,
            Claim::Stale => return Decided::Stale,
            Claim::Busy { .. } => return Decided::Busy,
        }
    }
}

/// What a claim decided.
#[derive(Debug, PartialEq)]
pub(crate) enum Decided {
    Taken(Box<JobRecord>),
    OtherContent,
    Ended,
    Stale,
    Busy,
}

impl Decided {
    pub(crate) fn taken(self) -> JobRecord {
        match self {
            Self::Taken(record) => *record,
            other @ (Self::OtherContent | Self::Ended | Self::Stale | Self::Busy) => panic!("{other:?}"),
        }
    }
}

pub(crate) fn arrival<D>(received: &Received<D>, ticket: &Ticket) -> Arrival {
    Arrival {
        place: ticket.place,
        hash: ticket.hash,
        is_intake: received.origin == Origin::Producer,
        is_suspect: received.is_redelivered || ticket.suspect,
    }
}

/// A ticket whose place is taken.
pub(crate) struct Held<D> {
    pub delivery: D,
    pub ticket: Ticket,
    pub me: Claimant,
    pub record: JobRecord,
    pub is_redelivered: bool,
}

/// Receives the next ticket of a lane and takes its place.
pub(crate) async fn take<H: Home>(home: &H, worker: u128, number: u64, lane: Kind) -> Held<H::Delivery> {
    let (received, ticket) = receive(home, lane).await;
    let me = Claimant { worker, number };
    let record = try_claim(home, &ticket, me, arrival(&received, &ticket)).await.taken();
    Held { ticket, me, record, is_redelivered: received.is_redelivered, delivery: received.delivery }
}

/// A settlement by the holder.
pub(crate) fn settlement(ticket: &Ticket, me: Option<Claimant>, entry: Entry, next: Next) -> Settlement {
    let received = Some(Box::new(ticket.clone()));
    Settlement { received, claimant: me, entry, events: Vec::new(), next }
}

/// An event of a ticket.
pub(crate) fn progressed(ticket: &Ticket, n: u32) -> Event {
    Event::of(ticket, Name::Progressed, n, ticket.accepted_at, serde_json::json!({ "n": n }))
}

/// Names of the events of a job, each id once, in order.
pub(crate) async fn names<H: Harness>(harness: &H, job: &JobKey) -> Vec<Name> {
    let mut seen = BTreeSet::new();
    let events = harness.events().await;
    events.into_iter().filter(|event| event.job == *job && seen.insert(event.id)).map(|event| event.name).collect()
}

/// The ticket one try further.
pub(crate) fn next_try(ticket: &Ticket) -> Ticket {
    let mut next = ticket.clone().next_try(Moment::default());
    next.due = None;
    next
}

pub(crate) fn place(step: u16, r#try: u32) -> Place {
    Place { generation: 1, step, r#try }
}

/// Settles a delivery for good, without a word.
pub(crate) async fn drop_ticket<H: Queue>(home: &H, delivery: H::Delivery, ticket: &Ticket) {
    let done = settlement(ticket, None, Entry::Nothing, Next::Nothing);
    home.settle(delivery, Some(&ticket.key()), done).await.unwrap();
}

//! The home of a fleet: jobs on RabbitMQ, memory in Redis, behind the same ports as every other home.
//!
//! A step's end is composed by `engine/settle.rs` from the two halves, in the one written order. The accounts' rates are
//! kept by [`Rates`], which serves this process alone while the memory does not answer. What people are shown is written
//! with the records, see [`Shown`].

use std::{
    collections::BTreeMap,
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    domain::{
        claim::{Epoch, Loaded},
        event::{End, Event},
        ids::{AccountName, JobKey, ProductId},
        plan::JobRecord,
        quota::Admission,
        service::{PageLink, Product},
        settlement::{Entry, Next, SetAside, Settlement},
        step::{Kind, QuotaClass, Step},
        ticket::{StepResult, Ticket},
        time::Moment,
        view::Transfer,
    },
    engine::{
        ports::{
            Completes, Listing, Listings, Memory, Queue, Quota, Received, Settled, Swapped, Turn, TurnKey, Turns,
            Unavailable, Views,
        },
        settle::{self, Broker, Proof},
    },
    rabbitmq::{Delivery, Rabbit},
    redis::{Rates, Shown, Store, TicketFacts, Written},
};

/// One process's half of the fleet: a broker and a memory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fleet {
    broker: Rabbit,
    memory: Store,
    rates: Arc<Rates>,
    transfers: Arc<Transfers>,
    id: Arc<u128>,
}

impl Fleet {
    /// A home over these two, with a random id for its claims.
    #[must_use]
    pub fn new(broker: Rabbit, memory: Store) -> Self {
        let rates = Arc::new(Rates::new(memory.clone()));
        Self {
            broker,
            memory,
            rates,
            transfers: Arc::default(),
            id: Arc::new(u128::from_be_bytes(crate::clock::random_bytes())),
        }
    }

    /// What this process's claims name.
    #[must_use]
    pub fn id(&self) -> u128 {
        *self.id
    }

    /// The broker.
    #[must_use]
    pub const fn broker(&self) -> &Rabbit {
        &self.broker
    }

    /// The memory.
    #[must_use]
    pub const fn memory(&self) -> &Store {
        &self.memory
    }
}

impl Queue for Fleet {
    type Delivery = Delivery;

    async fn receive(&self, lane: Kind) -> Result<Received<Delivery>, Unavailable> {
        self.broker.receive(lane).await
    }

    async fn rest(&self, complete: &Completes<'_>) {
        if let Err(down) = self.broker.rest(complete).await {
            tracing::warn!(%down, "what was given out ahead was not given back; it comes again when the connection ends");
        }
    }

    async fn settle(
        &self,
        delivery: Delivery,
        job: Option<&JobKey>,
        settlement: Settlement,
    ) -> Result<Settled, Unavailable> {
        if let Some(job) = job {
            self.transfers.over(job);
        }
        let memory = Showing { memory: self.memory.clone(), shown: shown(&settlement) };
        let settled = settle::settle(self, &memory, delivery, job, &settlement).await;
        if let Some(job) = job {
            self.memory.forget(job);
        }
        settled
    }
}

impl Broker for Fleet {
    type Delivery = Delivery;

    async fn publish(&self, ticket: &Ticket) -> Result<(), Unavailable> {
        let counting = async {
            if ticket.step() == Some(Step::Poll)
                && let Err(down) = self.memory.waits_for_poll(&ticket.key()).await
            {
                // It only makes the account's other polls come a little too often.
                tracing::debug!(%down, "a poll was not counted");
            }
        };
        // A memory that says nothing must not hold up what the broker has confirmed for long.
        beside(self.broker.publish(ticket), counting).await
    }

    async fn publish_raw(&self, of: &Delivery, body: &str, due: Moment) -> Result<(), Unavailable> {
        self.broker.publish_raw(of, body, due).await
    }

    async fn announce(&self, event: &Event) -> Result<(), Unavailable> {
        self.broker.announce(event).await
    }

    async fn set_aside(&self, end: &End) -> Result<(), Unavailable> {
        self.broker.set_aside(end).await
    }

    async fn set_message_aside(&self, of: &Delivery, message: &SetAside) -> Result<(), Unavailable> {
        self.broker.set_message_aside(of, message).await
    }

    async fn acknowledge(&self, delivery: Delivery, proof: Proof) -> Result<(), Unavailable> {
        self.broker.acknowledge(delivery, proof).await
    }
}

/// For so long what is done beside something may hold it up.
const A_MOMENT: Duration = Duration::from_millis(500);

/// Does both at once. The other is given up a moment after the first is done.
async fn beside<T>(first: impl Future<Output = T>, other: impl Future<Output = ()>) -> T {
    let (mut first, mut other) = (pin!(first), pin!(other));
    let done = tokio::select! {
        biased;
        done = &mut first => done,
        () = &mut other => return first.await,
    };
    tokio::time::timeout(A_MOMENT, other).await.ok();
    done
}

/// What a settlement tells people of its job: what its last ticket says.
fn shown(settlement: &Settlement) -> Shown {
    let ended = match &settlement.entry {
        Entry::End { end, .. } | Entry::EndAgain { end, .. } => Some(&*end.ticket),
        Entry::Nothing | Entry::Outcome(_) | Entry::LetGo | Entry::LetGoIfHeld | Entry::Panicked => None,
    };
    let next = match &settlement.next {
        Next::Ticket(ticket) => Some(&**ticket),
        Next::Nothing | Next::Raw { .. } | Next::SetAside(_) => None,
    };
    let ticket = ended.or(next).or(settlement.received.as_deref());
    Shown { ticket: ticket.map(TicketFacts::of), transfer: None }
}

/// The memory of one settlement: with every record it writes what people are shown.
#[derive(Debug)]
struct Showing {
    memory: Store,
    shown: Shown,
}

impl Memory for Showing {
    async fn load(&self, job: &JobKey) -> Result<Loaded<StepResult, End>, Unavailable> {
        self.memory.load(job).await
    }

    async fn swap(&self, job: &JobKey, epoch: Epoch, version: u64, record: &JobRecord) -> Result<Swapped, Unavailable> {
        self.memory.swap_shown(job, epoch, version, record, &self.shown).await.map(Swapped::from)
    }

    fn guess(&self, job: &JobKey) -> Option<Loaded<StepResult, End>> {
        self.memory.guess(job)
    }
}

/// How far the transfers of this process have come: shown whenever their claims are renewed.
#[derive(Debug, Default)]
struct Transfers(Mutex<BTreeMap<JobKey, Transfer>>);

impl Transfers {
    fn at(&self, job: &JobKey, done: u64, total: u64) {
        let transfer = Transfer { done, total, at: crate::clock::moment() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(job.clone(), transfer);
    }

    fn of(&self, job: &JobKey) -> Option<Transfer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(job).copied()
    }

    fn over(&self, job: &JobKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(job);
    }
}

impl Memory for Fleet {
    async fn load(&self, job: &JobKey) -> Result<Loaded<StepResult, End>, Unavailable> {
        self.memory.load(job).await
    }

    async fn swap(&self, job: &JobKey, epoch: Epoch, version: u64, record: &JobRecord) -> Result<Swapped, Unavailable> {
        let shown = Shown { ticket: None, transfer: self.transfers.of(job) };
        let written = self.memory.swap_shown(job, epoch, version, record, &shown).await?;
        match &written {
            Written::Done(version) => self.memory.remember(job, epoch, *version, record),
            Written::Refused(_) => self.memory.forget(job),
        }
        Ok(written.into())
    }

    fn guess(&self, job: &JobKey) -> Option<Loaded<StepResult, End>> {
        self.memory.guess(job)
    }

    fn guess_new(&self) -> Option<Loaded<StepResult, End>> {
        self.memory.guess_new()
    }
}

impl Turns for Fleet {
    async fn take_turn(&self, key: &TurnKey, job: &JobKey) -> Result<Turn, Unavailable> {
        self.memory.take_turn(key, job).await
    }

    async fn stamp_turn(&self, key: &TurnKey, job: &JobKey, begun_at: Moment) -> Result<bool, Unavailable> {
        self.memory.stamp_turn(key, job, begun_at).await
    }

    async fn end_turn(&self, key: &TurnKey, job: &JobKey, begun_at: Option<Moment>) -> Result<(), Unavailable> {
        self.memory.end_turn(key, job, begun_at).await
    }

    async fn own(&self, account: &AccountName, product: ProductId, job: &JobKey) -> Result<(), Unavailable> {
        self.memory.own(account, product, job).await
    }

    async fn owner(&self, account: &AccountName, product: ProductId) -> Result<Option<JobKey>, Unavailable> {
        self.memory.owner(account, product).await
    }
}

impl Listings for Fleet {
    async fn join_listing(
        &self,
        account: &AccountName,
        not_before: Moment,
        job: &JobKey,
    ) -> Result<Listing, Unavailable> {
        self.memory.join_listing(account, not_before, job).await
    }

    async fn add_page(
        &self,
        account: &AccountName,
        job: &JobKey,
        products: &[Product],
        next: Option<&PageLink>,
    ) -> Result<bool, Unavailable> {
        self.memory.add_page(account, job, products, next).await
    }

    async fn page_failed(&self, account: &AccountName, job: &JobKey) -> Result<(), Unavailable> {
        self.memory.page_failed(account, job).await
    }

    async fn leave_listing(&self, account: &AccountName, job: &JobKey) -> Result<(), Unavailable> {
        self.memory.leave_listing(account, job).await
    }

    async fn listed(&self, account: &AccountName, name: &str) -> Result<Vec<Product>, Unavailable> {
        self.memory.listed(account, name).await
    }
}

impl Quota for Fleet {
    async fn permit(
        &self,
        account: &AccountName,
        class: QuotaClass,
        refusals: u32,
        chance: f64,
    ) -> Result<Admission, Unavailable> {
        self.rates.permit(account, class, refusals, chance).await
    }

    async fn throttled(&self, account: &AccountName, pause: Duration) -> Result<Moment, Unavailable> {
        self.rates.throttled(account, pause).await
    }

    async fn paused_until(&self, account: &AccountName) -> Result<Moment, Unavailable> {
        self.rates.paused_until(account).await
    }

    async fn failed(&self, account: &AccountName) -> Result<Option<Moment>, Unavailable> {
        self.rates.failed(account).await
    }

    async fn succeeded(&self, account: &AccountName) -> Result<(), Unavailable> {
        self.rates.succeeded(account).await
    }

    async fn polls_in_flight(&self, account: &AccountName) -> Result<u64, Unavailable> {
        self.rates.polls_in_flight(account).await
    }

    fn polls_per_minute(&self, account: &AccountName) -> f64 {
        self.rates.polls_per_minute(account)
    }
}

impl Views for Fleet {
    fn transferred(&self, job: &JobKey, done: u64, total: u64) {
        self.transfers.at(job, done, total);
    }
}

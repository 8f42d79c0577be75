//! The third home: every port of the engine over the world of one seed.

use std::{collections::BTreeMap, time::Duration};

use longshore::{
    domain::{
        claim::{Epoch, Loaded},
        event::{End, Event},
        ids::{AccountName, JobKey, ProductId},
        plan::JobRecord,
        quota::{Admission, Bucket, Limits},
        service::{PageLink, Product},
        settlement::{SetAside, Settlement},
        step::{Kind, QuotaClass},
        ticket::{StepResult, Ticket},
        time::Moment,
    },
    engine::{
        ports::{
            Listing, Listings, Memory, Origin, Queue, Quota, Received, Settled, Swapped, Turn, TurnKey, Turns,
            Unavailable, Views,
        },
        settle::{self, Broker, Proof},
    },
};

use crate::world::{State, StoredListing, World};

/// One worker's view of the world.
#[derive(Clone)]
pub struct SimHome {
    pub world: World,
    pub who: u64,
}

const TURN_FOR: Duration = Duration::from_secs(1_200);
/// Longer than a page may take: the handler's time, the longest wait for a permit, two calls that time out.
const LISTING_LEASE: Duration = Duration::from_secs(300 + 900 + 2 * 300);
const LISTING_FOR: Duration = Duration::from_secs(600);

/// How long a worker waits for the answer of a memory that gives none.
const NO_ANSWER: Duration = Duration::from_secs(2);

fn lost(what: &'static str) -> Unavailable {
    Unavailable { what, why: "its answer was lost".to_owned() }
}

impl SimHome {
    /// An effect in the memory, between two edges; its answer may be lost.
    async fn in_memory<T>(&self, what: &'static str, effect: impl FnOnce(&mut State) -> T) -> Result<T, Unavailable> {
        self.world.edge(self.who, what).await;
        if self.world.lock().is_silent_for(self.who) {
            tokio::time::sleep(NO_ANSWER).await;
            return Err(Unavailable { what: "memory", why: "it does not answer".to_owned() });
        }
        let (value, is_lost) = {
            let mut state = self.world.lock();
            let value = effect(&mut state);
            state.snapshot();
            let rate = state.mix.memory_answer_lost;
            (value, state.strike(rate, "memory's answer lost"))
        };
        self.world.edge(self.who, what).await;
        if is_lost { Err(lost("memory")) } else { Ok(value) }
    }

    /// An effect in the broker, between two edges; its confirm may be lost.
    async fn in_broker(&self, what: &'static str, effect: impl FnOnce(&mut State)) -> Result<(), Unavailable> {
        self.world.edge(self.who, what).await;
        let is_lost = {
            let mut state = self.world.lock();
            effect(&mut state);
            let rate = state.mix.confirm_lost;
            state.strike(rate, "confirm lost")
        };
        self.world.edge(self.who, what).await;
        if is_lost { Err(lost("broker")) } else { Ok(()) }
    }

    fn with_own<T>(&self, account: &AccountName, ask: impl FnOnce(&mut (Bucket, Moment), Moment, &Limits) -> T) -> T {
        let mut state = self.world.lock();
        let now = state.now();
        ask(state.own_rate(self.who, account), now, &State::own_limits())
    }

    fn serves_itself(&self) -> bool {
        self.world.lock().mix.silence > 0.0
    }

    /// The memory's word; where there is none, the worker's own.
    fn or_own<T>(
        &self,
        told: Result<T, Unavailable>,
        account: &AccountName,
        own: impl FnOnce(&mut (Bucket, Moment), Moment, &Limits) -> T,
    ) -> Result<T, Unavailable> {
        match told {
            Err(_) if self.serves_itself() => Ok(self.with_own(account, own)),
            told => told,
        }
    }

    fn load_from(state: &State, job: &JobKey) -> Loaded<StepResult, End> {
        let now = state.now();
        let stored = state.store.records.get(job);
        let record = stored.map(|(_, record)| record.clone());
        let holder_lives = record.as_ref().and_then(|record| record.holder).is_some_and(|holder| holder.until > now);
        Loaded { record, version: stored.map_or(0, |(version, _)| *version), birth: state.birth, now, holder_lives }
    }
}

/// A message that was given out. Dropped unsettled it comes again.
pub struct SimDelivery {
    world: World,
    pub message: u64,
    pub who: u64,
}

impl Drop for SimDelivery {
    fn drop(&mut self) {
        let mut state = self.world.lock();
        state.inside -= 1;
        let now = state.now();
        if let Some(message) = state.messages.get_mut(&self.message).filter(|m| m.taken_by == Some(self.who)) {
            message.taken_by = None;
            message.is_redelivered = true;
            message.due = now.after(Duration::from_secs(1));
            state.has_news = true;
        }
    }
}

impl Queue for SimHome {
    type Delivery = SimDelivery;

    async fn receive(&self, lane: Kind) -> Result<Received<SimDelivery>, Unavailable> {
        loop {
            let wait = {
                let mut state = self.world.lock();
                let now = state.now();
                let ready: Vec<u64> = state
                    .messages
                    .values()
                    .filter(|m| m.lane == lane && m.taken_by.is_none() && m.due <= now)
                    .map(|m| m.id)
                    .collect();
                if !ready.is_empty() && !state.dead.contains(&self.who) {
                    let pick = ready[state.order.below(ready.len() as u64) as usize];
                    let message = state.messages.get_mut(&pick).unwrap();
                    message.taken_by = Some(self.who);
                    let (origin, body) = (message.origin, message.body.clone());
                    let is_redelivered = message.is_redelivered;
                    state.note(&format!("w{} received m{pick}, redelivered {is_redelivered}", self.who));
                    state.inside += 1;
                    let delivery = SimDelivery { world: self.world.clone(), message: pick, who: self.who };
                    let published_at = None;
                    return Ok(Received {
                        delivery,
                        origin,
                        body,
                        is_redelivered,
                        is_spent: false,
                        producer: None,
                        message_id: None,
                        published_at,
                        trace: None,
                    });
                }
                let next =
                    state.messages.values().filter(|m| m.lane == lane && m.taken_by.is_none()).map(|m| m.due).min();
                next.map_or(Duration::from_secs(600), |due| due.since(now).max(Duration::from_millis(1)))
            };
            let changed = self.world.changed.notified();
            tokio::select! {
                biased;
                () = changed => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn settle(
        &self,
        delivery: SimDelivery,
        job: Option<&JobKey>,
        settlement: Settlement,
    ) -> Result<Settled, Unavailable> {
        settle::settle(self, self, delivery, job, &settlement).await
    }
}

impl Broker for SimHome {
    type Delivery = SimDelivery;

    async fn publish(&self, ticket: &Ticket) -> Result<(), Unavailable> {
        let body = serde_json::to_string(ticket).unwrap();
        let lane = ticket.lane();
        let place = ticket.place;
        let due = ticket.due;
        self.in_broker("publish", move |state| {
            let due = due.unwrap_or_else(|| state.now());
            state.note(&format!("ticket {} at {place}", ticket.key()));
            state.publish(body, Origin::Return, lane, due);
        })
        .await
    }

    async fn publish_raw(&self, of: &SimDelivery, body: &str, due: Moment) -> Result<(), Unavailable> {
        let (of, body) = (of.message, body.to_owned());
        self.in_broker("publish raw", move |state| {
            let lane = state.messages.get(&of).map_or(Kind::Submission, |message| message.lane);
            state.publish(body, Origin::Return, lane, due);
        })
        .await
    }

    async fn announce(&self, event: &Event) -> Result<(), Unavailable> {
        let event = event.clone();
        self.in_broker("announce", move |state| {
            state.note(&format!("event {} of {}", event.name, event.job));
            state.events.push(event);
        })
        .await
    }

    async fn set_aside(&self, end: &End) -> Result<(), Unavailable> {
        let end = end.clone();
        self.in_broker("set aside", move |state| state.set_aside.push(end)).await
    }

    async fn set_message_aside(&self, _of: &SimDelivery, message: &SetAside) -> Result<(), Unavailable> {
        let message = message.clone();
        self.in_broker("set message aside", move |state| state.messages_aside.push(message)).await
    }

    async fn acknowledge(&self, delivery: SimDelivery, _proof: Proof) -> Result<(), Unavailable> {
        let (who, id) = (self.who, delivery.message);
        let done = self
            .in_broker("acknowledge", move |state| {
                // A delivery of a connection that is gone cannot be acknowledged.
                if state.messages.get(&id).is_some_and(|message| message.taken_by == Some(who)) {
                    state.messages.remove(&id);
                    state.note(&format!("m{id} acknowledged"));
                }
            })
            .await;
        drop(delivery);
        done
    }
}

impl Memory for SimHome {
    async fn load(&self, job: &JobKey) -> Result<Loaded<StepResult, End>, Unavailable> {
        let loaded = self.in_memory("load", |state| Self::load_from(state, job)).await?;
        self.world.lock().known.entry(self.who).or_default().birth = Some(loaded.birth);
        Ok(loaded)
    }

    fn guess(&self, job: &JobKey) -> Option<Loaded<StepResult, End>> {
        let state = self.world.lock();
        let known = state.known.get(&self.who)?;
        let (birth, (version, record)) = (known.birth?, known.held.get(job)?.clone());
        let (now, holder) = (state.now(), record.holder);
        let holder_lives = holder.is_some_and(|holder| holder.until > now);
        (record.epoch == birth.epoch).then_some(Loaded { record: Some(record), version, birth, now, holder_lives })
    }

    fn guess_new(&self) -> Option<Loaded<StepResult, End>> {
        let state = self.world.lock();
        let birth = state.known.get(&self.who)?.birth?;
        Some(Loaded { record: None, version: 0, birth, now: state.now(), holder_lives: false })
    }

    async fn swap(&self, job: &JobKey, epoch: Epoch, version: u64, record: &JobRecord) -> Result<Swapped, Unavailable> {
        let written = self
            .in_memory("swap", |state| {
                let present = Self::load_from(state, job);
                if present.birth.epoch != epoch || present.version != version {
                    return Err(Box::new(present));
                }
                let next = state.next_version;
                state.next_version += 1;
                state.note(&format!("record {job} at {} v{next}", record.place));
                state.store.records.insert(job.clone(), (next, record.clone()));
                Ok(next)
            })
            .await?;
        let mut state = self.world.lock();
        let known = state.known.entry(self.who).or_default();
        Ok(match written {
            Ok(next) => {
                known.held.insert(job.clone(), (next, record.clone()));
                Swapped::Done
            }
            Err(present) => {
                known.held.remove(job);
                known.birth = Some(present.birth);
                Swapped::Refused(present)
            }
        })
    }
}

impl Turns for SimHome {
    async fn take_turn(&self, key: &TurnKey, job: &JobKey) -> Result<Turn, Unavailable> {
        self.in_memory("take turn", |state| {
            let now = state.now();
            match state.store.turns.get_mut(key) {
                Some((holder, begun_at, until)) if holder == job => {
                    // A mark that ran out proves again once its own job has the turn again.
                    if *until <= now {
                        *until = now.after(TURN_FOR);
                    }
                    Turn::Ours { begun_at: *begun_at }
                }
                Some((_, _, until)) if *until > now => Turn::Held,
                Some(_) | None => {
                    state.store.turns.insert(key.clone(), (job.clone(), None, now.after(TURN_FOR)));
                    Turn::Ours { begun_at: None }
                }
            }
        })
        .await
    }

    async fn stamp_turn(&self, key: &TurnKey, job: &JobKey, begun_at: Moment) -> Result<bool, Unavailable> {
        self.in_memory("stamp turn", |state| {
            let now = state.now();
            match state.store.turns.get_mut(key) {
                Some((holder, stamp, until)) if holder == job && *until > now => {
                    *stamp = Some(begun_at);
                    *until = begun_at.after(TURN_FOR);
                    true
                }
                Some(_) | None => false,
            }
        })
        .await
    }

    async fn end_turn(&self, key: &TurnKey, job: &JobKey, begun_at: Option<Moment>) -> Result<(), Unavailable> {
        self.in_memory("end turn", |state| {
            if state.store.turns.get(key).is_some_and(|(holder, stamp, _)| holder == job && *stamp == begun_at) {
                state.store.turns.remove(key);
            }
        })
        .await
    }

    async fn own(&self, account: &AccountName, product: ProductId, job: &JobKey) -> Result<(), Unavailable> {
        self.in_memory("own", |state| {
            state.store.owners.entry((account.clone(), product)).or_insert_with(|| job.clone());
        })
        .await
    }

    async fn owner(&self, account: &AccountName, product: ProductId) -> Result<Option<JobKey>, Unavailable> {
        self.in_memory("owner", |state| state.store.owners.get(&(account.clone(), product)).cloned()).await
    }
}

impl Listings for SimHome {
    async fn join_listing(
        &self,
        account: &AccountName,
        not_before: Moment,
        job: &JobKey,
    ) -> Result<Listing, Unavailable> {
        self.in_memory("join listing", |state| {
            let now = state.now();
            let store = &mut state.store;
            if let Some(whole) = store.whole.get(account)
                && whole.started >= not_before
                && whole.started.after(LISTING_FOR) > now
            {
                return Listing::Whole { is_complete: whole.is_complete };
            }
            let lease = Some((job.clone(), now.after(LISTING_LEASE)));
            if let Some(listing) = store.under_way.get_mut(account) {
                let is_read = listing.lease.as_ref().is_some_and(|(reader, until)| reader != job && *until > now);
                if is_read {
                    return Listing::Read;
                }
                if listing.started >= not_before && listing.started.after(LISTING_FOR) > now {
                    listing.lease = lease;
                    return Listing::Ours { next: listing.next.clone() };
                }
            }
            let listing = StoredListing {
                started: now,
                lease,
                next: None,
                products: BTreeMap::new(),
                is_complete: false,
                failures: 0,
            };
            store.under_way.insert(account.clone(), listing);
            Listing::Ours { next: None }
        })
        .await
    }

    async fn add_page(
        &self,
        account: &AccountName,
        job: &JobKey,
        products: &[Product],
        next: Option<&PageLink>,
    ) -> Result<bool, Unavailable> {
        self.in_memory("add page", |state| {
            let now = state.now();
            let store = &mut state.store;
            let Some(listing) = store.under_way.get_mut(account) else { return false };
            if !listing.lease.as_ref().is_some_and(|(reader, until)| reader == job && *until > now) {
                return false;
            }
            listing.products.extend(products.iter().map(|product| (product.id, product.clone())));
            listing.next = next.cloned();
            listing.failures = 0;
            listing.lease = Some((job.clone(), now.after(LISTING_LEASE)));
            if next.is_none()
                && let Some(listing) = store.under_way.remove(account)
            {
                store.whole.insert(account.clone(), StoredListing { is_complete: true, lease: None, ..listing });
            }
            true
        })
        .await
    }

    async fn page_failed(&self, account: &AccountName, job: &JobKey) -> Result<(), Unavailable> {
        self.in_memory("page failed", |state| {
            let store = &mut state.store;
            let Some(listing) = store.under_way.get_mut(account) else { return };
            if listing.lease.as_ref().is_none_or(|(reader, _)| reader != job) {
                return;
            }
            listing.failures += 1;
            listing.lease = None;
            if listing.failures >= 5
                && let Some(listing) = store.under_way.remove(account)
            {
                store.whole.insert(account.clone(), listing);
            }
        })
        .await
    }

    async fn leave_listing(&self, account: &AccountName, job: &JobKey) -> Result<(), Unavailable> {
        self.in_memory("leave listing", |state| {
            if let Some(listing) = state.store.under_way.get_mut(account)
                && listing.lease.as_ref().is_some_and(|(reader, _)| reader == job)
            {
                listing.lease = None;
            }
        })
        .await
    }

    async fn listed(&self, account: &AccountName, name: &str) -> Result<Vec<Product>, Unavailable> {
        self.in_memory("listed", |state| {
            let whole = state.store.whole.get(account);
            whole.map_or_else(Vec::new, |l| l.products.values().filter(|p| p.name == name).cloned().collect())
        })
        .await
    }
}

/// Where the memory can fall silent, as the fleet's: meanwhile a worker serves itself, and a pause that it has read itself stands
/// whatever the memory says. Elsewhere, as the embedded home's.
impl Quota for SimHome {
    async fn permit(
        &self,
        account: &AccountName,
        class: QuotaClass,
        refusals: u32,
        chance: f64,
    ) -> Result<Admission, Unavailable> {
        let who = self.who;
        let told = self
            .in_memory("permit", |state| {
                let (now, limits) = (state.now(), State::limits());
                let own = state.own_rate(who, account).1;
                let bucket = state.store.buckets.entry(account.clone()).or_default();
                if own > now {
                    bucket.throttled(now, own, &limits);
                    return Admission::Refused { until: own, by_gate: true };
                }
                bucket.admit(now, class, refusals, &limits, chance)
            })
            .await;
        self.or_own(told, account, |own, now, limits| own.0.admit(now, class, refusals, limits, chance))
    }

    async fn throttled(&self, account: &AccountName, pause: Duration) -> Result<Moment, Unavailable> {
        let told = self
            .in_memory("throttled", |state| {
                let now = state.now();
                let until = now.after(pause);
                let bucket = state.store.buckets.entry(account.clone()).or_default();
                bucket.throttled(now, until, &State::limits());
                state.pauses.push((None, account.clone(), now, until));
                until
            })
            .await;
        if self.serves_itself() {
            self.with_own(account, |own, now, limits| {
                own.1 = own.1.max(now.after(pause));
                own.0.throttled(now, own.1, limits);
            });
        }
        self.or_own(told, account, |own, _, _| own.1)
    }

    async fn paused_until(&self, account: &AccountName) -> Result<Moment, Unavailable> {
        let who = self.who;
        let told = self
            .in_memory("paused until", |state| {
                let own = state.own_rate(who, account).1;
                state.store.buckets.get(account).map_or(own, |bucket| bucket.paused_until().max(own))
            })
            .await;
        self.or_own(told, account, |own, _, _| own.0.paused_until())
    }

    async fn failed(&self, account: &AccountName) -> Result<Option<Moment>, Unavailable> {
        let told = self
            .in_memory("failed", |state| {
                let now = state.now();
                state.store.buckets.entry(account.clone()).or_default().failed(now, &State::limits())
            })
            .await;
        self.or_own(told, account, |own, now, limits| own.0.failed(now, limits))
    }

    async fn succeeded(&self, account: &AccountName) -> Result<(), Unavailable> {
        let told = self
            .in_memory("succeeded", |state| {
                if let Some(bucket) = state.store.buckets.get_mut(account).filter(|bucket| bucket.is_troubled()) {
                    bucket.succeeded();
                }
            })
            .await;
        self.or_own(told, account, |own, _, _| own.0.succeeded())
    }

    async fn polls_in_flight(&self, account: &AccountName) -> Result<u64, Unavailable> {
        let mark = format!("\"account\":\"{account}\"");
        let told = self
            .in_memory("polls in flight", |state| {
                let polls = state.messages.values().filter(|m| m.lane == Kind::StatusPoll && m.body.contains(&mark));
                polls.count() as u64
            })
            .await;
        self.or_own(told, account, |_, _, _| 0)
    }

    fn polls_per_minute(&self, _account: &AccountName) -> f64 {
        300.0
    }
}

impl Views for SimHome {
    fn transferred(&self, _job: &JobKey, _done: u64, _total: u64) {}
}

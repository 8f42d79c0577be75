//! Name turns: two jobs that create a product of one name, with equal fields and no marker in it.
//!
//! `domain/claim.rs` decides the claims; turn, `own:` and what is adopted follow docs/protocol.md. What [`crate::job`]
//! searches step by step is one transition here: load and swap, begin and send, publish, ack and let go.

mod world;

use longshore::domain::claim::{self, Arrival, Claim, Finished, Outcome, Policy, Record};

use self::world::{After, HANDLERS, Phase, Shown, Slot, TICKETS, Turn, World, claimant};
use crate::{
    explore::{Event, Key, Model},
    memory::{HASH, Held, Memory, outcome},
    world::Ticket,
};

/// A rule of name turns and adoption that a search leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TurnRule {
    CreatesTakeTurns,
    LookTakesTheTurn,
    MarkProvesInItsTurnOnly,
    OwnerIsWritten,
    OwnerBeforeTurnIsOver,
    OpenIsForAPerson,
    EqualityInLastLookOnly,
}

impl TurnRule {
    pub(crate) const ALL: [Self; 7] = [
        Self::CreatesTakeTurns,
        Self::LookTakesTheTurn,
        Self::MarkProvesInItsTurnOnly,
        Self::OwnerIsWritten,
        Self::OwnerBeforeTurnIsOver,
        Self::OpenIsForAPerson,
        Self::EqualityInLastLookOnly,
    ];

    /// The rule in words.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::CreatesTakeTurns => "  creates of one name take turns",
            Self::LookTakesTheTurn => "  a look takes the turn, too",
            Self::MarkProvesInItsTurnOnly => "  begun_at proves a product in its own turn only",
            Self::OwnerIsWritten => "  own: says whose a product is",
            Self::OwnerBeforeTurnIsOver => "  own: is written before the turn is over",
            Self::OpenIsForAPerson => "  a candidate without proof is left to a person",
            Self::EqualityInLastLookOnly => "  without dates, equality counts in the last look only",
        }
    }
}

/// Two jobs, one name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turns {
    /// What the mix holds.
    pub(crate) name: &'static str,
    /// Do products tell when they were created?
    pub(crate) is_dated: bool,
    /// Kills, lost answers, 429s, losses of memory.
    pub(crate) faults: [u8; 4],
    /// The rule that is left out.
    pub(crate) without: Option<TurnRule>,
    /// Fewer states than this mean that the mix no longer says what it says.
    pub(crate) at_least: usize,
}

const KILL: usize = 0;
const LOST_ANSWER: usize = 1;
const THROTTLE: usize = 2;
const LOSS: usize = 3;

const BROKEN: [&str; 4] = [
    "",
    "double: a job made two products",
    "foreign: a job went on with another's product",
    "loss: nothing is left of a job without end",
];

impl Model for Turns {
    fn initial(&self) -> Key {
        World::new(self.faults).pack()
    }

    fn next(&self, key: &Key, found: &mut Vec<(Event, Key)>) {
        let world = World::unpack(key);
        let mut out = Out { found, slot: 0 };
        for n in 0..HANDLERS {
            out.slot = u8::try_from(n).unwrap();
            self.step(&world, n, &mut out);
        }
        out.slot = Event::WORLD;
        self.happen(&world, &mut out);
    }

    fn violation(&self, key: &Key) -> Option<&'static str> {
        let broken = World::unpack(key).broken;
        (broken != 0).then(|| BROKEN[usize::from(broken)])
    }

    fn is_settled(&self, key: &Key) -> bool {
        let world = World::unpack(key);
        world.slots.iter().all(|slot| slot.phase == Phase::Idle)
            && (0..2).all(|job| !world.has_tickets(job) && world.ended[job] != outcome::NONE)
    }

    fn show(&self, key: &Key) -> String {
        let world = World::unpack(key);
        let slots: Vec<String> = world
            .slots
            .iter()
            .filter(|slot| slot.phase != Phase::Idle)
            .map(|slot| format!("{:?}(job {} {} product {})", slot.phase, slot.job, slot.ticket.place, slot.product))
            .collect();
        let products: Vec<String> = world
            .products
            .iter()
            .filter(|product| product.is_there)
            .map(|product| format!("by {} own {:?} used {:?}", product.maker, product.owner, product.is_used))
            .collect();
        format!("{} {:?} {} ended {:?}", slots.join(" "), world.turn, products.join("; "), world.ended)
    }
}

/// Where transitions go.
struct Out<'a> {
    found: &'a mut Vec<(Event, Key)>,
    slot: u8,
}

impl Out<'_> {
    fn emit(&mut self, what: &'static str, world: &World) {
        self.found.push((Event { slot: self.slot, what }, world.pack()));
    }

    fn go(&mut self, world: &World, n: usize, phase: Phase, what: &'static str) {
        let mut next = *world;
        next.slots[n].phase = phase;
        self.emit(what, &next);
    }
}

impl Turns {
    fn has(&self, rule: TurnRule) -> bool {
        self.without != Some(rule)
    }

    fn step(&self, world: &World, n: usize, out: &mut Out<'_>) {
        let slot = world.slots[n];
        let job = slot.job;
        let me = u8::try_from(job).ok();
        let mut next = *world;
        match slot.phase {
            Phase::Idle => self.receive(world, n, out),
            Phase::TakeTurn => self.take_turn(world, n, out),
            Phase::List => {
                next.slots[n].phase = Phase::Decide;
                next.slots[n].is_last = is_last_look(world, n);
                next.slots[n].product =
                    u8::try_from(world.products.iter().filter(|product| product.is_there).count()).unwrap();
                out.emit("reads the list", &next);
            }
            Phase::Decide => self.decide(world, n, out),
            Phase::Stamp => {
                if world.turn.owner != me && self.has(TurnRule::CreatesTakeTurns) {
                    return hand_on(world, n, Next::Park, "has lost its turn", out);
                }
                next.turn.is_stamped = true;
                for product in &mut next.products {
                    product.is_after[job] = false;
                }
                next.slots[n].phase = Phase::Begin;
                out.emit("stamps its turn", &next);
                out.go(world, n, Phase::GiveTurnBack(After::Park), "gets no permit");
            }
            Phase::Begin => match claim::begin(&world.load(n, true), claimant(n), &Policy::default()) {
                Ok(record) => {
                    next.write(n, &record, false);
                    next.slots[n].phase = Phase::Calling;
                    out.emit("begins and sends the create", &next);
                }
                Err(_) => hand_on(world, n, Next::GiveBack, "is no longer the holder", out),
            },
            Phase::Calling | Phase::Executed => self.call(world, n, out),
            Phase::WriteOwner => {
                if self.has(TurnRule::OwnerIsWritten) && world.products[usize::from(slot.product)].owner.is_none() {
                    next.products[usize::from(slot.product)].owner = me;
                }
                let is_recorded = !self.has(TurnRule::OwnerBeforeTurnIsOver);
                next.slots[n].phase = if is_recorded { Phase::Complete } else { Phase::Record(Shown::Done) };
                out.emit("writes own:", &next);
            }
            Phase::Record(shown) => Self::record(world, n, shown, out),
            Phase::GiveTurnBack(after) => {
                if world.turn.owner == me {
                    next.turn = Turn::default();
                }
                next.slots[n].phase = match after {
                    After::Try => return hand_on(&next, n, Next::Try, "its turn is over", out),
                    After::Park => return hand_on(&next, n, Next::Park, "its turn is over", out),
                    After::Use if self.has(TurnRule::OwnerBeforeTurnIsOver) => Phase::Complete,
                    After::Use => Phase::WriteOwner,
                };
                out.emit("its turn is over", &next);
            }
            Phase::Complete | Phase::Person => Self::end(world, n, out),
        }
    }

    fn receive(&self, world: &World, n: usize, out: &mut Out<'_>) {
        if world.slots[..n].iter().any(|slot| slot.phase == Phase::Idle) {
            return;
        }
        for job in 0..2 {
            for at in 0..TICKETS {
                let Some(ticket) = world.queues[job][at] else { break };
                let mut next = *world;
                next.queues[job][at] = None;
                next.queues[job].sort_unstable_by(|a, b| b.cmp(a));
                next.slots[n] = Slot { phase: Phase::TakeTurn, job, ticket, ..Slot::IDLE };
                self.claim(&next, n, out);
            }
        }
    }

    fn claim(&self, world: &World, n: usize, out: &mut Out<'_>) {
        let slot = world.slots[n];
        let is_gone = world.memories[slot.job].record.is_some_and(|record| record.held == Held::Gone);
        let arrival = Arrival {
            place: slot.ticket.place,
            hash: HASH,
            is_intake: slot.ticket.is_intake,
            is_suspect: slot.ticket.is_suspect,
        };
        for lives in if is_gone { &[true, false][..] } else { &[true][..] } {
            let mut next = *world;
            match claim::claim(&world.load(n, *lives), &arrival, claimant(n), &Policy::default()) {
                Claim::OtherContent => unreachable!("one content"),
                Claim::Ended { .. } | Claim::Stale => {
                    next.finish(n);
                    account(&mut next);
                    out.emit("claims: ended or stale", &next);
                }
                Claim::Busy { .. } => hand_on(world, n, Next::GiveBack, "claims: busy", out),
                Claim::Take { record, .. } => {
                    next.write(n, &record, true);
                    self.plan(&mut next, n, &record);
                    out.emit("claims: taken", &next);
                }
            }
        }
    }

    fn plan(&self, world: &mut World, n: usize, record: &Record<u8, u8>) {
        world.slots[n].phase = match &record.result {
            // The turn may have been left behind by a worker that was killed.
            Some(Finished::Done(product) | Finished::Refused(product)) => {
                world.slots[n].product = *product;
                if self.has(TurnRule::OwnerBeforeTurnIsOver) {
                    Phase::WriteOwner
                } else {
                    Phase::GiveTurnBack(After::Use)
                }
            }
            None if record.needs_look() && !self.has(TurnRule::LookTakesTheTurn) => Phase::List,
            None => Phase::TakeTurn,
        };
    }

    fn take_turn(&self, world: &World, n: usize, out: &mut Out<'_>) {
        let me = u8::try_from(world.slots[n].job).ok();
        let mut next = *world;
        let turn = world.turn;
        if turn.owner.is_some() && turn.owner != me && !turn.is_expired && self.has(TurnRule::CreatesTakeTurns) {
            return hand_on(world, n, Next::Park, "another has the turn", out);
        }
        // A mark that ran out proves again once its own job has the turn again: nobody else has had it meanwhile.
        let is_stamped = turn.owner == me && turn.is_stamped;
        next.turn = Turn { owner: me, is_stamped, is_expired: false };
        let needs_look = world.load(n, true).known().is_some_and(Record::needs_look);
        next.slots[n].phase = if needs_look { Phase::List } else { Phase::Stamp };
        out.emit("takes the turn", &next);
    }

    /// What the list, the turn and `own:` say together.
    fn decide(&self, world: &World, n: usize, out: &mut Out<'_>) {
        let slot = world.slots[n];
        let me = u8::try_from(slot.job).ok();
        let loaded = world.load(n, true);
        let Some(known) = loaded.known() else {
            return hand_on(world, n, Next::GiveBack, "memory is gone", out);
        };
        let is_in_turn = world.turn.owner == me && world.turn.is_stamped && !world.turn.is_expired;
        let is_begun = known.begun_at.is_some();
        let proves = if self.has(TurnRule::MarkProvesInItsTurnOnly) { is_in_turn && is_begun } else { is_begun };
        let (mut ours, mut open, mut mine) = (0, 0, 0);
        for (product, at) in world.products.iter().zip(0..slot.product) {
            let is_ours = if self.is_dated {
                proves && product.is_after[slot.job]
            } else {
                is_begun
                    && known.suspect_since.is_none()
                    && product.is_used == [false; 2]
                    && (slot.is_last || !self.has(TurnRule::EqualityInLastLookOnly))
            };
            if product.owner == me || (product.owner.is_none() && is_ours) {
                ours += 1;
                mine = at;
            } else if product.owner.is_none() {
                open += 1;
            }
        }
        let mut next = *world;
        if ours == 1 && open == 0 {
            next.slots[n].product = mine;
            next.slots[n].phase =
                if self.has(TurnRule::OwnerBeforeTurnIsOver) { Phase::WriteOwner } else { Phase::Record(Shown::Done) };
            out.emit("finds its product", &next);
        } else if !slot.is_last {
            hand_on(world, n, Next::Park, "the last look is not due", out);
        } else if ours == 0 && (open == 0 || !self.has(TurnRule::OpenIsForAPerson)) {
            out.go(world, n, Phase::Record(Shown::Absent), "looks for the last time: none is its own");
        } else {
            out.go(world, n, Phase::Person, "a person must decide");
        }
    }

    fn call(&self, world: &World, n: usize, out: &mut Out<'_>) {
        let slot = world.slots[n];
        let mut next = *world;
        if slot.phase == Phase::Executed {
            let is_ordered = self.has(TurnRule::OwnerBeforeTurnIsOver);
            out.go(world, n, if is_ordered { Phase::WriteOwner } else { Phase::Record(Shown::Done) }, "is answered");
        } else {
            next.slots[n].product = next.create(slot.job, self.is_dated);
            next.slots[n].phase = Phase::Executed;
            out.emit("create takes effect", &next);
        }
        if world.left[LOST_ANSWER] > 0 {
            let mut next = *world;
            next.left[LOST_ANSWER] -= 1;
            if slot.phase == Phase::Calling {
                next.loose[usize::from(slot.is_older)][slot.job] += 1;
            }
            next.slots[n].phase = Phase::Record(Shown::Unclear);
            out.emit("loses the answer", &next);
        }
        if world.left[THROTTLE] > 0 && slot.phase == Phase::Calling {
            let mut next = *world;
            next.left[THROTTLE] -= 1;
            next.slots[n].phase = Phase::Record(Shown::NotExecuted);
            out.emit("is answered 429", &next);
        }
    }

    fn record(world: &World, n: usize, shown: Shown, out: &mut Out<'_>) {
        let outcome = match shown {
            Shown::Done => Outcome::Finished(Finished::Done(world.slots[n].product)),
            Shown::Absent => Outcome::Absent,
            Shown::Unclear => Outcome::Unclear,
            Shown::NotExecuted => Outcome::NotExecuted,
        };
        let Ok(record) = claim::record(&world.load(n, true), claimant(n), outcome) else {
            return hand_on(world, n, Next::GiveBack, "is no longer the holder", out);
        };
        let mut next = *world;
        next.write(n, &record, false);
        next.slots[n].phase = match shown {
            Shown::Done => Phase::GiveTurnBack(After::Use),
            Shown::Absent => Phase::TakeTurn,
            Shown::Unclear => return hand_on(&next, n, Next::TrySuspect, "records an unclear answer", out),
            Shown::NotExecuted => Phase::GiveTurnBack(After::Try),
        };
        out.emit("records", &next);
    }

    fn end(world: &World, n: usize, out: &mut Out<'_>) {
        let slot = world.slots[n];
        let end = if slot.phase == Phase::Complete { outcome::COMPLETED } else { outcome::DEAD_LETTERED };
        let Ok((record, first)) = claim::end(&world.load(n, true), claimant(n), end) else {
            return hand_on(world, n, Next::GiveBack, "is no longer the holder", out);
        };
        let mut next = *world;
        next.write(n, &record, false);
        if slot.phase == Phase::Complete {
            // The submission is created in the product: the job has gone on with it.
            let product = &mut next.products[usize::from(slot.product)];
            product.is_used[slot.job] = true;
            if product.is_used == [true; 2] {
                next.broken = 2;
            }
        }
        next.ended[slot.job] = first;
        next.finish(n);
        account(&mut next);
        out.emit("ends", &next);
    }

    fn happen(&self, world: &World, out: &mut Out<'_>) {
        for n in 0..HANDLERS {
            let slot = world.slots[n];
            if world.left[KILL] > 0 && slot.phase != Phase::Idle {
                let mut next = *world;
                next.left[KILL] -= 1;
                if slot.phase == Phase::Calling {
                    next.loose[usize::from(slot.is_older)][slot.job] += 1;
                }
                next.put(slot.job, Ticket { is_suspect: true, ..slot.ticket });
                next.finish(n);
                account(&mut next);
                out.emit("a worker is killed", &next);
            }
        }
        if world.left[LOSS] > 0 {
            let mut next = *world;
            next.left[LOSS] -= 1;
            next.memories = [Memory { record: None, is_in_grace: true }; 2];
            next.turn = Turn::default();
            for product in &mut next.products {
                product.owner = None;
            }
            for slot in &mut next.slots {
                slot.holds = false;
                slot.is_older = slot.is_under_way();
            }
            for job in 0..2 {
                next.loose[1][job] += next.loose[0][job];
                next.loose[0][job] = 0;
            }
            out.emit("memory is lost", &next);
        }
        for age in 0..2 {
            for job in 0..2 {
                if world.loose[age][job] > 0 {
                    let mut next = *world;
                    next.loose[age][job] -= 1;
                    out.emit("a request without handler vanishes", &next);
                    next.create(job, self.is_dated);
                    out.emit("a request without handler takes effect", &next);
                }
            }
        }
        expire(world, out);
    }
}

/// Twenty minutes after `begun_at`: longer than an answer, the lists' lag and any delivery.
fn expire(world: &World, out: &mut Out<'_>) {
    let Some(job) = world.turn.owner.map(usize::from) else { return };
    let is_at_work = world.slots.iter().any(|slot| slot.job == job && slot.phase != Phase::Idle);
    let is_under_way = world.loose.iter().any(|loose| loose[job] > 0);
    if !world.turn.is_expired && !is_at_work && !is_under_way {
        let mut next = *world;
        next.turn.is_expired = true;
        out.emit("the turn runs out", &next);
    }
}

/// What a handler publishes before it acks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Try,
    TrySuspect,
    Park,
    /// Its own ticket, marked, without holding the record.
    GiveBack,
}

fn hand_on(world: &World, n: usize, next: Next, what: &'static str, out: &mut Out<'_>) {
    let slot = world.slots[n];
    let ticket = match next {
        Next::Try => Ticket::at(slot.ticket.place.next_try()),
        Next::TrySuspect => Ticket { is_suspect: true, ..Ticket::at(slot.ticket.place.next_try()) },
        Next::GiveBack => Ticket { is_suspect: true, ..slot.ticket.again() },
        Next::Park => slot.ticket.again(),
    };
    let mut world = *world;
    world.put(slot.job, ticket);
    if next == Next::Park
        && let Ok(record) = claim::let_go(&world.load(n, true), claimant(n))
    {
        world.write(n, &record, false);
    }
    world.finish(n);
    out.emit(what, &world);
}

/// Is nothing that this job doubts under way any more?
fn is_last_look(world: &World, n: usize) -> bool {
    let job = world.slots[n].job;
    let is_own_under_way = world.loose.iter().any(|loose| loose[job] > 0)
        || world.slots.iter().any(|other| other.job == job && other.is_under_way());
    // A job that lost its record counts its doubt from the birth: whatever was begun before is over by then.
    let is_older_under_way =
        world.loose[1] != [0; 2] || world.slots.iter().any(|other| other.is_under_way() && other.is_older);
    let is_suspect = world.memories[job].record.is_some_and(|record| record.is_suspect);
    !(is_own_under_way || is_suspect && is_older_under_way)
}

/// A job of which nothing is left has ended.
fn account(world: &mut World) {
    if (0..2).any(|job| !world.has_tickets(job) && world.ended[job] == outcome::NONE) {
        world.broken = 3;
    }
}

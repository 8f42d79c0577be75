//! One job, its handlers and all that can happen to them: the engine's order, with `domain/claim.rs` deciding.
//!
//! A handler follows DESIGN's order: receive, claim, (result: use it; in doubt: look; else permit, begin, call), record, end
//! event, next ticket, set aside, ack, let go. Load and swap are two transitions; a swap that is refused decides again on
//! what it brings. Left to the simulation: workers that stand still between two steps of their own, so a handler whose
//! worker neither died nor lost its connection keeps its lease; waits and their lengths.

use longshore::domain::{
    claim::{self, Arrival, Claim, Claimant, Denied, Finished, Outcome, Record, Wished},
    step::Place,
};

use crate::{
    explore::{Event, Key, Model},
    rules::{Rule, Rules},
    world::{Faults, HANDLERS, HASH, Held, Memory, Phase, Slot, Ticket, World, control, outcome, pause, policy},
};

/// A mix of faults.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mix {
    /// What it holds, in the words of the issue.
    pub(crate) name: &'static str,
    /// How many creates the job makes, one a step.
    pub(crate) creates: u16,
    /// Which worker each handler runs in.
    pub(crate) workers: &'static [u8],
    /// What can go wrong, and how often.
    pub(crate) faults: Faults,
    /// The quota may refuse a permit, any number of times.
    pub(crate) is_quota_scarce: bool,
    /// Looks before the last one, which prove nothing, up to this try.
    pub(crate) early_looks: u32,
    /// Not only a redelivered ticket is marked when it is parked, but every one.
    pub(crate) is_every_park_marked: bool,
    /// The lost claim in a row that is poison.
    pub(crate) poison_after: u32,
    /// Fewer states than this mean that the mix no longer says what it says.
    pub(crate) at_least: usize,
}

/// What can be wrong with a state.
pub(crate) mod broken {
    pub(crate) const DOUBLE: u8 = 1;
    pub(crate) const LOSS: u8 = 2;
    pub(crate) const SECOND_END: u8 = 3;
    pub(crate) const NOT_ASIDE: u8 = 4;
    pub(crate) const FOREIGN: u8 = 5;
    pub(crate) const WISH_IGNORED: u8 = 6;
    pub(crate) const NAMES: [&str; 7] = [
        "",
        "double: a create took effect twice",
        "loss: nothing is left of a job without end",
        "second end: another outcome under the same event id",
        "an end but `completed` is not in the dead letters",
        "a foreign result was used",
        "a call was begun by a claim made after a wish was written",
    ];
}

/// One job under a mix of faults, with all rules or all but one.
pub(crate) struct Job {
    pub(crate) mix: Mix,
    pub(crate) rules: Rules,
}

/// The transitions found so far.
type Found<'a> = Vec<(Event, Key)>;

impl Model for Job {
    fn initial(&self) -> Key {
        World::new(self.mix.faults).pack(self.is_symmetric())
    }

    fn next(&self, key: &Key, found: &mut Found<'_>) {
        let world = World::unpack(key);
        for n in 0..self.mix.workers.len() {
            self.step(&world, n, found);
        }
        self.happen(&world, found);
    }

    fn violation(&self, key: &Key) -> Option<&'static str> {
        let broken = (key[4] >> 48) as usize;
        (broken != 0).then(|| broken::NAMES[broken])
    }

    fn is_settled(&self, key: &Key) -> bool {
        let world = World::unpack(key);
        world.is_empty()
            && world.slots.iter().all(|slot| slot.phase == Phase::Idle)
            && world.announced[world.generation() as usize - 1] != outcome::NONE
    }

    fn show(&self, key: &Key) -> String {
        show(&World::unpack(key))
    }
}

impl Job {
    fn is_symmetric(&self) -> bool {
        let workers = self.mix.workers;
        workers.iter().all(|worker| *worker == workers[0])
            || workers.iter().enumerate().all(|(n, worker)| n == usize::from(*worker))
    }

    /// Who a handler is to the memory.
    fn claimant(&self, n: usize) -> Claimant {
        let number = if self.rules.has(Rule::HolderIsOneClaim) { n as u64 + 1 } else { 0 };
        Claimant { worker: u128::from(self.mix.workers[n]), number }
    }

    fn load(&self, world: &World, n: usize, lives: bool) -> claim::Loaded<u8, u8> {
        self.rules.see(world.load(world.memory_of(n), &|slot| self.claimant(slot), lives))
    }

    fn emit(&self, found: &mut Found<'_>, slot: usize, what: &'static str, world: World) {
        let slot = if slot == HANDLERS { Event::WORLD } else { u8::try_from(slot).unwrap() };
        found.push((Event { slot, what }, world.pack(self.is_symmetric())));
    }

    /// Everything that handler `n` can do next.
    fn step(&self, world: &World, n: usize, found: &mut Found<'_>) {
        match world.slots[n].phase {
            Phase::Idle => self.receive(world, n, found),
            Phase::Claim => self.claim(world, n, found),
            Phase::Look => self.look(world, n, found),
            Phase::Permit => {
                self.go(world, n, Phase::Begin, "gets a permit", found);
                self.go(world, n, Phase::Park, "gets no permit", found);
            }
            Phase::Begin => self.begin(world, n, found),
            Phase::Begun => self.go(world, n, Phase::Calling, "sends the create", found),
            Phase::Calling | Phase::Executed => self.call(world, n, found),
            Phase::RecordDone
            | Phase::RecordRefused
            | Phase::RecordNotExecuted
            | Phase::RecordUnclear
            | Phase::RecordFound
            | Phase::RecordAbsent
            | Phase::RecordNothing => self.record(world, n, found),
            Phase::End => self.end(world, n, found),
            Phase::Announce | Phase::AnnounceOnly => self.announce(world, n, found),
            Phase::SetAside => self.set_aside(world, n, found),
            Phase::PublishNext
            | Phase::PublishTry
            | Phase::PublishTrySuspect
            | Phase::Park
            | Phase::ParkPaused
            | Phase::GiveBack
            | Phase::GiveBackPanicked => self.publish(world, n, found),
            Phase::Ack | Phase::AckThenLetGo | Phase::AckThenPanicked => self.ack(world, n, found),
            Phase::LetGo | Phase::Panicked => self.let_go(world, n, found),
        }
    }

    fn go(&self, world: &World, n: usize, phase: Phase, what: &'static str, found: &mut Found<'_>) {
        let mut next = *world;
        set(&mut next, n, phase);
        self.emit(found, n, what, next);
    }

    fn receive(&self, world: &World, n: usize, found: &mut Found<'_>) {
        // Idle handlers are alike: the first one receives.
        let is_alike = |slot: usize| {
            world.slots[slot].phase == Phase::Idle && world.slots[slot].is_on_old == world.slots[n].is_on_old
        };
        if self.is_symmetric() && (0..n).any(is_alike) {
            return;
        }
        for at in 0..world.queue.len() {
            let Some(ticket) = world.queue[at] else { break };
            if at > 0 && world.queue[at - 1] == Some(ticket) {
                continue;
            }
            if ticket.is_paused && world.control == control::UNSEEN {
                continue;
            }
            let mut next = *world;
            next.take(at);
            if is_new_job(world, n, ticket) {
                self.emit(found, n, "receives a copy long after the loss: another job (left, d)", next);
                continue;
            }
            if ticket.is_paused
                && let Some(record) = &mut next.memories[0].record
                && record.pause == pause::TO_COME
            {
                record.pause = pause::PASSED;
            }
            next.slots[n].phase = Phase::Claim;
            next.slots[n].ticket = ticket;
            self.emit(found, n, "receives", next);
        }
    }

    fn claim(&self, world: &World, n: usize, found: &mut Found<'_>) {
        let slot = &world.slots[n];
        let arrival = Arrival {
            place: slot.ticket.place,
            hash: HASH,
            is_intake: slot.ticket.is_intake,
            is_suspect: slot.ticket.is_suspect,
        };
        let policy = policy(self.mix.poison_after);
        let is_swap = slot.is_pending && !slot.is_stale;
        for lives in self.may_live(world, n) {
            let decided = self.rules.claim(&self.load(world, n, *lives), &arrival, self.claimant(n), &policy);
            let mut next = *world;
            match decided {
                Claim::OtherContent => unreachable!("one content"),
                // Nothing is written for these: what was loaded decides.
                Claim::Ended { .. } | Claim::Stale | Claim::Busy { .. } if is_swap => {}
                Claim::Ended { end, is_before } => {
                    next.slots[n].then = end;
                    let is_aside = is_before || end == outcome::COMPLETED || !self.rules.has(Rule::SetAsideAgain);
                    let phase = match (self.rules.has(Rule::AnnounceAgain), is_aside) {
                        (true, true) => Phase::AnnounceOnly,
                        (true, false) => Phase::Announce,
                        (false, true) => Phase::Ack,
                        (false, false) => Phase::SetAside,
                    };
                    set(&mut next, n, phase);
                    self.emit(found, n, "claims: ended", next);
                }
                Claim::Stale => {
                    set(&mut next, n, Phase::Ack);
                    self.emit(found, n, "claims: stale", next);
                }
                Claim::Busy { .. } => {
                    set(&mut next, n, Phase::GiveBack);
                    next.slots[n].then = BUSY;
                    self.emit(found, n, "claims: busy", next);
                }
                Claim::Take { record, is_poison, .. } if is_swap => {
                    let memory = next.memory_of(n);
                    next.write(memory, &record, Some(n));
                    next.is_started = true;
                    next.slots[n].is_after_wish = next.is_wished;
                    self.plan(&mut next, n, &record, is_poison);
                    self.emit(found, n, "claims: swap, taken", next);
                }
                Claim::Take { .. } => {
                    pend(&mut next, n);
                    self.emit(found, n, "claims: load, to be taken", next);
                }
            }
        }
    }

    /// Can the record's holder be alive, can it be dead? A handler lives while its worker does, unless that was cut off;
    /// the lease of one that is gone may have run out or not. What a swap writes was decided on a dead one.
    fn may_live(&self, world: &World, n: usize) -> &'static [bool] {
        let memory = world.memory_of(n);
        let is_swap = world.slots[n].is_pending && !world.slots[n].is_stale;
        match world.memories[memory].record.map(|record| record.held) {
            None | Some(Held::Nobody) => &[false],
            Some(_) if is_swap => &[false],
            Some(Held::Gone) => &[true, false],
            Some(Held::Running) => {
                let is_cut_off = |slot: &Slot| slot.holds[memory] && slot.is_cut && slot.phase != Phase::Begun;
                if world.slots.iter().any(is_cut_off) { &[true, false] } else { &[true] }
            }
        }
    }

    /// What a holder does with the record it has just read or written.
    fn plan(&self, world: &mut World, n: usize, record: &Record<u8, u8>, is_poison: bool) {
        let step = world.slots[n].ticket.place.step;
        if let Some(Finished::Done(of) | Finished::Refused(of)) = &record.result
            && (u16::from(*of) != step
                || (world.effects[usize::from(step)] == 0 && matches!(record.result, Some(Finished::Done(_)))))
        {
            world.broken = broken::FOREIGN;
        }
        let ending = match (is_poison, record.wish.is_some(), world.is_late) {
            (true, ..) => outcome::DEAD_LETTERED,
            (false, true, _) => outcome::CANCELLED,
            (false, false, true) => outcome::TIMED_OUT,
            (false, false, false) => outcome::NONE,
        };
        let must_wait =
            record.write_not_before.is_some_and(|until| until > crate::world::NOW) && self.mix.faults.cancels > 0;
        let phase = match &record.result {
            Some(Finished::Done(_)) => self.done(world, n),
            Some(Finished::Refused(_)) => {
                world.slots[n].then = outcome::FAILED;
                Phase::End
            }
            None => {
                world.slots[n].then = ending;
                match (record.needs_look(), ending) {
                    (true, _) => Phase::Look,
                    (false, outcome::NONE) if must_wait => Phase::ParkPaused,
                    (false, outcome::NONE) if self.mix.is_quota_scarce => Phase::Permit,
                    (false, outcome::NONE) => Phase::Begin,
                    (false, _) => Phase::End,
                }
            }
        };
        set(world, n, phase);
    }

    /// The step's work stands: the next one, or the end.
    fn done(&self, world: &mut World, n: usize) -> Phase {
        if world.slots[n].ticket.place.step + 1 < self.mix.creates {
            return Phase::PublishNext;
        }
        world.slots[n].then = outcome::COMPLETED;
        Phase::End
    }

    fn look(&self, world: &World, n: usize, found: &mut Found<'_>) {
        let slot = &world.slots[n];
        let step = usize::from(slot.ticket.place.step);
        if world.effects[step] > 0 {
            return self.go(world, n, Phase::RecordFound, "looks: found", found);
        }
        let is_last_possible =
            (!world.is_under_way(step) && !world.is_split) || !self.rules.has(Rule::AbsenceOnlyInLastLook);
        if is_last_possible {
            self.go(world, n, Phase::RecordAbsent, "looks for the last time: absent", found);
        }
        if slot.then != outcome::NONE {
            self.go(world, n, Phase::End, "looks once: nothing", found);
        } else if slot.ticket.place.r#try < self.mix.early_looks {
            self.go(world, n, Phase::RecordNothing, "looks early: nothing", found);
        } else if !is_last_possible {
            self.go(world, n, Phase::Park, "the last look is not due", found);
        }
        if slot.then == outcome::NONE && world.left.ends > 0 {
            let mut next = *world;
            next.left.ends -= 1;
            next.slots[n].then = outcome::DEAD_LETTERED;
            set(&mut next, n, Phase::End);
            self.emit(found, n, "cannot read the list: a person must decide", next);
        }
    }

    fn begin(&self, world: &World, n: usize, found: &mut Found<'_>) {
        let begun = claim::begin(&self.load(world, n, true), self.claimant(n), &policy(self.mix.poison_after));
        let mut next = *world;
        match begun {
            Err(Denied::NotHolder) => self.not_holder(world, n, found),
            Err(Denied::InDoubt) => self.go(world, n, Phase::Park, "begin: in doubt", found),
            Ok(_) if !world.slots[n].is_pending || world.slots[n].is_stale => {
                pend(&mut next, n);
                self.emit(found, n, "begin: load", next);
            }
            Ok(record) => {
                let memory = next.memory_of(n);
                next.write(memory, &record, None);
                if next.slots[n].is_after_wish {
                    next.broken = broken::WISH_IGNORED;
                }
                set(&mut next, n, Phase::Begun);
                self.emit(found, n, "begin: swap, begun", next);
            }
        }
    }

    /// The claim is somebody else's now, or nobody's: only the own ticket goes back.
    fn not_holder(&self, world: &World, n: usize, found: &mut Found<'_>) {
        let mut next = *world;
        if next.slots[n].is_cut {
            next.finish(n);
        } else {
            next.slots[n].then = outcome::NONE;
            set(&mut next, n, Phase::GiveBack);
        }
        self.emit(found, n, "is no longer the holder", next);
    }

    fn call(&self, world: &World, n: usize, found: &mut Found<'_>) {
        let step = usize::from(world.slots[n].ticket.place.step);
        let mut next = *world;
        if world.slots[n].phase == Phase::Executed {
            self.go(world, n, Phase::RecordDone, "is answered", found);
            if world.left.lost_answers > 0 {
                next.left.lost_answers -= 1;
                set(&mut next, n, Phase::RecordUnclear);
                self.emit(found, n, "loses the answer", next);
            }
            return;
        }
        take_effect(&mut next, step);
        set(&mut next, n, Phase::Executed);
        self.emit(found, n, "create takes effect", next);
        if world.left.throttles > 0 {
            let mut next = *world;
            next.left.throttles -= 1;
            set(&mut next, n, Phase::RecordNotExecuted);
            self.emit(found, n, "is answered 429", next);
        }
        if world.left.ends > 0 {
            let mut next = *world;
            next.left.ends -= 1;
            set(&mut next, n, Phase::RecordRefused);
            self.emit(found, n, "is refused by the service", next);
        }
        if world.left.lost_answers > 0 {
            let mut next = *world;
            next.left.lost_answers -= 1;
            next.loose[step] += 1;
            set(&mut next, n, Phase::RecordUnclear);
            self.emit(found, n, "times out, the request is still under way", next);
        }
    }

    fn record(&self, world: &World, n: usize, found: &mut Found<'_>) {
        let slot = &world.slots[n];
        let step = u8::try_from(slot.ticket.place.step).unwrap();
        let outcome = match slot.phase {
            Phase::RecordRefused => Outcome::Finished(Finished::Refused(step)),
            Phase::RecordNotExecuted => Outcome::NotExecuted,
            Phase::RecordUnclear => Outcome::Unclear,
            Phase::RecordAbsent => Outcome::Absent,
            Phase::RecordNothing => Outcome::Nothing,
            _ => Outcome::Finished(Finished::Done(step)),
        };
        let place = slot.ticket.place;
        let next_place = match slot.phase {
            Phase::RecordDone | Phase::RecordFound if place.step + 1 < self.mix.creates => {
                Some(place.at_step(place.step + 1))
            }
            Phase::RecordNotExecuted | Phase::RecordUnclear | Phase::RecordNothing => Some(place.next_try()),
            _ => None,
        };
        let Ok(record) = self.rules.record(&self.load(world, n, true), self.claimant(n), outcome, next_place) else {
            return self.not_holder(world, n, found);
        };
        let mut next = *world;
        if !slot.is_pending || slot.is_stale {
            pend(&mut next, n);
            return self.emit(found, n, "record: load", next);
        }
        let memory = next.memory_of(n);
        next.write(memory, &record, None);
        let phase = match slot.phase {
            _ if slot.is_cut => Phase::LetGo,
            Phase::RecordRefused => {
                next.slots[n].then = outcome::FAILED;
                Phase::End
            }
            Phase::RecordNotExecuted => Phase::PublishTry,
            Phase::RecordUnclear | Phase::RecordNothing => Phase::PublishTrySuspect,
            Phase::RecordAbsent if !self.rules.has(Rule::AbsenceIsRecorded) => Phase::Begin,
            Phase::RecordAbsent if slot.then == outcome::DEAD_LETTERED => Phase::End,
            Phase::RecordAbsent => {
                self.plan(&mut next, n, &record, false);
                return self.emit(found, n, "record: swap, absent", next);
            }
            _ => self.done(&mut next, n),
        };
        set(&mut next, n, phase);
        self.emit(found, n, "record: swap", next);
    }

    fn end(&self, world: &World, n: usize, found: &mut Found<'_>) {
        let Ok((record, first)) = claim::end(&self.load(world, n, true), self.claimant(n), world.slots[n].then) else {
            return self.not_holder(world, n, found);
        };
        let mut next = *world;
        if !world.slots[n].is_pending || world.slots[n].is_stale {
            pend(&mut next, n);
            return self.emit(found, n, "end: load", next);
        }
        let memory = next.memory_of(n);
        next.write(memory, &record, None);
        next.slots[n].then = first;
        set(&mut next, n, Phase::Announce);
        self.emit(found, n, "end: swap", next);
    }

    fn announce(&self, world: &World, n: usize, found: &mut Found<'_>) {
        let slot = &world.slots[n];
        let generation = slot.ticket.place.generation as usize - 1;
        let mut next = *world;
        match world.announced[generation] {
            outcome::NONE => next.announced[generation] = slot.then,
            before if before == slot.then => {}
            // What is left: FLEET 4.4's last sentence on loss.
            _ if world.is_memory_lost && world.is_cut_off_at_end[generation] => next.announced[generation] = slot.then,
            _ => next.broken = broken::SECOND_END,
        }
        let is_over = slot.then == outcome::COMPLETED || slot.phase == Phase::AnnounceOnly;
        set(&mut next, n, if is_over { Phase::Ack } else { Phase::SetAside });
        self.emit(found, n, "announces the end", next);
    }

    fn set_aside(&self, world: &World, n: usize, found: &mut Found<'_>) {
        let place = world.slots[n].ticket.place;
        let mut next = *world;
        next.aside[place.generation as usize - 1][usize::from(place.step)] = true;
        set(&mut next, n, Phase::Ack);
        self.emit(found, n, "sets the ticket aside", next);
    }

    fn publish(&self, world: &World, n: usize, found: &mut Found<'_>) {
        let slot = &world.slots[n];
        let place = slot.ticket.place;
        let marked = |ticket: Ticket| Ticket { is_suspect: true, ..ticket };
        let own = if self.mix.is_every_park_marked { marked(slot.ticket.again()) } else { slot.ticket.again() };
        let (ticket, phase, what) = match slot.phase {
            Phase::PublishNext => (Ticket::at(place.at_step(place.step + 1)), Phase::Ack, "publishes the next step"),
            Phase::PublishTry => (Ticket::at(place.next_try()), Phase::Ack, "publishes the next try"),
            Phase::PublishTrySuspect => {
                (marked(Ticket::at(place.next_try())), Phase::Ack, "publishes the next try, marked")
            }
            Phase::Park => (own, Phase::AckThenLetGo, "parks the same place"),
            Phase::ParkPaused => (Ticket { is_paused: true, ..own }, Phase::AckThenLetGo, "parks for the pause"),
            Phase::GiveBackPanicked => (marked(own), Phase::AckThenPanicked, "gives back after a panic"),
            _ if slot.then == BUSY => (own, Phase::Ack, "parks while busy"),
            _ => (marked(own), Phase::Ack, "gives its own ticket back, marked"),
        };
        let mut next = *world;
        next.slots[n].then = outcome::NONE;
        if slot.phase == Phase::ParkPaused && next.control == control::SEEN {
            next.control = control::UNSEEN;
        }
        if !self.rules.has(Rule::NextTicketBeforeAck) {
            next.slots[n].then = ACKED;
            if slot.then != ACKED {
                return self.emit(found, n, "acks before it publishes", next);
            }
            next.finish(n);
            next.put(ticket);
            return self.emit(found, n, what, next);
        }
        next.put(ticket);
        set(&mut next, n, phase);
        self.emit(found, n, what, next);
        if world.left.twice > 0 {
            next.left.twice -= 1;
            next.put(ticket);
            self.emit(found, n, "publishes, no confirm, publishes again", next);
        }
    }

    fn ack(&self, world: &World, n: usize, found: &mut Found<'_>) {
        let mut next = *world;
        match world.slots[n].phase {
            Phase::AckThenLetGo => set(&mut next, n, Phase::LetGo),
            Phase::AckThenPanicked => set(&mut next, n, Phase::Panicked),
            _ => next.finish(n),
        }
        account(&mut next);
        self.emit(found, n, "acks", next);
    }

    fn let_go(&self, world: &World, n: usize, found: &mut Found<'_>) {
        let loaded = self.load(world, n, true);
        let is_panic = world.slots[n].phase == Phase::Panicked;
        let let_go = if is_panic {
            claim::panicked(&loaded, self.claimant(n))
        } else {
            claim::let_go(&loaded, self.claimant(n))
        };
        let mut next = *world;
        let Ok(record) = let_go else {
            next.finish(n);
            return self.emit(found, n, "has nothing to let go", next);
        };
        if !world.slots[n].is_pending || world.slots[n].is_stale {
            pend(&mut next, n);
            return self.emit(found, n, "let go: load", next);
        }
        let memory = next.memory_of(n);
        next.write(memory, &record, None);
        next.finish(n);
        self.emit(found, n, "let go: swap", next);
    }

    /// Everything that nobody does.
    fn happen(&self, world: &World, found: &mut Found<'_>) {
        self.break_workers(world, found);
        self.break_memory(world, found);
        self.ask(world, found);
        for step in 0..2 {
            if world.loose[step] > 0 {
                let mut next = *world;
                next.loose[step] -= 1;
                self.emit(found, HANDLERS, "a request without handler vanishes", next);
                take_effect(&mut next, step);
                self.emit(found, HANDLERS, "a request without handler takes effect", next);
            }
        }
    }

    fn break_workers(&self, world: &World, found: &mut Found<'_>) {
        let workers = self.mix.workers;
        for worker in 0..=*workers.iter().max().unwrap_or(&0) {
            let of_worker = |n: &usize| workers[*n] == worker && world.slots[*n].phase != Phase::Idle;
            let first = (0..workers.len()).find(of_worker);
            if first.is_none() {
                continue;
            }
            if world.left.kills > 0 {
                let mut next = *world;
                next.left.kills -= 1;
                for n in (0..workers.len()).filter(of_worker) {
                    give_up(&mut next, n);
                    next.finish(n);
                }
                account(&mut next);
                self.emit(found, HANDLERS, WORKER_KILLED[usize::from(worker)], next);
            }
            let is_connected =
                |n: &usize| of_worker(n) && !world.slots[*n].is_cut && world.slots[*n].phase.has_message();
            if world.left.cuts > 0 && (0..workers.len()).any(|n| is_connected(&n)) {
                let mut next = *world;
                next.left.cuts -= 1;
                for n in (0..workers.len()).filter(is_connected) {
                    cut(&mut next, n);
                }
                account(&mut next);
                self.emit(found, HANDLERS, WORKER_CUT[usize::from(worker)], next);
            }
        }
        for n in 0..workers.len() {
            let slot = &world.slots[n];
            let is_at_work = matches!(
                slot.phase,
                Phase::Look
                    | Phase::Begin
                    | Phase::Calling
                    | Phase::Executed
                    | Phase::RecordDone
                    | Phase::RecordUnclear
                    | Phase::End
            );
            if world.left.panics > 0 && is_at_work && !slot.is_cut {
                let mut next = *world;
                next.left.panics -= 1;
                if slot.phase == Phase::Calling {
                    next.loose[usize::from(slot.ticket.place.step)] += 1;
                }
                next.slots[n].then = outcome::NONE;
                set(&mut next, n, Phase::GiveBackPanicked);
                self.emit(found, n, "panics", next);
            }
        }
    }

    fn break_memory(&self, world: &World, found: &mut Found<'_>) {
        let left = &world.left;
        if left.losses > 0 {
            let mut next = *world;
            next.left.losses -= 1;
            let fresh = Memory { record: None, is_in_grace: true };
            begin_epoch(&mut next, fresh, [false; HANDLERS]);
            self.emit(found, HANDLERS, "memory is lost", next);
        }
        // An hour passes: longer than any delivery, and, unless that rule is left out, than any park at the first place.
        let is_unmarked_first =
            |ticket: &Ticket| ticket.place == Place::FIRST && !ticket.is_suspect && !ticket.is_intake;
        let is_calm = world.slots.iter().all(|slot| slot.phase == Phase::Idle)
            && !world.is_split
            && (!self.rules.has(Rule::GraceOutlastsParks) || !world.queue.iter().flatten().any(is_unmarked_first));
        if world.memories[0].is_in_grace && is_calm {
            let mut next = *world;
            next.memories[0].is_in_grace = false;
            self.emit(found, HANDLERS, "the grace after the birth is over", next);
        }
        if left.failovers + left.splits > 0 && !world.has_replica && !world.is_split {
            let mut next = *world;
            next.has_replica = true;
            next.memories[2] = world.memories[0];
            for slot in &mut next.slots {
                slot.holds[2] = slot.holds[0];
            }
            self.emit(found, HANDLERS, "the replica falls behind", next);
        }
        if world.has_replica {
            let mut older = world.memories[2];
            if let Some(record) = &mut older.record {
                record.is_of_this_epoch = false;
            }
            older.is_in_grace = older.is_in_grace || self.rules.has(Rule::BirthMarkIsWrittenAnew);
            let holds = world.slots.map(|slot| slot.holds[2]);
            if left.failovers > 0 {
                let mut next = *world;
                next.left.failovers -= 1;
                begin_epoch(&mut next, older, holds);
                forget_replica(&mut next);
                self.emit(found, HANDLERS, "fail-over to the older replica", next);
            }
            if left.splits > 0 {
                let mut next = *world;
                next.left.splits -= 1;
                next.is_split = true;
                next.memories[1] = world.memories[0];
                for n in 0..HANDLERS {
                    next.slots[n].holds[1] = world.slots[n].holds[0];
                    next.slots[n].is_on_old = n < self.mix.workers.len();
                }
                begin_epoch(&mut next, older, holds);
                for n in 0..HANDLERS {
                    // Nobody has turned to the new memory yet.
                    next.slots[n].is_stale = world.slots[n].is_stale;
                }
                forget_replica(&mut next);
                self.emit(found, HANDLERS, "split: the older replica is promoted, the old primary goes on", next);
            }
        }
        for n in 0..HANDLERS {
            if world.slots[n].is_on_old {
                let mut next = *world;
                next.slots[n].is_on_old = false;
                next.slots[n].is_stale = next.slots[n].is_pending;
                if next.slots.iter().all(|slot| !slot.is_on_old) {
                    next.is_split = false;
                    next.memories[1] = Memory::default();
                    for slot in &mut next.slots {
                        slot.holds[1] = false;
                    }
                }
                self.emit(found, n, "turns to the new memory", next);
            }
        }
    }

    /// Producers, operators, people and the calendar.
    fn ask(&self, world: &World, found: &mut Found<'_>) {
        let left = &world.left;
        if left.duplicates > 0 {
            let mut next = *world;
            next.left.duplicates -= 1;
            next.put(Ticket::INTAKE);
            self.emit(found, HANDLERS, "the producer sends its message once more", next);
        }
        for step in 0..2 {
            if left.retries > 0 && world.aside[0][usize::from(step)] {
                let mut next = *world;
                next.left.retries -= 1;
                next.is_retried = true;
                next.put(Ticket::at(Place { generation: 1, step, r#try: 0 }.next_generation()));
                self.emit(found, HANDLERS, "an operator retries", next);
            }
        }
        if left.deadlines > 0 {
            let mut next = *world;
            next.left.deadlines -= 1;
            next.is_late = true;
            self.emit(found, HANDLERS, "the deadline passes", next);
        }
        if left.cancels > 0 {
            let mut next = *world;
            next.left.cancels -= 1;
            next.control = control::UNSEEN;
            self.emit(found, HANDLERS, "somebody cancels", next);
        }
        if matches!(world.control, control::UNSEEN | control::SEEN) {
            let loaded = self.rules.see(world.load(0, &|slot| self.claimant(slot), true));
            let mut next = *world;
            next.control = control::SEEN;
            match claim::wish(&loaded, Some(1)) {
                Wished::Write(record) => {
                    next.write(0, &record, None);
                    next.is_wished = true;
                }
                Wished::Stands | Wished::TooEarly => {}
                Wished::Void => next.control = control::SPENT,
            }
            self.emit(found, HANDLERS, "the control ticket is handled", next);
        }
    }
}

const WORKER_KILLED: [&str; 3] = ["worker 0 is killed", "worker 1 is killed", "worker 2 is killed"];
const WORKER_CUT: [&str; 3] =
    ["worker 0 is cut off the broker", "worker 1 is cut off the broker", "worker 2 is cut off the broker"];

/// In `then`: the ticket is parked because somebody else has its place.
const BUSY: u8 = 6;
/// In `then`: the delivery was acked too early.
const ACKED: u8 = 7;

fn set(world: &mut World, n: usize, phase: Phase) {
    world.slots[n].phase = phase;
    world.slots[n].is_pending = false;
    world.slots[n].is_stale = false;
}

fn pend(world: &mut World, n: usize) {
    world.slots[n].is_pending = true;
    world.slots[n].is_stale = false;
}

/// When nothing of the job is left anywhere, it has ended, and every end but `completed` can be retried.
fn account(world: &mut World) {
    if !world.is_empty() {
        return;
    }
    let generation = world.generation() as usize - 1;
    match world.announced[generation] {
        outcome::NONE => world.broken = broken::LOSS,
        outcome::COMPLETED => {}
        _ if world.aside[generation] == [false; 2] => world.broken = broken::NOT_ASIDE,
        _ => {}
    }
}

fn take_effect(world: &mut World, step: usize) {
    world.effects[step] += 1;
    if world.effects[step] > 1 {
        world.broken = broken::DOUBLE;
    }
}

/// An unflagged first ticket that arrives after the grace of a lost memory: a new job, as far as anybody can know.
fn is_new_job(world: &World, n: usize, ticket: Ticket) -> bool {
    let memory = &world.memories[world.memory_of(n)];
    let is_known = memory.record.is_some_and(|record| record.is_of_this_epoch);
    ticket.is_intake
        && !ticket.is_suspect
        && world.is_started
        && world.is_memory_lost
        && !memory.is_in_grace
        && !is_known
}

/// The handler's worker is gone, or its connection: the message goes back, flagged.
fn give_up(world: &mut World, n: usize) {
    let slot = world.slots[n];
    if slot.phase == Phase::Calling {
        world.loose[usize::from(slot.ticket.place.step)] += 1;
    }
    give_back(world, n);
}

fn give_back(world: &mut World, n: usize) {
    let slot = world.slots[n];
    if slot.is_cut || !slot.phase.has_message() || slot.then == ACKED {
        return;
    }
    let is_announced = matches!(slot.phase, Phase::SetAside | Phase::Ack) && slot.then != outcome::NONE;
    if is_announced {
        world.is_cut_off_at_end[slot.ticket.place.generation as usize - 1] = true;
    }
    world.put(Ticket { is_suspect: true, is_paused: false, ..slot.ticket });
}

fn cut(world: &mut World, n: usize) {
    give_back(world, n);
    let slot = world.slots[n];
    match slot.phase {
        Phase::Claim => world.finish(n),
        Phase::Begun
        | Phase::Calling
        | Phase::Executed
        | Phase::RecordDone
        | Phase::RecordRefused
        | Phase::RecordNotExecuted
        | Phase::RecordUnclear
        | Phase::RecordFound
        | Phase::RecordAbsent
        | Phase::RecordNothing => world.slots[n].is_cut = true,
        _ => {
            set(world, n, Phase::LetGo);
            world.slots[n].is_cut = true;
            world.slots[n].then = outcome::NONE;
        }
    }
}

/// Another memory answers from now on: whoever loaded before is refused.
fn begin_epoch(world: &mut World, memory: Memory, holds: [bool; HANDLERS]) {
    world.memories[0] = memory;
    world.is_memory_lost = true;
    for (slot, holds) in world.slots.iter_mut().zip(holds) {
        slot.holds[0] = holds;
        slot.is_stale = slot.is_pending;
    }
}

fn forget_replica(world: &mut World) {
    world.has_replica = false;
    world.memories[2] = Memory::default();
    for slot in &mut world.slots {
        slot.holds[2] = false;
    }
}

fn show(world: &World) -> String {
    let mut parts = Vec::new();
    for (n, slot) in world.slots.iter().enumerate().filter(|(_, slot)| slot.phase != Phase::Idle) {
        let flags: String = [
            (slot.is_cut, " cut"),
            (slot.is_pending, " loaded"),
            (slot.is_stale, " stale"),
            (slot.holds[0], " holds"),
            (slot.holds[1], " holds-old"),
            (slot.is_on_old, " on-old"),
            (slot.ticket.is_suspect, " marked"),
        ]
        .iter()
        .filter(|(is, _)| *is)
        .map(|(_, name)| *name)
        .collect();
        parts.push(format!("h{n}:{:?}({}{flags})", slot.phase, slot.ticket.place));
    }
    for ticket in world.queue.iter().flatten() {
        let mark = if ticket.is_suspect { "*" } else { "" };
        let lane = if ticket.is_intake { "i" } else { "" };
        parts.push(format!("[{}{mark}{lane}]", ticket.place));
    }
    for (name, memory) in ["memory", "old"].iter().zip(&world.memories) {
        if let Some(record) = &memory.record {
            let flags: String = [
                (!record.is_of_this_epoch, " other-epoch"),
                (record.is_suspect, " suspect"),
                (record.is_begun, " begun"),
                (record.is_absent, " absent"),
                (record.result.is_some(), " result"),
                (record.is_wished, " wish"),
                (record.end != 0, " end"),
            ]
            .iter()
            .filter(|(is, _)| *is)
            .map(|(_, name)| *name)
            .collect();
            parts.push(format!("{name}={}/{:?}{flags}", record.place, record.held));
        }
        if memory.is_in_grace {
            parts.push("grace".to_owned());
        }
    }
    parts.push(format!("effects={:?} announced={:?} aside={:?}", world.effects, world.announced, world.aside));
    parts.join(" ")
}

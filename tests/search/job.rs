//! One job, its handlers and all that can happen to them: the engine's order, with `domain/claim.rs` deciding.
//!
//! A handler follows the order of docs/protocol.md: receive, claim, (use a result; look in doubt; else permit, begin,
//! call), record, end event, set aside or next ticket, ack, let go. Load and swap are two transitions; a swap that is
//! refused decides again on what it brings. Left to the simulation: workers that stand still between two steps of their
//! own, so a handler whose worker neither died nor lost its connection keeps its lease; waits and their lengths.

use longshore::domain::claim::{self, Arrival, Claim, Claimant, Denied, Finished, Outcome, Policy, Record};

use crate::{
    explore::{Event, Key, Model},
    memory::{HASH, Held, NOW, outcome, pause},
    rules::{Rule, Rules},
    show::show,
    world::{After, Faults, HANDLERS, HandOn, Phase, Shown, Slot, Ticket, World, control},
};

/// A mix of faults.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mix {
    /// What it holds.
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
    /// After a loss of memory not only a worker cut off between announcing and ack, but any copy may end the job anew.
    pub(crate) may_copies_end_anew: bool,
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
pub(crate) type Found<'a> = Vec<(Event, Key)>;

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
    pub(crate) fn claimant(&self, n: usize) -> Claimant {
        let number = if self.rules.has(Rule::HolderIsOneClaim) { n as u64 + 1 } else { 0 };
        Claimant { worker: u128::from(self.mix.workers[n]), number }
    }

    fn policy(&self) -> Policy {
        Policy { poison_after: self.mix.poison_after, ..Policy::default() }
    }

    fn load(&self, world: &World, n: usize, lives: bool) -> claim::Loaded<u8, u8> {
        self.rules.see(world.load(world.memory_of(n), &|slot| self.claimant(slot), lives))
    }

    pub(crate) fn emit(&self, found: &mut Found<'_>, slot: usize, what: &'static str, world: &World) {
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
                self.go(world, n, Phase::Publish(HandOn::Park), "gets no permit", found);
            }
            Phase::Begin => self.begin(world, n, found),
            Phase::Begun => self.go(world, n, Phase::Calling, "sends the create", found),
            Phase::Calling | Phase::Executed => self.call(world, n, found),
            Phase::Record(shown) => self.record(world, n, shown, found),
            Phase::End => self.end(world, n, found),
            Phase::Announce | Phase::AnnounceOnly => self.announce(world, n, found),
            Phase::SetAside => self.set_aside(world, n, found),
            Phase::Publish(what) => self.publish(world, n, what, found),
            Phase::Ack(after) => self.ack(world, n, after, found),
            Phase::LetGo | Phase::Panicked => self.let_go(world, n, found),
        }
    }

    fn go(&self, world: &World, n: usize, phase: Phase, what: &'static str, found: &mut Found<'_>) {
        let mut next = *world;
        set(&mut next, n, phase);
        self.emit(found, n, what, &next);
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
                self.emit(found, n, "receives a copy long after the loss: another job", &next);
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
            self.emit(found, n, "receives", &next);
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
        let policy = self.policy();
        let is_swap = slot.is_pending && !slot.is_stale;
        // In the engine a poll alone goes on without a claim. Here every place does, so that nothing hangs on which it is.
        if world.left.silences > 0 && !slot.is_pending {
            let mut next = *world;
            next.left.silences -= 1;
            if world.is_late && !self.rules.has(Rule::UnclaimedEndsNothing) {
                next.slots[n].then = outcome::TIMED_OUT;
                set(&mut next, n, Phase::Announce);
            } else {
                set(&mut next, n, Phase::Publish(HandOn::NextTryMarked));
            }
            self.emit(found, n, "goes on unclaimed: the memory is silent", &next);
        }
        for lives in may_live(world, n) {
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
                        (false, true) => Phase::Ack(After::Nothing),
                        (false, false) => Phase::SetAside,
                    };
                    set(&mut next, n, phase);
                    self.emit(found, n, "claims: ended", &next);
                }
                Claim::Stale => {
                    set(&mut next, n, Phase::Ack(After::Nothing));
                    self.emit(found, n, "claims: stale", &next);
                }
                Claim::Busy { .. } => {
                    set(&mut next, n, Phase::Publish(HandOn::ParkBusy));
                    self.emit(found, n, "claims: busy", &next);
                }
                Claim::Take { record, is_poison, .. } if is_swap => {
                    let memory = next.memory_of(n);
                    next.write(memory, &record, Some(n));
                    next.is_started = true;
                    next.slots[n].is_after_wish = next.is_wished;
                    self.plan(&mut next, n, &record, is_poison);
                    self.emit(found, n, "claims: swap, taken", &next);
                }
                Claim::Take { .. } => {
                    pend(&mut next, n);
                    self.emit(found, n, "claims: load, to be taken", &next);
                }
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
        let must_wait = record.write_not_before.is_some_and(|until| until > NOW) && self.mix.faults.cancels > 0;
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
                    (false, outcome::NONE) if must_wait => Phase::Publish(HandOn::ParkPaused),
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
            return Phase::Publish(HandOn::NextStep);
        }
        world.slots[n].then = outcome::COMPLETED;
        Phase::End
    }

    fn look(&self, world: &World, n: usize, found: &mut Found<'_>) {
        let slot = &world.slots[n];
        let step = usize::from(slot.ticket.place.step);
        if world.effects[step] > 0 {
            return self.go(world, n, Phase::Record(Shown::Found), "looks: found", found);
        }
        let is_last_possible =
            (!world.is_under_way(step) && !world.is_split) || !self.rules.has(Rule::AbsenceOnlyInLastLook);
        if is_last_possible {
            self.go(world, n, Phase::Record(Shown::Absent), "looks for the last time: absent", found);
        }
        if slot.then != outcome::NONE {
            self.go(world, n, Phase::End, "looks once: nothing", found);
        } else if slot.ticket.place.r#try < self.mix.early_looks {
            self.go(world, n, Phase::Record(Shown::Nothing), "looks early: nothing", found);
        } else if !is_last_possible {
            self.go(world, n, Phase::Publish(HandOn::Park), "the last look is not due", found);
        }
        if slot.then == outcome::NONE && world.left.ends > 0 {
            let mut next = *world;
            next.left.ends -= 1;
            next.slots[n].then = outcome::DEAD_LETTERED;
            set(&mut next, n, Phase::End);
            self.emit(found, n, "cannot read the list: a person must decide", &next);
        }
    }

    fn begin(&self, world: &World, n: usize, found: &mut Found<'_>) {
        let begun = claim::begin(&self.load(world, n, true), self.claimant(n), &self.policy());
        let mut next = *world;
        match begun {
            Err(Denied::NotHolder) => self.not_holder(world, n, found),
            Err(Denied::InDoubt) => self.go(world, n, Phase::Publish(HandOn::Park), "begin: in doubt", found),
            Ok(_) if !world.slots[n].is_pending || world.slots[n].is_stale => {
                pend(&mut next, n);
                self.emit(found, n, "begin: load", &next);
            }
            Ok(record) => {
                let memory = next.memory_of(n);
                next.write(memory, &record, None);
                if next.slots[n].is_after_wish {
                    next.broken = broken::WISH_IGNORED;
                }
                set(&mut next, n, Phase::Begun);
                self.emit(found, n, "begin: swap, begun", &next);
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
            set(&mut next, n, Phase::Publish(HandOn::GiveBack));
        }
        self.emit(found, n, "is no longer the holder", &next);
    }

    fn call(&self, world: &World, n: usize, found: &mut Found<'_>) {
        let step = usize::from(world.slots[n].ticket.place.step);
        let mut next = *world;
        if world.slots[n].phase == Phase::Executed {
            self.go(world, n, Phase::Record(Shown::Done), "is answered", found);
            if world.left.lost_answers > 0 {
                next.left.lost_answers -= 1;
                set(&mut next, n, Phase::Record(Shown::Unclear));
                self.emit(found, n, "loses the answer", &next);
            }
            return;
        }
        take_effect(&mut next, step);
        set(&mut next, n, Phase::Executed);
        self.emit(found, n, "create takes effect", &next);
        if world.left.throttles > 0 {
            let mut next = *world;
            next.left.throttles -= 1;
            set(&mut next, n, Phase::Record(Shown::NotExecuted));
            self.emit(found, n, "is answered 429", &next);
        }
        if world.left.ends > 0 {
            let mut next = *world;
            next.left.ends -= 1;
            set(&mut next, n, Phase::Record(Shown::Refused));
            self.emit(found, n, "is refused by the service", &next);
        }
        if world.left.lost_answers > 0 {
            let mut next = *world;
            next.left.lost_answers -= 1;
            next.loose[step] += 1;
            set(&mut next, n, Phase::Record(Shown::Unclear));
            self.emit(found, n, "times out, the request is still under way", &next);
        }
    }

    fn record(&self, world: &World, n: usize, shown: Shown, found: &mut Found<'_>) {
        let slot = &world.slots[n];
        let place = slot.ticket.place;
        let step = u8::try_from(place.step).unwrap();
        let is_last_step = place.step + 1 == self.mix.creates;
        let (outcome, next_place) = match shown {
            Shown::Done | Shown::Found if is_last_step => (Outcome::Finished(Finished::Done(step)), None),
            Shown::Done | Shown::Found => {
                (Outcome::Finished(Finished::Done(step)), Some(place.at_step(place.step + 1)))
            }
            Shown::Refused => (Outcome::Finished(Finished::Refused(step)), None),
            Shown::NotExecuted => (Outcome::NotExecuted, Some(place.next_try())),
            Shown::Unclear => (Outcome::Unclear, Some(place.next_try())),
            Shown::Absent => (Outcome::Absent, None),
            Shown::Nothing => (Outcome::Nothing, Some(place.next_try())),
        };
        let Ok(record) = self.rules.record(&self.load(world, n, true), self.claimant(n), outcome, next_place) else {
            return self.not_holder(world, n, found);
        };
        let mut next = *world;
        if !slot.is_pending || slot.is_stale {
            pend(&mut next, n);
            return self.emit(found, n, "record: load", &next);
        }
        let memory = next.memory_of(n);
        next.write(memory, &record, None);
        let phase = match shown {
            _ if slot.is_cut => Phase::LetGo,
            Shown::Done | Shown::Found => self.done(&mut next, n),
            Shown::Refused => {
                next.slots[n].then = outcome::FAILED;
                Phase::End
            }
            Shown::NotExecuted => Phase::Publish(HandOn::NextTry),
            Shown::Unclear | Shown::Nothing => Phase::Publish(HandOn::NextTryMarked),
            Shown::Absent if !self.rules.has(Rule::AbsenceIsRecorded) => Phase::Begin,
            Shown::Absent if slot.then == outcome::DEAD_LETTERED => Phase::End,
            Shown::Absent => {
                self.plan(&mut next, n, &record, false);
                next.slots[n].phase
            }
        };
        set(&mut next, n, phase);
        self.emit(found, n, "record: swap", &next);
    }

    fn end(&self, world: &World, n: usize, found: &mut Found<'_>) {
        let Ok((record, first)) = claim::end(&self.load(world, n, true), self.claimant(n), world.slots[n].then) else {
            return self.not_holder(world, n, found);
        };
        let mut next = *world;
        if !world.slots[n].is_pending || world.slots[n].is_stale {
            pend(&mut next, n);
            return self.emit(found, n, "end: load", &next);
        }
        let memory = next.memory_of(n);
        next.write(memory, &record, None);
        next.slots[n].then = first;
        set(&mut next, n, Phase::Announce);
        self.emit(found, n, "end: swap", &next);
    }

    fn announce(&self, world: &World, n: usize, found: &mut Found<'_>) {
        let slot = &world.slots[n];
        let generation = slot.ticket.place.generation as usize - 1;
        let mut next = *world;
        match world.announced[generation] {
            outcome::NONE => next.announced[generation] = slot.then,
            before if before == slot.then => {}
            // What is left: docs/protocol.md, section 9. Work that stands counts, whatever else was announced.
            before if world.is_memory_lost && (world.is_cut_off_at_end[generation] || self.mix.may_copies_end_anew) => {
                next.announced[generation] = before.min(slot.then);
            }
            _ => next.broken = broken::SECOND_END,
        }
        let is_over = slot.then == outcome::COMPLETED || slot.phase == Phase::AnnounceOnly;
        set(&mut next, n, if is_over { Phase::Ack(After::Nothing) } else { Phase::SetAside });
        self.emit(found, n, "announces the end", &next);
    }

    fn set_aside(&self, world: &World, n: usize, found: &mut Found<'_>) {
        let place = world.slots[n].ticket.place;
        let mut next = *world;
        next.aside[place.generation as usize - 1][usize::from(place.step)] = true;
        set(&mut next, n, Phase::Ack(After::Nothing));
        self.emit(found, n, "sets the ticket aside", &next);
    }

    fn publish(&self, world: &World, n: usize, what: HandOn, found: &mut Found<'_>) {
        let slot = &world.slots[n];
        let place = slot.ticket.place;
        let marked = |ticket: Ticket| Ticket { is_suspect: true, ..ticket };
        let own =
            if self.rules.has(Rule::EveryParkIsMarked) { marked(slot.ticket.again()) } else { slot.ticket.again() };
        let next_try = Ticket::at(place.next_try());
        let (ticket, after, said) = match what {
            HandOn::NextStep => (Ticket::at(place.at_step(place.step + 1)), After::Nothing, "publishes the next step"),
            HandOn::NextTry => (next_try, After::Nothing, "publishes the next try"),
            HandOn::NextTryMarked => (marked(next_try), After::Nothing, "publishes the next try, marked"),
            HandOn::Park => (own, After::LetGo, "parks the same place"),
            HandOn::ParkPaused => (Ticket { is_paused: true, ..own }, After::LetGo, "parks for the pause"),
            HandOn::ParkBusy => (own, After::Nothing, "parks while busy"),
            HandOn::GiveBack => (marked(own), After::Nothing, "gives its own ticket back, marked"),
            HandOn::GiveBackPanicked => (marked(own), After::Panicked, "gives back after a panic"),
        };
        let mut next = *world;
        next.slots[n].then = outcome::NONE;
        if what == HandOn::ParkPaused && next.control == control::SEEN {
            next.control = control::UNSEEN;
        }
        if !self.rules.has(Rule::NextTicketBeforeAck) {
            next.slots[n].then = ACKED;
            if slot.then != ACKED {
                return self.emit(found, n, "acks before it publishes", &next);
            }
            next.finish(n);
            next.put(ticket);
            return self.emit(found, n, said, &next);
        }
        next.put(ticket);
        set(&mut next, n, Phase::Ack(after));
        self.emit(found, n, said, &next);
        if world.left.twice > 0 {
            next.left.twice -= 1;
            next.put(ticket);
            self.emit(found, n, "publishes, no confirm, publishes again", &next);
        }
    }

    fn ack(&self, world: &World, n: usize, after: After, found: &mut Found<'_>) {
        let mut next = *world;
        match after {
            After::Nothing => next.finish(n),
            After::LetGo => set(&mut next, n, Phase::LetGo),
            After::Panicked => set(&mut next, n, Phase::Panicked),
        }
        account(&mut next);
        self.emit(found, n, "acks", &next);
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
            return self.emit(found, n, "has nothing to let go", &next);
        };
        if !world.slots[n].is_pending || world.slots[n].is_stale {
            pend(&mut next, n);
            return self.emit(found, n, "let go: load", &next);
        }
        let memory = next.memory_of(n);
        next.write(memory, &record, None);
        next.finish(n);
        self.emit(found, n, "let go: swap", &next);
    }
}

/// In `then`: the delivery was acked too early.
pub(crate) const ACKED: u8 = 7;

/// Can the record's holder be alive, can it be dead? A handler lives while its worker does, unless that was cut off;
/// the lease of one that is gone may have run out or not. What a swap writes was decided on a dead one.
fn may_live(world: &World, n: usize) -> &'static [bool] {
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

pub(crate) fn set(world: &mut World, n: usize, phase: Phase) {
    world.slots[n].phase = phase;
    world.slots[n].is_pending = false;
    world.slots[n].is_stale = false;
}

fn pend(world: &mut World, n: usize) {
    world.slots[n].is_pending = true;
    world.slots[n].is_stale = false;
}

/// When nothing of the job is left anywhere, it has ended, and every end but `completed` can be retried.
pub(crate) fn account(world: &mut World) {
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

pub(crate) fn take_effect(world: &mut World, step: usize) {
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

//! What happens to a job's handlers, its memory and its messages, and what producers, operators and people do.

use longshore::domain::{
    claim::{self, Wished},
    step::Place,
};

use crate::{
    job::{ACKED, Found, Job, account, set, take_effect},
    memory::{Memory, outcome},
    rules::Rule,
    world::{After, HANDLERS, HandOn, Phase, Shown, Ticket, World, control},
};

impl Job {
    /// Everything that nobody does.
    pub(crate) fn happen(&self, world: &World, found: &mut Found<'_>) {
        self.break_workers(world, found);
        self.break_memory(world, found);
        self.ask(world, found);
        for step in 0..2 {
            if world.loose[step] > 0 {
                let mut next = *world;
                next.loose[step] -= 1;
                self.emit(found, HANDLERS, "a request without handler vanishes", &next);
                take_effect(&mut next, step);
                self.emit(found, HANDLERS, "a request without handler takes effect", &next);
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
                self.emit(found, HANDLERS, WORKER_KILLED[usize::from(worker)], &next);
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
                self.emit(found, HANDLERS, WORKER_CUT[usize::from(worker)], &next);
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
                    | Phase::Record(Shown::Done | Shown::Unclear)
                    | Phase::End
            );
            if world.left.panics > 0 && is_at_work && !slot.is_cut {
                let mut next = *world;
                next.left.panics -= 1;
                if slot.phase == Phase::Calling {
                    next.loose[usize::from(slot.ticket.place.step)] += 1;
                }
                next.slots[n].then = outcome::NONE;
                set(&mut next, n, Phase::Publish(HandOn::GiveBackPanicked));
                self.emit(found, n, "panics", &next);
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
            self.emit(found, HANDLERS, "memory is lost", &next);
        }
        // An hour passes: longer than any delivery.
        let is_calm = world.slots.iter().all(|slot| slot.phase == Phase::Idle) && !world.is_split;
        if world.memories[0].is_in_grace && is_calm {
            let mut next = *world;
            next.memories[0].is_in_grace = false;
            self.emit(found, HANDLERS, "the grace after the birth is over", &next);
        }
        if left.failovers + left.splits > 0 && !world.has_replica && !world.is_split {
            let mut next = *world;
            next.has_replica = true;
            next.memories[2] = world.memories[0];
            for slot in &mut next.slots {
                slot.holds[2] = slot.holds[0];
            }
            self.emit(found, HANDLERS, "the replica falls behind", &next);
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
                self.emit(found, HANDLERS, "fail-over to the older replica", &next);
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
                self.emit(found, HANDLERS, "split: the older replica is promoted, the old primary goes on", &next);
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
                self.emit(found, n, "turns to the new memory", &next);
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
            self.emit(found, HANDLERS, "the producer sends its message once more", &next);
        }
        for step in 0..2 {
            if left.retries > 0 && world.aside[0][usize::from(step)] {
                let mut next = *world;
                next.left.retries -= 1;
                next.is_retried = true;
                next.put(Ticket::at(Place { generation: 1, step, r#try: 0 }.next_generation()));
                self.emit(found, HANDLERS, "an operator retries", &next);
            }
        }
        if left.deadlines > 0 {
            let mut next = *world;
            next.left.deadlines -= 1;
            next.is_late = true;
            self.emit(found, HANDLERS, "the deadline passes", &next);
        }
        if left.cancels > 0 {
            let mut next = *world;
            next.left.cancels -= 1;
            next.control = control::UNSEEN;
            self.emit(found, HANDLERS, "somebody cancels", &next);
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
            self.emit(found, HANDLERS, "the control ticket is handled", &next);
        }
    }
}

const WORKER_KILLED: [&str; 3] = ["worker 0 is killed", "worker 1 is killed", "worker 2 is killed"];
const WORKER_CUT: [&str; 3] =
    ["worker 0 is cut off the broker", "worker 1 is cut off the broker", "worker 2 is cut off the broker"];

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
    let is_announced = matches!(slot.phase, Phase::SetAside | Phase::Ack(After::Nothing)) && slot.then != outcome::NONE;
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
        Phase::Begun | Phase::Calling | Phase::Executed | Phase::Record(_) => world.slots[n].is_cut = true,
        Phase::Idle
        | Phase::Look
        | Phase::Permit
        | Phase::Begin
        | Phase::End
        | Phase::Announce
        | Phase::AnnounceOnly
        | Phase::SetAside
        | Phase::Publish(_)
        | Phase::Ack(_)
        | Phase::LetGo
        | Phase::Panicked => {
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

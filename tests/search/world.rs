//! The model's state: broker, service and handlers, and how it is packed.
//!
//! Copies of a ticket lie in the broker in any order; handlers are told apart by what they do, not by their number.

use longshore::domain::{
    claim::{Claimant, Loaded, Record},
    step::Place,
};

use crate::{
    explore::Key,
    memory::{GONE, Held, Memory, outcome},
};

/// How many handlers a mix has at most.
pub(crate) const HANDLERS: usize = 3;
/// How many tickets lie in the broker at most.
const TICKETS: usize = 7;

/// A ticket: its place and its flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket {
    /// Where it stands.
    pub(crate) place: Place,
    /// Redelivered, or marked by whoever handed it on.
    pub(crate) is_suspect: bool,
    /// A producer's message on the intake lane.
    pub(crate) is_intake: bool,
    /// Waits out the pause of a lost record.
    pub(crate) is_paused: bool,
}

impl Ticket {
    /// A producer's message.
    pub(crate) const INTAKE: Self = Self { place: Place::FIRST, is_suspect: false, is_intake: true, is_paused: false };

    /// A new ticket at this place, on a return lane.
    pub(crate) const fn at(place: Place) -> Self {
        Self { place, is_suspect: false, is_intake: false, is_paused: false }
    }

    /// The same place again, as a new message.
    pub(crate) const fn again(self) -> Self {
        Self { is_intake: false, is_paused: false, ..self }
    }

    pub(crate) fn pack(self) -> u16 {
        let place = u16::try_from(self.place.generation).unwrap() | self.place.step << 2;
        let r#try = u16::try_from(self.place.r#try).unwrap();
        assert!(r#try < 16, "a bound of the model is too small: tries");
        place
            | r#try << 3
            | u16::from(self.is_suspect) << 7
            | u16::from(self.is_intake) << 8
            | u16::from(self.is_paused) << 9
    }

    pub(crate) fn unpack(bits: u16) -> Self {
        let place = Place { generation: u32::from(bits & 3), step: bits >> 2 & 1, r#try: u32::from(bits >> 3 & 15) };
        let is = |bit: u16| bits >> bit & 1 == 1;
        Self { place, is_suspect: is(7), is_intake: is(8), is_paused: is(9) }
    }
}

/// What a call or a look has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    Done,
    Refused,
    NotExecuted,
    Unclear,
    Found,
    Absent,
    Nothing,
}

/// What a handler publishes before it acks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandOn {
    NextStep,
    NextTry,
    NextTryMarked,
    /// The same place; then the handler lets go.
    Park,
    /// The same, for the pause of a lost record.
    ParkPaused,
    /// The same place, which somebody else has.
    ParkBusy,
    /// The own ticket, marked, without holding the record.
    GiveBack,
    /// The own ticket, marked, after a panic.
    GiveBackPanicked,
}

/// What follows the ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    Nothing,
    LetGo,
    Panicked,
}

/// Where a handler is in the engine's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Idle,
    Claim,
    Look,
    Permit,
    Begin,
    /// Begun, not yet sent.
    Begun,
    /// Sent, not executed.
    Calling,
    /// Executed, not answered.
    Executed,
    Record(Shown),
    End,
    Announce,
    /// Announces an end whose ticket somebody else sets aside, or nobody.
    AnnounceOnly,
    SetAside,
    Publish(HandOn),
    Ack(After),
    LetGo,
    Panicked,
}

impl Phase {
    const ALL: [Self; 32] = [
        Self::Idle,
        Self::Claim,
        Self::Look,
        Self::Permit,
        Self::Begin,
        Self::Begun,
        Self::Calling,
        Self::Executed,
        Self::Record(Shown::Done),
        Self::Record(Shown::Refused),
        Self::Record(Shown::NotExecuted),
        Self::Record(Shown::Unclear),
        Self::Record(Shown::Found),
        Self::Record(Shown::Absent),
        Self::Record(Shown::Nothing),
        Self::End,
        Self::Announce,
        Self::AnnounceOnly,
        Self::SetAside,
        Self::Publish(HandOn::NextStep),
        Self::Publish(HandOn::NextTry),
        Self::Publish(HandOn::NextTryMarked),
        Self::Publish(HandOn::Park),
        Self::Publish(HandOn::ParkPaused),
        Self::Publish(HandOn::ParkBusy),
        Self::Publish(HandOn::GiveBack),
        Self::Publish(HandOn::GiveBackPanicked),
        Self::Ack(After::Nothing),
        Self::Ack(After::LetGo),
        Self::Ack(After::Panicked),
        Self::LetGo,
        Self::Panicked,
    ];

    /// Its place in [`Self::ALL`].
    fn number(self) -> u32 {
        match self {
            Self::Idle => 0,
            Self::Claim => 1,
            Self::Look => 2,
            Self::Permit => 3,
            Self::Begin => 4,
            Self::Begun => 5,
            Self::Calling => 6,
            Self::Executed => 7,
            Self::Record(shown) => 8 + shown as u32,
            Self::End => 15,
            Self::Announce => 16,
            Self::AnnounceOnly => 17,
            Self::SetAside => 18,
            Self::Publish(what) => 19 + what as u32,
            Self::Ack(then) => 27 + then as u32,
            Self::LetGo => 30,
            Self::Panicked => 31,
        }
    }

    /// Between these the message lies with the handler.
    pub(crate) fn has_message(self) -> bool {
        !matches!(self, Self::Idle | Self::LetGo | Self::Panicked)
    }
}

/// One handler: a delivery in a worker.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "a state of the model is made of flags")]
pub(crate) struct Slot {
    pub(crate) phase: Phase,
    /// The outcome it is on the way to.
    pub(crate) then: u8,
    pub(crate) ticket: Ticket,
    /// Its connection is gone: it may publish and ack nothing, and its message is back in its queue.
    pub(crate) is_cut: bool,
    /// It has loaded, decided, and not swapped yet.
    pub(crate) is_pending: bool,
    /// The memory has changed since it loaded.
    pub(crate) is_stale: bool,
    /// Its claim holds the record: of the present memory, of the old primary, of the lagging replica.
    pub(crate) holds: [bool; 3],
    /// It talks to the old primary.
    pub(crate) is_on_old: bool,
    /// Its claim came after a wish was written.
    pub(crate) is_after_wish: bool,
}

impl Slot {
    /// A handler without a delivery.
    pub(crate) const IDLE: Self = Self {
        phase: Phase::Idle,
        then: outcome::NONE,
        ticket: Ticket::at(Place { generation: 0, step: 0, r#try: 0 }),
        is_cut: false,
        is_pending: false,
        is_stale: false,
        holds: [false; 3],
        is_on_old: false,
        is_after_wish: false,
    };

    fn pack(self) -> u32 {
        let flags = [
            self.is_cut,
            self.is_pending,
            self.is_stale,
            self.holds[0],
            self.holds[1],
            self.holds[2],
            self.is_on_old,
            self.is_after_wish,
        ];
        let mut bits = self.phase.number() | u32::from(self.then) << 5 | u32::from(self.ticket.pack()) << 8;
        for (n, flag) in flags.into_iter().enumerate() {
            bits |= u32::from(flag) << (18 + n);
        }
        bits
    }

    fn unpack(bits: u32) -> Self {
        let is = |bit: u32| bits >> bit & 1 == 1;
        Self {
            phase: Phase::ALL[(bits & 31) as usize],
            then: (bits >> 5 & 7) as u8,
            ticket: Ticket::unpack((bits >> 8 & 0x3ff) as u16),
            is_cut: is(18),
            is_pending: is(19),
            is_stale: is(20),
            holds: [is(21), is(22), is(23)],
            is_on_old: is(24),
            is_after_wish: is(25),
        }
    }
}

/// Where the control ticket is.
pub(crate) mod control {
    pub(crate) const NONE: u8 = 0;
    /// In the broker, and some pause waits until it has been seen.
    pub(crate) const UNSEEN: u8 = 1;
    pub(crate) const SEEN: u8 = 2;
    pub(crate) const SPENT: u8 = 3;
}

/// What can still go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Faults {
    pub(crate) kills: u8,
    pub(crate) cuts: u8,
    pub(crate) lost_answers: u8,
    pub(crate) throttles: u8,
    pub(crate) losses: u8,
    pub(crate) duplicates: u8,
    pub(crate) twice: u8,
    pub(crate) retries: u8,
    pub(crate) failovers: u8,
    pub(crate) splits: u8,
    /// The service refuses, or a person must decide.
    pub(crate) ends: u8,
    pub(crate) deadlines: u8,
    pub(crate) cancels: u8,
    pub(crate) panics: u8,
    /// The memory does not answer to one handler, which goes on with its place unclaimed.
    pub(crate) silences: u8,
}

impl Faults {
    fn list(&mut self) -> [&mut u8; 15] {
        [
            &mut self.kills,
            &mut self.cuts,
            &mut self.lost_answers,
            &mut self.throttles,
            &mut self.losses,
            &mut self.duplicates,
            &mut self.twice,
            &mut self.retries,
            &mut self.failovers,
            &mut self.splits,
            &mut self.ends,
            &mut self.deadlines,
            &mut self.cancels,
            &mut self.panics,
            &mut self.silences,
        ]
    }
}

/// Everything.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "a state of the model is made of flags")]
pub(crate) struct World {
    /// The present memory, the old primary during a split, the lagging replica.
    pub(crate) memories: [Memory; 3],
    pub(crate) has_replica: bool,
    pub(crate) is_split: bool,
    pub(crate) slots: [Slot; HANDLERS],
    pub(crate) queue: [Option<Ticket>; TICKETS],
    pub(crate) left: Faults,
    /// How often each step's create took effect.
    pub(crate) effects: [u8; 2],
    /// Requests of each step under way whose handler is gone.
    pub(crate) loose: [u8; 2],
    /// What was announced of each generation.
    pub(crate) announced: [u8; 2],
    /// Of each generation: a worker was killed or cut between announcing and ack.
    pub(crate) is_cut_off_at_end: [bool; 2],
    /// Of each generation and step: a ticket lies in the dead letters.
    pub(crate) aside: [[bool; 2]; 2],
    /// Some memory was lost, or stepped back.
    pub(crate) is_memory_lost: bool,
    /// A claim was made.
    pub(crate) is_started: bool,
    pub(crate) is_retried: bool,
    pub(crate) is_late: bool,
    pub(crate) control: u8,
    /// A wish was written in the generation.
    pub(crate) is_wished: bool,
    /// What is wrong.
    pub(crate) broken: u8,
}

impl World {
    /// A producer's message in the broker, and nothing else.
    pub(crate) fn new(faults: Faults) -> Self {
        let mut queue = [None; TICKETS];
        queue[0] = Some(Ticket::INTAKE);
        Self {
            memories: [Memory::default(); 3],
            has_replica: false,
            is_split: false,
            slots: [Slot::IDLE; HANDLERS],
            queue,
            left: faults,
            effects: [0; 2],
            loose: [0; 2],
            announced: [0; 2],
            is_cut_off_at_end: [false; 2],
            aside: [[false; 2]; 2],
            is_memory_lost: false,
            is_started: false,
            is_retried: false,
            is_late: false,
            control: control::NONE,
            is_wished: false,
            broken: 0,
        }
    }

    /// The highest generation so far.
    pub(crate) fn generation(&self) -> u32 {
        if self.is_retried { 2 } else { 1 }
    }

    /// Puts a ticket into the broker; the order of its queue means nothing.
    pub(crate) fn put(&mut self, ticket: Ticket) {
        let free = self.queue.iter().position(Option::is_none).expect("a bound of the model is too small: tickets");
        self.queue[free] = Some(ticket);
        self.queue.sort_unstable_by(|a, b| b.cmp(a));
    }

    /// Takes one out.
    pub(crate) fn take(&mut self, n: usize) -> Option<Ticket> {
        let ticket = self.queue[n].take();
        self.queue.sort_unstable_by(|a, b| b.cmp(a));
        ticket
    }

    /// Which memory a handler talks to.
    pub(crate) fn memory_of(&self, slot: usize) -> usize {
        usize::from(self.slots[slot].is_on_old)
    }

    /// What `load` brings from a memory.
    pub(crate) fn load(&self, memory: usize, claimant_of: &impl Fn(usize) -> Claimant, lives: bool) -> Loaded<u8, u8> {
        let running = || self.slots.iter().position(|slot| slot.holds[memory]).map(claimant_of);
        self.memories[memory].load(running, lives)
    }

    /// Writes a record: whoever else has loaded and not swapped will be refused.
    pub(crate) fn write(&mut self, memory: usize, record: &Record<u8, u8>, taker: Option<usize>) {
        for slot in &mut self.slots {
            if slot.is_pending && usize::from(slot.is_on_old) == memory {
                slot.is_stale = true;
            }
        }
        let is_gone = record.holder.is_some_and(|holder| holder.claimant == GONE);
        if taker.is_some() || record.holder.is_none() || is_gone {
            for slot in &mut self.slots {
                slot.holds[memory] = false;
            }
        }
        if let Some(taker) = taker {
            self.slots[taker].holds[memory] = true;
        }
        self.memories[memory].keep(record);
    }

    /// The handler's delivery is over, one way or the other; a claim that still holds a record is a gone one now.
    pub(crate) fn finish(&mut self, n: usize) {
        for memory in 0..3 {
            if self.slots[n].holds[memory]
                && let Some(record) = &mut self.memories[memory].record
            {
                record.held = Held::Gone;
            }
        }
        self.slots[n] = Slot { is_on_old: self.slots[n].is_on_old, ..Slot::IDLE };
    }

    /// Is a request of this step under way, or about to be sent?
    pub(crate) fn is_under_way(&self, step: usize) -> bool {
        let sends = |slot: &Slot| {
            matches!(slot.phase, Phase::Begun | Phase::Calling) && usize::from(slot.ticket.place.step) == step
        };
        self.loose[step] > 0 || self.slots.iter().any(sends)
    }

    /// Does nothing of the job lie in the broker or with a handler?
    pub(crate) fn is_empty(&self) -> bool {
        self.queue[0].is_none() && self.slots.iter().all(|slot| slot.is_cut || !slot.phase.has_message())
    }

    /// Packs the state; handlers that only differ in their number are one state when `is_symmetric`.
    pub(crate) fn pack(mut self, is_symmetric: bool) -> Key {
        let mut slots = self.slots.map(Slot::pack);
        if is_symmetric {
            slots.sort_unstable_by(|a, b| b.cmp(a));
        }
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let queue = self.queue.map(|ticket| u64::from(ticket.map_or(0, Ticket::pack)));
        let mut bits = 0_u64;
        let mut width = 0;
        let mut add = |value: u8, size: u32| {
            assert!(u32::from(value) < 1 << size, "a bound of the model is too small: {value} in {size} bits");
            bits |= u64::from(value) << width;
            width += size;
        };
        for left in self.left.list() {
            add(*left, 2);
        }
        for step in 0..2 {
            add(self.effects[step], 2);
            add(self.loose[step], 2);
            add(self.announced[step], 3);
            add(u8::from(self.is_cut_off_at_end[step]), 1);
            add(u8::from(self.aside[step][0]), 1);
            add(u8::from(self.aside[step][1]), 1);
        }
        for flag in [
            self.has_replica,
            self.is_split,
            self.is_memory_lost,
            self.is_started,
            self.is_retried,
            self.is_late,
            self.is_wished,
        ] {
            add(u8::from(flag), 1);
        }
        add(self.control, 2);
        [
            pair(self.memories[0].pack(), self.memories[1].pack()),
            pair(self.memories[2].pack(), slots[0]),
            pair(slots[1], slots[2]),
            queue[0] | queue[1] << 16 | queue[2] << 32 | queue[3] << 48,
            queue[4] | queue[5] << 16 | queue[6] << 32 | u64::from(self.broken) << 48,
            bits,
        ]
    }

    /// The packed state again.
    pub(crate) fn unpack(key: &Key) -> Self {
        let low = |word: u64| (word & 0xffff_ffff) as u32;
        let high = |word: u64| (word >> 32) as u32;
        let ticket = |word: u64, n: u32| match (word >> (16 * n) & 0xffff) as u16 {
            0 => None,
            bits => Some(Ticket::unpack(bits)),
        };
        let bits = key[5];
        let mut width = 0;
        let mut get = |size: u32| {
            let value = u8::try_from(bits >> width & ((1 << size) - 1)).unwrap();
            width += size;
            value
        };
        let mut left = Faults::default();
        for count in left.list() {
            *count = get(2);
        }
        let mut world = Self::new(left);
        for step in 0..2 {
            world.effects[step] = get(2);
            world.loose[step] = get(2);
            world.announced[step] = get(3);
            world.is_cut_off_at_end[step] = get(1) == 1;
            world.aside[step] = [get(1) == 1, get(1) == 1];
        }
        world.has_replica = get(1) == 1;
        world.is_split = get(1) == 1;
        world.is_memory_lost = get(1) == 1;
        world.is_started = get(1) == 1;
        world.is_retried = get(1) == 1;
        world.is_late = get(1) == 1;
        world.is_wished = get(1) == 1;
        world.control = get(2);
        world.memories = [low(key[0]), high(key[0]), low(key[1])].map(Memory::unpack);
        world.slots = [high(key[1]), low(key[2]), high(key[2])].map(Slot::unpack);
        for (n, slot) in world.queue.iter_mut().enumerate() {
            let n = u32::try_from(n).unwrap();
            *slot = if n < 4 { ticket(key[3], n) } else { ticket(key[4], n - 4) };
        }
        world.broken = u8::try_from(key[4] >> 48).unwrap();
        world
    }
}

//! The state of two jobs that create under one name, and how it is packed.

use longshore::domain::{
    claim::{self, Claimant, Record},
    step::Place,
};

use crate::{
    explore::Key,
    memory::{Held, Memory, outcome},
    world::Ticket,
};

/// Handlers; each belongs to a worker of its own.
pub(super) const HANDLERS: usize = 2;
/// Tickets of a job in the broker.
pub(super) const TICKETS: usize = 2;
/// Products of the name.
const PRODUCTS: usize = 3;

/// What a call or a look has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Done,
    Absent,
    Unclear,
    NotExecuted,
}

/// What follows when the turn is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Use,
    Try,
    Park,
}

/// Where a handler is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Idle,
    TakeTurn,
    List,
    /// The list is read; turn and `own:` decide.
    Decide,
    Stamp,
    Begin,
    Calling,
    Executed,
    WriteOwner,
    Record(Shown),
    GiveTurnBack(After),
    Complete,
    Person,
}

impl Phase {
    const ALL: [Self; 18] = [
        Self::Idle,
        Self::TakeTurn,
        Self::List,
        Self::Decide,
        Self::Stamp,
        Self::Begin,
        Self::Calling,
        Self::Executed,
        Self::WriteOwner,
        Self::Record(Shown::Done),
        Self::Record(Shown::Absent),
        Self::Record(Shown::Unclear),
        Self::Record(Shown::NotExecuted),
        Self::GiveTurnBack(After::Use),
        Self::GiveTurnBack(After::Try),
        Self::GiveTurnBack(After::Park),
        Self::Complete,
        Self::Person,
    ];

    /// Its place in [`Self::ALL`].
    fn number(self) -> u32 {
        match self {
            Self::Idle => 0,
            Self::TakeTurn => 1,
            Self::List => 2,
            Self::Decide => 3,
            Self::Stamp => 4,
            Self::Begin => 5,
            Self::Calling => 6,
            Self::Executed => 7,
            Self::WriteOwner => 8,
            Self::Record(shown) => 9 + shown as u32,
            Self::GiveTurnBack(after) => 13 + after as u32,
            Self::Complete => 16,
            Self::Person => 17,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) phase: Phase,
    pub(super) job: usize,
    pub(super) ticket: Ticket,
    pub(super) holds: bool,
    /// The product in hand, or the number of products that the list showed.
    pub(super) product: u8,
    /// Its request was begun before the present memory was born.
    pub(super) is_older: bool,
    /// When the list was begun nothing that is in doubt was under way any more: absence counts.
    pub(super) is_last: bool,
}

impl Slot {
    pub(super) const IDLE: Self = Self {
        phase: Phase::Idle,
        job: 0,
        ticket: Ticket::at(Place { generation: 0, step: 0, r#try: 0 }),
        holds: false,
        product: 0,
        is_older: false,
        is_last: false,
    };

    fn pack(&self) -> u32 {
        self.phase.number()
            | u32::try_from(self.job).unwrap() << 5
            | u32::from(self.holds) << 6
            | u32::from(self.product) << 7
            | u32::from(self.is_older) << 10
            | u32::from(self.is_last) << 11
            | u32::from(self.ticket.pack()) << 12
    }

    fn unpack(bits: u32) -> Self {
        let is = |bit: u32| bits >> bit & 1 == 1;
        Self {
            phase: Phase::ALL[(bits & 31) as usize],
            job: (bits >> 5 & 1) as usize,
            holds: is(6),
            product: (bits >> 7 & 7) as u8,
            is_older: is(10),
            is_last: is(11),
            ticket: Ticket::unpack((bits >> 12 & 0x3ff) as u16),
        }
    }

    /// A request of this handler may take effect.
    pub(super) fn is_under_way(&self) -> bool {
        self.phase == Phase::Calling
    }
}

/// `turn:{account/name}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Turn {
    pub(super) owner: Option<u8>,
    pub(super) is_stamped: bool,
    pub(super) is_expired: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Product {
    pub(super) is_there: bool,
    pub(super) maker: u8,
    /// `own:{account/product}`.
    pub(super) owner: Option<u8>,
    /// Created after the last `begin` of each job.
    pub(super) is_after: [bool; 2],
    /// Which jobs went on with it: it has a submission.
    pub(super) is_used: [bool; 2],
}

#[derive(Debug, Clone, Copy)]
pub(super) struct World {
    pub(super) memories: [Memory; 2],
    pub(super) turn: Turn,
    pub(super) products: [Product; PRODUCTS],
    pub(super) slots: [Slot; HANDLERS],
    pub(super) queues: [[Option<Ticket>; TICKETS]; 2],
    /// Requests without handler: of this memory, and older.
    pub(super) loose: [[u8; 2]; 2],
    pub(super) left: [u8; 4],
    pub(super) ended: [u8; 2],
    pub(super) broken: u8,
}

/// Bits, one field after the other.
struct Bits {
    key: Key,
    at: u32,
}

impl Bits {
    fn add(&mut self, value: u32, width: u32) {
        assert!(value < 1 << width, "a bound of the model is too small");
        if self.at % 64 + width > 64 {
            self.at += 64 - self.at % 64;
        }
        self.key[(self.at / 64) as usize] |= u64::from(value) << (self.at % 64);
        self.at += width;
    }

    fn get(&mut self, width: u32) -> u32 {
        if self.at % 64 + width > 64 {
            self.at += 64 - self.at % 64;
        }
        let value = self.key[(self.at / 64) as usize] >> (self.at % 64) & ((1 << width) - 1);
        self.at += width;
        u32::try_from(value).unwrap()
    }

    fn byte(&mut self, width: u32) -> u8 {
        u8::try_from(self.get(width)).unwrap()
    }

    fn is(&mut self) -> bool {
        self.get(1) == 1
    }
}

fn of(owner: Option<u8>) -> u32 {
    owner.map_or(0, |job| u32::from(job) + 1)
}

fn owner(bits: u32) -> Option<u8> {
    u8::try_from(bits).ok().and_then(|bits| bits.checked_sub(1))
}

impl World {
    pub(super) fn pack(&self) -> Key {
        let mut bits = Bits { key: [0; 6], at: 0 };
        for memory in &self.memories {
            bits.add(memory.pack() & 0xffff, 16);
            bits.add(memory.pack() >> 16, 16);
        }
        // Handlers are alike: their order is no difference.
        let mut slots = self.slots.map(|slot| slot.pack());
        slots.sort_unstable_by(|a, b| b.cmp(a));
        for slot in slots {
            bits.add(slot, 22);
        }
        for ticket in self.queues.iter().flatten() {
            bits.add(ticket.map_or(0, |ticket| u32::from(ticket.pack())), 10);
        }
        for product in &self.products {
            bits.add(u32::from(product.is_there), 1);
            bits.add(u32::from(product.maker), 1);
            bits.add(of(product.owner), 2);
            for job in 0..2 {
                bits.add(u32::from(product.is_after[job]), 1);
                bits.add(u32::from(product.is_used[job]), 1);
            }
        }
        bits.add(of(self.turn.owner), 2);
        bits.add(u32::from(self.turn.is_stamped), 1);
        bits.add(u32::from(self.turn.is_expired), 1);
        for count in self.loose.iter().flatten().chain(&self.left) {
            bits.add(u32::from(*count), 2);
        }
        for end in self.ended {
            bits.add(u32::from(end), 3);
        }
        bits.add(u32::from(self.broken), 2);
        bits.key
    }

    pub(super) fn unpack(key: &Key) -> Self {
        let mut bits = Bits { key: *key, at: 0 };
        let mut world = Self::new([0; 4]);
        for memory in &mut world.memories {
            *memory = Memory::unpack(bits.get(16) | bits.get(16) << 16);
        }
        for slot in &mut world.slots {
            *slot = Slot::unpack(bits.get(22));
        }
        for ticket in world.queues.iter_mut().flatten() {
            *ticket = u16::try_from(bits.get(10)).ok().filter(|bits| *bits != 0).map(Ticket::unpack);
        }
        for product in &mut world.products {
            product.is_there = bits.is();
            product.maker = bits.byte(1);
            product.owner = owner(bits.get(2));
            for job in 0..2 {
                product.is_after[job] = bits.is();
                product.is_used[job] = bits.is();
            }
        }
        world.turn = Turn { owner: owner(bits.get(2)), is_stamped: bits.is(), is_expired: bits.is() };
        for count in world.loose.iter_mut().flatten().chain(&mut world.left) {
            *count = bits.byte(2);
        }
        for end in &mut world.ended {
            *end = bits.byte(3);
        }
        world.broken = bits.byte(2);
        world
    }

    pub(super) fn new(faults: [u8; 4]) -> Self {
        let queue = [Some(Ticket::INTAKE), None];
        Self {
            memories: [Memory::default(); 2],
            turn: Turn::default(),
            products: [Product::default(); PRODUCTS],
            slots: [Slot::IDLE; HANDLERS],
            queues: [queue; 2],
            loose: [[0; 2]; 2],
            left: faults,
            ended: [outcome::NONE; 2],
            broken: 0,
        }
    }

    pub(super) fn put(&mut self, job: usize, ticket: Ticket) {
        let queue = &mut self.queues[job];
        let free = queue.iter().position(Option::is_none).expect("a bound of the model is too small: tickets");
        queue[free] = Some(ticket);
        queue.sort_unstable_by(|a, b| b.cmp(a));
    }

    pub(super) fn has_tickets(&self, job: usize) -> bool {
        self.queues[job][0].is_some() || self.slots.iter().any(|slot| slot.job == job && slot.phase != Phase::Idle)
    }

    pub(super) fn load(&self, n: usize, lives: bool) -> claim::Loaded<u8, u8> {
        let job = self.slots[n].job;
        let running = || self.slots.iter().position(|slot| slot.holds && slot.job == job).map(claimant);
        self.memories[job].load(running, lives)
    }

    pub(super) fn write(&mut self, n: usize, record: &Record<u8, u8>, is_claim: bool) {
        let job = self.slots[n].job;
        if is_claim || record.holder.is_none() {
            for slot in self.slots.iter_mut().filter(|slot| slot.job == job) {
                slot.holds = false;
            }
            self.slots[n].holds = is_claim;
        }
        self.memories[job].keep(record);
    }

    pub(super) fn finish(&mut self, n: usize) {
        let slot = self.slots[n];
        if slot.holds
            && let Some(record) = &mut self.memories[slot.job].record
        {
            record.held = Held::Gone;
        }
        self.slots[n] = Slot::IDLE;
    }

    /// A product appears.
    pub(super) fn create(&mut self, job: usize, is_dated: bool) -> u8 {
        let n = self.products.iter().position(|product| !product.is_there).expect("a bound is too small: products");
        let maker = u8::try_from(job).unwrap();
        self.products[n] = Product { is_there: true, maker, owner: None, is_after: [true; 2], is_used: [false; 2] };
        let made = self.products.iter().filter(|product| product.is_there && product.maker == maker).count();
        // Without dates an empty orphan of another job is as good as a new product: what counts is one for each.
        if (is_dated && made > 1) || n == 2 {
            self.broken = 1;
        }
        u8::try_from(n).unwrap()
    }
}

/// Each handler belongs to a worker of its own.
pub(super) fn claimant(n: usize) -> Claimant {
    Claimant { worker: n as u128, number: 1 }
}

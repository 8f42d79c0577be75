//! The plan of a resumable upload: which bytes are which block, and which blocks the service already has.
//!
//! An id names generation, content and index, so it never stands for other bytes as long as one generation has one
//! block size. That a changed block size leads to another generation follows from one rule of the sender: **the short last
//! block goes last**, when all whole blocks are there. A staged set that breaks this rule, or holds a size that
//! this plan does not give its index, was made by another block size, and the next generation is used instead.
//! Source: contract/blob-upload.md, section 8.

use std::collections::{BTreeSet, HashMap};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::block_list::BlockList;
use crate::domain::ids::Sha256;

/// Bytes per block that every version of the service takes (blob-upload 6).
pub const DEFAULT_SIZE: u64 = 4 << 20;
/// The first generation: 0 is left to tools that keep a checkpoint.
pub const FIRST_GENERATION: u8 = 1;
const LAST_GENERATION: u8 = 9;
/// Blocks in one blob (blob-upload 6).
const MAX_BLOCKS: u64 = 50_000;
/// Bytes in one block under today's versions (blob-upload 6).
const MAX_BLOCK_SIZE: u64 = 4000 << 20;

/// How one package is cut into blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    generation: u8,
    content: String,
    size: u64,
    block_size: u64,
}

/// One block of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its place in the file, from 0.
    pub index: u32,
    /// Its id, base64 of 28 bytes.
    pub id: String,
    /// Its first byte.
    pub offset: u64,
    /// Its length.
    pub length: u64,
}

impl Plan {
    /// Cuts a package; a block size that would make more than 50,000 blocks is raised.
    #[must_use]
    pub fn new(sha256: &Sha256, size: u64, block_size: u64, generation: u8) -> Self {
        let block_size = block_size.clamp(1, MAX_BLOCK_SIZE).max(size.div_ceil(MAX_BLOCKS));
        let content = sha256.to_string().chars().take(16).collect();
        Self { generation: generation.min(LAST_GENERATION), content, size, block_size }
    }

    /// Bytes per block.
    #[must_use]
    pub const fn block_size(&self) -> u64 {
        self.block_size
    }

    /// The generation that the ids carry.
    #[must_use]
    pub const fn generation(&self) -> u8 {
        self.generation
    }

    /// The number of blocks.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.size.div_ceil(self.block_size)).unwrap_or(u32::MAX)
    }

    /// The block with this index.
    #[must_use]
    pub fn block(&self, index: u32) -> Block {
        let offset = u64::from(index).saturating_mul(self.block_size);
        let length = self.size.saturating_sub(offset).min(self.block_size);
        let name = format!("g{}-{}-{index:08}", self.generation, self.content);
        Block { index, id: STANDARD.encode(name), offset, length }
    }

    /// Every id in file order.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        (0..self.count()).map(|index| self.block(index).id).collect()
    }

    /// Is this block shorter than the others? It goes last, when all others are there.
    #[must_use]
    pub fn is_short(&self, index: u32) -> bool {
        self.count() > 1 && self.block(index).length < self.block_size
    }

    /// The same cut with smaller blocks and the next generation; `None` when they are small already.
    #[must_use]
    pub fn shrunk(&self) -> Option<Self> {
        (self.block_size > DEFAULT_SIZE
            && self.generation < LAST_GENERATION
            && self.size.div_ceil(DEFAULT_SIZE) <= MAX_BLOCKS)
            .then(|| Self { generation: self.generation + 1, block_size: DEFAULT_SIZE, ..self.clone() })
    }

    /// The plan to go on with, and the blocks that need not be sent again.
    #[must_use]
    pub fn resume(&self, list: &BlockList) -> (Self, BTreeSet<u32>) {
        let staged: HashMap<&str, u64> = list.uncommitted.iter().map(|block| (block.id.as_str(), block.size)).collect();
        let mut plan = self.clone();
        loop {
            if let Some(kept) = plan.kept(&staged) {
                return (plan, kept);
            }
            if plan.generation == LAST_GENERATION {
                return (plan, BTreeSet::new());
            }
            plan.generation += 1;
        }
    }

    /// Is the blob already made of these blocks, in this generation or a later one?
    #[must_use]
    pub fn is_committed_by(&self, list: &BlockList) -> bool {
        (self.generation..=LAST_GENERATION).any(|generation| Self { generation, ..self.clone() }.is_exactly(list))
    }

    fn is_exactly(&self, list: &BlockList) -> bool {
        list.committed.len() == usize::try_from(self.count()).unwrap_or(usize::MAX)
            && list.committed.iter().zip(0..).all(|(found, index)| {
                let wanted = self.block(index);
                found.id == wanted.id && found.size == wanted.length
            })
    }

    /// The staged blocks of this generation, or `None` when another block size made them.
    fn kept(&self, staged: &HashMap<&str, u64>) -> Option<BTreeSet<u32>> {
        let prefix = format!("g{}-{}-", self.generation, self.content);
        let mut kept = BTreeSet::new();
        for (id, size) in staged {
            let Some(index) = STANDARD.decode(id).ok().and_then(|name| index_in(&name, &prefix)) else { continue };
            if index >= self.count() || self.block(index).length != *size {
                return None;
            }
            kept.insert(index);
        }
        let last = self.count().saturating_sub(1);
        let is_sound =
            !kept.contains(&last) || !self.is_short(last) || kept.len() == usize::try_from(self.count()).ok()?;
        is_sound.then_some(kept)
    }
}

fn index_in(name: &[u8], prefix: &str) -> Option<u32> {
    let digits = std::str::from_utf8(name).ok()?.strip_prefix(prefix)?;
    (digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::block_list::Listed, *};

    fn plan(size: u64, block_size: u64) -> Plan {
        Plan::new(&Sha256::of(b"x"), size, block_size, FIRST_GENERATION)
    }

    fn staged(plan: &Plan, indexes: impl IntoIterator<Item = u32>) -> BlockList {
        let uncommitted = indexes
            .into_iter()
            .map(|index| plan.block(index))
            .map(|block| Listed { id: block.id, size: block.length })
            .collect();
        BlockList { committed: vec![], uncommitted }
    }

    #[test]
    fn an_id_is_that_of_the_contract() {
        let hash: Sha256 = "7f3c9a20d4e15b68a0c1d2e3f405162738495a6b7c8d9eafb0c1d2e3f4051627".parse().unwrap();
        let block = Plan::new(&hash, 10, 5, 0).block(1);
        assert_eq!(block.id, "ZzAtN2YzYzlhMjBkNGUxNWI2OC0wMDAwMDAwMQ==");
        assert_eq!((block.offset, block.length), (5, 5));
    }

    #[test]
    fn finished_blocks_are_kept_and_the_short_last_one_only_when_all_are_there() {
        let plan = plan(23, 5);
        let (same, kept) = plan.resume(&staged(&plan, [0, 2]));
        assert_eq!((same.generation(), kept), (1, BTreeSet::from([0, 2])));
        let (_, kept) = plan.resume(&staged(&plan, 0..5));
        assert_eq!(kept.len(), 5);
        let (next, kept) = plan.resume(&staged(&plan, [0, 4]));
        assert_eq!((next.generation(), kept.len()), (2, 0));
    }

    #[test]
    fn a_set_made_by_another_block_size_leads_to_the_next_generation() {
        // Old size 8 over 12 bytes: blocks of 8 and 4; new size 4: block 1 has 4 bytes as well, but other bytes.
        let (old, new) = (plan(12, 8), plan(12, 4));
        let (next, kept) = new.resume(&staged(&old, [0, 1]));
        assert_eq!((next.generation(), kept.len()), (2, 0));
    }

    #[test]
    fn a_commit_that_was_not_heard_of_is_recognised() {
        let plan = plan(12, 5);
        let list = BlockList { committed: staged(&plan, 0..3).uncommitted, uncommitted: vec![] };
        assert!(plan.is_committed_by(&list));
        assert!(!plan.is_committed_by(&BlockList::default()));
    }

    #[test]
    fn shrinking_ends_at_the_size_that_every_version_takes() {
        let large = plan(100 << 20, 8 << 20);
        let small = large.shrunk().unwrap();
        assert_eq!((small.block_size(), small.generation()), (DEFAULT_SIZE, 2));
        assert_eq!(small.shrunk(), None);
    }

    proptest! {
        #[test]
        fn blocks_cover_the_file_without_gap_or_overlap(size in 1_u64..5000, block_size in 1_u64..600) {
            let plan = plan(size, block_size);
            let mut end = 0;
            for index in 0..plan.count() {
                let block = plan.block(index);
                prop_assert_eq!(block.offset, end);
                prop_assert!(block.length > 0);
                prop_assert_eq!(block.id.len(), 40);
                end += block.length;
            }
            prop_assert_eq!(end, size);
        }

        /// Whatever an upload with another block size left (in the order in which uploads send), no kept block of
        /// ours stands for bytes of theirs.
        #[test]
        fn no_kept_block_is_somebody_elses(size in 1_u64..400, ours in 1_u64..60, theirs in 1_u64..60, sent in any::<u64>()) {
            let (new, old) = (plan(size, ours), plan(size, theirs));
            let mut indexes: Vec<u32> = (0..old.count()).filter(|i| !old.is_short(*i) && sent >> (i % 64) & 1 == 1).collect();
            let last = old.count() - 1;
            if old.is_short(last) && indexes.len() == usize::try_from(last).unwrap() {
                indexes.push(last);
            }
            let (plan, kept) = new.resume(&staged(&old, indexes));
            for index in kept {
                prop_assert_eq!(plan.generation(), old.generation());
                prop_assert_eq!(plan.block(index), old.block(index));
            }
        }
    }
}

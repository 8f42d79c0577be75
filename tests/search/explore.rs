//! Visits every state of a model, breadth first, and looks backwards from the settled ones.

use std::{
    collections::HashMap,
    fmt::Write as _,
    hash::{BuildHasherDefault, Hasher},
};

/// A state, packed: equal states are equal keys.
pub(crate) type Key = [u64; 6];

/// What happened in one transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    /// Which handler, or [`Event::WORLD`].
    pub(crate) slot: u8,
    /// What it did.
    pub(crate) what: &'static str,
}

impl Event {
    /// Something that no handler did.
    pub(crate) const WORLD: u8 = u8::MAX;
}

/// A transition system with a finite number of states.
pub(crate) trait Model {
    /// The first state.
    fn initial(&self) -> Key;
    /// Every state that can come next.
    fn next(&self, key: &Key, found: &mut Vec<(Event, Key)>);
    /// What is wrong with this state, if anything.
    fn violation(&self, key: &Key) -> Option<&'static str>;
    /// Has every job ended, with nothing left to do?
    fn is_settled(&self, key: &Key) -> bool;
    /// The state for people.
    fn show(&self, key: &Key) -> String;
}

/// What a search brought.
pub(crate) struct Verdict {
    /// How many states were visited.
    pub(crate) states: usize,
    /// How many transitions were followed.
    pub(crate) transitions: usize,
    /// The first violation: what, and the shortest way there.
    pub(crate) violation: Option<(&'static str, Vec<String>)>,
}

/// Multiplies and rotates: the keys come from ourselves, and a slower hasher would cost half of the run.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_ne_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, _length: usize) {}
}

/// Visits everything, or stops at the first violation; then checks that every state can settle.
pub(crate) fn explore(model: &impl Model, limit: usize) -> Verdict {
    let mut seen: HashMap<Key, u32, BuildHasherDefault<Mix>> = HashMap::default();
    let mut states = vec![model.initial()];
    let mut parents = vec![0_u32];
    let mut edges: Vec<(u32, u32)> = Vec::new();
    let mut found = Vec::new();
    seen.insert(states[0], 0);
    let mut at = 0;
    while at < states.len() {
        let from = u32::try_from(at).unwrap();
        let key = states[at];
        found.clear();
        model.next(&key, &mut found);
        for (_, next) in &found {
            let fresh = u32::try_from(states.len()).unwrap();
            let to = *seen.entry(*next).or_insert(fresh);
            edges.push((from, to));
            if to == fresh {
                states.push(*next);
                parents.push(from);
                if let Some(what) = model.violation(next) {
                    let trace = trace(model, &states, &parents, states.len() - 1);
                    return Verdict { states: states.len(), transitions: edges.len(), violation: Some((what, trace)) };
                }
            }
        }
        assert!(
            states.len() <= limit,
            "more than {limit} states: the model does not stay finite, or the mix is too rich"
        );
        at += 1;
    }
    let transitions = edges.len();
    let violation = stranded(model, &states, &parents, edges);
    Verdict { states: states.len(), transitions, violation }
}

/// The first state from which no settled one can be reached.
fn stranded(
    model: &impl Model,
    states: &[Key],
    parents: &[u32],
    edges: Vec<(u32, u32)>,
) -> Option<(&'static str, Vec<String>)> {
    // The transitions by their ends, in one array: the way back.
    let mut starts = vec![0_usize; states.len() + 1];
    for (_, to) in &edges {
        starts[*to as usize + 1] += 1;
    }
    for n in 0..states.len() {
        starts[n + 1] += starts[n];
    }
    let mut filled = starts.clone();
    let mut back = vec![0_u32; edges.len()];
    for (from, to) in edges {
        back[filled[to as usize]] = from;
        filled[to as usize] += 1;
    }
    let mut can_settle = vec![false; states.len()];
    let mut open = Vec::new();
    for (n, key) in states.iter().enumerate() {
        if model.is_settled(key) {
            can_settle[n] = true;
            open.push(n);
        }
    }
    while let Some(n) = open.pop() {
        for from in &back[starts[n]..starts[n + 1]] {
            if !can_settle[*from as usize] {
                can_settle[*from as usize] = true;
                open.push(*from as usize);
            }
        }
    }
    let n = can_settle.iter().position(|can| !can)?;
    Some(("no end can be reached from here", trace(model, states, parents, n)))
}

/// The shortest way to a state, one line for each transition.
fn trace(model: &impl Model, states: &[Key], parents: &[u32], last: usize) -> Vec<String> {
    let mut way = vec![last];
    while let Some(&n) = way.last()
        && n != 0
    {
        way.push(parents[n] as usize);
    }
    way.reverse();
    let mut lines = vec![format!("start   {}", model.show(&states[0]))];
    let mut found = Vec::new();
    for pair in way.windows(2) {
        found.clear();
        model.next(&states[pair[0]], &mut found);
        let event = found.iter().find(|(_, key)| *key == states[pair[1]]).map(|(event, _)| *event);
        let mut line = String::new();
        if let Some(event) = event {
            let who = if event.slot == Event::WORLD { "world".to_owned() } else { format!("h{}", event.slot) };
            write!(line, "{who:7} {}", event.what).unwrap();
        }
        write!(line, "\n            {}", model.show(&states[pair[1]])).unwrap();
        lines.push(line);
    }
    lines
}

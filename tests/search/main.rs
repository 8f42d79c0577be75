//! The exhaustive search: every schedule of a job under mixes of faults, `domain/claim.rs` itself deciding.
//!
//! `cargo test --test search -- --nocapture` prints the table; docs/protocol.md says what it means.

#[cfg(test)]
mod explore;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod job;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod mixes;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod show;
#[cfg(test)]
mod table;
#[cfg(test)]
mod turns;
#[cfg(test)]
mod world;

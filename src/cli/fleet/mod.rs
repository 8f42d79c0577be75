//! The verbs where the home is a fleet's: jobs are handed to the broker, followed by their events, looked at in the memory.

pub(super) mod doctor;
pub(super) mod job;
pub(super) mod memory;
pub(super) mod submit;

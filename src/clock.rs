//! The only callers of the clocks and of the random generator.
//!
//! Adapters and the edge ask here; the engine is handed a clock through its ports, so that the simulation can stand in.

#![allow(clippy::disallowed_methods, reason = "this is the one module that may ask the system for time and chance")]

use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::domain::time::Moment;

/// The wall clock.
#[must_use]
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// The wall clock as the memory of the embedded home counts it.
#[must_use]
pub fn moment() -> Moment {
    Moment::from(now())
}

/// A monotonic instant, for measuring how long something took.
#[must_use]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// Time since the machine started, suspended time included where the system can tell.
///
/// A worker that was stopped or put to sleep between `begin` and its request finds out by this clock.
#[must_use]
pub fn boot_time() -> Duration {
    #[cfg(target_os = "linux")]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
    }
    #[cfg(not(target_os = "linux"))]
    {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }
}

/// A random number from 0 (included) to 1 (excluded), for jitter.
#[must_use]
pub fn chance() -> f64 {
    rand::random::<f64>()
}

/// Random bytes.
#[must_use]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    rand::random::<[u8; N]>()
}

/// A UUID in order of time, for new jobs and request ids.
#[must_use]
pub fn uuid_v7() -> Uuid {
    Uuid::now_v7()
}

/// A random UUID.
#[must_use]
pub fn uuid_v4() -> Uuid {
    Uuid::new_v4()
}

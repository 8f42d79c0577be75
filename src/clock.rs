//! The only callers of the clocks and of the random generator.
//!
//! Adapters and the edge ask here; the engine is handed a clock through its ports, so that the simulation can stand in.

#![allow(clippy::disallowed_methods, reason = "this is the one module that may ask the system for time and chance")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

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

/// A random number below `count`; 0 when there is none.
#[must_use]
pub fn below(count: usize) -> usize {
    if count == 0 { 0 } else { rand::random_range(0..count) }
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

/// Moves the clock of one home, for tests: milliseconds added to the wall clock.
#[derive(Debug, Clone, Default)]
pub struct Shift(Arc<AtomicI64>);

impl Shift {
    /// Moves the clock ahead.
    pub fn advance(&self, span: Duration) {
        self.0.fetch_add(i64::try_from(span.as_millis()).unwrap_or(0), Ordering::Relaxed);
    }

    /// How far the clock was moved, in milliseconds.
    #[must_use]
    pub fn millis(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Moves the clock back.
    pub fn step_back(&self, span: Duration) {
        self.0.fetch_sub(i64::try_from(span.as_millis()).unwrap_or(0), Ordering::Relaxed);
    }
}

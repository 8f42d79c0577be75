//! Time and chance of the system, as the engine asks for them.

use std::{future::Future, time::Duration};

use crate::{clock, domain::time::Moment, engine::ports};

/// The system's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Clock;

impl ports::Clock for Clock {
    fn boot_time(&self) -> Duration {
        clock::boot_time()
    }

    fn wall(&self) -> Moment {
        clock::moment()
    }

    fn chance(&self) -> f64 {
        clock::chance()
    }

    fn sleep(&self, span: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(span)
    }
}

//! What the engine asks of the outside: a few small traits, bundled as [`Ports`].
//!
//! A home (queue, memory, events) is one set of adapters, the services are another. All homes pass the same port test
//! suite (`tests/ports/`). No method here blocks, and every one that waits for somebody else ends by a time-out of its own.

mod home;
mod packages;
mod service;

use std::{future::Future, time::Duration};

use super::tally::Happened;
use crate::domain::time::Moment;

pub use self::{
    home::{
        Completes, Home, Listing, Listings, Memory, Origin, Queue, Quota, Received, Settled, Swapped, Turn, TurnKey,
        Turns, Unavailable, Views,
    },
    packages::{Fetch, Fetched, Packages, TransferHooks, Upload},
    service::{CallIds, Permit, Service, SignIn, Token},
};

/// Time and chance.
pub trait Clock: Send + Sync + 'static {
    /// Time since some fixed instant, suspended time included.
    fn boot_time(&self) -> Duration;

    /// The wall clock.
    fn wall(&self) -> Moment;

    /// A number from 0 to 1.
    fn chance(&self) -> f64;

    /// Waits.
    fn sleep(&self, span: Duration) -> impl Future<Output = ()> + Send;
}

/// Everything that the engine asks of the outside.
pub trait Ports: Send + Sync + 'static {
    /// Queue, memory, quota.
    type Home: Home;
    /// The hardware service.
    type Service: Service;
    /// Packages.
    type Packages: Packages;
    /// Time and chance.
    type Clock: Clock;

    /// The home.
    fn home(&self) -> &Self::Home;
    /// The service.
    fn service(&self) -> &Self::Service;
    /// The packages.
    fn packages(&self) -> &Self::Packages;
    /// Time and chance.
    fn clock(&self) -> &Self::Clock;

    /// Something happened that is worth counting. Never waits; may drop it.
    fn note(&self, _happened: Happened) {}
}

//! The embedded home under the suite, and what is its own: the file, its limits and what people are shown.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    harness::{Harness, RATE, account},
    run_folder,
};
use longshore::{
    domain::{event::Event, ids::JobKey, quota::Limits, step::Place, ticket::Ticket},
    embedded::{DeadLetters, Embedded, EventFilter, Options, Shift, Worker},
    engine::ports::Origin,
};

mod decisions;
mod shown;

/// The embedded home in a folder of its own.
pub(crate) struct OneFile {
    pub home: Embedded,
    folder: PathBuf,
    pub shift: Shift,
}

/// The options of a home under test.
pub(crate) fn options(folder: &Path) -> Options {
    let limits = Limits { calls_per_minute: RATE, ..Limits::default() };
    Options { limits: BTreeMap::from([(account(), limits)]), ..Options::new(folder) }
}

impl OneFile {
    pub(crate) fn with(change: impl FnOnce(&mut Options)) -> Self {
        let folder = run_folder::folder_of_this_test("ports").unwrap();
        let mut options = options(&folder);
        change(&mut options);
        let shift = options.shift.clone();
        Self { home: Embedded::open(options).unwrap(), folder, shift }
    }

    /// Another process's home on the same file, of another configuration.
    pub(crate) fn beside(&self, change: impl FnOnce(&mut Options)) -> Embedded {
        let mut options = options(&self.folder);
        options.shift = self.shift.clone();
        change(&mut options);
        Embedded::open(options).unwrap()
    }
}

impl Harness for OneFile {
    type Home = Worker;

    async fn fresh() -> Self {
        Self::with(|_| {})
    }

    async fn worker(&self) -> (Worker, u128) {
        let worker = self.home.worker().unwrap();
        let id = worker.id();
        (worker, id)
    }

    async fn kill(&self, worker: Worker) {
        // What the kernel does to a killed process: the lock is free. Processes of their own are in `processes.rs`.
        drop(worker);
    }

    async fn put(&self, ticket: &Ticket) {
        let origin = if ticket.place == Place::FIRST { Origin::Accepted } else { Origin::Return };
        self.home.put(ticket.lane(), origin, serde_json::to_string(ticket).unwrap()).await.unwrap();
    }

    async fn advance(&self, span: Duration) {
        self.shift.advance(span);
    }

    async fn lose_memory(&self) {
        self.home.restored().unwrap();
    }

    async fn events(&self) -> Vec<Event> {
        let events = self.home.events(0, EventFilter::default()).await.unwrap();
        events.into_iter().map(|(_, event)| event).collect()
    }

    async fn set_aside(&self) -> Vec<Option<JobKey>> {
        let letters = self.home.dead_letters(DeadLetters::default()).await.unwrap();
        letters.into_iter().map(|letter| letter.job).collect()
    }
}

mod ports {
    use super::OneFile;

    crate::port_suite!(OneFile, #[tokio::test(flavor = "multi_thread", worker_threads = 2)]);
}

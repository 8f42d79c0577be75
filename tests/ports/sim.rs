//! The simulated home under the suite: the same adapters that the seeds run on, with every fault switched off.

use std::time::Duration;

use longshore::{
    domain::{event::Event, ids::JobKey, step::Place, ticket::Ticket},
    engine::ports::Origin,
};

use crate::{harness::Harness, home::SimHome, world::World};

/// A world without faults.
pub(crate) struct Quiet {
    world: World,
    workers: std::sync::atomic::AtomicU64,
}

impl Harness for Quiet {
    type Home = SimHome;

    async fn fresh() -> Self {
        Self { world: World::quiet(), workers: std::sync::atomic::AtomicU64::new(1) }
    }

    async fn worker(&self) -> (SimHome, u128) {
        let who = self.workers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        (SimHome { world: self.world.clone(), who }, u128::from(who))
    }

    async fn kill(&self, worker: SimHome) {
        {
            let mut state = self.world.lock();
            state.dead.insert(worker.who);
            state.give_back(worker.who, "killed");
        }
        self.world.changed.notify_waiters();
        // Memory learns of a death when the lease runs out.
        tokio::time::advance(Duration::from_secs(61)).await;
    }

    async fn put(&self, ticket: &Ticket) {
        let origin = if ticket.place == Place::FIRST { Origin::Accepted } else { Origin::Return };
        let body = serde_json::to_string(ticket).unwrap();
        {
            let mut state = self.world.lock();
            let due = ticket.due.unwrap_or_else(|| state.now());
            state.publish(body, origin, ticket.lane(), due);
        }
        self.world.changed.notify_waiters();
    }

    async fn advance(&self, span: Duration) {
        tokio::time::advance(span).await;
    }

    async fn lose_memory(&self) {
        self.world.lock().forget();
    }

    async fn events(&self) -> Vec<Event> {
        self.world.lock().events.clone()
    }

    async fn set_aside(&self) -> Vec<Option<JobKey>> {
        let state = self.world.lock();
        let jobs = state.set_aside.iter().map(|end| Some(end.ticket.key()));
        jobs.chain(state.messages_aside.iter().map(|message| message.job.clone())).collect()
    }
}

crate::port_suite!(Quiet, #[tokio::test(start_paused = true)]);

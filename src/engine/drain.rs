//! A worker's life: take deliveries lane by lane, each lane with a bound of its own, until told to stop; then finish what
//! runs and take nothing new.

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    ports::{Clock, Ports, Queue},
    tally::Happened,
    worker::Worker,
};
use crate::domain::step::Kind;

/// How often a lane that waits says so.
const BEAT: Duration = Duration::from_secs(5);

/// A lane and how many of its deliveries are worked on at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// The lane.
    pub kind: Kind,
    /// Deliveries at once, at least 1.
    pub concurrency: usize,
}

/// Works until `stop` is cancelled, and then until the last handler is done. Dropping the future aborts every handler.
pub async fn run<P: Ports>(worker: Arc<Worker<P>>, lanes: &[Lane], stop: &CancellationToken) {
    let lanes = join_all(lanes.iter().map(|lane| run_lane(worker.clone(), *lane, stop)));
    let resting = async {
        stop.cancelled().await;
        worker.rest().await;
    };
    futures_util::future::join(lanes, resting).await;
}

async fn run_lane<P: Ports>(worker: Arc<Worker<P>>, lane: Lane, stop: &CancellationToken) {
    let mut handlers = JoinSet::new();
    let mut troubles = 0_u32;
    loop {
        // At the lane's bound: one must end before the next is taken.
        while handlers.len() >= lane.concurrency.max(1) {
            reap(beating(&worker, lane.kind, handlers.join_next()).await);
        }
        while let Some(ended) = handlers.try_join_next() {
            reap(Some(ended));
        }
        let received = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            received = beating(&worker, lane.kind, worker.ports().home().receive(lane.kind)) => received,
        };
        match received {
            Ok(received) => {
                troubles = 0;
                worker.ports().note(Happened::Turn { lane: lane.kind, is_well: Some(true) });
                let worker = worker.clone();
                handlers.spawn(async move { worker.handle(received).await });
            }
            Err(down) => {
                troubles = troubles.saturating_add(1);
                worker.ports().note(Happened::Turn { lane: lane.kind, is_well: Some(false) });
                tracing::warn!(lane = %lane.kind, %down, troubles, "nothing can be received");
                let wait = Duration::from_millis(250).saturating_mul(2_u32.saturating_pow(troubles.min(7)));
                tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    () = worker.ports().clock().sleep(wait) => {}
                }
            }
        }
    }
    while let Some(ended) = beating(&worker, lane.kind, handlers.join_next()).await {
        reap(Some(ended));
    }
    worker.ports().note(Happened::LaneEnded { lane: lane.kind });
}

/// Waits, and says every few seconds that the lane still turns. A home that was asked for work and has not refused for so
/// long serves the lane; whether it answers at all is asked elsewhere.
async fn beating<P: Ports, T>(worker: &Worker<P>, lane: Kind, awaited: impl Future<Output = T>) -> T {
    tokio::pin!(awaited);
    worker.ports().note(Happened::Turn { lane, is_well: None });
    loop {
        tokio::select! {
            biased;
            done = &mut awaited => return done,
            () = worker.ports().clock().sleep(BEAT) => worker.ports().note(Happened::Turn { lane, is_well: Some(true) }),
        }
    }
}

/// What a handler left behind. A delivery that was not settled comes again; the log says why.
fn reap(ended: Option<Result<Result<super::ports::Settled, super::ports::Unavailable>, tokio::task::JoinError>>) {
    match ended {
        None | Some(Ok(Ok(_))) => {}
        Some(Ok(Err(down))) => tracing::warn!(%down, "a delivery could not be settled; it comes again"),
        Some(Err(error)) if error.is_cancelled() => {}
        Some(Err(_)) => tracing::error!("a handler panicked while it settled; its delivery comes again"),
    }
}

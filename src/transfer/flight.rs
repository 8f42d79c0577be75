//! Blocks in flight: in parallel, each read again from the file for each try, fewer while the service is busy.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use reqwest::Method;
use tokio::time::sleep;

use super::{
    super::{
        Hooks, LocalPackage, Settings,
        blob::{self, Answer, Payload, Request},
        blocks::Block,
        pace::{Pace, limited},
        sas::Sas,
        trouble::{self, Action, Trouble},
    },
    Halt, Session,
};
use crate::{
    clock,
    domain::failure::{Failure, Kind},
};

/// Blocks in memory, now and at most.
#[derive(Default)]
pub(super) struct Buffers {
    now: AtomicUsize,
    pub(super) most: AtomicUsize,
}

struct Buffer<'a>(&'a Buffers);

impl Buffers {
    fn take(&self) -> Buffer<'_> {
        let now = self.now.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        self.most.fetch_max(now, Ordering::SeqCst);
        Buffer(self)
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<H: Hooks> Session<'_, H> {
    /// Sends every block that the service does not have; ends early, with nothing in flight, when something stops it.
    pub(super) async fn send_missing(&mut self) -> Result<(), Halt> {
        let mut missing: BTreeSet<u32> =
            (0..self.plan.count()).filter(|index| !self.acknowledged.contains(index)).collect();
        let buffers = std::mem::take(&mut self.buffers);
        let done = self.fly(&mut missing, &buffers).await;
        self.buffers = buffers;
        done
    }

    async fn fly(&mut self, missing: &mut BTreeSet<u32>, buffers: &Buffers) -> Result<(), Halt> {
        let mut flying = FuturesUnordered::new();
        let mut halt: Option<Halt> = None;
        loop {
            if halt.is_none() && self.hooks.out_of_time() && !missing.is_empty() {
                halt = Some(Halt::Paused);
            }
            if halt.is_none() && flying.is_empty() {
                self.renew_near_end().await?;
            }
            let rest = u32::try_from(missing.len()).unwrap_or(u32::MAX);
            let is_old = self.renewal.is_near_end(rest, self.lanes);
            while halt.is_none() && flying.len() < self.lanes && (!is_old || flying.is_empty()) {
                // ORDER: the short last block goes when all others are there; `blocks.rs` says why.
                let is_held = |index: &u32| self.plan.is_short(*index) && !flying.is_empty();
                let Some(index) = missing.first().copied().filter(|index| !is_held(index)) else { break };
                missing.remove(&index);
                let delay = self.tries.get(&index).map_or(Duration::ZERO, |tries| tries.delay);
                flying.push(put_block(PutBlock {
                    http: self.http,
                    settings: self.settings,
                    package: self.package,
                    hooks: self.hooks,
                    sas: self.renewal.shared(),
                    block: self.plan.block(index),
                    delay,
                    buffers,
                }));
            }
            let Some((block, ended)) = flying.next().await else {
                return halt.map_or(Ok(()), Err);
            };
            match ended {
                Ok(landed) => self.landed(&block, &landed),
                Err(stopped) => {
                    missing.insert(block.index);
                    let next = self.stopped(&block, stopped).await;
                    if let Err(Halt::Failed(failure)) = next {
                        return Err(failure.into());
                    }
                    halt = halt.or(next.err());
                }
            }
        }
    }

    pub(super) fn landed(&mut self, block: &Block, landed: &Landed) {
        self.renewal.heard(trouble::date(&landed.answer.headers), true);
        self.renewal.took(landed.took);
        self.acknowledged.insert(block.index);
        self.tries.remove(&block.index);
        self.sent = self.sent.saturating_add(block.length);
        self.streak += 1;
        if self.streak >= self.settings.speed_up_after && self.lanes < self.settings.lanes() {
            self.lanes += 1;
            self.streak = 0;
        }
        self.hooks.progress(self.done(), self.package.size);
    }

    /// A block that did not land: a later try, or a reason to stop.
    pub(super) async fn stopped(&mut self, block: &Block, stopped: Stopped) -> Result<(), Halt> {
        let trouble = match stopped {
            Stopped::Failed(failure) => return Err(failure.into()),
            Stopped::OutOfTime => return Err(Halt::Paused),
            Stopped::Trouble(trouble) => trouble,
        };
        self.renewal.heard(trouble.date, false);
        // A line that is too slow for all blocks at once carries one.
        if trouble.is_busy() || trouble.kind == Kind::Timeout {
            self.lanes = (self.lanes / 2).max(1);
            self.streak = 0;
        }
        if !matches!(trouble.action, Action::Retry | Action::RetryOnce) {
            return Err(Halt::Stop(trouble));
        }
        let mut tries = self.tries.get(&block.index).copied().unwrap_or_default();
        tries.delay = self.next_try(&trouble, &mut tries).await?;
        self.tries.insert(block.index, tries);
        Ok(())
    }
}

struct PutBlock<'a, H> {
    http: &'a reqwest::Client,
    settings: &'a Settings,
    package: &'a LocalPackage,
    hooks: &'a H,
    sas: Arc<Sas>,
    block: Block,
    delay: Duration,
    buffers: &'a Buffers,
}

/// An acknowledged block.
pub(super) struct Landed {
    pub(super) answer: Answer,
    pub(super) took: Duration,
}

pub(super) enum Stopped {
    Trouble(Trouble),
    Failed(Failure),
    OutOfTime,
}

/// One try of one block: read again from the file, so nothing is kept between tries.
async fn put_block<H: Hooks>(put: PutBlock<'_, H>) -> (Block, Result<Landed, Stopped>) {
    let block = put.block.clone();
    let done = try_block(put).await;
    (block, done)
}

async fn try_block<H: Hooks>(put: PutBlock<'_, H>) -> Result<Landed, Stopped> {
    if !put.delay.is_zero() {
        sleep(put.delay).await;
        if put.hooks.out_of_time() {
            return Err(Stopped::OutOfTime);
        }
    }
    let _buffer = put.buffers.take();
    let (package, offset, length) = (put.package.clone(), put.block.offset, put.block.length);
    let reading = move |pace: &Pace| package.read_block(offset, length, pace);
    let read = limited(put.settings.file_timeout, &put.package.path, reading).await;
    let (bytes, md5) = read.map_err(Stopped::Failed)?;
    let begun = clock::monotonic();
    let request = Request {
        what: "Put Block",
        method: Method::PUT,
        parameters: &[("comp", "block"), ("blockid", &put.block.id)],
        headers: &[("content-md5", &md5), ("content-type", "application/octet-stream")],
        payload: Payload::Bytes(Bytes::from(bytes)),
    };
    let answer = blob::send(put.http, put.settings, &put.sas, request, |_| {}).await.map_err(Stopped::Trouble)?;
    if trouble::text(&answer.headers, "content-md5").is_some_and(|echo| echo != md5) {
        let trouble = Trouble::unanswered(Kind::Transfer, "blob storage took another block than was sent");
        return Err(Stopped::Trouble(Trouble { action: Action::RetryOnce, ..trouble }));
    }
    Ok(Landed { answer, took: begun.elapsed() })
}

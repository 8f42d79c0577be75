//! One private Redis a test, and stores on it.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use longshore::{
    clock::{self, Shift},
    domain::{
        claim::{Arrival, Claim, Claimant, Loaded, Policy, claim},
        event::End,
        ids::{AccountName, JobKey},
        job::Job,
        plan::JobRecord,
        quota::Limits,
        ticket::{StepResult, Ticket},
    },
    engine::ports::Unavailable,
    redis::{Address, Options, Scope, Store, Tls},
};

use crate::servers::Redis;

/// What a call may take at most: it connects and is answered, and neither within its time-out.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// A Redis of its own for this test, and its folder.
pub(crate) fn redis() -> Redis {
    redis_with(&[])
}

pub(crate) fn redis_with(settings: &[(&str, &str)]) -> Redis {
    Redis::with(&folder(), settings)
}

/// A folder of this test; another at each call.
pub(crate) fn folder() -> PathBuf {
    crate::run_folder::folder_of_this_test("redis").unwrap()
}

/// Short time-outs, so that a server that stands still is soon seen to.
pub(crate) fn options() -> Options {
    Options {
        connect_timeout: Duration::from_secs(1),
        response_timeout: Duration::from_secs(1),
        accounts: BTreeMap::from([(account(), scope(600.0))]),
        ..Options::default()
    }
}

pub(crate) fn scope(calls_per_minute: f64) -> Scope {
    Scope { name: "contoso".to_owned(), limits: Limits { calls_per_minute, ..Limits::default() } }
}

pub(crate) fn at(url: impl Into<String>) -> Address {
    Address { url: url.into().into(), sentinel: None, tls: Tls::default() }
}

pub(crate) fn store(redis: &Redis) -> Store {
    Store::new(&at(redis.url()), options()).unwrap()
}

pub(crate) fn shifted(redis: &Redis) -> (Store, Shift) {
    let shift = Shift::default();
    (Store::new(&at(redis.url()), Options { shift: shift.clone(), ..options() }).unwrap(), shift)
}

pub(crate) fn account() -> AccountName {
    AccountName::parse("contoso").unwrap()
}

/// A ticket at its first place.
pub(crate) fn ticket(id: &str) -> Ticket {
    let text = format!(
        r#"{{"id":"{id}","kind":"status-poll","account":"contoso","labels":{{"build":"{id}"}},
            "spec":{{"product":{{"id":"1"}},"submission":{{"id":"2"}}}}}}"#
    );
    let job = Job::decode(text.as_bytes(), || None).unwrap();
    let hash = job.content_hash();
    Ticket::new(job, hash, None, clock::moment())
}

pub(crate) fn key(id: &str) -> JobKey {
    ticket(id).key()
}

pub(crate) const ME: Claimant = Claimant { worker: 7, number: 1 };

/// The record of a claim of this ticket; none when the place is not to be had.
pub(crate) fn claimed(loaded: &Loaded<StepResult, End>, ticket: &Ticket) -> Option<JobRecord> {
    let arrival = Arrival { place: ticket.place, hash: ticket.hash, is_intake: true, is_suspect: false };
    match claim(loaded, &arrival, ME, &Policy::default()) {
        Claim::Take { record, .. } => Some(record),
        Claim::OtherContent | Claim::Ended { .. } | Claim::Stale | Claim::Busy { .. } => None,
    }
}

/// Ends within its time-outs.
pub(crate) async fn in_time<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, call).await.unwrap_or_else(|_| panic!("it did not end by its time-out"))
}

/// Waits until the memory answers as it should.
pub(crate) async fn until<T>(ask: impl AsyncFn() -> Result<T, Unavailable>) -> T {
    let begun = longshore::clock::monotonic();
    loop {
        match in_time(ask()).await {
            Ok(answer) => return answer,
            Err(down) => assert!(begun.elapsed() < Duration::from_secs(60), "it never answered: {down}"),
        }
        tokio::task::yield_now().await;
    }
}

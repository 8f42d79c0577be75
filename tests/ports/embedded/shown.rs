//! What people are shown, what leaves with time, and the sealed tokens.

use std::time::Duration;

use longshore::{
    domain::{
        event::{End, EndName, Name},
        ids::{AccountName, JobId},
        settlement::{Entry, Next},
        step::Kind,
        time::Moment,
    },
    embedded::{EventFilter, JobFilter, State, Tidied},
    engine::ports::{Queue, Turns, Views},
};

use super::OneFile;
use crate::harness::{Harness, account, key, settlement, take, ticket, within};

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_newest_first_and_by_what_is_asked_for() {
    let harness = OneFile::fresh().await;
    for n in 0..5 {
        let mut ticket = ticket(&format!("job-{n}"));
        ticket.accepted_at = Moment::from_millis(1_000 + n);
        harness.home.accept(ticket).await.unwrap();
    }
    let worker = harness.home.worker().unwrap();
    let held = take(&worker, worker.id(), 1, Kind::Submission).await;
    let list = async |filter: JobFilter| {
        let jobs = harness.home.jobs(filter).await.unwrap();
        jobs.into_iter().map(|job| job.key.id.to_string()).collect::<Vec<_>>()
    };
    let all = JobFilter::default();
    assert_eq!(list(all.clone()).await, ["job-4", "job-3", "job-2", "job-1", "job-0"]);
    let page = JobFilter { limit: 2, before: Some((Moment::from_millis(1_003), key("job-3"))), ..all.clone() };
    assert_eq!(list(page).await, ["job-2", "job-1"]);
    assert_eq!(list(JobFilter { state: Some(State::Running), ..all.clone() }).await, [held.ticket.job.id.to_string()]);
    let label = Some(("build".to_owned(), "job-3".to_owned()));
    assert_eq!(list(JobFilter { label, ..all.clone() }).await, ["job-3"]);
    assert_eq!(list(JobFilter { text: Some("JOB-2".to_owned()), ..all.clone() }).await, ["job-2"]);
    assert!(list(JobFilter { kind: Some(Kind::Upload), ..all.clone() }).await.is_empty());
    let fabrikam = AccountName::parse("fabrikam").unwrap();
    assert!(list(JobFilter { account: Some(fabrikam), ..all.clone() }).await.is_empty());
    // Nobody has it once its worker is dead, even before anybody has swept.
    let view = harness.home.job(&held.ticket.key()).await.unwrap().unwrap();
    assert_eq!((view.state(), view.holder), (State::Running, Some(worker.id())));
    harness.kill(worker).await;
    let gone = async {
        while harness.home.job(&held.ticket.key()).await.unwrap().unwrap().state() == State::Running {
            tokio::task::yield_now().await;
        }
    };
    within(gone).await;
    assert_eq!(harness.home.oldest_job().await.unwrap(), Some((key("job-0"), Moment::from_millis(1_000))));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_followed_by_their_numbers() {
    let harness = OneFile::fresh().await;
    for id in ["a", "b", "c"] {
        harness.home.accept(ticket(id)).await.unwrap();
    }
    let first = harness.home.events(0, EventFilter { limit: 2, ..EventFilter::default() }).await.unwrap();
    let rest = harness.home.events(first[1].0, EventFilter::default()).await.unwrap();
    let jobs: Vec<_> = first.iter().chain(&rest).map(|(_, event)| event.job.id.to_string()).collect();
    assert_eq!(jobs, ["a", "b", "c"]);
    let of_b = EventFilter { job: Some(key("b")), name: Some(Name::Accepted), ..EventFilter::default() };
    assert_eq!(harness.home.events(0, of_b).await.unwrap().len(), 1);
    let none = EventFilter { name: Some(Name::Failed), account: Some(account()), ..EventFilter::default() };
    assert!(harness.home.events(0, none).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_found_by_its_whole_id_in_every_account() {
    let harness = OneFile::fresh().await;
    let of_account = |id: &str, account: &str| {
        let mut ticket = ticket(id);
        ticket.job.account = AccountName::parse(account).unwrap();
        ticket
    };
    for (id, account) in [("nic", "fabrikam"), ("nic", "contoso"), ("nic-1", "contoso"), ("my-nic", "fabrikam")] {
        harness.home.accept(of_account(id, account)).await.unwrap();
    }
    let named = async |id: &str| {
        let keys = harness.home.named(&JobId::parse(id).unwrap()).await.unwrap();
        keys.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(named("nic").await, ["contoso/nic", "fabrikam/nic"]);
    assert_eq!(named("nic-1").await, ["contoso/nic-1"]);
    assert!(named("ni").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_and_sizes_are_told() {
    let harness = OneFile::fresh().await;
    assert!(harness.home.workers().await.unwrap().is_empty());
    let worker = harness.home.worker().unwrap();
    harness.home.accept(ticket("a")).await.unwrap();
    let held = take(&worker, worker.id(), 1, Kind::Submission).await;
    let workers = harness.home.workers().await.unwrap();
    assert_eq!((workers.len(), workers[0].id, workers[0].messages), (1, worker.id(), 1));
    assert_eq!(workers[0].pid, std::process::id());
    assert!(!workers[0].is_restricted && workers[0].accounts.is_none());
    let knowing = harness.beside(|options| options.accounts = Some([account()].into()));
    let knowing = knowing.worker().unwrap();
    let workers = harness.home.workers().await.unwrap();
    let told = workers.iter().find(|worker| worker.id == knowing.id()).unwrap();
    assert!(told.works_for(&account()) && !told.works_for(&AccountName::parse("fabrikam").unwrap()), "{told:?}");
    // Told with its first word, not some time later by another write.
    let own = harness.home.worker_of(&std::collections::BTreeSet::new()).unwrap();
    let workers = harness.home.workers().await.unwrap();
    assert!(workers.iter().any(|worker| worker.id == own.id() && worker.is_restricted), "{workers:?}");
    let size = harness.home.size().await.unwrap();
    assert_eq!((size.jobs, size.messages, size.events, size.dead_letters), (1, 1, 1, 0));
    assert!(size.bytes > 0);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfers_progress_is_shown_and_thinned_out() {
    let harness = OneFile::fresh().await;
    harness.home.accept(ticket("a")).await.unwrap();
    let worker = harness.home.worker().unwrap();
    for done in 1..=1_000 {
        worker.transferred(&key("a"), done, 1_000);
    }
    let shown = within(async {
        loop {
            if let Some(transfer) = harness.home.job(&key("a")).await.unwrap().unwrap().transfer {
                return transfer;
            }
        }
    })
    .await;
    assert_eq!((shown.done, shown.total), (1, 1_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_jobs_leave_after_thirty_days_in_small_batches_and_jobs_under_way_stay() {
    let harness = OneFile::fresh().await;
    let worker = harness.home.worker().unwrap();
    for n in 0..450 {
        harness.home.accept(ticket(&format!("job-{n}"))).await.unwrap();
        let held = take(&worker, worker.id(), n, Kind::Submission).await;
        let name = if n % 9 == 0 { EndName::Failed } else { EndName::Completed };
        let end = End { name, at: Moment::from_millis(1), reason: None, ticket: Box::new(held.ticket.clone()) };
        let done =
            settlement(&held.ticket, Some(held.me), Entry::End { end: Box::new(end), result: None }, Next::Nothing);
        worker.settle(held.delivery, Some(&held.ticket.key()), done).await.unwrap();
    }
    harness.home.accept(ticket("under-way")).await.unwrap();
    worker.own(&account(), "1".parse().unwrap(), &key("job-1")).await.unwrap();
    // An end's event carries the end's own instant, 1970 here; nothing else is old yet.
    let before = harness.home.tidy().await.unwrap();
    assert_eq!((before.jobs, before.dead_letters, before.others), (0, 0, 0));
    harness.advance(Duration::from_hours(696)).await;
    assert_eq!(harness.home.tidy().await.unwrap().jobs, 0);
    harness.advance(Duration::from_hours(48)).await;
    let batches = [harness.home.tidy().await.unwrap(), harness.home.tidy().await.unwrap()];
    assert!(batches.iter().all(|batch| batch.jobs == 200 && batch.events <= 200 && batch.has_more), "{batches:?}");
    assert_eq!((batches[0].dead_letters, batches[0].others), (50, 1));
    while harness.home.tidy().await.unwrap() != Tidied::default() {}
    let size = harness.home.size().await.unwrap();
    assert_eq!((size.jobs, size.messages, size.events, size.dead_letters), (1, 1, 0, 0));
    assert_eq!(worker.owner(&account(), "1".parse().unwrap()).await.unwrap(), None);
    assert!(harness.home.integrity().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_kept_until_they_expire_and_renewed_by_one() {
    let harness = OneFile::fresh().await;
    let (home, hash) = (&harness.home, [7; 32]);
    let now = home.now().await.unwrap();
    assert_eq!(home.load_token(&hash).await.unwrap(), None);
    home.store_token(&hash, b"old".to_vec(), now.after(Duration::from_mins(1))).await.unwrap();
    home.store_token(&hash, b"sealed".to_vec(), now.after(Duration::from_hours(1))).await.unwrap();
    assert_eq!(home.load_token(&hash).await.unwrap(), Some(b"sealed".to_vec()));
    assert_eq!(home.load_token(&[8; 32]).await.unwrap(), None);
    let lease = Duration::from_secs(15);
    assert!(home.lease_token(&hash, 1, lease).await.unwrap());
    assert!(!home.lease_token(&hash, 2, lease).await.unwrap());
    assert!(home.lease_token(&hash, 1, lease).await.unwrap());
    home.release_token(&hash, 2).await.unwrap();
    assert!(!home.lease_token(&hash, 2, lease).await.unwrap());
    home.release_token(&hash, 1).await.unwrap();
    assert!(home.lease_token(&hash, 2, lease).await.unwrap());
    harness.advance(Duration::from_secs(16)).await;
    assert!(home.lease_token(&hash, 1, lease).await.unwrap(), "a lease that ran out is free");
    harness.advance(Duration::from_hours(1)).await;
    assert_eq!(home.load_token(&hash).await.unwrap(), None);
}

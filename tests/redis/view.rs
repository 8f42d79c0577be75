//! What people are shown of jobs.

use std::time::Duration;

use longshore::{
    clock::{self, Shift},
    domain::{
        claim::{self, Wish},
        event::{End, EndName},
        plan::JobRecord,
        step::{Kind, Step},
        ticket::Ticket,
        view::{JobFilter, State, Transfer},
    },
    engine::ports::{Memory as _, Swapped, Views as _},
    fleet::Fleet,
    rabbitmq::{self, Rabbit},
    redis::{Options, Shown, Store, TicketFacts, Written},
};

use crate::{
    harness::{ME, at, claimed, key, options, redis, ticket},
    servers::{self, Redis},
};

/// Claims a ticket's place, as a worker of the fleet does.
async fn claim(home: &Fleet, ticket: &Ticket) -> JobRecord {
    let loaded = home.load(&ticket.key()).await.unwrap();
    let record = claimed(&loaded, ticket).unwrap();
    let swapped = home.swap(&ticket.key(), loaded.birth.epoch, loaded.version, &record).await.unwrap();
    assert_eq!(swapped, Swapped::Done);
    record
}

/// Writes a record as a settlement does: with what its last ticket tells.
async fn settle(store: &Store, ticket: &Ticket, change: impl Fn(JobRecord) -> JobRecord) {
    let loaded = store.load(&ticket.key()).await.unwrap();
    let record = change(loaded.record.clone().unwrap());
    let shown = Shown { ticket: Some(TicketFacts::of(ticket)), transfer: None };
    let epoch = loaded.birth.epoch;
    let written = store.swap_shown(&ticket.key(), epoch, loaded.version, &record, &shown).await.unwrap();
    assert!(matches!(written, Written::Done(version) if version > loaded.version), "{written:?}");
}

fn fleet(redis: &Redis, shift: &Shift) -> Fleet {
    let accounts = options().accounts;
    let options = Options { shift: shift.clone(), accounts, ..options() };
    Fleet::new(Rabbit::new(rabbitmq::Options::default()), Store::new(&at(redis.url()), options).unwrap())
}

fn ended(ticket: &Ticket, name: EndName) -> End {
    End { name, at: clock::moment(), reason: None, ticket: Box::new(ticket.clone()) }
}

#[tokio::test]
async fn a_job_is_shown_from_its_first_claim_to_its_end_and_no_longer_than_it_is_kept() {
    if !servers::is_redis_installed() {
        return;
    }
    let (redis, shift) = (redis(), Shift::default());
    let home = fleet(&redis, &shift);
    let store = home.memory();
    let (first, job) = (ticket("nic-4711"), key("nic-4711"));
    assert_eq!(store.job(&job).await.unwrap(), None);
    claim(&home, &first).await;
    let view = store.job(&job).await.unwrap().unwrap();
    assert_eq!((view.state(), view.holder, view.summary.kind), (State::Running, Some(ME.worker), None));
    assert_eq!(view.hash, first.hash.to_string());

    // The transfer under way is shown with the next renewal.
    home.transferred(&job, 3, 10);
    let loaded = home.load(&job).await.unwrap();
    let renewed = claim::renew(&loaded, ME, &claim::Policy::default()).unwrap();
    home.swap(&job, loaded.birth.epoch, loaded.version, &renewed).await.unwrap();
    let transfer = store.job(&job).await.unwrap().unwrap().transfer.unwrap();
    assert!(matches!(transfer, Transfer { done: 3, total: 10, .. }));

    // Parked: its ticket tells the rest.
    let due = clock::moment().after(Duration::from_secs(600));
    let mut parked = first.clone().at_step(Step::Poll).parked(due);
    parked.progress.product_id = Some(longshore::domain::ids::ProductId::new(99));
    settle(store, &parked, |record| record).await;
    let view = store.job(&job).await.unwrap().unwrap();
    assert_eq!((view.state(), view.holder, view.transfer), (State::Waiting, None, None));
    assert_eq!((view.summary.kind, view.summary.next_due), (Some(Kind::StatusPoll), Some(due)));
    assert_eq!(view.summary.labels.get("build").map(String::as_str), Some("nic-4711"));
    assert_eq!((view.summary.accepted_at, view.summary.deadline), (first.accepted_at, Some(first.deadline)));
    assert_eq!(view.summary.product_id.as_deref(), Some("99"));

    settle(store, &parked, |record| JobRecord { wish: Some(Wish { at: clock::moment() }), ..record }).await;
    let view = store.job(&job).await.unwrap().unwrap();
    assert!(view.state() == State::Cancelling && view.wish_at.is_some());
    for (name, state) in [
        (EndName::Completed, State::Completed),
        (EndName::Failed, State::Failed),
        (EndName::Cancelled, State::Cancelled),
        (EndName::TimedOut, State::TimedOut),
        (EndName::DeadLettered, State::DeadLettered),
    ] {
        let end = ended(&parked, name);
        settle(store, &parked, |record| JobRecord { holder: None, end: Some(end.clone()), ..record }).await;
        let view = store.job(&job).await.unwrap().unwrap();
        assert_eq!((view.state(), view.summary.next_due, view.end.as_ref()), (state, None, Some(&end)));
        assert_eq!(view.ticket.as_ref(), Some(&parked));
        assert!(view.summary.ended_at.is_some());
    }
    let left = redis.cli(&["PTTL", "longshore:view:contoso/nic-4711"]).parse::<u64>().unwrap();
    assert!(u128::from(left) <= options().shown_for.as_millis(), "{left}");

    // Lost, it is still known where the job stands; flushed, that is gone, too, and since when is told.
    assert_eq!(redis.cli(&["DEL", "longshore:view:contoso/nic-4711"]), "1");
    let view = store.job(&job).await.unwrap().unwrap();
    assert_eq!((view.state(), view.summary.kind), (State::DeadLettered, None));
    let born = store.birth().await.unwrap();
    redis.flush();
    assert_eq!(store.job(&job).await.unwrap(), None);
    assert_eq!(store.jobs(&JobFilter::default()).await.unwrap(), []);
    assert!(store.birth().await.unwrap().at >= born.at);
}

#[tokio::test]
async fn a_list_is_filtered_and_read_page_by_page() {
    if !servers::is_redis_installed() {
        return;
    }
    let (redis, shift) = (redis(), Shift::default());
    let home = fleet(&redis, &shift);
    let store = home.memory();
    let begin = clock::moment();
    // More than are looked at in one go, three of one instant each.
    for n in 0..1_203_u64 {
        let mut ticket = ticket(&format!("job-{n:04}"));
        if n % 2 == 1 {
            ticket.job.account = longshore::domain::ids::AccountName::parse("fabrikam").unwrap();
        }
        ticket.accepted_at = begin.after(Duration::from_secs(n / 3));
        let due = ticket.clone().parked(begin);
        claim(&home, &ticket).await;
        settle(store, &due, |record| record).await;
    }
    let all = |limit| JobFilter { limit, ..JobFilter::default() };
    assert_eq!(store.jobs(&all(0)).await.unwrap().len(), 100);
    let (mut pages, mut filter) = (Vec::new(), all(50));
    loop {
        let page = store.jobs(&filter).await.unwrap();
        let Some(last) = page.last() else { break };
        filter.before = Some((last.accepted_at, last.key.clone()));
        pages.extend(page);
    }
    let keys: Vec<_> = pages.iter().map(|job| (job.accepted_at, job.key.to_string())).collect();
    assert_eq!(keys.len(), 1_203);
    assert!(keys.windows(2).all(|pair| pair[0] > pair[1]), "newest first, each once");

    let of = |account: &str| longshore::domain::ids::AccountName::parse(account).ok();
    let found = store.jobs(&JobFilter { account: of("fabrikam"), ..all(1_000) }).await.unwrap();
    assert_eq!((found.len(), found[0].key.to_string().as_str()), (601, "fabrikam/job-1201"));
    let build = JobFilter { label: Some(("build".to_owned(), "job-0007".to_owned())), ..all(0) };
    assert_eq!(store.jobs(&build).await.unwrap().len(), 1);
    assert_eq!(store.jobs(&JobFilter { text: Some("JOB-000".to_owned()), ..all(0) }).await.unwrap().len(), 10);
    assert_eq!(store.jobs(&JobFilter { state: Some(State::Waiting), ..all(2_000) }).await.unwrap().len(), 1_203);
    assert_eq!(store.jobs(&JobFilter { state: Some(State::Running), ..all(0) }).await.unwrap(), []);
    assert_eq!(store.jobs(&JobFilter { kind: Some(Kind::Upload), ..all(0) }).await.unwrap(), []);
    let id = key("job-0004").id;
    assert_eq!(store.named(&id).await.unwrap(), [key("job-0004")]);
    assert!(redis.endless_keys().into_iter().all(|key| key == "longshore:born"), "{:?}", redis.endless_keys());
}

//! The embedded home between real processes, killed with SIGKILL at any instant.
//!
//! The children are this very test binary: it runs [`child_process`] alone, which does nothing unless it is told a role.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use longshore::{
    domain::{
        claim::{Claimant, Outcome},
        event::{End, EndName, Name},
        settlement::{Entry, Next},
        step::Kind,
        ticket::Ticket,
    },
    embedded::{Embedded, EventFilter, JobFilter, State, Worker},
    engine::ports::{Memory, Queue},
};

use crate::{
    embedded::options,
    harness::{Decided, arrival, key, next_try, progressed, receive, settlement, ticket, try_claim, within},
    run_folder,
};

const ROLE: &str = "LONGSHORE_PORTS_ROLE";
const FOLDER: &str = "LONGSHORE_PORTS_FOLDER";

/// The tries of a job under test; the last one ends it.
const TRIES: u32 = 120;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn spawn(role: &str, folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::child_process", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(FOLDER, folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the child has said this.
fn heard(child: &mut Child, word: &str) {
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == word), "the child ended without a word");
}

#[test]
fn child_process() {
    let (Ok(role), Some(folder)) = (std::env::var(ROLE), std::env::var_os(FOLDER)) else { return };
    let folder = PathBuf::from(folder);
    runtime().block_on(async move {
        let home = Embedded::open(options(&folder)).unwrap();
        let worker = home.worker().unwrap();
        match role.as_str() {
            "settler" => settle_for_ever(&worker).await,
            "holder" => hold_for_ever(&worker).await,
            other => panic!("there is no role {other}"),
        }
    });
}

async fn settle_for_ever(home: &Worker) {
    for number in 0.. {
        step(home, number).await;
    }
}

async fn hold_for_ever(home: &Worker) {
    let (received, ticket) = receive(home, Kind::Submission).await;
    let me = Claimant { worker: home.id(), number: 1 };
    try_claim(home, &ticket, me, arrival(&received, &ticket)).await.taken();
    println!("\nheld");
    std::future::pending::<()>().await;
    drop(received);
}

/// One turn of a very small engine.
async fn step(home: &Worker, number: u64) {
    let received = home.receive(Kind::Submission).await.unwrap();
    let ticket: Ticket = serde_json::from_str(&received.body).unwrap();
    let me = Claimant { worker: home.id(), number };
    let decided = try_claim(home, &ticket, me, arrival(&received, &ticket)).await;
    let mut done = match decided {
        Decided::Taken(_) if ticket.place.r#try + 1 == TRIES => {
            let now = home.load(&ticket.key()).await.unwrap().now;
            let end = End { name: EndName::Completed, at: now, reason: None, ticket: Box::new(ticket.clone()) };
            settlement(&ticket, Some(me), Entry::End { end: Box::new(end), result: None }, Next::Nothing)
        }
        Decided::Taken(_) => {
            let next = Next::Ticket(Box::new(next_try(&ticket)));
            settlement(&ticket, Some(me), Entry::Outcome(Outcome::Nothing), next)
        }
        other @ (Decided::OtherContent | Decided::Ended | Decided::Stale | Decided::Busy) => {
            panic!("there is one message per job, so nobody else can have {}: {other:?}", ticket.key())
        }
    };
    done.events = vec![progressed(&ticket, 0)];
    home.settle(received.delivery, Some(&ticket.key()), done).await.unwrap();
}

async fn numbers_of_events(home: &Embedded) -> u64 {
    home.size().await.unwrap().events
}

async fn completed(home: &Embedded) -> usize {
    let filter = JobFilter { state: Some(State::Completed), ..JobFilter::default() };
    home.jobs(filter).await.unwrap().len()
}

/// With no worker at work: a job that has not ended has one message, and an event for every try behind it.
async fn assert_whole(home: &Embedded, jobs: &[String]) {
    let ended = completed(home).await;
    assert_eq!(home.size().await.unwrap().messages, (jobs.len() - ended) as u64);
    for id in jobs {
        let view = home.job(&key(id)).await.unwrap().unwrap();
        let filter = EventFilter { job: Some(key(id)), name: Some(Name::Progressed), ..EventFilter::default() };
        let events = home.events(0, filter).await.unwrap();
        let place = view.ticket.unwrap().place;
        let expected = if view.summary.state == State::Completed { TRIES } else { place.r#try };
        assert_eq!(events.len(), expected as usize, "{id} at {place}");
        let sequences: Vec<_> = events.iter().map(|(_, event)| event.sequence.clone()).collect();
        assert!(sequences.is_sorted(), "{sequences:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_kills_in_the_middle_of_settling_lose_nothing_and_double_nothing() {
    let folder = run_folder::folder_of_this_test("ports").unwrap();
    let home = Embedded::open(options(&folder)).unwrap();
    let jobs: Vec<String> = (0..8).map(|n| format!("job-{n}")).collect();
    for id in &jobs {
        home.accept(ticket(id)).await.unwrap();
    }
    let mut settled_under_fire = 0;
    for round in 0..50_u64 {
        let before = numbers_of_events(&home).await;
        let mut child = spawn("settler", &folder);
        // Kills at once, or after up to ten settlements and a drawn number of looks: anywhere in its next turn.
        within(async {
            while numbers_of_events(&home).await < before + round % 11 && completed(&home).await < jobs.len() {
                tokio::task::yield_now().await;
            }
            for _ in 0..longshore::clock::random_bytes::<1>()[0] % 32 {
                numbers_of_events(&home).await;
            }
        })
        .await;
        child.kill().unwrap();
        child.wait().unwrap();
        settled_under_fire += numbers_of_events(&home).await - before;
        assert_whole(&home, &jobs).await;
    }
    let mut child = spawn("settler", &folder);
    within(async {
        while completed(&home).await < jobs.len() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(child.try_wait().unwrap().is_none(), "the child failed");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_whole(&home, &jobs).await;
    assert_eq!(home.size().await.unwrap().messages, 0);
    assert!(home.integrity().await.unwrap().is_empty());
    println!("50 kills, {settled_under_fire} settlements between them, 8 jobs of {TRIES} tries whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_workers_job_goes_on_at_once() {
    let folder = run_folder::folder_of_this_test("ports").unwrap();
    let home = Embedded::open(options(&folder)).unwrap();
    let worker = home.worker().unwrap();
    let mut waits = Vec::new();
    for round in 0..20 {
        home.accept(ticket(&format!("job-{round}"))).await.unwrap();
        let mut child = spawn("holder", &folder);
        heard(&mut child, "held");
        let me = Claimant { worker: worker.id(), number: round };
        let killed = longshore::clock::monotonic();
        child.kill().unwrap();
        let (received, ticket) = receive(&worker, Kind::Submission).await;
        let record = try_claim(&worker, &ticket, me, arrival(&received, &ticket)).await.taken();
        waits.push(killed.elapsed());
        assert!(received.is_redelivered && record.lost == 1);
        child.wait().unwrap();
        let done = settlement(&ticket, None, Entry::Nothing, Next::Nothing);
        worker.settle(received.delivery, Some(&ticket.key()), done).await.unwrap();
    }
    waits.sort();
    println!("take-over after SIGKILL, 20 times: median {:?}, longest {:?}", waits[10], waits[19]);
    assert!(waits[10] < Duration::from_millis(500), "{waits:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_share_the_file() {
    let folder = run_folder::folder_of_this_test("ports").unwrap();
    let home = Embedded::open(options(&folder)).unwrap();
    let jobs: Vec<String> = (0..6).map(|n| format!("job-{n}")).collect();
    let mut children: Vec<_> = (0..3).map(|_| spawn("settler", &folder)).collect();
    within(async {
        while home.workers().await.unwrap().len() < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let began = longshore::clock::monotonic();
    for id in &jobs {
        home.accept(ticket(id)).await.unwrap();
    }
    within(async {
        while completed(&home).await < jobs.len() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    println!("three processes: {} steps of three transactions in {:?}", 6 * TRIES, began.elapsed());
    for child in &mut children {
        assert!(child.try_wait().unwrap().is_none(), "a child failed");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_whole(&home, &jobs).await;
    assert!(home.workers().await.unwrap().is_empty());
}

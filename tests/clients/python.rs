//! Producers in Python.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::{fleet::Fleet, servers, world::until};

/// The interpreter that has pika; none when it is missing, told aloud.
pub(crate) fn python() -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(target).join("clients/venv/bin/python");
    let python = if own.exists() { own } else { PathBuf::from("python3") };
    let has_pika = Command::new(&python).args(["-c", "import pika"]).output().is_ok_and(|ran| ran.status.success());
    if has_pika {
        return Some(python);
    }
    let advice = "make services";
    assert!(std::env::var_os("REQUIRE_SERVICES").is_none(), "pika is missing: {advice}");
    #[expect(clippy::print_stderr, reason = "a skipped test says why")]
    {
        eprintln!("skipped, pika is missing: {advice}");
    }
    None
}

impl Fleet {
    /// Runs the producer with this job; its events, and how it ended.
    fn produce(&self, python: &Path, job: &Value, flags: &[&str]) -> (Vec<Value>, Output) {
        let file = self.world.path(&format!("{}.json", job["id"].as_str().unwrap()));
        std::fs::write(&file, job.to_string()).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/python/submit.py");
        let mut command = Command::new(python);
        command.arg(script).args(["--url", &self.broker.url(), "--prefix", &self.prefix]).args(flags).arg(&file);
        let ran = command.output().unwrap();
        let events: Vec<Value> =
            String::from_utf8_lossy(&ran.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (events, ran)
    }
}

fn name(event: &Value) -> &str {
    event["type"].as_str().unwrap().trim_start_matches("dev.longshore.job.").trim_end_matches(".v1")
}

#[test]
fn a_python_producer_hands_a_job_in_and_reads_its_end() {
    let Some(python) = python().filter(|_| servers::are_installed()) else { return };
    let fleet = Fleet::new("python", &["guest"]);
    let worker = fleet.world.worker();
    until("the worker is ready", || worker.says("/readyz", 200));
    // Published three times: delivery is at least once, and so are producers.
    let (events, ran) = fleet.produce(&python, &fleet.world.job("nic-1"), &["--repeat", "3"]);
    assert!(ran.status.success(), "{events:#?}\n{}", String::from_utf8_lossy(&ran.stderr));
    let end = events.last().unwrap();
    assert_eq!(name(end), "completed");
    assert_eq!(end["source"], "/accounts/contoso");
    assert_eq!((end["subject"].as_str(), end["specversion"].as_str()), (Some("nic-1"), Some("1.0")));
    let file = &end["data"]["downloads"][0];
    assert_eq!(file["is_verified"], true, "{end:#}");
    assert!(Path::new(file["path"].as_str().unwrap()).exists());
    let verdict = fleet.world.sandbox.verdict();
    assert_eq!((&verdict["clean"], &verdict["totals"]["products"]), (&true.into(), &1.into()), "{verdict:#}");
    worker.terminate();
    let (code, said) = worker.ended();
    assert_eq!((code, said.contains("nothing is under way here")), (0, true), "{said}");
}

#[test]
fn a_job_of_nobody_does_nothing_and_ends_in_a_refused_event_and_the_dead_letters() {
    let Some(python) = python().filter(|_| servers::are_installed()) else { return };
    let fleet = Fleet::new("strangers", &["build"]);
    let _worker = fleet.world.worker();
    let (events, ran) = fleet.produce(&python, &fleet.world.job("nic-1"), &["--anonymous"]);
    assert_eq!(ran.status.code(), Some(1), "{events:#?}\n{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(events.iter().map(name).collect::<Vec<_>>(), ["refused"]);
    assert_eq!((&events[0]["subject"], &events[0]["data"]["class"]), (&"nic-1".into(), &"not-allowed".into()));
    let told = events[0]["data"]["message"].as_str().unwrap();
    assert!(told.contains("user-id") && told.contains("accounts.contoso.producers"), "{told}");
    assert_eq!(fleet.world.sandbox.journal(), json!([]), "something was called");
}

/// Takes the one message of this lane and gives it back, as often as the broker lets it.
fn break_workers(fleet: &Fleet, lane: &str) {
    use futures_util::StreamExt as _;
    use lapin::{
        options::{BasicConsumeOptions, BasicRejectOptions},
        types::FieldTable,
    };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let url = fleet.broker.url();
        let connection = lapin::Connection::connect(&url, lapin::ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let options = BasicConsumeOptions::default();
        let mut lane = channel.basic_consume(lane.into(), "".into(), options, FieldTable::default()).await.unwrap();
        // The first time and a hundred more.
        for _ in 0..=100 {
            let delivery = lane.next().await.unwrap().unwrap();
            assert!(delivery.acker.reject(BasicRejectOptions { requeue: true }).await.unwrap());
        }
        connection.close(200, "done".into()).await.unwrap();
    });
}

#[test]
fn a_message_that_the_broker_gave_up_goes_on_when_no_claim_of_its_job_was_lost() {
    let Some(python) = python().filter(|_| servers::are_installed()) else { return };
    let fleet = Fleet::new("given-up", &["guest"]);
    std::thread::scope(|scope| {
        let produced = scope.spawn(|| fleet.produce(&python, &fleet.world.job("nic-1"), &[]));
        break_workers(&fleet, "given-up.w.submission.v1");
        let _worker = fleet.world.worker();
        let (events, ran) = produced.join().unwrap();
        assert!(ran.status.success(), "{events:#?}\n{}", String::from_utf8_lossy(&ran.stderr));
        assert_eq!(name(events.last().unwrap()), "completed");
        assert_eq!(fleet.world.sandbox.verdict()["totals"]["products"], 1);
    });
}

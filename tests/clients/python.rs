//! Producers in Python.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::{fleet::Fleet, servers, world::until};

/// Where `tests/servers/install` puts what the clients need.
pub(crate) fn installed() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    Path::new(env!("CARGO_MANIFEST_DIR")).join(target).join("clients")
}

/// Something is missing: the test is skipped, aloud, or fails where nothing may be missing.
pub(crate) fn missing<T>(what: &str) -> Option<T> {
    let advice = "make services";
    assert!(std::env::var_os("REQUIRE_SERVICES").is_none(), "{what} is missing: {advice}");
    #[expect(clippy::print_stderr, reason = "a skipped test says why")]
    {
        eprintln!("skipped, {what} is missing: {advice}");
    }
    None
}

/// The interpreter that has pika; none when it is missing, told aloud.
pub(crate) fn python() -> Option<PathBuf> {
    python_with("pika")
}

/// The interpreter that has these modules.
pub(crate) fn python_with(modules: &str) -> Option<PathBuf> {
    let own = installed().join("venv/bin/python");
    let python = if own.exists() { own } else { PathBuf::from("python3") };
    let import = format!("import {modules}");
    let has_them = Command::new(&python).args(["-c", &import]).output().is_ok_and(|ran| ran.status.success());
    if has_them { Some(python) } else { missing(modules) }
}

/// A client's file.
pub(crate) fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

impl Fleet {
    /// The job in a file.
    pub(crate) fn job_file(&self, job: &Value) -> PathBuf {
        let file = self.world.path(&format!("{}.json", job["id"].as_str().unwrap()));
        std::fs::write(&file, job.to_string()).unwrap();
        file
    }

    /// Runs the producer with this job; its events, and how it ended. `NAME=VALUE` among the flags goes into its environment.
    pub(crate) fn produce(&self, python: &Path, job: &Value, flags: &[&str]) -> (Vec<Value>, Output) {
        let file = self.job_file(job);
        let mut command = Command::new(python);
        command.env_remove("TRACEPARENT").envs(flags.iter().filter_map(|flag| flag.split_once('=')));
        let flags = flags.iter().filter(|flag| !flag.contains('='));
        command
            .arg(self::file("python/submit.py"))
            .args(["--url", &self.broker.url(), "--prefix", &self.prefix])
            .args(flags)
            .arg(&file);
        let ran = command.output().unwrap();
        let events: Vec<Value> =
            String::from_utf8_lossy(&ran.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (events, ran)
    }
}

pub(crate) fn name(event: &Value) -> &str {
    event["type"].as_str().unwrap().trim_start_matches("dev.longshore.job.").trim_end_matches(".v1")
}

#[test]
fn a_python_producer_hands_a_job_in_and_reads_its_end() {
    let Some(python) = python().filter(|_| servers::are_installed()) else { return };
    let fleet = Fleet::new("python", &["guest"]);
    let worker = fleet.world.worker();
    until("the worker is ready", || worker.says("/readyz", 200));
    // Published three times: delivery is at least once, and so are producers. Its topic has the words of its id.
    let mut job = fleet.world.job("nic-1");
    job["id"] = "NIC.1..a:b".into();
    let (events, ran) = fleet.produce(&python, &job, &["--repeat", "3"]);
    assert!(ran.status.success(), "{events:#?}\n{}", String::from_utf8_lossy(&ran.stderr));
    let end = events.last().unwrap();
    assert_eq!(name(end), "completed");
    assert_eq!(end["source"], "/accounts/contoso");
    assert_eq!((end["subject"].as_str(), end["specversion"].as_str()), (Some("NIC.1..a:b"), Some("1.0")));
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
    let words = String::from_utf8_lossy(&ran.stderr);
    assert!(words.contains("job nic-1 is refused") && words.contains("user-id"), "{words}");
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

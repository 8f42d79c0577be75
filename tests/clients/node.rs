//! Producers and consumers in Node.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

use crate::{
    fleet::Fleet,
    python::{file, installed, missing, name},
    servers,
    world::until,
};

/// Node's scripts in a folder of their own, with these modules; none when something is missing, told aloud.
pub(crate) struct Node {
    folder: PathBuf,
}

impl Node {
    pub(crate) fn with(module: &str, folder: &Path) -> Option<Self> {
        let modules = installed().join("node/node_modules");
        if !Command::new("node").arg("--version").output().is_ok_and(|ran| ran.status.success()) {
            return missing("node");
        }
        if !modules.join(module).is_dir() {
            return missing(module);
        }
        // Node looks for modules beside the script.
        std::os::unix::fs::symlink(modules.canonicalize().unwrap(), folder.join("node_modules")).unwrap();
        for script in ["submit.mjs", "consumer.mjs", "asyncapi.mjs"] {
            std::fs::copy(file("node").join(script), folder.join(script)).unwrap();
        }
        Some(Self { folder: folder.to_owned() })
    }

    /// A script, to be told more.
    pub(crate) fn script(&self, name: &str) -> Command {
        let mut command = Command::new("node");
        command.arg(self.folder.join(name)).current_dir(&self.folder).env_remove("TRACEPARENT");
        command
    }
}

/// What it printed, line by line.
pub(crate) fn lines(ran: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&ran.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn said(ran: &Output) -> String {
    String::from_utf8_lossy(&ran.stderr).into_owned()
}

#[test]
fn a_node_producer_hands_a_job_in_and_reads_its_end_and_its_trace() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("node", &["guest"]);
    let Some(node) = Node::with("amqplib", &fleet.world.path("")) else { return };
    let worker = fleet.world.worker();
    until("the worker is ready", || worker.says("/readyz", 200));
    let mut job = fleet.world.job("nic-1");
    job["id"] = "NIC.1..a:b".into();
    // More digits than a number of JavaScript's has: what is not touched stays as it is written.
    job["labels"] = serde_json::json!({ "build": "4711" });
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut command = node.script("submit.mjs");
    command.args(["--url", &fleet.broker.url(), "--prefix", &fleet.prefix]).arg(fleet.job_file(&job));
    let ran = command.env("TRACEPARENT", trace).env("TRACESTATE", "congo=t61rcWkgMzE").output().unwrap();
    assert!(ran.status.success(), "{}", said(&ran));
    let events = lines(&ran);
    let end = events.last().unwrap();
    assert_eq!((name(end), &end["subject"]), ("completed", &"NIC.1..a:b".into()));
    assert_eq!(end["data"]["downloads"][0]["is_verified"], true, "{end:#}");
    for event in &events {
        let told = (&event["traceparent"], &event["tracestate"], &event["data"]["labels"]["build"]);
        assert_eq!(told, (&trace.into(), &"congo=t61rcWkgMzE".into(), &"4711".into()), "{event:#}");
    }
    assert_eq!(fleet.world.sandbox.verdict()["clean"], true);
}

#[test]
fn a_consumer_handles_each_end_once() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("consumer", &["guest"]);
    let Some(node) = Node::with("amqplib", &fleet.world.path("")) else { return };
    let consume = |queue: &str, more: &[&str]| {
        let mut command = node.script("consumer.mjs");
        command.args(["--url", &fleet.broker.url(), "--prefix", &fleet.prefix, "--account", "contoso"]);
        command.args(["--queue", queue]).args(more).output().unwrap()
    };
    // A queue that nobody declared: nothing is handled, with words.
    let ran = consume("consumer.nobody", &[]);
    assert_eq!((ran.status.code(), said(&ran).contains("consumer.nobody")), (Some(2), true), "{}", said(&ran));
    // Two ends that lie there when it comes: one of them told twice, since the job was handed in again.
    let ran = consume("consumer.ends", &["--declare"]);
    assert!(ran.status.success(), "{}", said(&ran));
    let worker = fleet.world.worker();
    until("the worker is ready", || worker.says("/readyz", 200));
    let job = fleet.world.job("nic-1");
    fleet.world.submit(&job, &["--wait"]).ended(0);
    fleet.world.submit(&job, &["--wait"]).ended(0);
    fleet.world.submit(&fleet.world.job("nic-2"), &["--wait"]).ended(0);
    let ran = consume("consumer.ends", &["--count", "3"]);
    assert!(ran.status.success(), "{}", said(&ran));
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "completed contoso/nic-1\ncompleted contoso/nic-2\n");
    // It remembers beyond its own life.
    fleet.world.submit(&job, &["--wait"]).ended(0);
    let ran = consume("consumer.ends", &["--count", "1"]);
    assert_eq!((ran.status.code(), ran.stdout.is_empty()), (Some(0), true), "{}", said(&ran));
}

#[test]
fn the_asyncapi_document_is_one_by_the_word_of_the_reference_parser() {
    let folder = tempfile::tempdir().unwrap();
    let Some(node) = Node::with("@asyncapi/parser", folder.path()) else { return };
    let document = file("../../docs/schemas/asyncapi.json");
    let parse = |document: &Path| node.script("asyncapi.mjs").arg(document).output().unwrap();
    let ran = parse(&document);
    assert!(ran.status.success(), "{}", said(&ran));
    assert_eq!(said(&ran), "", "no warnings either");
    let told = lines(&ran).pop().unwrap();
    assert_eq!((&told["version"], &told["channels"]), (&"3.0.0".into(), &9.into()), "{told:#}");
    assert!(told["messages"].as_array().unwrap().len() >= 15, "{told:#}");
    // And it does look: a document with a mistake is none.
    let text = std::fs::read_to_string(&document).unwrap().replace("\"is\": \"queue\"", "\"is\": \"pigeon\"");
    let mistaken = folder.path().join("mistaken.json");
    std::fs::write(&mistaken, text).unwrap();
    let ran = parse(&mistaken);
    assert_eq!((ran.status.code(), said(&ran).contains("error")), (Some(1), true), "{}", said(&ran));
}

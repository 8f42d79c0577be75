//! What the clients of other languages do with bad input: an exit code and words, and nothing is handed in.

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::json;

use crate::{
    fleet::Fleet,
    node::Node,
    python::{file, python},
    servers,
};

/// Each is run by a producer that is told the rest of its arguments.
fn is_told(fleet: &Fleet, producer: &mut dyn FnMut() -> Command) {
    let (world, url) = (&fleet.world, fleet.broker.url());
    let mut run_as = |flags: &[&str], url: &str, prefix: &str, job: &Path| -> Output {
        let mut command = producer();
        command.args(["--url", url, "--prefix", prefix, "--timeout", "60"]).args(flags).arg(job).output().unwrap()
    };
    let mut run = |url: &str, prefix: &str, job: &Path| run_as(&[], url, prefix, job);
    let write = |name: &str, text: &str| {
        std::fs::write(world.path(name), text).unwrap();
        world.path(name)
    };
    let job = world.job("nic-1");
    let good = write("good.json", &job.to_string());
    let mut without = job.clone();
    without["spec"]["package"]["source"] = "file:///nowhere/nic.cab".into();
    let nobody = "amqp://guest:hunter-two@127.0.0.1:1/%2f";
    let refused = url.replace("guest:guest", "guest:hunter-two");
    assert_ne!(refused, url);
    for (case, ran, words) in [
        ("no file", run(&url, &fleet.prefix, &world.path("none.json")), "none.json"),
        ("no JSON", run(&url, &fleet.prefix, &write("text.json", "{")), "not JSON"),
        ("a list", run(&url, &fleet.prefix, &write("list.json", "[1]")), "missing: id, kind, account"),
        (
            "no account",
            run(&url, &fleet.prefix, &write("half.json", r#"{"id":"a","kind":"upload"}"#)),
            "missing: account",
        ),
        ("no package", run(&url, &fleet.prefix, &write("lost.json", &without.to_string())), "package"),
        ("no broker", run(nobody, &fleet.prefix, &good), "broker"),
        ("no such user", run(&refused, &fleet.prefix, &good), "broker"),
        ("no such fleet", run(&url, "no-fleet", &good), "no-fleet.events.v1"),
    ] {
        let said = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(2), "{case}: {said}");
        assert!(said.contains(words) && !said.contains("hunter-two"), "{case}: {said}");
        assert!(!said.contains("Traceback") && !said.contains("    at "), "{case}: {said}");
        assert!(ran.stdout.is_empty(), "{case}");
    }
    // A job that is refused is told so, with why.
    let worker = world.worker();
    crate::world::until("the worker is ready", || worker.says("/readyz", 200));
    let ran = run_as(&["--anonymous"], &url, &fleet.prefix, &good);
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(1), "{said}");
    assert!(said.contains("job nic-1 is refused") && said.contains("accounts.contoso.producers"), "{said}");
    assert_eq!(world.sandbox.journal(), json!([]), "something was called");
}

#[test]
fn a_python_producer_tells_what_is_wrong() {
    let Some(python) = python().filter(|_| servers::are_installed()) else { return };
    let fleet = Fleet::new("wrong-python", &["somebody"]);
    is_told(&fleet, &mut || {
        let mut command = Command::new(&python);
        command.arg(file("python/submit.py"));
        command
    });
}

#[test]
fn a_node_producer_tells_what_is_wrong() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("wrong-node", &["somebody"]);
    let Some(node) = Node::with("amqplib", &fleet.world.path("")) else { return };
    is_told(&fleet, &mut || node.script("submit.mjs"));
}

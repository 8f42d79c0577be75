//! The page that a newcomer follows: its commands are run as they stand there.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    fleet::{Fleet, Servers},
    node::Node,
    python, servers,
    world::{Folder, until, write_cabinet},
};

/// The first section of the page of the fleet.
fn first_section(page: &str) -> &str {
    page.split("\n## ").find(|section| section.starts_with("From nothing to the first job")).unwrap()
}

/// The fenced blocks of a text, each with its language.
fn blocks(text: &str) -> Vec<(&str, &str)> {
    let mut parts = text.split("```");
    parts.next();
    let mut blocks = Vec::new();
    while let (Some(block), rest) = (parts.next(), parts.next()) {
        blocks.push(block.split_once('\n').unwrap());
        if rest.is_none() {
            break;
        }
    }
    blocks
}

#[test]
fn every_command_of_the_page_is_run() {
    let Some(python) = python::python().filter(|_| servers::are_installed()) else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/FLEET.md")).unwrap();
    let folder = Folder::of_this_test("page");
    let servers = Servers::new(folder.path());
    let here = |text: &str| text.replace("file:///srv/", &format!("file://{}/", folder.path().display()));
    let mut script = String::from("set -eu\ntrap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n");
    for (language, text) in blocks(first_section(&page)) {
        match language {
            "sh" => script.push_str(text),
            "toml" => std::fs::write(folder.path().join("fleet.toml"), text).unwrap(),
            "json" => std::fs::write(folder.path().join("nic.json"), here(text)).unwrap(),
            other => panic!("a block of {other:?}"),
        }
        if text.contains("mkdir -p builds") {
            script.push_str("cp package.cab builds/nic.cab\n");
        }
    }
    // Names of its own at a broker that other tests use, too.
    script = script.replace("fleet.toml ", "fleet.toml --config prefix.toml ").replace("--url", "--prefix page --url");
    std::fs::write(folder.path().join("prefix.toml"), "[topology]\nprefix = \"page\"\n").unwrap();
    write_cabinet(&folder.path().join("package.cab"));
    std::fs::copy(root.join("tests/clients/python/submit.py"), folder.path().join("submit.py")).unwrap();
    let programs = [Path::new(assert_cmd::cargo::cargo_bin!("longshore")).parent().unwrap(), python.parent().unwrap()];
    let programs = programs.map(|folder| folder.display().to_string()).join(":");
    let ran = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder.path())
        .env("PATH", format!("{programs}:{}", std::env::var("PATH").unwrap()))
        .env("LONGSHORE_BROKER", servers.broker.url())
        .env("LONGSHORE_STORE", servers.redis.url())
        .env("HOME", folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}\n{err}");
    let last: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!((&last["state"], &last["job"]), (&"completed".into(), &"nic-4711".into()), "{out}\n{err}");
    assert!(out.contains("dev.longshore.job.completed.v1"), "the producer in Python saw the end: {out}");
}

#[test]
fn every_command_of_the_clients_page_is_run() {
    let Some(python) = python::python().filter(|_| servers::are_installed()) else { return };
    let fleet = Fleet::new("clients-page", &["guest"]);
    let folder = fleet.world.path("");
    // Node runs the scripts where the test has put them, with both modules beside them.
    let Some(_node) = Node::with("amqplib", &folder) else { return };
    let worker = fleet.world.worker();
    until("the worker is ready", || worker.says("/readyz", 200));
    let page = std::fs::read_to_string(python::file("../../docs/fleet/clients.md")).unwrap();
    std::fs::write(folder.join("nic.json"), fleet.world.job("nic-4711").to_string()).unwrap();
    std::fs::copy(python::file("python/submit.py"), folder.join("submit.py")).unwrap();
    let mut script = String::from("set -eu\n");
    for (language, text) in blocks(&page) {
        assert_eq!(language, "sh");
        script.push_str(&text.replace("--url", "--prefix clients-page --url"));
    }
    let programs = [Path::new(assert_cmd::cargo::cargo_bin!("longshore")).parent().unwrap(), python.parent().unwrap()];
    let programs = programs.map(|folder| folder.display().to_string()).join(":");
    let ran = Command::new("bash")
        .args(["-c", &script])
        .current_dir(&folder)
        .env("PATH", format!("{programs}:{}", std::env::var("PATH").unwrap()))
        .env("LONGSHORE_BROKER", fleet.broker.url())
        .env("HOME", &folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}\n{err}");
    let ends: Vec<&str> = out.lines().filter(|line| line.starts_with("completed ")).collect();
    assert_eq!(ends, ["completed contoso/nic-4711"], "two ends were told, one was handled: {out}\n{err}");
    assert!(out.matches("dev.longshore.job.completed.v1").count() >= 2, "{out}");
}

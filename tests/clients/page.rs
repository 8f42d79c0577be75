//! The page that a newcomer follows: its commands are run as they stand there.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    fleet::Servers,
    python, servers,
    world::{Folder, write_cabinet},
};

/// The fenced blocks of the first section, each with its language.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    let section = page.split("\n## ").find(|section| section.starts_with("From nothing to the first job")).unwrap();
    let mut parts = section.split("```");
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
    for (language, text) in blocks(&page) {
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

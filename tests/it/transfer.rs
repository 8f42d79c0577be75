//! Packages on their way, between real processes.

use std::{
    collections::BTreeMap,
    io::Write as _,
    process::{Child, Stdio},
    time::Duration,
};

use longshore::{
    clock,
    package::cabinet::{self, NewFile},
    sandbox::{Fault, FaultKind, Params},
};
use serde_json::Value;

use crate::world::World;

/// Longest wait for what has to happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes that do not pack: every block of the cabinet is one of its own.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

/// A process that is gone when the test is.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A worker on the world's home, which is killed with SIGKILL when the value is dropped.
fn worker(world: &World) -> Running {
    let assert_cmd = world.bare();
    let mut command = std::process::Command::new(assert_cmd.get_program());
    command.args(["--config", "waits.toml", "--config", "own.toml", "worker"]).current_dir(world.folder.path());
    command.env_clear().env("HOME", world.folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Running(command.spawn().unwrap())
}

/// How often each block was staged, as the sandbox has it.
fn staged(world: &World) -> BTreeMap<String, u32> {
    let mut staged = BTreeMap::new();
    for entry in world.sandbox.journal().as_array().unwrap() {
        if entry["operation"] == "putBlock" && entry["effect"] == true {
            *staged.entry(entry["block_id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    staged
}

#[test]
fn an_upload_killed_between_blocks_goes_on_without_sending_a_finished_block_again() {
    const BEFORE: usize = 5;
    let world = World::new();
    let mut own = std::fs::OpenOptions::new().append(true).open(world.path("own.toml")).unwrap();
    own.write_all(b"\n[transfer]\nsingle_shot = 0\nblock_size = \"64KiB\"\nconcurrency = 1\n").unwrap();
    let job = world.job("nic-1");
    let driver = noise(1 << 20);
    let files = vec![
        NewFile { path: "nic/nic.inf".into(), content: Box::new(crate::world::INF) },
        NewFile { path: "nic/nic.sys".into(), content: Box::new(driver.as_slice()) },
    ];
    cabinet::write(files, &world.path("builds").join("nic-1.cab")).unwrap();
    // The block after the fifth is taken, and its answer held back: the worker dies with it in flight.
    let params = Params { seconds: Some(600.0), ..Params::default() };
    world.fault(Fault { after: BEFORE as u64, params, ..Fault::next("putBlock", FaultKind::Slow) });
    world.submit(&job, &[]).ended(0);
    let doomed = worker(&world);
    let begun = clock::monotonic();
    while staged(&world).len() <= BEFORE {
        assert!(begun.elapsed() < PATIENCE, "no block came: {}", world.sandbox.journal());
        std::thread::yield_now();
    }
    drop(doomed);
    let before = staged(&world);
    assert_eq!(before.len(), BEFORE + 1);

    let result = world.submit(&job, &["--wait"]).ended(0).json();
    assert_eq!(result["state"], "completed", "{result}");
    let after = staged(&world);
    assert!(after.len() > before.len(), "the rest was sent: {after:?}");
    assert!(after.values().all(|times| *times == 1), "a finished block was sent again: {after:?}");
    let verdict: Value = world.sandbox.verdict();
    assert_eq!(verdict["clean"], true, "{verdict}");
}

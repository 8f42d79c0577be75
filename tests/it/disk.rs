//! A disk that is full and a file that is damaged: the file is named, the code is 11, and nothing is lost.

use std::path::Path;

use serde_json::json;

use crate::world::World;

/// A small disk of its own below the test's folder, gone when it is dropped.
struct Tmpfs<'a>(&'a Path);

impl<'a> Tmpfs<'a> {
    /// None, with a printed reason, where this user cannot mount one.
    fn mount(place: &'a Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(place).unwrap();
        let option = format!("size={size},mode=0700");
        let mounted =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &option, "tmpfs"]).arg(place).output();
        let why = match mounted {
            Ok(output) if output.status.success() => return Some(Self(place)),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        println!("skipped: a tmpfs of {size} cannot be mounted: {why}");
        assert!(std::env::var_os("REQUIRE_SERVICES").is_none_or(|set| set != "1"), "REQUIRE_SERVICES=1 allows no skip");
        None
    }

    /// Room that is left, taken to the last byte.
    fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.0.join("ballast")).unwrap();
        for size in [64 << 10, 4 << 10, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg("--lazy").arg(self.0).status();
        assert!(std::thread::panicking() || unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
fn a_full_disk_is_named_and_everything_goes_on_when_there_is_room_again() {
    let world = World::new();
    let place = world.path("home");
    let Some(disk) = Tmpfs::mount(&place, "2m") else { return };
    world.submit(&world.job("nic-1"), &[]).ended(0);
    disk.fill();

    // A job that does not fit is refused whole; one that was accepted waits.
    let mut refused = None;
    for number in 0..200 {
        let ran = world.submit(&world.job(&format!("more-{number}")), &[]);
        if ran.code != 0 {
            refused = Some((number, ran.ended(11)));
            break;
        }
    }
    let (number, ran) = refused.expect("200 jobs fit on a full disk");
    let flat = ran.err.split_whitespace().collect::<Vec<_>>().join(" ");
    for told in ["error: ", "longshore.db", "cannot grow", "make room", " next "] {
        assert!(flat.contains(told), "no {told:?} in {}", ran.err);
    }
    assert!(!flat.contains("os error"), "{}", ran.err);

    disk.make_room();
    let listed = world.run(&["job", "list"]).ended(0).json();
    let jobs = listed["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), number + 1, "the refused job is not there, all others are: {listed}");
    assert!(jobs.iter().all(|job| job["state"] == "accepted"), "{listed}");
    assert_eq!(world.run(&["job", "watch", "nic-1"]).ended(0).json()["state"], "completed");
    let retried = world.submit(&world.job(&format!("more-{number}")), &[]).ended(0).json();
    assert_eq!(retried["state"], "accepted");
    world.run(&["doctor"]).ended(0);
    crate::run_folder::register_home(&place).unwrap();
}

#[test]
fn a_disk_that_fills_up_under_a_job_holds_it_up_and_loses_nothing() {
    let world = World::new();
    let place = world.path("home");
    let Some(disk) = Tmpfs::mount(&place, "2m") else { return };
    let mut job = world.job("nic-1");
    job["deadline"] = json!("10m");
    world.submit(&job, &[]).ended(0);
    disk.fill();
    let ran = world.run(&["job", "watch", "nic-1"]);
    assert!([0, 11].contains(&ran.code), "{}: {}", ran.code, ran.err);
    if ran.code == 11 {
        assert!(ran.err.contains("longshore.db") && ran.err.contains("cannot grow"), "{}", ran.err);
    }
    disk.make_room();
    assert_eq!(world.run(&["job", "watch", "nic-1"]).ended(0).json()["state"], "completed");
    let verdict = world.sandbox.verdict();
    assert_eq!((&verdict["clean"], &verdict["totals"]["products"]), (&json!(true), &json!(1)), "{verdict}");
    crate::run_folder::register_home(&place).unwrap();
}

#[test]
fn a_damaged_file_is_named_by_every_command_and_never_written_over() {
    let world = World::new();
    world.submit(&world.job("nic-1"), &["--wait"]).ended(0);
    let (file, log) = (world.path("home/longshore.db"), world.path("home/longshore.db-wal"));
    let whole = [&file, &log].map(|path| std::fs::read(path).ok());
    let mut damaged = whole[0].clone().unwrap();
    damaged[..64].fill(0x5a);
    std::fs::write(&file, &damaged).unwrap();
    // The log beside it may hold a good copy of the same page.
    if let Some(mut bytes) = whole[1].clone().filter(|bytes| bytes.len() > 32) {
        bytes[..32].fill(0x5a);
        std::fs::write(&log, bytes).unwrap();
    }
    for arguments in [
        &["job", "list"][..],
        &["job", "show", "nic-1"],
        &["dead-letter", "list"],
        &["worker"],
        &["product", "list", "--mine"],
        &["doctor"],
        &["doctor", "--restored"],
    ] {
        let ran = world.run(arguments).ended(11);
        let flat = ran.err.split_whitespace().collect::<Vec<_>>().join(" ");
        for told in ["error: ", "longshore.db", "is damaged", "--restored", " next "] {
            assert!(flat.contains(told), "{arguments:?}: no {told:?} in {}", ran.err);
        }
        assert_eq!(std::fs::read(&file).unwrap(), damaged, "{arguments:?} wrote to the damaged file");
    }
    let mut job = world.job("nic-2");
    job["id"] = json!("nic-2");
    world.submit(&job, &["--wait"]).ended(11);
    // A copy put back is the home again.
    for (path, bytes) in [&file, &log].into_iter().zip(whole) {
        if let Some(bytes) = bytes {
            std::fs::write(path, bytes).unwrap();
        }
    }
    world.run(&["doctor", "--restored"]).ended(0);
    let shown = world.run(&["job", "show", "nic-1"]).ended(0).json();
    assert_eq!(shown["state"], "completed", "{shown}");
    world.run(&["doctor"]).ended(0);
}

//! The fleet's memory: one Redis, or a primary with a replica and three Sentinels.

use std::path::Path;

use longshore::clock;

use crate::servers::Redis;

const NAME: &str = "longshore";

/// The servers of the memory.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) primary: Redis,
    replica: Option<Redis>,
    sentinels: Vec<Redis>,
}

impl Memory {
    pub(super) fn start(folder: &Path, has_sentinel: bool) -> Self {
        let settings = [("repl-diskless-sync-delay", "0"), ("maxmemory-policy", "noeviction")];
        let primary = Redis::with(&folder.join("primary"), &settings);
        if !has_sentinel {
            return Self { primary, replica: None, sentinels: Vec::new() };
        }
        let of = format!("127.0.0.1 {}", primary.port);
        let replica = Redis::with(&folder.join("replica"), &[("replicaof", &of), ("maxmemory-policy", "noeviction")]);
        let sentinel = |n| Redis::sentinel(&folder.join(format!("sentinel-{n}")), NAME, primary.port);
        let sentinels: Vec<Redis> = (0..3).map(sentinel).collect();
        wait_for("the replica and the Sentinels", || {
            primary.cli(&["INFO", "replication"]).contains("connected_slaves:1")
                && sentinels.iter().all(|one| {
                    let seen = one.cli(&["SENTINEL", "MASTER", NAME]);
                    one.cli(&["SENTINEL", "CKQUORUM", NAME]).starts_with("OK")
                        && value(&seen, "num-slaves") == Some("1")
                        && value(&seen, "num-other-sentinels") == Some("2")
                })
        });
        Self { primary, replica: Some(replica), sentinels }
    }

    /// Where clients look for it.
    pub(super) fn url(&self) -> String {
        self.primary.url()
    }

    /// What `[redis]` says besides.
    pub(super) fn setting(&self) -> String {
        if self.sentinels.is_empty() {
            return String::new();
        }
        let all: Vec<String> = self.sentinels.iter().map(|one| format!("\"127.0.0.1:{}\"", one.port)).collect();
        format!("sentinel_master = \"{NAME}\"\nsentinels = [{}]\n", all.join(", "))
    }

    /// The replica is cut off, so that it misses what is written from now on.
    pub(crate) fn part(&self) {
        if let Some(replica) = &self.replica {
            replica.freeze();
            self.primary.cli(&["CLIENT", "KILL", "TYPE", "replica"]);
        }
    }

    /// The primary dies, and the replica, which lacks the last writes, takes its place; the old one comes back as its replica.
    pub(crate) fn fail_over(&mut self) {
        let Some(replica) = &self.replica else { return };
        self.primary.kill();
        replica.thaw();
        wait_for("the replica to be promoted", || replica.cli(&["ROLE"]).starts_with("master"));
        self.primary.start_again();
        wait_for("the old primary as a replica", || self.primary.cli(&["ROLE"]).starts_with("slave"));
    }
}

fn value<'a>(said: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = said.lines();
    lines.by_ref().find(|line| *line == name)?;
    lines.next()
}

/// Waits for a server of ours; each look starts a program, so nothing spins.
fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let begun = clock::monotonic();
    while !is_so() {
        assert!(begun.elapsed() < std::time::Duration::from_secs(90), "it never came: {what}");
    }
}

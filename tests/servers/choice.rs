//! Which servers are started: those that are installed, unless the environment names others (`tests/servers/matrix`).
//!
//! What it names must be there: otherwise a run on another version would quietly be one on this machine's own.

use std::{
    env,
    path::{Path, PathBuf},
};

/// A folder with another Debian in it, whose RabbitMQ is started (by root, in a chroot).
const ROOT: &str = "LONGSHORE_TEST_RABBITMQ_ROOT";
/// How many nodes a broker has, 1 or 3.
const NODES: &str = "LONGSHORE_TEST_RABBITMQ_NODES";
/// The program that is started as Redis, by its path.
const REDIS: &str = "LONGSHORE_TEST_REDIS_SERVER";

/// Runs a command in such a folder.
pub const INSIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/inside");

/// The folder whose RabbitMQ is started; none: the installed one.
pub fn root() -> Option<PathBuf> {
    let root = PathBuf::from(env::var_os(ROOT).filter(|root| !root.is_empty())?);
    let program = root.join(super::RABBIT.trim_start_matches('/'));
    assert!(program.exists(), "{ROOT}: {} is missing (make test-matrix makes such a folder)", program.display());
    Some(root.canonicalize().unwrap())
}

/// The number of nodes of each broker.
pub fn nodes() -> usize {
    match env::var(NODES).as_deref() {
        Err(_) | Ok("" | "1") => 1,
        Ok("3") => 3,
        Ok(other) => panic!("{NODES} is 1 or 3, not {other:?}"),
    }
}

/// The program that is started as Redis.
pub fn redis() -> PathBuf {
    let Some(named) = env::var_os(REDIS).filter(|named| !named.is_empty()) else {
        return Path::new("/usr/bin/redis-server").to_owned();
    };
    let program = PathBuf::from(named);
    assert!(program.exists(), "{REDIS}: {} is missing (make test-matrix makes it)", program.display());
    program.canonicalize().unwrap()
}

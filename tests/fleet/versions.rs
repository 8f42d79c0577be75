//! On which servers the tests of the fleet run.

use crate::{place::Place, servers};

#[test]
fn what_runs_is_what_was_chosen() {
    if !servers::are_installed() {
        return;
    }
    let place = Place::new();
    let (version, nodes) = place.broker.version();
    servers::say(&format!(
        "servers: RabbitMQ {version}{}, {}",
        if nodes == 1 { String::new() } else { format!(", {nodes} nodes") },
        place.redis.version()
    ));
    assert_eq!(nodes, servers::chosen_nodes());
    let root = servers::chosen_root().unwrap_or_else(|| "/".into());
    let roots = place.broker.roots();
    assert!(roots.len() == nodes && roots.iter().all(|one| *one == root), "{roots:?}, not {}", root.display());
}

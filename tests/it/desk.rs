//! A person's reads keep to the account's rate, and what they meet is told to all.

use longshore::sandbox::{Fault, FaultKind, Params};
use serde_json::Value;

use crate::world::World;

fn calls(world: &World) -> usize {
    let journal = world.sandbox.journal();
    let of_the_api = |line: &&Value| line["operation"] == "listProducts";
    journal.as_array().unwrap().iter().filter(of_the_api).count()
}

#[test]
fn a_429_on_a_persons_read_closes_the_gate_for_all_and_the_next_read_says_until_when() {
    let world = World::new();
    let params = Params { seconds: Some(600.0), ..Params::default() };
    world.fault(Fault { params, ..Fault::next("listProducts", FaultKind::Throttle) });
    let throttled = world.run(&["product", "list"]).ended(7);
    assert!(throttled.err.contains("throttled until 20"), "{}", throttled.err);
    assert_eq!(calls(&world), 1);
    // Neither this command nor another one calls again in the pause, and neither waits for its end.
    for arguments in [&["product", "list"][..], &["submission", "list", "14300000000000001"]] {
        let refused = world.run(arguments).ended(7);
        assert!(refused.err.contains("account contoso is throttled until 20"), "{}", refused.err);
    }
    assert_eq!(world.sandbox.journal().as_array().unwrap().iter().filter(|line| line["status"] == 429).count(), 1);
    assert_eq!(calls(&world), 1);
}

#[test]
fn five_outages_of_a_persons_reads_close_the_gate() {
    let world = World::new();
    std::fs::write(world.path("more.toml"), "[gate]\nfirst = \"60s\"\nlast = \"60s\"\n").unwrap();
    let params = Params { status: Some(503), ..Params::default() };
    world.fault(Fault { params, count: None, ..Fault::next("listProducts", FaultKind::Status) });
    for _ in 0..5 {
        world.run(&["product", "list"]).ended(13);
    }
    let before = calls(&world);
    let refused = world.run(&["product", "list"]).ended(7);
    assert!(refused.err.contains("throttled until 20"), "{}", refused.err);
    assert_eq!(calls(&world), before);
}

#[test]
fn a_read_beyond_the_rate_waits_and_says_so() {
    let world = World::new();
    std::fs::write(world.path("more.toml"), "[limits.hardware]\ncalls_per_minute = 20\n").unwrap();
    world.run(&["product", "list"]).ended(0);
    let waited = world.run(&["product", "list"]).ended(0);
    assert!(waited.err.contains("waiting for a permit"), "{}", waited.err);
}

#[test]
fn a_throttle_of_the_token_endpoint_is_a_rate_limit_to_a_person() {
    let world = World::new();
    let params = Params { seconds: Some(600.0), ..Params::default() };
    world.fault(Fault { params, count: None, ..Fault::next("token", FaultKind::Throttle) });
    let throttled = world.run(&["product", "list"]).ended(7);
    assert!(throttled.err.contains("the token endpoint asks for a pause"), "{}", throttled.err);
    world.run(&["auth", "test"]).ended(7);
    world.run(&["doctor"]).ended(7);
}

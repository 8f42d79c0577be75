//! What programs read: JSON on a pipe, one document, with a schema number.

use serde_json::Value;

use crate::world::World;

#[test]
fn every_result_on_a_pipe_is_one_json_document_with_a_schema_number() {
    let world = World::new();
    world.submit(&world.job("nic-1"), &["--wait"]).ended(0);
    for arguments in [
        &["job", "list"][..],
        &["job", "show", "nic-1"],
        &["job", "watch", "nic-1"],
        &["dead-letter", "list"],
        &["product", "list"],
        &["product", "list", "--mine"],
        &["product", "list", "--orphans"],
        &["auth", "test"],
        &["doctor"],
        &["config", "show"],
        &["config", "check"],
        &["schema", "jobs"],
        &["schema", "events"],
        &["schema", "config"],
    ] {
        let ran = world.run(arguments).ended(0);
        assert_eq!(ran.json()["schema"], 1, "{arguments:?}: {}", ran.out);
        assert_eq!(ran.out.lines().count(), 1, "{arguments:?}");
    }
}

#[test]
fn ndjson_is_one_event_a_line_and_the_result_last() {
    let world = World::new();
    let ran = world.submit(&world.job("nic-1"), &["--wait", "--output", "ndjson"]).ended(0);
    let lines: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let types: Vec<&str> = lines.iter().filter_map(|line| line["type"].as_str()).collect();
    assert_eq!(types.first(), Some(&"dev.longshore.job.accepted.v1"), "{types:?}");
    assert_eq!(types.last(), Some(&"dev.longshore.job.completed.v1"), "{types:?}");
    assert_eq!(types.len() + 1, lines.len());
    assert_eq!(lines.last().unwrap()["state"], "completed");
    let mut ids: Vec<&str> = lines.iter().filter_map(|line| line["id"].as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), types.len(), "no event comes twice");
}

#[test]
fn tables_are_for_people_and_come_when_asked_for() {
    let world = World::new();
    let empty = world.run(&["job", "list", "--output", "table"]).ended(0);
    assert!(empty.out.contains("longshore submit FILE"), "an empty list says what would fill it: {}", empty.out);
    world.submit(&world.job("nic-1"), &[]).ended(0);
    let table = world.run(&["job", "list", "--output", "table", "--utc"]).ended(0).out;
    assert!(table.contains("nic-1") && table.contains("accepted") && !table.contains('\u{1b}'), "{table}");
    let shown = world.run(&["job", "show", "nic-1", "--output", "table", "--utc"]).ended(0).out;
    assert!(shown.contains("submission") && shown.contains("(UTC)"), "{shown}");
}

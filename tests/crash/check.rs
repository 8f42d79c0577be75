//! What must hold at the end of every cell, read from the home, the sandbox's verdict and journal, and the files.

use std::{collections::BTreeSet, fs, path::Path};

use longshore::{
    domain::{
        event::{Event, Name},
        ticket::Downloaded,
    },
    embedded::{EventFilter, JobView, State},
    package::{hlkx::Archive, verify},
};
use serde_json::{Value, json};

use crate::folder::World;

/// The journal's entries.
pub(crate) fn entries(journal: &Value) -> impl Iterator<Item = &Value> {
    journal.as_array().into_iter().flatten()
}

/// Everything that does not hold.
pub(crate) async fn all(world: &World, view: &JobView) -> Vec<String> {
    let mut problems = Vec::new();
    if view.state() != State::Completed {
        let why = view.end.as_ref().and_then(|end| end.reason.as_ref()).map(|reason| reason.message.as_str());
        problems.push(format!("the job ended {}: {}", view.state(), why.unwrap_or("no reason was given")));
    }
    verdict(world, &mut problems);
    effects(world, &mut problems);
    home(world, &mut problems).await;
    files(world, view, &mut problems);
    problems
}

/// The service has one of each, and the bytes that were handed in.
fn verdict(world: &World, problems: &mut Vec<String>) {
    let verdict = world.sandbox.verdict();
    let own = &verdict["by_correlation"][world.ticket.key().correlation_id().0.to_string()];
    let totals = &verdict["totals"];
    for (what, is, must_be) in [
        ("its products", &own["products"], json!(1)),
        ("its submissions", &own["submissions"], json!(1)),
        ("its committed submissions", &own["committed_submissions"], json!(1)),
        ("its packages, by SHA-256", &own["package_sha256"], json!([world.sha256])),
        ("all products", &totals["products"], json!(1)),
        ("all submissions", &totals["submissions"], json!(1)),
        ("bearers to the blob host", &totals["bearer_to_blob"], json!(0)),
        ("commits that were refused as repeated", &totals["repeated_commits_refused"], json!(0)),
        ("violations", &verdict["violations"], json!([])),
    ] {
        if *is != must_be {
            problems.push(format!("{what}: {is}, not {must_be}"));
        }
    }
}

/// Each write took effect once, by the journal.
fn effects(world: &World, problems: &mut Vec<String>) {
    let journal = world.sandbox.journal();
    for operation in ["createProduct", "createInitialSubmission", "commitSubmission"] {
        let times =
            entries(&journal).filter(|entry| entry["operation"] == operation && entry["effect"] == true).count();
        if times != 1 {
            problems.push(format!("{operation} took effect {times} times"));
        }
    }
}

/// One end was announced, no event twice, and nothing is left over.
async fn home(world: &World, problems: &mut Vec<String>) {
    let filter = EventFilter { job: Some(world.ticket.key()), ..EventFilter::default() };
    let events: Vec<Event> = world.home.events(0, filter).await.unwrap().into_iter().map(|(_, event)| event).collect();
    let ends: Vec<&str> = events.iter().filter(|event| event.name.is_end()).map(|event| event.name.as_str()).collect();
    if ends != [Name::Completed.as_str()] {
        problems.push(format!("end events: {ends:?}"));
    }
    for name in [Name::Accepted, Name::Started] {
        let times = events.iter().filter(|event| event.name == name).count();
        if times != 1 {
            problems.push(format!("{times} events {}", name.as_str()));
        }
    }
    let ids: BTreeSet<_> = events.iter().map(|event| event.id).collect();
    if ids.len() != events.len() {
        problems.push("an event stands twice".to_owned());
    }
    let size = world.home.size().await.unwrap();
    if (size.messages, size.dead_letters) != (0, 0) {
        problems.push(format!("{} messages and {} dead letters are left", size.messages, size.dead_letters));
    }
}

/// One file was written: the signed package of the bytes that were handed in, and nothing beside it.
fn files(world: &World, view: &JobView, problems: &mut Vec<String>) {
    let downloads = view.ticket.as_ref().map(|ticket| ticket.progress.downloads.clone()).unwrap_or_default();
    let [file] = downloads.as_slice() else {
        problems.push(format!("{} files were downloaded", downloads.len()));
        return;
    };
    problems.extend(signed(world, file).err());
    let here: Vec<_> = fs::read_dir(world.out()).unwrap().map(|entry| entry.unwrap().path()).collect();
    if here != [Path::new(&file.path)] {
        problems.push(format!("the sink holds {here:?}"));
    }
}

fn signed(world: &World, file: &Downloaded) -> Result<(), String> {
    let path = Path::new(&file.path);
    let bytes = fs::read(path).map_err(|error| format!("{} cannot be read: {error}", file.path))?;
    if longshore::domain::ids::Sha256::of(&bytes) != file.sha256 {
        return Err(format!("{} is not what was downloaded", file.path));
    }
    verify::verify(path, Some(&world.cabinet())).map_err(|failure| failure.to_string())?;
    let mut archive = Archive::open(path, true).map_err(|error| error.to_string())?;
    let note = archive.entries().iter().find(|entry| entry.path == "sandbox.json").cloned();
    let note = note.ok_or("the signed package does not say what it was made from")?;
    let mut text = Vec::new();
    archive.read(&note, |piece| text.extend_from_slice(piece)).map_err(|error| error.to_string())?;
    let note: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if note["sha256"] != json!(world.sha256) {
        return Err(format!("the signed package was made from {}, not from {}", note["sha256"], world.sha256));
    }
    Ok(())
}

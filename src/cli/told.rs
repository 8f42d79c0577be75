//! What happens to a job, in words: one sentence an event, the same on every screen.

use std::time::Duration;

use serde_json::Value;

use super::{
    job::age,
    output::{duration, size},
};
use crate::{
    domain::{
        event::{Event, Name},
        service::{WORKFLOW_STEPS, Workflow},
        ticket::{Downloaded, StepResult},
        time::Moment,
    },
    embedded::JobView,
};

/// An event in words; none for what a person need not see.
pub(super) fn tell(event: &Event) -> Option<String> {
    let text = |name: &str| event.data.get(name).and_then(Value::as_str).map(str::to_owned);
    match event.name {
        Name::Accepted => Some("accepted".to_owned()),
        Name::Started => Some("started".to_owned()),
        Name::Refused => Some(format!("refused: {}", text("message").unwrap_or_default())),
        Name::Throttled => Some(format!("throttled, waits {}", duration(pause(event)))),
        Name::Stuck if event.data.get("sign_in").is_some() => {
            Some(format!("sign-in is refused: {}", text("message").unwrap_or_default()))
        }
        Name::Stuck => Some(format!("takes longer than usual at {}", text("workflow_step").unwrap_or_default())),
        Name::Progressed => progressed(event),
        Name::Completed => Some(completed(event)),
        Name::Failed | Name::Cancelled | Name::TimedOut | Name::DeadLettered => {
            let reason = event.data.pointer("/reason/message").and_then(Value::as_str);
            Some(format!("{}: {}", event.name, reason.unwrap_or("no reason was given")))
        }
    }
}

/// How long a throttled job waits.
pub(super) fn pause(event: &Event) -> Duration {
    let wait = event.data.get("wait_seconds").and_then(Value::as_f64).unwrap_or_default();
    Duration::try_from_secs_f64(wait).unwrap_or_default()
}

fn progressed(event: &Event) -> Option<String> {
    let step = event.data.get("step")?.as_str()?;
    if let Some(done) = event.data.get("done") {
        let result: StepResult = serde_json::from_value(done.clone()).ok()?;
        return Some(done_in_words(&result));
    }
    if let Some(doubt) = event.data.get("in_doubt").and_then(Value::as_str) {
        let doubt = doubt.split_once(" (").map_or(doubt, |(doubt, _)| doubt);
        return Some(format!("{step}: {doubt}; looking for its effect"));
    }
    let workflow = event.data.get("workflow_step").and_then(Value::as_str)?;
    let state = event.data.get("workflow_state").and_then(Value::as_str).unwrap_or("under way");
    Some(format!("signing      {}, {}", workflow_step(workflow), words(state)))
}

/// `step 5 of 8, validation`; a step that is not among the documented ones has no number (hardware-api 7.1).
pub(super) fn workflow_step(step: &str) -> String {
    let workflow = Workflow { step: Some(step.to_owned()), ..Workflow::default() };
    match workflow.step_number() {
        Some(number) => format!("step {number} of {}, {step}", WORKFLOW_STEPS.len()),
        None => step.to_owned(),
    }
}

/// The service's `notStarted` as people write it.
fn words(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

/// How the watch over the service's workflow stands, at this time: the step, since when, the next look.
pub(super) fn watched(view: &JobView, now: Moment) -> Option<String> {
    let watch = view.ticket.as_ref()?.progress.watch.as_ref()?;
    let step = workflow_step(watch.step.as_deref()?);
    let usual = if watch.said_stuck { ", longer than usual" } else { "" };
    let look = match view.summary.next_due {
        Some(due) if due > now => format!(" · next look in {}", age(due.since(now))),
        Some(_) | None => String::new(),
    };
    Some(format!("signing      {step} · {} so far{usual}{look}", age(now.since(watch.unchanged_since))))
}

fn done_in_words(result: &StepResult) -> String {
    let made = |adopted: &bool| if *adopted { "found by a look, adopted" } else { "created" };
    match result {
        StepResult::Preflight { package: Some(package), .. } => {
            format!("package      {}, {} files, {} INF", size(package.size), package.files, package.inf_files)
        }
        StepResult::Preflight { package: None, .. } => "package      none to check".to_owned(),
        StepResult::CreateProduct { id, adopted, .. } => format!("product      {id}, {}", made(adopted)),
        StepResult::CreateSubmission { id, adopted } => format!("submission   {id}, {}", made(adopted)),
        StepResult::Upload { bytes } => format!("upload       {}", size(*bytes)),
        StepResult::Commit { adopted: true } => "commit       found by a look".to_owned(),
        StepResult::Commit { adopted: false } => "commit       accepted".to_owned(),
        StepResult::Poll { warning, .. } => {
            format!("signing      over{}", warning.as_ref().map(|text| format!("; {text}")).unwrap_or_default())
        }
        StepResult::Download { files, .. } => {
            let compared = compared(files).map(|words| format!(", {words}")).unwrap_or_default();
            format!("download     {}{compared}", counted(files.len()))
        }
        StepResult::Refused { cause } => format!("refused      {}", cause.message),
    }
}

fn completed(event: &Event) -> String {
    let files = event.data.get("downloads").cloned().unwrap_or_default();
    let files: Vec<Downloaded> = serde_json::from_value(files).unwrap_or_default();
    let compared = compared(&files).map(|words| format!(", {words}")).unwrap_or_default();
    match files.len() {
        0 => "completed".to_owned(),
        1 => format!("signed, downloaded{compared}"),
        count => format!("signed, {} downloaded{compared}", counted(count)),
    }
}

fn counted(files: usize) -> String {
    if files == 1 { "1 file".to_owned() } else { format!("{files} files") }
}

/// Was the signed package compared with what was submitted? None when none is among the files.
fn compared(files: &[Downloaded]) -> Option<String> {
    let signed = files.iter().find(|file| is_signed_package(file))?;
    if signed.is_verified {
        return Some("verified".to_owned());
    }
    Some(format!("not compared: {}", signed.unverified.as_deref().unwrap_or("the job brings no package")))
}

/// Whether a file was compared with what was submitted; of other files than the signed package nothing is said.
pub(super) fn of_file(file: &Downloaded) -> Option<&'static str> {
    match (is_signed_package(file), file.is_verified) {
        (true, true) => Some("verified"),
        (true, false) => Some("not compared"),
        (false, _) => None,
    }
}

/// The type of the download that is compared (hardware-api 6.6).
fn is_signed_package(file: &Downloaded) -> bool {
    file.kind.eq_ignore_ascii_case("signedPackage")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::Sha256;

    fn file(kind: &str, is_verified: bool) -> Downloaded {
        let sha256 = Sha256::of(b"x");
        let path = "/out/x.zip".to_owned();
        Downloaded { kind: kind.to_owned(), path, sha256, size: 1, is_verified, unverified: None }
    }

    #[test]
    fn only_what_was_compared_is_called_verified() {
        let gone = "the submitted package can no longer be read; its INF files were not compared";
        let unread = Downloaded { unverified: Some(gone.to_owned()), ..file("signedPackage", false) };
        for (files, words) in [
            (vec![file("signedPackage", true)], "1 file, verified".to_owned()),
            (vec![file("SignedPackage", true), file("driverMetadata", false)], "2 files, verified".to_owned()),
            (vec![file("signedPackage", false)], "1 file, not compared: the job brings no package".to_owned()),
            (vec![unread], format!("1 file, not compared: {gone}")),
            (vec![file("driverMetadata", false)], "1 file".to_owned()),
            (vec![], "0 files".to_owned()),
        ] {
            let result = StepResult::Download { files, warnings: vec!["compare what you like".to_owned()] };
            assert_eq!(done_in_words(&result), format!("download     {words}"));
        }
        assert_eq!(of_file(&file("signedPackage", true)), Some("verified"));
        assert_eq!(of_file(&file("signedPackage", false)), Some("not compared"));
        assert_eq!(of_file(&file("driverMetadata", false)), None);
    }

    #[test]
    fn a_step_of_the_workflow_has_a_number_and_a_total_when_it_is_a_documented_one() {
        assert_eq!(workflow_step("validation"), "step 4 of 8, validation");
        assert_eq!(workflow_step("somethingNew"), "somethingNew");
        assert_eq!([words("notStarted"), words("started"), words("")], ["not started", "started", ""]);
    }
}

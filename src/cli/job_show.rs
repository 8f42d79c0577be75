//! `longshore job show`: one job, its whole story.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    context::Context,
    exit::Exit,
    intake, job,
    output::{Form, Mark, Paint, duration, size},
    result::JobResult,
    stop::Outcome,
    text::Put as _,
    told, watch,
};
use crate::{
    app::{Parts, views::Views},
    clock,
    domain::{
        event::{Event, Name},
        ids::JobKey,
        step::{Kind, Place, Step},
        ticket::Ticket,
        time::Moment,
    },
    embedded::JobView,
};

/// Shows a job with what happened to it; a fleet's home keeps no events.
pub(super) async fn run(
    context: &mut Context,
    parts: &Parts,
    views: Views<'_>,
    (key, events): (&JobKey, &[Event]),
) -> Outcome {
    let Some(view) = views.job(key).await? else { return Err(intake::unknown_job(views, key.id.as_str()).await?) };
    if context.form() != Form::Table {
        context.out.document(&document(&view, events))?;
        return Ok(Exit::Done);
    }
    let text = screen(context, parts, &view, events);
    context.out.text(&text)?;
    Ok(Exit::Done)
}

/// The result object, with all that a list shows and what happened.
fn document(view: &JobView, events: &[Event]) -> Value {
    let mut value = job::row(&view.summary);
    let result = serde_json::to_value(JobResult::of(view)).unwrap_or_default();
    let history: Vec<Value> = events.iter().map(Event::cloud_event).collect();
    let more = json!({
        "hash": view.hash,
        "cancel_wished_at": view.wish_at.map(Moment::timestamp),
        "in_doubt_since": view.doubt_since.map(Moment::timestamp),
        "transfer": view.transfer.map(|transfer| json!({ "done": transfer.done, "total": transfer.total })),
        "tries": tries(view.summary.place, events).values().sum::<u64>(),
        "attempts": view.ticket.as_ref().map(|ticket| ticket.attempts),
        "notes": view.ticket.as_ref().map(|ticket| &ticket.history),
        "correlation_id": view.summary.key.correlation_id(),
        "events": history,
    });
    if let Some(members) = value.as_object_mut() {
        for from in [result, more] {
            if let Value::Object(from) = from {
                members.extend(from);
            }
        }
    }
    value
}

/// One line of the screen: a label in eight columns, and what there is to say.
fn labelled(context: &Context, out: &mut String, label: &str, text: &str) {
    let label = context.style.paint(Paint::Strong, &format!("{label:<10}"));
    out.put(format_args!("{label} {}\n", context.style.text(text)));
}

fn screen(context: &Context, app: &Parts, view: &JobView, events: &[Event]) -> String {
    let (summary, now) = (&view.summary, clock::moment());
    let times = &context.times;
    let short = |at: Moment| times.short(at.timestamp(), now.timestamp());
    let producer = view.ticket.as_ref().and_then(|ticket| ticket.producer.as_ref());
    let by = producer.map(|name| format!(" by {name}")).unwrap_or_default();
    let left = summary.deadline.filter(|_| !view.state().is_end()).map(|deadline| {
        if deadline > now {
            format!(", deadline in {}", duration(deadline.since(now)))
        } else {
            ", past its deadline".to_owned()
        }
    });
    let mut out = String::new();
    labelled(
        context,
        &mut out,
        summary.key.id.as_str(),
        &format!(
            "  {} · {} · {}     generation {}, accepted {}{by}{} ({})",
            summary.kind.map_or("", Kind::name),
            summary.key.account,
            view.state(),
            summary.place.generation,
            short(summary.accepted_at),
            left.unwrap_or_default(),
            times.name(now.timestamp()),
        ),
    );
    if !summary.labels.is_empty() {
        let labels: Vec<String> = summary.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        labelled(context, &mut out, "labels", &labels.join(" "));
    }
    if !view.state().is_end() {
        labelled(context, &mut out, "now", &present(view, now, &short));
    }
    if let Some(doubt) = doubt(app, view, &short) {
        labelled(context, &mut out, "doubt", &doubt);
    }
    if view.wish_at.is_some() && !view.state().is_end() {
        labelled(context, &mut out, "cancelling", "it is cancelled when it wakes");
    }
    let ids: Vec<String> = [("product", &summary.product_id), ("submission", &summary.submission_id)]
        .into_iter()
        .filter_map(|(name, id)| id.as_ref().map(|id| format!("{name} {id}")))
        .collect();
    if !ids.is_empty() {
        labelled(context, &mut out, "ids", &ids.join(" · "));
    }
    if let Some(tries) = tries_in_words(view.summary.place, events) {
        labelled(context, &mut out, "tries", &tries);
    }
    labelled(context, &mut out, "trace", &format!("correlation id {}", summary.key.correlation_id().0));
    for (at, text) in story(view.ticket.as_ref(), events) {
        out.put(format_args!("  {}  {}\n", short(at), context.style.text(&text)));
    }
    ending(context, view, &mut out);
    out
}

/// How many tries of each step have called so far, by generation and step; a try of a look may have called a hundred times,
/// once for each page. Told by the places of the events and the present one, so a step that left no event any more counts
/// with what its place says.
fn tries(place: Place, events: &[Event]) -> BTreeMap<(u32, u16), u64> {
    let mut tries = BTreeMap::new();
    let mut count = |generation: u32, step: u16, so_many: u64| {
        // The package is checked here, nobody is called.
        if step != Step::Preflight.number() {
            let known: &mut u64 = tries.entry((generation, step)).or_default();
            *known = so_many.max(*known);
        }
    };
    for event in events {
        let mut place = event.sequence.split('.').map(str::parse::<u32>);
        let (Some(Ok(generation)), Some(Ok(step)), Some(Ok(number))) = (place.next(), place.next(), place.next())
        else {
            continue;
        };
        // The try of this place has been called when it finished its step, or failed by what was called.
        let is_called = event.data.get("done").is_some()
            || event.name == Name::Completed
            || event.data.pointer("/reason/cause").is_some_and(|cause| !cause.is_null());
        count(generation, u16::try_from(step).unwrap_or_default(), u64::from(number) + u64::from(is_called));
    }
    count(place.generation, place.step, u64::from(place.r#try));
    tries.retain(|_, so_many| *so_many > 0);
    tries
}

/// The tries in all, and those of the present step.
fn tries_in_words(place: Place, events: &[Event]) -> Option<String> {
    let tries = tries(place, events);
    let all: u64 = tries.values().sum();
    let here = tries.get(&(place.generation, place.step)).copied().filter(|here| *here < all);
    let here = here.zip(Step::from_number(place.step)).map(|(here, step)| format!(", {here} of them at {step}"));
    (all > 0).then(|| format!("{all} so far{}", here.unwrap_or_default()))
}

fn present(view: &JobView, now: Moment, short: &dyn Fn(Moment) -> String) -> String {
    let step = Step::from_number(view.summary.place.step).map_or("a step of a newer version", Step::name);
    let mut text = step.to_owned();
    if let Some(watch) = view.ticket.as_ref().and_then(|ticket| ticket.progress.watch.as_ref())
        && let Some(workflow) = &watch.step
    {
        let usual = if watch.said_stuck { ", longer than usual" } else { "" };
        let span = duration(now.since(watch.unchanged_since));
        text.put(format_args!("; {}, {span} so far{usual}", told::workflow_step(workflow)));
    }
    if let Some(transfer) = view.transfer.filter(watch::is_fresh) {
        text.put(format_args!("; {} of {}", size(transfer.done), size(transfer.total)));
    }
    match view.summary.next_due {
        Some(due) if due > now => text.put(format_args!(", goes on {}", short(due))),
        Some(_) => text.push_str(", waits for a worker"),
        None => {}
    }
    text
}

/// What is in doubt, when it is looked at, and when it is made again at the earliest.
fn doubt(app: &Parts, view: &JobView, short: &dyn Fn(Moment) -> String) -> Option<String> {
    let since = view.doubt_since.filter(|_| !view.state().is_end())?;
    let step = Step::from_number(view.summary.place.step)?;
    let looks = &app.loaded.settings.waits.looks;
    let looks = match step {
        Step::CreateProduct => &looks.product,
        Step::CreateSubmission => &looks.submission,
        Step::Commit => &looks.commit,
        Step::Preflight | Step::Upload | Step::Poll | Step::Download => return None,
    };
    let at: Vec<String> = looks.iter().map(|wait| short(since.after(*wait))).collect();
    let last = at.last().cloned().unwrap_or_default();
    Some(format!("{step} since {}; looks at {}; made again at the earliest {last}", short(since), at.join(", ")))
}

/// What happened: the events, and what the ticket notes of its troubles, by time.
fn story(ticket: Option<&Ticket>, events: &[Event]) -> Vec<(Moment, String)> {
    let told = events.iter().filter_map(|event| {
        let words = told::tell(event)?;
        Some((event.time, words.split_whitespace().collect::<Vec<_>>().join(" ")))
    });
    let notes = ticket.into_iter().flat_map(|ticket| &ticket.history);
    let notes = notes.filter(|note| !note.what.ends_with(" done")).map(|note| (note.at, note.what.clone()));
    let mut story: Vec<(Moment, String)> = told.chain(notes).collect();
    story.sort_by_key(|(at, _)| *at);
    story
}

fn ending(context: &Context, view: &JobView, out: &mut String) {
    let style = context.style;
    for file in view.ticket.iter().flat_map(|ticket| &ticket.progress.downloads) {
        let compared = told::of_file(file).map(|words| format!(", {words}")).unwrap_or_default();
        let text = format!("{}, {}{compared}, SHA-256 {}", file.path, size(file.size), file.sha256);
        out.put(format_args!("{} {}\n", style.mark(Mark::Done), style.text(&text)));
    }
    if let Some(reason) = view.end.as_ref().and_then(|end| end.reason.as_ref()) {
        labelled(context, out, "why", &reason.message);
        labelled(context, out, "next", &reason.next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::job::Job;

    #[test]
    fn the_tries_so_far_are_told_by_the_places_of_the_events_and_the_present_one() {
        let text = r#"{"id":"a","kind":"status-poll","account":"contoso","spec":{"product":{"id":"1"},"submission":{"id":"2"}}}"#;
        let job = Job::decode(text.as_bytes(), || None).unwrap();
        let hash = job.content_hash();
        let mut ticket = Ticket::new(job, hash, None, clock::moment());
        let event = |ticket: &Ticket, name: Name, data: Value| Event::of(ticket, name, 2, clock::moment(), data);
        let mut events = vec![event(&ticket, Name::Accepted, json!({}))];
        assert_eq!(tries_in_words(ticket.place, &events), None);
        events.push(event(&ticket, Name::Progressed, json!({ "done": {} })));
        assert_eq!(tries_in_words(ticket.place, &events), None, "the package is checked here");
        ticket = ticket.at_step(Step::CreateProduct);
        events.push(event(&ticket, Name::Throttled, json!({})));
        ticket = ticket.next_try(clock::moment());
        assert_eq!(tries_in_words(ticket.place, &events).as_deref(), Some("1 so far"));
        ticket = ticket.next_try(clock::moment());
        events.push(event(&ticket, Name::Progressed, json!({ "done": {} })));
        assert_eq!(tries_in_words(ticket.place, &events).as_deref(), Some("3 so far"));
        ticket = ticket.at_step(Step::CreateSubmission).next_try(clock::moment());
        let told = tries_in_words(ticket.place, &events);
        assert_eq!(told.as_deref(), Some("4 so far, 1 of them at create-submission"));
    }
}

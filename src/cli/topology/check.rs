//! `longshore topology check`: looks, lets canaries fly, and says what to do about what is wrong.

use serde_json::{Value, json};

use super::{Wanted, holds_tickets, row, unreachable, visit, with};
use crate::{
    app::{
        canary::{self, Flight, Outcome as Flew, Receivers},
        fleet,
    },
    cli::{
        context::Context,
        doctor::counted,
        exit::Exit,
        output::{Form, Mark, Paint, Style, in_words},
        stop::{Outcome, Stop},
        text::Put as _,
    },
    config::Loaded,
    domain::step::Kind,
    rabbitmq::{
        Names,
        canary::Way,
        topology::{Depth, Found, Looked, Object},
    },
};

/// Columns before the text of a finding: its label, its mark, and a blank behind each.
const INDENT: usize = 12;

/// What was found, in words; good, bad with a code, or open.
struct Finding {
    label: &'static str,
    mark: Mark,
    exit: Exit,
    text: String,
    next: Option<String>,
}

impl Finding {
    fn good(label: &'static str, text: impl Into<String>) -> Self {
        Self { label, mark: Mark::Done, exit: Exit::Done, text: text.into(), next: None }
    }

    fn bad(label: &'static str, exit: Exit, text: impl Into<String>, next: impl Into<String>) -> Self {
        Self { label, mark: Mark::Failed, exit, text: text.into(), next: Some(next.into()) }
    }

    fn open(label: &'static str, text: impl Into<String>, next: Option<&str>) -> Self {
        Self { label, mark: Mark::Unknown, exit: Exit::Done, text: text.into(), next: next.map(str::to_owned) }
    }
}

pub(super) async fn run(context: &mut Context, loaded: &Loaded) -> Outcome {
    let (broker, memory) = fleet::office(loaded)?;
    let wanted = Wanted::of(loaded);
    let visit = visit(&broker).await?;
    let looked = visit.check(&wanted.objects).await;
    visit.leave().await;
    let looked = looked.map_err(|down| unreachable(&broker, &down))?;
    let mut findings = objects(&looked);
    findings.extend(lanes(&wanted.names, &looked));
    let mut flights = Vec::new();
    if looked.iter().any(|one| one.found == Found::Missing) {
        findings.push(Finding::open("canaries", "none was sent: something is missing", None));
    } else {
        let ways: Vec<(Kind, Way)> = wanted.kinds.iter().flat_map(|kind| Way::ALL.map(|way| (*kind, way))).collect();
        let proven = canary::prove(&broker, &memory, &ways, Receivers::WorkersOrUs).await;
        flights = proven.map_err(|down| unreachable(&broker, &down))?;
        findings.extend(canaries(&wanted.names, &flights));
    }
    tell(context, &wanted.names, (&looked, &flights), &findings)?;
    Ok(worst(&findings))
}

/// What is missing comes first: the rest may follow from it.
fn worst(findings: &[Finding]) -> Exit {
    let order = [Exit::NotFound, Exit::WrongState, Exit::NotAllowed, Exit::Unavailable];
    order.into_iter().find(|exit| findings.iter().any(|finding| finding.exit == *exit)).unwrap_or(Exit::Done)
}

fn objects(looked: &[Looked]) -> Vec<Finding> {
    const LABEL: &str = "objects";
    let can_be_seen = || looked.iter().filter(|one| !matches!(one.object, Object::Binding { .. }));
    let mut findings = Vec::new();
    for one in can_be_seen().filter(|one| one.found == Found::Missing) {
        let next = "longshore topology declare";
        findings.push(Finding::bad(LABEL, Exit::NotFound, format!("{} is missing", one.object.name()), next));
    }
    let unseen = can_be_seen().filter(|one| one.found == Found::Forbidden).count();
    if unseen > 0 {
        let text = format!("{}: this user may not look whether they are there", counted(unseen, "object"));
        findings.push(Finding::open(LABEL, text, None));
    }
    let there = can_be_seen().filter(|one| one.found == Found::Well).count();
    if there > 0 {
        findings.insert(0, Finding::good(LABEL, format!("{there} exchanges and queues are there")));
    }
    let text = "with which arguments cannot be seen this way";
    findings.push(Finding::open(
        LABEL,
        text,
        Some("to compare them, with admin rights: longshore topology declare; it changes nothing that is there"),
    ));
    findings
}

/// Lanes whose tickets nobody takes, and what had no route.
fn lanes(names: &Names, looked: &[Looked]) -> Vec<Finding> {
    const LABEL: &str = "lanes";
    let mut findings = Vec::new();
    for one in looked {
        let (Object::Queue { name, .. }, Some(Depth { messages, consumers })) = (&one.object, one.depth) else {
            continue;
        };
        if messages == 0 {
            continue;
        }
        if *name == names.unrouted() {
            let text = format!("{} had no route and lie in {name}", counted_messages(messages));
            findings.push(Finding::open(LABEL, text, Some("mend what is wrong here first, then replay them")));
        } else if consumers == 0 && is_lane(names, &one.object) {
            let text = format!("{name}: {} and no consumer", counted_messages(messages));
            findings.push(Finding::open(LABEL, text, Some("start a worker of its kind: longshore worker")));
        }
    }
    findings
}

fn counted_messages(messages: u32) -> String {
    counted(usize::try_from(messages).unwrap_or(usize::MAX), "message")
}

/// A queue that workers consume: delays have no consumer, ever.
fn is_lane(names: &Names, object: &Object) -> bool {
    let is_delay = matches!(object, Object::Queue { name, .. } if name.starts_with(&names.delay()));
    holds_tickets(names, object) && !is_delay
}

fn canaries(names: &Names, flights: &[Flight]) -> Vec<Finding> {
    const LABEL: &str = "canaries";
    let mut findings = Vec::new();
    let back = flights.iter().filter(|flight| flight.outcome == Flew::Back).count();
    if back > 0 {
        let text = format!("{back} of {} came back", flights.len());
        findings.push(Finding::good(LABEL, text));
    }
    let mut forbidden = Vec::new();
    let mut unknown: Vec<&str> = Vec::new();
    for flight in flights {
        match &flight.outcome {
            Flew::Back => {}
            Flew::Lost(why) => {
                let next = "longshore topology declare, with admin rights; then look again";
                findings.push(Finding::bad(LABEL, Exit::WrongState, why.clone(), next));
            }
            Flew::Forbidden => forbidden.push(flight.way.exchange(names)),
            Flew::Unknown(why) => unknown.push(why),
        }
    }
    forbidden.sort();
    forbidden.dedup();
    for exchange in forbidden {
        let text = format!("what comes through {exchange} was not tried: this user may not write there");
        let next = "repeat it with a user that may";
        findings.push(if back == 0 {
            Finding::bad(LABEL, Exit::NotAllowed, text, next)
        } else {
            Finding::open(LABEL, text, Some(next))
        });
    }
    unknown.sort_unstable();
    unknown.dedup();
    for why in unknown {
        let text = format!("cannot be told: {}", in_words(why));
        // Without a single answer nothing was checked.
        findings.push(if back == 0 && flights.iter().all(|flight| matches!(flight.outcome, Flew::Unknown(_))) {
            Finding::bad(LABEL, Exit::Unavailable, text, "mend that, then: longshore topology check")
        } else {
            Finding::open(LABEL, text, Some("look again later"))
        });
    }
    findings
}

fn tell(
    context: &mut Context,
    names: &Names,
    (looked, flights): (&[Looked], &[Flight]),
    findings: &[Finding],
) -> Result<(), Stop> {
    let found = |finding: &Finding| {
        json!({
            "what": finding.label,
            "good": (finding.mark != Mark::Unknown).then_some(finding.exit == Exit::Done),
            "exit": finding.exit.code(),
            "message": finding.text,
            "next_step": finding.next,
        })
    };
    match context.form() {
        Form::Ndjson => {
            for finding in findings {
                context.out.line(&found(finding))?;
            }
        }
        Form::Json => {
            let objects: Vec<Value> = looked.iter().map(seen).collect();
            let flights: Vec<Value> = flights.iter().map(|flight| flew(names, flight)).collect();
            let findings: Vec<Value> = findings.iter().map(found).collect();
            context.out.document(&json!({ "objects": objects, "canaries": flights, "findings": findings }))?;
        }
        Form::Table => {
            let text = screen(&context.style, findings);
            context.out.text(&text)?;
        }
    }
    Ok(())
}

fn screen(style: &Style, findings: &[Finding]) -> String {
    let (mut out, mut last) = (String::new(), "");
    for finding in findings {
        let label = if finding.label == last { "" } else { finding.label };
        last = finding.label;
        let wrap = |text: &str| Style::wrap(&style.text(text), style.width.saturating_sub(INDENT));
        let next = finding.next.as_ref().map(|next| format!("next: {next}"));
        for (number, line) in wrap(&finding.text).into_iter().chain(next.iter().flat_map(|next| wrap(next))).enumerate()
        {
            if number == 0 {
                let label = style.paint(Paint::Strong, &format!("{label:<9}"));
                out.put(format_args!("{label} {} {line}\n", style.mark(finding.mark)));
            } else {
                out.put(format_args!("{:INDENT$}{line}\n", ""));
            }
        }
    }
    out
}

fn seen(looked: &Looked) -> Value {
    let state = match (&looked.object, &looked.found) {
        (Object::Binding { .. }, _) => "not-looked-at",
        (_, Found::Well | Found::Differs(_)) => "there",
        (_, Found::Missing) => "missing",
        (_, Found::Forbidden) => "unknown",
    };
    let depth = looked.depth;
    let more = json!({
        "state": state,
        "messages": depth.map(|depth| depth.messages),
        "consumers": depth.map(|depth| depth.consumers),
    });
    with(row(&looked.object), more)
}

fn flew(names: &Names, flight: &Flight) -> Value {
    let (state, message) = match &flight.outcome {
        Flew::Back => ("back", None),
        Flew::Lost(why) => ("lost", Some(why)),
        Flew::Forbidden => ("forbidden", None),
        Flew::Unknown(why) => ("unknown", Some(why)),
    };
    json!({
        "kind": flight.kind.name(),
        "way": flight.way.name(),
        "lane": flight.way.lane(names, flight.kind),
        "state": state,
        "message": message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(way: Way, outcome: Flew) -> Flight {
        Flight { kind: Kind::Upload, way, outcome }
    }

    fn exit(flights: &[Flight]) -> Exit {
        worst(&canaries(&Names::new("x"), flights))
    }

    #[test]
    fn a_right_that_is_missing_for_some_ways_is_open_and_for_all_of_them_an_end() {
        let job = || flight(Way::Job, Flew::Forbidden);
        assert_eq!(exit(&[job(), flight(Way::Wait, Flew::Back)]), Exit::Done);
        assert_eq!(exit(&[job()]), Exit::NotAllowed);
        assert_eq!(exit(&[job(), flight(Way::Wait, Flew::Lost("x".to_owned()))]), Exit::WrongState);
    }

    #[test]
    fn a_memory_that_cannot_be_asked_proves_nothing_and_breaks_nothing() {
        let unknown = || Flew::Unknown("memory is not available".to_owned());
        assert_eq!(exit(&[flight(Way::Job, unknown()), flight(Way::Wait, unknown())]), Exit::Unavailable);
        assert_eq!(exit(&[flight(Way::Job, unknown()), flight(Way::Wait, Flew::Back)]), Exit::Done);
    }

    #[test]
    fn delays_and_what_is_set_aside_are_no_lanes() {
        let names = Names::new("x");
        let queue = |name: String| Object::Queue { name, arguments: crate::rabbitmq::topology::Arguments::new() };
        assert!(is_lane(&names, &queue(names.dead_lane())));
        for other in [names.delay_queue(3), names.set_aside(), names.unrouted()] {
            assert!(!is_lane(&names, &queue(other.clone())), "{other}");
        }
    }
}

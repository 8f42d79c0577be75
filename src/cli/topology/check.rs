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
        exit::Exit,
        finding::{Finding, counted, screen},
        output::{Form, in_words},
        stop::{Outcome, Stop},
    },
    config::Loaded,
    domain::step::Kind,
    rabbitmq::{
        Names, Rabbit,
        canary::Way,
        management::{Compared, Error as ManagementError},
        topology::{Depth, Found, Looked, Object},
    },
};

pub(super) async fn run(context: &mut Context, loaded: &Loaded) -> Outcome {
    let (broker, memory) = fleet::office(loaded)?;
    let wanted = Wanted::of(loaded);
    let visit = visit(&broker).await?;
    let looked = visit.check(&wanted.objects).await;
    visit.leave().await;
    let looked = looked.map_err(|down| unreachable(&broker, &down))?;
    let mut findings = objects(&looked);
    findings.extend(arguments(loaded, &broker, &wanted).await);
    findings.extend(lanes(&wanted.names, &looked));
    let mut flights = Vec::new();
    if looked.iter().any(|one| one.found == Found::Missing) {
        findings.push(Finding::open("canaries", "none was sent: something is missing"));
    } else {
        let mut ways: Vec<(Kind, Way)> =
            wanted.kinds.iter().flat_map(|kind| Way::ALL.map(|way| (*kind, way))).collect();
        // The longer waits are the same for all kinds.
        ways.extend(wanted.kinds.first().into_iter().flat_map(|kind| Way::long_waits().map(|way| (*kind, way))));
        let proven = canary::prove(&broker, &memory, &ways, Receivers::WorkersOrUs).await;
        flights = proven.map_err(|down| unreachable(&broker, &down))?;
        findings.extend(canaries(&wanted.names, &flights));
    }
    tell(context, &wanted.names, (&looked, &flights), &findings)?;
    Ok(worst(&findings))
}

/// What is missing comes first: the rest may follow from it.
fn worst(findings: &[Finding]) -> Exit {
    let order = [Exit::NotFound, Exit::WrongState, Exit::NotAllowed, Exit::Input, Exit::Unavailable];
    order.into_iter().find(|exit| findings.iter().any(|finding| finding.exit == *exit)).unwrap_or(Exit::Done)
}

pub(in crate::cli) fn objects(looked: &[Looked]) -> Vec<Finding> {
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
        findings.push(Finding::open(LABEL, text));
    }
    let there = can_be_seen().filter(|one| one.found == Found::Well).count();
    if there > 0 {
        findings.insert(0, Finding::good(LABEL, format!("{there} exchanges and queues are there")));
    }
    findings
}

/// Arguments and policies, which only the management API shows.
async fn arguments(loaded: &Loaded, broker: &Rabbit, wanted: &Wanted) -> Vec<Finding> {
    const LABEL: &str = "arguments";
    let Some(reference) = &loaded.settings.topology.management_url else {
        let text = "with which arguments, how long the waits are, and which policies count cannot be seen this way";
        return vec![Finding::open(LABEL, text).and_next(
            "name the broker's management API in topology.management_url; or, with admin rights and without the policies: \
             longshore topology declare, which changes nothing that is there",
        )];
    };
    let compared = match fleet::management(loaded, broker, reference) {
        Ok(management) => management.compare(&wanted.names, &wanted.objects).await,
        Err(error) => return vec![Finding::bad(LABEL, Exit::Input, error.to_string(), "mend topology.management_url")],
    };
    match compared {
        Ok(compared) => differences(&compared),
        Err(error @ ManagementError::Refused(_)) => {
            let next =
                "rabbitmqctl set_user_tags USER monitoring; or mend user and password in topology.management_url";
            vec![Finding::bad(LABEL, Exit::NotAllowed, error.to_string(), next)]
        }
        Err(error) => {
            let next = "check that the management plugin runs there; then: longshore topology check";
            vec![Finding::bad(LABEL, Exit::Unavailable, in_words(&error.to_string()), next)]
        }
    }
}

fn differences(compared: &[Compared]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Compared { object, differs, .. } in compared.iter().filter(|one| !one.differs.is_empty()) {
        let next = match object {
            Object::Binding { .. } => "longshore topology declare, with admin rights",
            Object::Exchange { .. } | Object::Queue { .. } => {
                "arguments cannot be changed: delete it when it is empty and unused, then: longshore topology declare"
            }
        };
        let text = format!("{}: {}", object.name(), differs.join("; "));
        findings.push(Finding::bad("arguments", Exit::WrongState, text, next));
    }
    if findings.is_empty() {
        let text = format!("{} objects and bindings are as they should be", compared.len());
        findings.push(Finding::good("arguments", text));
    }
    let harmed: Vec<&Compared> = compared.iter().filter(|one| !one.harmful.is_empty()).collect();
    for Compared { object, harmful, .. } in &harmed {
        let next =
            "take that out of the policy, or narrow its pattern: rabbitmqctl list_policies, list_operator_policies";
        let text = format!("{}: {}", object.name(), harmful.join("; "));
        findings.push(Finding::bad("policies", Exit::WrongState, text, next));
    }
    if harmed.is_empty() {
        findings.push(Finding::good("policies", "none of them harms a queue here"));
    }
    findings
}

/// Lanes whose tickets nobody takes, and what had no route.
pub(in crate::cli) fn lanes(names: &Names, looked: &[Looked]) -> Vec<Finding> {
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
            let text = format!("{} had no route and lie in {name}", counted(messages, "message"));
            findings.push(Finding::open(LABEL, text).and_next("mend what is wrong here first, then replay them"));
        } else if consumers == 0 && is_lane(names, &one.object) {
            let text = format!("{name}: {} and no consumer", counted(messages, "message"));
            findings.push(Finding::open(LABEL, text).and_next("start a worker of its kind: longshore worker"));
        }
    }
    findings
}

/// A queue that workers consume: delays have no consumer, ever.
pub(in crate::cli) fn is_lane(names: &Names, object: &Object) -> bool {
    let is_delay = matches!(object, Object::Queue { name, .. } if name.starts_with(&names.delay()));
    holds_tickets(names, object) && !is_delay
}

pub(in crate::cli) fn canaries(names: &Names, flights: &[Flight]) -> Vec<Finding> {
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
            Finding::open(LABEL, text).and_next(next)
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
            Finding::open(LABEL, text).and_next("look again later")
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
    match context.form() {
        Form::Ndjson => {
            for finding in findings {
                context.out.line(&finding.row())?;
            }
        }
        Form::Json => {
            let objects: Vec<Value> = looked.iter().map(seen).collect();
            let flights: Vec<Value> = flights.iter().map(|flight| flew(names, flight)).collect();
            let findings: Vec<Value> = findings.iter().map(Finding::row).collect();
            context.out.document(&json!({ "objects": objects, "canaries": flights, "findings": findings }))?;
        }
        Form::Table => {
            let text = screen(&context.style, findings);
            context.out.text(&text)?;
        }
    }
    Ok(())
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
        "waits_in": flight.way.waits_in(names),
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

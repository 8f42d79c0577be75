//! One job of a fleet: followed, wished cancelled, run again.

use std::time::Duration;

use crate::{
    app::{self, Fleet, views::Views},
    cli::{
        context::Context,
        ending,
        exit::Exit,
        intake,
        output::{Form, Problem},
        result::JobResult,
        signals::Signals,
        stop::{Outcome, Stop},
        submit as told,
        watch::Screen,
    },
    clock,
    domain::{
        event::{EndName, Event},
        ids::JobKey,
        step::Kind,
        view::{JobView, State},
    },
    engine::{
        intake::{Control, ControlTicket},
        settle::Broker as _,
    },
    rabbitmq::{
        Lane,
        topology::{Depth, Found},
    },
    redis::Mark,
};

/// How long the lanes may take to be looked into.
const GLANCE: Duration = Duration::from_secs(10);

/// How often the status view is looked at, beside the events.
const LOOK: Duration = Duration::from_secs(1);

/// How a job stands, or that nobody knows it.
async fn view_of(fleet: &Fleet, key: &JobKey) -> Result<JobView, Stop> {
    match fleet.memory().job(key).await? {
        Some(view) => Ok(view),
        None => Err(intake::unknown_job(Views::from(fleet), key.id.as_str()).await?),
    }
}

/// Says since when a memory remembers that may have lost something. The mark is looked at and left as it is.
pub(in crate::cli) async fn remark_birth(context: &Context, fleet: &Fleet) -> Result<(), Stop> {
    let since = match fleet.memory().mark().await? {
        Mark::Clean(_) => return Ok(()),
        Mark::Unclean(at) => context.times.full(at.timestamp()),
        Mark::Missing | Mark::Other => "it was emptied, or began, a moment ago".to_owned(),
    };
    context.remark(&format!(
        "the memory remembers since {since}; jobs of before are shown when they move, and work on unaffected"
    ));
    Ok(())
}

/// Jobs that lie on intake lanes: nobody has claimed them yet, so no list shows them.
pub(in crate::cli) struct Unclaimed {
    /// By kind, those of the bulk lanes apart.
    lanes: Vec<(Kind, Lane, Depth)>,
}

impl Unclaimed {
    /// Looks into the intake lanes; why not, in words, when they cannot be seen.
    pub(in crate::cli) async fn of(fleet: &Fleet, kind: Option<Kind>) -> Result<Self, String> {
        let seen = tokio::time::timeout(GLANCE, async {
            let visit = fleet.broker().visit().await.map_err(|down| down.to_string())?;
            let mut lanes = Vec::new();
            for of in
                app::fleet::kinds(&fleet.loaded.settings).into_iter().filter(|of| kind.is_none_or(|kind| kind == *of))
            {
                for lane in [Lane::Intake, Lane::Bulk] {
                    let name = fleet.broker().names().lane(of, lane);
                    match visit.depth(&name).await.map_err(|down| down.to_string())? {
                        Ok(depth) => lanes.push((of, lane, depth)),
                        Err(Found::Forbidden) => return Err(format!("the broker's user may not look into {name}")),
                        Err(Found::Missing) => return Err(format!("{name} is missing")),
                        Err(Found::Well | Found::Differs(_)) => {}
                    }
                }
            }
            visit.leave().await;
            Ok(Self { lanes })
        });
        seen.await.unwrap_or_else(|_| Err("the broker does not answer".to_owned()))
    }

    /// All of them.
    pub(in crate::cli) fn count(&self) -> u64 {
        self.lanes.iter().map(|(_, _, depth)| u64::from(depth.messages)).sum()
    }

    /// In words; none when there are none.
    pub(in crate::cli) fn remark(&self) -> Option<String> {
        let count = self.count();
        let full = || self.lanes.iter().filter(|(_, _, depth)| depth.messages > 0);
        let named = |(kind, lane, depth): &(Kind, Lane, Depth)| {
            let bulk = if *lane == Lane::Bulk { " bulk" } else { "" };
            format!("{kind}{bulk} {}", depth.messages)
        };
        let of: Vec<String> = full().map(named).collect();
        let waits = if count == 1 { "1 job waits".to_owned() } else { format!("{count} jobs wait") };
        let lonely = if full().any(|(_, _, depth)| depth.consumers == 0) {
            "; a lane of them has no worker: longshore worker"
        } else {
            ""
        };
        (count > 0).then(|| format!("{waits} to be claimed, not shown here: {}{lonely}", of.join(", ")))
    }
}

/// Follows a job to its end, by its events and by the status view.
///
/// An end of a generation before `least` is none: the memory has not seen the later one yet.
pub(in crate::cli) async fn follow(context: &mut Context, fleet: &Fleet, key: &JobKey, least: u32) -> Outcome {
    // Only the view knows a topic of the job's own. Until it does, all events of the account are heard, and the others' passed
    // over.
    let topic = fleet.memory().job(key).await.ok().flatten().and_then(|view| view.summary.topic);
    // ORDER: bound before the view is read; an end in between is seen in one of them.
    let mut events = match fleet.broker().follow(&[(key.account.clone(), topic)]).await {
        Ok(events) => Some(events),
        Err(error) => {
            context.remark(&format!("events are not heard ({error}); the status view is asked instead"));
            None
        }
    };
    let signals = Signals::listen();
    let grace = fleet.loaded.settings.waits.parks.after_deadline;
    let (mut screen, mut seen, begun) = (Screen::new(context, 1), Vec::<Event>::new(), clock::moment());
    let mut view = view_of(fleet, key).await?;
    let exit = loop {
        screen.look(&view);
        if view.state().is_end() && view.summary.place.generation >= least {
            break ending::exit_of(&view, &seen);
        }
        if view.summary.deadline.is_some_and(|deadline| clock::moment() > deadline.max(begun).after(grace)) {
            break Exit::TimedOut;
        }
        let heard = async {
            if let Some(events) = &mut events {
                return events.next(LOOK).await;
            }
            tokio::time::sleep(LOOK).await;
            Ok(None)
        };
        tokio::select! {
            heard = heard => match heard {
                Ok(Some(event)) if event.job == *key && seen.iter().all(|known| known.id != event.id) => {
                    if context.form() == Form::Ndjson {
                        context.out.line(&event.cloud_event())?;
                    }
                    screen.event(&event);
                    seen.push(event);
                }
                Ok(Some(_)) => continue,
                Ok(None) => {}
                Err(down) => {
                    context.remark(&format!("events are no longer heard ({down}); the status view is asked instead"));
                    events = None;
                }
            },
            () = signals.stop.cancelled() => {
                context.remark("left; nothing is cancelled or lost, the fleet goes on");
                break Exit::TimedOut;
            }
        }
        view = match fleet.memory().job(key).await {
            Ok(Some(now)) => now,
            // Emptied or silent, it fills again as the job moves; an end that was heard is one all the same.
            Ok(None) | Err(_) => seen.last().and_then(|event| ended(&view, event)).unwrap_or(view),
        };
    };
    drop(screen);
    print(context, &view)?;
    Ok(exit)
}

/// How a job stands by the event of its end; none for any other event.
fn ended(view: &JobView, event: &Event) -> Option<JobView> {
    let state = event.name.as_str().parse::<State>().ok().filter(|state| state.is_end() && event.name.is_end())?;
    let text = |name: &str| event.data.get(name).and_then(|value| value.as_str()).map(str::to_owned);
    let mut view = view.clone();
    view.summary.state = state;
    view.summary.ended_at = Some(event.time);
    view.summary.product_id = text("product_id").or(view.summary.product_id);
    view.summary.submission_id = text("submission_id").or(view.summary.submission_id);
    let generation = event.sequence.split('.').next().and_then(|generation| generation.parse().ok());
    view.summary.place.generation = generation.unwrap_or(view.summary.place.generation);
    Some(view)
}

fn print(context: &mut Context, view: &JobView) -> Result<(), Stop> {
    if context.form() == Form::Table {
        return told::print_result(context, view);
    }
    Ok(context.out.line(&JobResult::of(view))?)
}

/// Sends the wish on its way: a control ticket, which any worker writes into the job's record.
pub(in crate::cli) async fn cancel(context: &mut Context, fleet: &Fleet, key: &JobKey) -> Outcome {
    let known = fleet.memory().job(key).await.ok().flatten();
    if let Some(view) = known.as_ref().filter(|view| view.end.is_some()) {
        let problem = Problem::new(format!("job {key} has ended {}: there is nothing to cancel", view.state()));
        return Err(Stop::new(Exit::WrongState, problem.next(format!("longshore job show {key}"))));
    }
    let summary = known.as_ref().map(|view| &view.summary);
    let life = fleet.loaded.settings.waits.parks.control_life;
    let control = ControlTicket {
        control: Control::Cancel,
        job: key.clone(),
        generation: summary.map(|summary| summary.place.generation),
        until: summary.and_then(|summary| summary.deadline).unwrap_or_else(|| clock::moment().after(life)),
    };
    let lane = app::fleet::kinds(&fleet.loaded.settings).first().copied().unwrap_or(Kind::Submission);
    fleet.connected(async |fleet| fleet.broker().control(lane, &control).await).await??;
    if known.is_none() {
        context.remark(&format!("nobody has seen job {key} yet; the wish waits for it"));
    }
    if context.form() == Form::Table {
        let told = format!("{} · cancelling: requested", key.id);
        context.out.text(&(context.style.text(&told).into_owned() + "\n"))?;
    } else {
        let result = JobResult::bare(
            Some(key.id.to_string()),
            Some(key.account.to_string()),
            summary.and_then(|summary| summary.kind),
            "cancelling",
            None,
        );
        context.out.document(&result)?;
    }
    Ok(Exit::Done)
}

/// Runs an ended job again: its last ticket, one generation later.
pub(in crate::cli) async fn retry(context: &mut Context, fleet: &Fleet, key: &JobKey, waits: bool) -> Outcome {
    let view = view_of(fleet, key).await?;
    let wrong = |why: String| Stop::new(Exit::WrongState, Problem::new(why).next(format!("longshore job show {key}")));
    let Some(end) = view.end.filter(|_| view.summary.state.is_end()) else {
        return Err(wrong(format!("job {key} is {}: it has not ended yet", view.summary.state)));
    };
    if end.name == EndName::Completed {
        return Err(wrong(format!("job {key} is completed: there is nothing left to do")));
    }
    let ticket = end.ticket.retried(view.summary.place.generation, clock::moment());
    fleet.connected(async |fleet| fleet.broker().publish(&ticket).await).await??;
    if waits {
        return follow(context, fleet, key, ticket.place.generation).await;
    }
    let first = JobResult::accepted(key, ticket.job.kind, Vec::new());
    told::print_accepted(context, key, &first)?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_to_be_claimed_is_counted_by_kind_and_told_when_nobody_takes_it() {
        let lane = |kind, lane, messages, consumers| (kind, lane, Depth { messages, consumers });
        let of = |lanes: &[_]| Unclaimed { lanes: lanes.to_vec() }.remark();
        assert_eq!(of(&[lane(Kind::Upload, Lane::Intake, 0, 0)]), None);
        let busy = [lane(Kind::Submission, Lane::Intake, 9, 2), lane(Kind::Submission, Lane::Bulk, 3, 2)];
        let told = "12 jobs wait to be claimed, not shown here: submission 9, submission bulk 3";
        assert_eq!(of(&busy).as_deref(), Some(told));
        let lonely = of(&[lane(Kind::Upload, Lane::Intake, 1, 0)]).unwrap();
        assert!(lonely.starts_with("1 job waits") && lonely.contains("longshore worker"), "{lonely}");
    }
}

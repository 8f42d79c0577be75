//! `longshore job`: the jobs of this home, listed, shown, watched, cancelled, run again.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    arguments::{OfJob, OnlyAccount},
    context::{Context, Reached},
    exit::Exit,
    fleet, intake, job_show,
    output::{Column, Form, Paint, Problem, Table, duration},
    result::JobResult,
    stop::{Outcome, Stop},
    submit,
    watch::{self, Left, Watch},
};
use crate::{
    app::{App, views::Views},
    clock,
    domain::{
        event::Event,
        ids::JobKey,
        step::{Kind, Step},
        time::Moment,
    },
    embedded::{Cancelled, EventFilter, JobFilter, JobSummary, Replayed, State},
};

/// Jobs on one page.
const PAGE: u32 = 100;

/// Lists, shows, watches, cancels and repeats the jobs of this home.
///
/// Example: longshore job list
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    List(List),
    /// Shows one job's whole story
    ///
    /// Example: longshore job show nic-4711
    Show(OfJob),
    /// Follows a job to its end, working it in this process if no worker does
    ///
    /// Example: longshore job watch nic-4711
    Watch(OfJob),
    /// Wishes a job cancelled; it ends when its present call is answered
    ///
    /// What was made at the service remains there. Works the job itself for ten seconds when no worker does.
    ///
    /// Example: longshore job cancel nic-4711
    Cancel(OfJob),
    Retry(Retry),
}

/// Lists jobs, the newest first.
///
/// Example: longshore job list --state failed
#[derive(Debug, Args)]
struct List {
    /// Only jobs in this state
    #[arg(long, value_name = "STATE")]
    state: Option<State>,
    #[command(flatten)]
    of: OnlyAccount,
    /// Only jobs of this kind
    #[arg(long, value_name = "KIND")]
    kind: Option<Kind>,
    /// Only jobs with this label
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    label: Option<(String, String)>,
    /// Only jobs with this text in id, labels, product or submission id
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// All of them, not only the newest hundred
    #[arg(long)]
    all: bool,
}

/// Runs an ended job again: the same job, one generation later, from where it stood.
///
/// `longshore submit --new` makes another job of the same content instead.
///
/// Example: longshore job retry nic-4711
#[derive(Debug, Args)]
struct Retry {
    #[command(flatten)]
    of: OfJob,
    /// Work the job in this process and wait for its end
    #[arg(long, short = 'w')]
    wait: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) async fn run(context: &mut Context, arguments: Arguments) -> Outcome {
    let home = context.reach()?;
    match (arguments.verb, &home) {
        (Verb::List(list), home) => run_list(context, home, list).await,
        (Verb::Show(of), Reached::Embedded(app)) => {
            let key = of.find(&**app).await?;
            let filter = EventFilter { job: Some(key.clone()), ..EventFilter::default() };
            let events: Vec<Event> = app.home.events(0, filter).await?.into_iter().map(|(_, event)| event).collect();
            job_show::run(context, app, Views::from(&**app), (&key, &events)).await
        }
        (Verb::Show(of), Reached::Fleet(fleet)) => {
            let key = of.find(&**fleet).await?;
            job_show::run(context, fleet, Views::from(&**fleet), (&key, &[])).await
        }
        (Verb::Watch(of), Reached::Embedded(app)) => {
            let key = of.find(&**app).await?;
            follow(context, app, key).await
        }
        (Verb::Watch(of), Reached::Fleet(fleet)) => {
            let key = of.find(&**fleet).await?;
            fleet::job::follow(context, fleet, &key, 0).await
        }
        (Verb::Cancel(of), Reached::Embedded(app)) => {
            let key = of.find(&**app).await?;
            cancel(context, app, &key).await
        }
        (Verb::Cancel(of), Reached::Fleet(fleet)) => {
            let key = of.full(fleet).await?;
            fleet::job::cancel(context, fleet, &key).await
        }
        (Verb::Retry(retry), Reached::Embedded(app)) => {
            let key = retry.of.find(&**app).await?;
            run_again(context, app, key, retry.wait).await
        }
        (Verb::Retry(retry), Reached::Fleet(fleet)) => {
            let key = retry.of.find(&**fleet).await?;
            fleet::job::retry(context, fleet, &key, retry.wait).await
        }
    }
}

async fn run_list(context: &mut Context, home: &Reached, list: List) -> Outcome {
    let views = home.views();
    let mut filter = JobFilter {
        state: list.state,
        account: list.of.account.clone(),
        kind: list.kind,
        label: list.label,
        text: list.text,
        limit: PAGE,
        before: None,
    };
    let mut jobs: Vec<JobSummary> = Vec::new();
    let has_more = loop {
        let page = views.jobs(filter.clone()).await?;
        let is_full = page.len() == usize::try_from(PAGE).unwrap_or(usize::MAX);
        filter.before = page.last().map(|job| (job.accepted_at, job.key.clone()));
        jobs.extend(page);
        if !list.all || !is_full {
            break is_full;
        }
    };
    let mut unclaimed = None;
    if let Reached::Fleet(fleet) = home {
        fleet::job::remark_birth(context, fleet).await?;
        match fleet::job::Unclaimed::of(fleet, filter.kind).await {
            Ok(seen) => unclaimed = Some(seen),
            Err(why) => context.remark(&format!("how many jobs wait to be claimed cannot be seen: {why}")),
        }
    }
    if jobs.is_empty() {
        list.of.known(&home.parts().loaded, views).await?;
    }
    match context.form() {
        Form::Json => {
            let rows: Vec<Value> = jobs.iter().map(row).collect();
            // Only a fleet has jobs that no list shows; null: they cannot be seen.
            let unclaimed = unclaimed.map(|unclaimed| unclaimed.count());
            let mut list = json!({ "jobs": rows, "has_more": has_more });
            if let (Reached::Fleet(_), Some(members)) = (home, list.as_object_mut()) {
                members.insert("unclaimed".to_owned(), json!(unclaimed));
            }
            context.out.document(&list)?;
        }
        Form::Ndjson => {
            for job in &jobs {
                context.out.line(&row(job))?;
            }
        }
        Form::Table => {
            let text = table(context, &jobs).render(&context.style);
            context.out.text(&text)?;
            if has_more {
                context.remark(
                    "there are more: --all shows them, --state, --account, --kind, --label and --text narrow it",
                );
            }
            if let Some(remark) = unclaimed.and_then(|unclaimed| unclaimed.remark()) {
                context.remark(&remark);
            }
        }
    }
    Ok(Exit::Done)
}

/// One job of a list, for programs.
pub(super) fn row(job: &JobSummary) -> Value {
    json!({
        "schema": 1,
        "job": job.key.id,
        "account": job.key.account,
        "kind": job.kind,
        "state": job.state,
        "step": Step::from_number(job.place.step),
        "generation": job.place.generation,
        "accepted_at": job.accepted_at.timestamp(),
        "deadline": job.deadline.map(Moment::timestamp),
        "ended_at": job.ended_at.map(Moment::timestamp),
        "next_at": job.next_due.map(Moment::timestamp),
        "product_id": job.product_id,
        "submission_id": job.submission_id,
        "labels": job.labels,
    })
}

fn table(context: &Context, jobs: &[JobSummary]) -> Table {
    let mut table = Table::new(
        &[
            Column::whole("ID"),
            Column::whole("KIND").leaves(2),
            Column::whole("ACCOUNT").leaves(4),
            Column::whole("STATE"),
            Column::whole("STEP").leaves(3),
            Column::whole("AGE").number().leaves(1),
            Column::new("NEXT").leaves(5),
        ],
        "no jobs here · longshore submit FILE hands one in",
    );
    let now = clock::moment();
    for job in jobs {
        let next = job.next_due.filter(|due| *due > now && !job.state.is_end());
        let next = next.map(|due| context.times.short(due.timestamp(), now.timestamp())).unwrap_or_default();
        let step = Step::from_number(job.place.step).map_or("", Step::name);
        table.painted_row([
            (job.key.id.to_string(), None),
            (job.kind.map_or("", Kind::name).to_owned(), None),
            (job.key.account.to_string(), None),
            (job.state.to_string(), Some(paint(job.state))),
            (step.to_owned(), None),
            (age(now.since(job.accepted_at)), Some(Paint::Dim)),
            (next, None),
        ]);
    }
    table
}

/// An age, which needs no tenths.
pub(super) fn age(span: Duration) -> String {
    let seconds = span.as_secs();
    if seconds < 10 { format!("{seconds} s") } else { duration(Duration::from_secs(seconds)) }
}

/// The colour of a state.
pub(super) const fn paint(state: State) -> Paint {
    match state {
        State::Completed => Paint::Good,
        State::Failed | State::DeadLettered | State::TimedOut => Paint::Bad,
        State::Cancelled | State::Cancelling => Paint::Warning,
        State::Accepted | State::Running | State::Waiting => Paint::Strong,
    }
}

/// Follows a job, working it in this process beside any other worker.
pub(super) async fn follow(context: &mut Context, app: &App, key: JobKey) -> Outcome {
    let mut watch = Watch::new([key.clone()]);
    let Some(view) = app.home.job(&key).await? else { return Err(intake::unknown_job(app, key.id.as_str()).await?) };
    let left = if view.state().is_end() {
        watch.news(&app.home).await?;
        Left::AllEnded
    } else {
        watch::work_and_follow(context, app, &mut watch).await?
    };
    let exit = submit::finish(context, app, &key, &watch, left).await?;
    if left == Left::Detached {
        submit::say_detached(context, app, &watch).await?;
    }
    Ok(exit)
}

async fn cancel(context: &mut Context, app: &App, key: &JobKey) -> Outcome {
    let looks_at = match app.home.wish_cancel(key).await? {
        Cancelled::Requested { looks_at } => looks_at,
        Cancelled::Unknown => return Err(intake::unknown_job(app, key.id.as_str()).await?),
        Cancelled::Ended(state) => {
            let name = intake::name_of(app, key).await?;
            let problem = Problem::new(format!("job {name} has ended {state}: there is nothing to cancel"));
            return Err(Stop::new(Exit::WrongState, problem.next(format!("longshore job show {name}"))));
        }
    };
    let parks = &app.loaded.settings.waits.parks;
    watch::work_for(app, key, parks.cancel).await?;
    let Some(view) = app.home.job(key).await? else { return Err(intake::unknown_job(app, key.id.as_str()).await?) };
    if context.form() != Form::Table {
        context.out.document(&JobResult::of(&view))?;
        return Ok(Exit::Done);
    }
    if view.state().is_end() {
        submit::print_result(context, &view)?;
        return Ok(Exit::Done);
    }
    let when = looks_at.map(|at| {
        let at = context.times.short(at.timestamp(), clock::now());
        format!("; its last write is in doubt, so it looks first, at {at}")
    });
    let line = format!("{} · cancelling: requested{}\n", key.id, when.unwrap_or_default());
    let line = context.style.text(line.trim_end()).into_owned() + "\n";
    context.out.text(&line)?;
    Ok(Exit::Done)
}

async fn run_again(context: &mut Context, app: &App, key: JobKey, wait: bool) -> Outcome {
    let name = intake::name_of(app, &key).await?;
    let wrong = |why: String| Stop::new(Exit::WrongState, Problem::new(why).next(format!("longshore job show {name}")));
    match app.home.replay(&key, |_| {}).await? {
        Replayed::Ticket(_) | Replayed::Message => {}
        // Somebody has mended its sign-in: it goes on from where it waits.
        Replayed::NotEnded(_) if app.home.wake_signed_in(&key).await? => {}
        Replayed::NotEnded(state) => return Err(wrong(format!("job {name} is {state}: it has not ended yet"))),
        Replayed::Completed => {
            return Err(wrong(format!("job {name} is completed: there is nothing left to do")));
        }
        Replayed::Unknown => return Err(intake::unknown_job(app, key.id.as_str()).await?),
    }
    if wait {
        return follow(context, app, key).await;
    }
    print_going(context, app, &key).await
}

/// Says that a job is in the queue again.
pub(super) async fn print_going(context: &mut Context, app: &App, key: &JobKey) -> Outcome {
    let Some(view) = app.home.job(key).await? else { return Err(intake::unknown_job(app, key.id.as_str()).await?) };
    if context.form() == Form::Table {
        submit::print_result(context, &view)?;
    } else {
        context.out.document(&JobResult::of(&view))?;
    }
    if let Some(nobody) = submit::nobody_for(app, [&key.account]).await? {
        let name = intake::name_of(app, key).await?;
        context.remark(&format!("{nobody}; start one with: longshore worker, or: longshore job watch {name}"));
    }
    Ok(Exit::Done)
}

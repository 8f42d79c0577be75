//! `longshore dead-letter`: what was set aside, for a person to decide.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    arguments::OnlyAccount,
    context::Context,
    exit::Exit,
    intake, job,
    output::{Column, Form, Paint, Problem, Table},
    stop::{Outcome, Stop},
    text::Put as _,
};
use crate::{
    app::App,
    clock,
    domain::{
        adopt,
        event::{Class, Reason},
        ids::JobId,
        step::Step,
        ticket::Ticket,
    },
    embedded::{DeadLetter, DeadLetters, Replayed},
};

/// Lists, shows, replays and discards what was set aside for a person.
///
/// Example: longshore dead-letter list
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    List(List),
    /// Shows why something was set aside, its candidates, and how to decide
    ///
    /// Example: longshore dead-letter show nic-4711
    Show(Named),
    Replay(Replay),
    /// Throws a dead letter away for good; its job keeps its end
    ///
    /// Example: longshore dead-letter discard nic-4711
    Discard(Named),
}

/// Lists dead letters, the newest first.
///
/// Example: longshore dead-letter list --class needs-person
#[derive(Debug, Args)]
struct List {
    /// Only of this class
    #[arg(long, value_name = "CLASS", value_parser = class)]
    class: Option<Class>,
    #[command(flatten)]
    of: OnlyAccount,
}

/// One dead letter.
#[derive(Debug, Args)]
struct Named {
    /// Its job, ID or ACCOUNT/ID, or its number, also as #NUMBER
    letter: String,
}

/// Runs a dead letter again: its job goes on one generation later.
///
/// Example: longshore dead-letter replay nic-4711 --create-again
#[derive(Debug, Args)]
struct Replay {
    #[command(flatten)]
    named: Named,
    /// The candidate with this id is the job's own: go on with it
    #[arg(long, value_name = "RESOURCE", conflicts_with = "create_again")]
    adopt: Option<u64>,
    /// None of the candidates is the job's own: make another
    #[arg(long)]
    create_again: bool,
}

fn class(text: &str) -> Result<Class, String> {
    serde_json::from_value(Value::from(text)).map_err(|_| {
        "a class is preflight, source, forbidden, rejected, workflow-failed, transfer, verification, attempts-spent, \
         cancelled, deadline, needs-person, poison, account-removed, undecodable, not-allowed, other-content, local-io, changed or internal"
            .to_owned()
    })
}

pub(super) async fn run(context: &mut Context, arguments: Arguments) -> Outcome {
    let app = context.open()?;
    match arguments.verb {
        Verb::List(list) => run_list(context, &app, list).await,
        Verb::Show(named) => {
            let letter = find(&app, &named.letter).await?;
            let name = name(&app, &letter).await?;
            show(context, &letter, &name)
        }
        Verb::Replay(replay) => {
            let letter = find(&app, &replay.named.letter).await?;
            run_replay(context, &app, letter, &replay).await
        }
        Verb::Discard(named) => {
            let letter = find(&app, &named.letter).await?;
            let name = name(&app, &letter).await?;
            app.home.discard(letter.id).await?;
            context.remark(&format!("discarded {name}; its job, if it has one, keeps its end"));
            Ok(Exit::Done)
        }
    }
}

/// What names it on the command line.
async fn name(app: &App, letter: &DeadLetter) -> Result<String, Stop> {
    match &letter.job {
        Some(job) => intake::name_of(app, job).await,
        None => Ok(letter.id.to_string()),
    }
}

/// By job, or by number: a job's id may be all digits, so the job comes first, and `#12` is a number for sure.
async fn find(app: &App, named: &str) -> Result<DeadLetter, Stop> {
    let number = named.strip_prefix('#').unwrap_or(named).parse::<u64>().ok();
    let is_job = named.contains('/') || JobId::parse(named).is_ok();
    if is_job && let Ok(key) = intake::find(app, named).await {
        let filter = DeadLetters { job: Some(key), limit: 1, ..DeadLetters::default() };
        if let Some(letter) = app.home.dead_letters(filter).await?.pop() {
            return Ok(letter);
        }
    }
    if let Some(number) = number
        && let Some(letter) = app.home.dead_letter(number).await?
    {
        return Ok(letter);
    }
    let problem = Problem::new(format!("{named} has no dead letter"));
    Err(Stop::new(Exit::NotFound, problem.next("longshore dead-letter list")))
}

async fn run_list(context: &mut Context, app: &App, list: List) -> Outcome {
    let filter =
        DeadLetters { class: list.class, account: list.of.account.clone(), limit: 1_000, ..DeadLetters::default() };
    let letters = app.home.dead_letters(filter).await?;
    if letters.is_empty() {
        list.of.known(app).await?;
    }
    match context.form() {
        Form::Json => {
            let rows: Vec<Value> = letters.iter().map(row).collect();
            context.out.document(&json!({ "dead_letters": rows }))?;
        }
        Form::Ndjson => {
            for letter in &letters {
                context.out.line(&row(letter))?;
            }
        }
        Form::Table => {
            let columns = [
                Column::whole("NUMBER").number(),
                Column::whole("JOB"),
                Column::whole("ACCOUNT").leaves(3),
                Column::whole("CLASS"),
                Column::whole("AGE").number().leaves(1),
                Column::new("WHY").leaves(4),
            ];
            let mut table = Table::new(&columns, "no dead letters: nothing waits for a person");
            let now = clock::moment();
            for letter in &letters {
                table.painted_row([
                    (letter.id.to_string(), None),
                    (letter.job.as_ref().map(|job| job.id.to_string()).unwrap_or_default(), None),
                    (letter.job.as_ref().map(|job| job.account.to_string()).unwrap_or_default(), None),
                    (letter.class.to_string(), Some(Paint::Bad)),
                    (job::age(now.since(letter.at)), Some(Paint::Dim)),
                    (letter.message.clone(), None),
                ]);
            }
            let text = table.render(&context.style);
            context.out.text(&text)?;
        }
    }
    Ok(Exit::Done)
}

fn row(letter: &DeadLetter) -> Value {
    let reason = reason(letter);
    json!({
        "schema": 1,
        "number": letter.id,
        "job": letter.job.as_ref().map(|job| &job.id),
        "account": letter.job.as_ref().map(|job| &job.account),
        "at": letter.at.timestamp(),
        "class": letter.class,
        "fingerprint": letter.fingerprint,
        "message": letter.message,
        "next_step": reason.map(|reason| &reason.next),
        "step": reason.and_then(|reason| reason.step),
        "candidates": reason.map(|reason| &reason.candidates),
    })
}

fn reason(letter: &DeadLetter) -> Option<&Reason> {
    letter.end.as_ref()?.reason.as_ref()
}

fn show(context: &mut Context, letter: &DeadLetter, name: &str) -> Outcome {
    if context.form() != Form::Table {
        let mut value = row(letter);
        if let Some(members) = value.as_object_mut() {
            members.insert("ticket".to_owned(), json!(letter.end.as_ref().map(|end| &end.ticket)));
        }
        context.out.document(&value)?;
        return Ok(Exit::Done);
    }
    let style = context.style;
    let mut out = String::new();
    let mut line = |label: &str, text: &str| {
        let label = style.paint(Paint::Strong, &format!("{label:<10}"));
        out.put(format_args!("{label} {}\n", style.text(text)));
    };
    let account = letter.job.as_ref().map(|job| format!("{} · ", job.account)).unwrap_or_default();
    let at = context.times.full(letter.at.timestamp());
    line(name, &format!("{account}{}, set aside {at}", letter.class));
    line("why", &letter.message);
    if let Some(reason) = reason(letter) {
        for candidate in &reason.candidates {
            let created =
                candidate.created.map(|at| format!(", created {}", context.times.full(at))).unwrap_or_default();
            line("candidate", &format!("{} {:?}{created}, {}", candidate.id, candidate.name, candidate.evidence));
        }
        if letter.class == Class::NeedsPerson && is_at_create(reason.step) {
            for candidate in &reason.candidates {
                line("decide", &format!("longshore dead-letter replay {name} --adopt {}     it is ours", candidate.id));
            }
            if can_create_again(letter) {
                line(
                    "decide",
                    &format!("longshore dead-letter replay {name} --create-again     it is not; make another"),
                );
            } else {
                line("else", ONE_INITIAL);
            }
        } else {
            line("next", &reason.next);
        }
    }
    context.out.text(&out)?;
    Ok(Exit::Done)
}

async fn run_replay(context: &mut Context, app: &App, letter: DeadLetter, wish: &Replay) -> Outcome {
    let name = name(app, &letter).await?;
    let step = reason(&letter).and_then(|reason| reason.step);
    let candidates: Vec<u64> =
        reason(&letter).into_iter().flat_map(|reason| &reason.candidates).filter_map(|c| c.id.parse().ok()).collect();
    let decided = match (wish.adopt, wish.create_again) {
        (None, false) => None,
        (adopt, _) => Some((adopt, creating(step, &name)?)),
    };
    if wish.create_again && !can_create_again(&letter) {
        let problem = Problem::new(format!("no other submission can be made for {name}")).what(ONE_INITIAL);
        return Err(Stop::new(Exit::WrongState, problem.next(format!("longshore dead-letter show {name}"))));
    }
    if let Some((Some(id), _)) = decided
        && !candidates.contains(&id)
    {
        let problem = Problem::new(format!("{id} is none of the candidates"))
            .what(candidates.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
        return Err(Stop::input(problem.next(format!("longshore dead-letter show {name}"))));
    }
    let edit = move |ticket: &mut Ticket| match decided {
        Some((Some(id), step)) => {
            ticket.progress.adopt.insert(step, id);
        }
        Some((None, step)) => ticket.progress.not_ours.entry(step).or_default().extend(candidates),
        None => {}
    };
    match app.home.replay_letter(letter.id, edit).await? {
        Replayed::Ticket(ticket) => job::print_going(context, app, &ticket.key()).await,
        Replayed::Message => {
            context.remark("the message is in the queue again");
            Ok(Exit::Done)
        }
        Replayed::NotEnded(state) => {
            let problem = Problem::new(format!("job {name} is {state}: it goes on already"));
            Err(Stop::new(Exit::WrongState, problem.next(format!("longshore job show {name}"))))
        }
        Replayed::Completed => {
            let problem = Problem::new(format!("job {name} is completed: there is nothing left to do"));
            Err(Stop::new(Exit::WrongState, problem.next(format!("longshore dead-letter discard {}", letter.id))))
        }
        Replayed::Unknown => {
            let problem = Problem::new(format!("{name} has no dead letter any more"));
            Err(Stop::new(Exit::NotFound, problem.next("longshore dead-letter list")))
        }
    }
}

/// Why an initial submission cannot be made again.
const ONE_INITIAL: &str =
    "a product has one initial submission: if it is not ours, submit a new job under another product name";

/// Does somebody have to say whose a product or submission is?
fn is_at_create(step: Option<Step>) -> bool {
    step.is_some_and(|step| matches!(step, Step::CreateProduct | Step::CreateSubmission))
}

/// Can the create be made again, when no candidate is ours?
fn can_create_again(letter: &DeadLetter) -> bool {
    let step = reason(letter).and_then(|reason| reason.step);
    let work = letter.end.as_ref().and_then(|end| end.ticket.job.work().ok());
    step.zip(work).is_some_and(|(step, work)| adopt::can_create_again(step, &work))
}

/// The create that a person decides about.
fn creating(step: Option<Step>, name: &str) -> Result<Step, Stop> {
    match step {
        Some(step @ (Step::CreateProduct | Step::CreateSubmission)) => Ok(step),
        Some(Step::Preflight | Step::Upload | Step::Commit | Step::Poll | Step::Download) | None => {
            let problem = Problem::new(format!("{name} does not stand at a create"))
                .what("--adopt and --create-again say whose a product or submission is")
                .next(format!("longshore dead-letter replay {name}"));
            Err(Stop::new(Exit::WrongState, problem))
        }
    }
}

//! `longshore dead-letter`: what was set aside, for a person to decide.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    arguments::OnlyAccount,
    context::{Context, Reached},
    exit::Exit,
    intake, job,
    output::{Column, Form, Paint, Problem, Table},
    result::JobResult,
    stop::{Outcome, Stop},
    submit,
    text::Put as _,
};
use crate::{
    app::drawer::Drawer,
    clock,
    domain::{
        adopt,
        dead_letter::{DeadLetter, DeadLetters},
        event::{Class, Reason},
        ids::{JobId, JobKey},
        step::Step,
        ticket::Ticket,
    },
    embedded::Replayed,
    rabbitmq::Shelf,
};

/// So many are looked at for one command at most.
const MOST: u32 = 10_000;

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
    Discard(Discard),
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
    /// Counts them by what they have in common, in place of a list
    #[arg(long)]
    counts: bool,
    #[command(flatten)]
    shelf: From,
}

/// Where to look, in a fleet.
#[derive(Debug, Args)]
struct From {
    /// In a fleet: what was set aside (dead), or what had no route at the broker (unrouted)
    #[arg(long, value_name = "QUEUE", value_enum, default_value = "dead")]
    from: Queue,
}

/// The two queues of a fleet that wait for a person.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Queue {
    Dead,
    Unrouted,
}

/// One dead letter.
#[derive(Debug, Args)]
struct Named {
    /// Its job, ID or ACCOUNT/ID, or its number, also as #NUMBER
    letter: String,
}

/// Several dead letters.
#[derive(Debug, Args)]
struct Several {
    /// Their jobs, ID or ACCOUNT/ID, or their numbers, also as #NUMBER
    #[arg(value_name = "LETTER", required_unless_present = "class")]
    letters: Vec<String>,
    /// All of this class
    #[arg(long, value_name = "CLASS", value_parser = class, conflicts_with = "letters")]
    class: Option<Class>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    shelf: From,
}

/// Throws dead letters away for good; their jobs keep their ends.
///
/// Example: longshore dead-letter discard nic-4711
#[derive(Debug, Args)]
struct Discard {
    #[command(flatten)]
    several: Several,
}

/// Runs dead letters again: each job goes on one generation later.
///
/// Example: longshore dead-letter replay nic-4711 --create-again
#[derive(Debug, Args)]
struct Replay {
    #[command(flatten)]
    several: Several,
    /// The candidate with this id is the job's own: go on with it
    #[arg(long, value_name = "RESOURCE", conflicts_with_all = ["create_again", "class"])]
    adopt: Option<u64>,
    /// In a fleet: hand a producer's message in in your own name, which may name every account
    #[arg(long)]
    vouch: bool,
    /// None of the candidates is the job's own: make another
    #[arg(long, conflicts_with = "class")]
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
    let reached = context.reach()?;
    let from = match &arguments.verb {
        Verb::List(list) => list.shelf.from,
        Verb::Show(_) => Queue::Dead,
        Verb::Replay(replay) => replay.several.shelf.from,
        Verb::Discard(discard) => discard.several.shelf.from,
    };
    let mut home = Home::open(&reached, from).await?;
    let done = act(context, &mut home, arguments.verb).await;
    home.drawer.close().await;
    done
}

async fn act(context: &mut Context, home: &mut Home<'_>, verb: Verb) -> Outcome {
    match verb {
        Verb::List(list) => run_list(context, home, list).await,
        Verb::Show(named) => {
            let letter = home.find(&named.letter).await?;
            let name = home.name(&letter).await?;
            show(context, &letter, &name)
        }
        Verb::Replay(replay) => {
            let mut codes = Vec::new();
            for letter in home.several(&replay.several).await? {
                codes.push(run_replay(context, home, letter, &replay).await);
            }
            summed(context, codes)
        }
        Verb::Discard(discard) => {
            for letter in home.several(&discard.several).await? {
                let name = home.name(&letter).await?;
                if discard.several.dry_run {
                    context.remark(&format!("would discard {name} ({}, {})", letter.class, letter.message));
                    continue;
                }
                if !home.drawer.discard(letter.id).await? {
                    context.remark(&format!("{name} lies there no more"));
                    continue;
                }
                context.remark(&format!("discarded {name}; its job, if it has one, keeps its end"));
            }
            Ok(Exit::Done)
        }
    }
}

/// One letter: its own end. Several: every problem is told, and 1 when some did not go well.
fn summed(context: &Context, mut outcomes: Vec<Outcome>) -> Outcome {
    if outcomes.len() < 2 {
        return outcomes.pop().unwrap_or(Ok(Exit::Done));
    }
    let codes: Vec<Exit> =
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|stop| context.tell(stop))).collect();
    Ok(submit::summed(&codes))
}

/// The home that was reached, its drawer open.
struct Home<'a> {
    reached: &'a Reached,
    drawer: Drawer<'a>,
}

impl<'a> Home<'a> {
    async fn open(reached: &'a Reached, from: Queue) -> Result<Self, Stop> {
        let drawer = match (reached, from) {
            (Reached::Embedded(app), Queue::Dead) => Drawer::File(&app.home),
            (Reached::Embedded(_), Queue::Unrouted) => {
                let problem = Problem::new("this home has no messages without a route: it has no broker");
                return Err(Stop::input(problem.next("longshore dead-letter list")));
            }
            (Reached::Fleet(fleet), Queue::Dead) => Drawer::of_fleet(fleet, Shelf::SetAside).await?,
            (Reached::Fleet(fleet), Queue::Unrouted) => Drawer::of_fleet(fleet, Shelf::Unrouted).await?,
        };
        Ok(Self { reached, drawer })
    }

    /// What names it on the command line.
    async fn name(&self, letter: &DeadLetter) -> Result<String, Stop> {
        match (&letter.job, self.reached) {
            (Some(job), Reached::Embedded(app)) => intake::name_of(&**app, job).await,
            (Some(job), Reached::Fleet(_)) => Ok(job.to_string()),
            (None, _) => Ok(format!("#{}", letter.id)),
        }
    }

    /// By job, or by number: a job's id may be all digits, so the job comes first, and `#12` is a number for sure.
    async fn find(&self, named: &str) -> Result<DeadLetter, Stop> {
        let number = named.strip_prefix('#').unwrap_or(named).parse::<u64>().ok();
        for job in self.jobs(named).await {
            let filter = DeadLetters { job: Some(job), limit: 1, ..DeadLetters::default() };
            if let Some(letter) = self.drawer.list(filter).await?.pop() {
                return Ok(letter);
            }
        }
        if let Some(number) = number
            && let Some(letter) = self.drawer.numbered(number).await?
        {
            return Ok(letter);
        }
        let problem = Problem::new(format!("{named} has no dead letter"));
        Err(Stop::new(Exit::NotFound, problem.next("longshore dead-letter list")))
    }

    /// The jobs that may be meant.
    async fn jobs(&self, named: &str) -> Vec<JobKey> {
        if named.contains('/') {
            return JobKey::parse(named).into_iter().collect();
        }
        let Ok(id) = JobId::parse(named) else { return Vec::new() };
        match self.reached {
            Reached::Embedded(app) => intake::find(&**app, named).await.into_iter().collect(),
            Reached::Fleet(fleet) => {
                let accounts = fleet.loaded.settings.accounts.keys();
                accounts.map(|account| JobKey { account: account.clone(), id: id.clone() }).collect()
            }
        }
    }

    async fn several(&self, several: &Several) -> Result<Vec<DeadLetter>, Stop> {
        let Some(class) = several.class else {
            let mut letters = Vec::new();
            for named in &several.letters {
                letters.push(self.find(named).await?);
            }
            return Ok(letters);
        };
        let filter = DeadLetters { class: Some(class), limit: MOST, ..DeadLetters::default() };
        let letters = self.drawer.list(filter).await?;
        if letters.is_empty() {
            let problem = Problem::new(format!("there is no dead letter of class {class}"));
            return Err(Stop::new(Exit::NotFound, problem.next("longshore dead-letter list --counts")));
        }
        Ok(letters)
    }
}

async fn run_list(context: &mut Context, home: &Home<'_>, list: List) -> Outcome {
    let limit = if list.counts { MOST } else { 1_000 };
    let filter = DeadLetters { class: list.class, account: list.of.account.clone(), limit, ..DeadLetters::default() };
    let letters = home.drawer.list(filter).await?;
    if let (true, Reached::Embedded(app)) = (letters.is_empty(), home.reached) {
        list.of.known(&app.loaded, &**app).await?;
    }
    if home.drawer.has_more() {
        context.remark("these are the oldest 10,000; more lie behind them");
    }
    if list.counts {
        return counts(context, &letters);
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

/// How many there are of each class and fingerprint, most first.
fn counts(context: &mut Context, letters: &[DeadLetter]) -> Outcome {
    let mut counted: BTreeMap<(Class, &str), u64> = BTreeMap::new();
    for letter in letters {
        *counted.entry((letter.class, letter.fingerprint.as_str())).or_default() += 1;
    }
    let mut counted: Vec<_> = counted.into_iter().collect();
    counted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let row = |((class, fingerprint), count): &((Class, &str), u64)| json!({ "schema": 1, "class": class, "fingerprint": fingerprint, "count": count });
    match context.form() {
        Form::Json => context.out.document(&json!({ "counts": counted.iter().map(row).collect::<Vec<_>>() }))?,
        Form::Ndjson => {
            for line in &counted {
                context.out.line(&row(line))?;
            }
        }
        Form::Table => {
            let columns =
                [Column::whole("COUNT").number(), Column::whole("CLASS"), Column::new("FINGERPRINT").leaves(1)];
            let mut table = Table::new(&columns, "no dead letters: nothing waits for a person");
            for ((class, fingerprint), count) in &counted {
                table.painted_row([
                    (count.to_string(), None),
                    (class.to_string(), Some(Paint::Bad)),
                    ((*fingerprint).to_owned(), None),
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

async fn run_replay(context: &mut Context, home: &mut Home<'_>, letter: DeadLetter, wish: &Replay) -> Outcome {
    let name = home.name(&letter).await?;
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
    if wish.several.dry_run {
        context.remark(&format!("would replay {name} ({}, {})", letter.class, letter.message));
        return Ok(Exit::Done);
    }
    if let (Drawer::Fleet { letters, .. }, None, false) = (&home.drawer, &letter.end, wish.vouch) {
        let user = letters.user(letter.id).map_or_else(|| "nobody known".to_owned(), |user| format!("user {user:?}"));
        let problem = Problem::new(format!("{name} is a message that never was a job"))
            .what(format!(
                "it was published by {user}, and would be handed in in your own name, which may name every account"
            ))
            .next(format!("look at it: longshore dead-letter show {name}; then add --vouch"));
        return Err(Stop::new(Exit::WrongState, problem));
    }
    match home.drawer.replay(&letter, edit).await? {
        Replayed::Ticket(ticket) => match home.reached {
            Reached::Embedded(app) => job::print_going(context, app, &ticket.key()).await,
            Reached::Fleet(_) => {
                let key = ticket.key();
                let first = JobResult::accepted(&key, ticket.job.kind, Vec::new());
                submit::print_accepted(context, &key, &first)?;
                Ok(Exit::Done)
            }
        },
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

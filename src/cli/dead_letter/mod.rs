//! `longshore dead-letter`: what was set aside, for a person to decide.

mod home;
mod list;
mod replay;

use clap::{Args, Subcommand};
use serde_json::Value;

use self::home::Home;
use super::{arguments::OnlyAccount, context::Context, exit::Exit, stop::Outcome, submit};
use crate::domain::{
    dead_letter::DeadLetter,
    event::{Class, Reason},
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
        Verb::List(list) => list::run(context, home, list).await,
        Verb::Show(named) => {
            let letter = home.find(&named.letter).await?;
            let name = home.name(&letter).await?;
            let is_stale = !home.drawer.stale(std::slice::from_ref(&letter)).await.is_empty();
            list::show(context, &letter, &name, is_stale)
        }
        Verb::Replay(replay) => replay::run(context, home, &replay).await,
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

fn reason(letter: &DeadLetter) -> Option<&Reason> {
    letter.end.as_ref()?.reason.as_ref()
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

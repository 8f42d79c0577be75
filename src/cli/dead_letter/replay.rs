//! Dead letters run again: as their jobs' next generation, or as the messages that they were.

use super::{Replay, home::Home, reason, summed};
use crate::{
    app::drawer::Drawer,
    cli::{
        context::{Context, Reached},
        exit::Exit,
        job,
        output::Problem,
        result::JobResult,
        stop::{Outcome, Stop},
        submit,
    },
    domain::{adopt, dead_letter::DeadLetter, step::Step, ticket::Ticket},
    embedded::Replayed,
};

/// Runs letters again: of each job the latest, which speaks for all of them.
pub(super) async fn run(context: &mut Context, home: &mut Home<'_>, wish: &Replay) -> Outcome {
    let mut codes = Vec::new();
    for letter in latest(home.several(&wish.several).await?) {
        codes.push(replay(context, home, letter, wish).await);
    }
    summed(context, codes)
}

/// The latest letter of each job, and every letter that is no job's.
fn latest(letters: Vec<DeadLetter>) -> Vec<DeadLetter> {
    let mut kept: Vec<DeadLetter> = Vec::new();
    let place = |letter: &DeadLetter| letter.end.as_ref().map(|end| (end.ticket.key(), end.ticket.place, letter.at));
    for letter in letters {
        let of_same = |other: &&mut DeadLetter| {
            place(&letter).zip(place(other)).is_some_and(|((job, ..), (other, ..))| job == other)
        };
        match kept.iter_mut().find(of_same) {
            Some(other) if place(&letter) > place(other) => *other = letter,
            Some(_) => {}
            None => kept.push(letter),
        }
    }
    kept
}

async fn replay(context: &mut Context, home: &mut Home<'_>, letter: DeadLetter, wish: &Replay) -> Outcome {
    let name = home.name(&letter).await?;
    if !home.drawer.stale(std::slice::from_ref(&letter)).await.is_empty() {
        if wish.several.dry_run {
            context.remark(&format!("would remove the letter of {name}: its job was run again since"));
        } else {
            home.drawer.discard(letter.id).await?;
            context.remark(&format!("{name} was run again since this letter was set aside: the letter is removed"));
        }
        return Ok(Exit::Done);
    }
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
    vouched(home, &letter, &name, wish)?;
    match home.drawer.replay(&letter, edit).await? {
        Replayed::Ticket(ticket) => {
            let others = home.drawer.settle_others(&ticket).await?;
            if others > 0 {
                context.remark(&format!("{name}: earlier letters of this job are removed, {others} in number"));
            }
            match home.reached {
                Reached::Embedded(app) => job::print_going(context, app, &ticket.key()).await,
                Reached::Fleet(_) => {
                    let key = ticket.key();
                    let first = JobResult::accepted(&key, ticket.job.kind, Vec::new());
                    submit::print_accepted(context, &key, &first)?;
                    Ok(Exit::Done)
                }
            }
        }
        Replayed::Message => {
            let vouched = if wish.vouch { ", in your own name" } else { "" };
            context.remark(&format!("the message is in the queue again{vouched}"));
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

/// A producer's message goes in our own name: only when somebody says so, and may.
fn vouched(home: &Home<'_>, letter: &DeadLetter, name: &str, wish: &Replay) -> Result<(), Stop> {
    let Drawer::Fleet { letters, .. } = &home.drawer else { return Ok(()) };
    if !letters.is_producers(letter.id) {
        return Ok(());
    }
    if !wish.vouch {
        let user = letters.user(letter.id).map_or_else(|| "nobody known".to_owned(), |user| format!("user {user:?}"));
        let problem = Problem::new(format!("{name} is a message that never was a job"))
            .what(format!(
                "it was published by {user}, and would be handed in in your own name, which may name every account"
            ))
            .next(format!("look at it: longshore dead-letter show {name}; then add --vouch"));
        return Err(Stop::new(Exit::WrongState, problem));
    }
    match home.drawer.may_not_vouch(letter) {
        None => Ok(()),
        Some(why) => {
            let problem = Problem::new(format!("you may not vouch for {name}")).what(why);
            let next =
                "have it handed in by who may, or be listed in security.operators or as a producer of its account";
            Err(Stop::new(Exit::NotAllowed, problem.next(next)))
        }
    }
}

/// Why an initial submission cannot be made again.
pub(super) const ONE_INITIAL: &str =
    "a product has one initial submission: if it is not ours, submit a new job under another product name";

/// Does somebody have to say whose a product or submission is?
pub(super) fn is_at_create(step: Option<Step>) -> bool {
    step.is_some_and(|step| matches!(step, Step::CreateProduct | Step::CreateSubmission))
}

/// Can the create be made again, when no candidate is ours?
pub(super) fn can_create_again(letter: &DeadLetter) -> bool {
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

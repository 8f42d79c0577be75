//! `longshore submit`: hands jobs in, and follows them when asked.

use std::collections::BTreeSet;

use clap::Args;

use super::{
    context::{Context, Reached},
    exit::Exit,
    fleet,
    intake::{self, Checked, Refused, Taken},
    output::{Form, Mark, Paint, size},
    result::JobResult,
    stop::{Outcome, Stop},
    text::Put as _,
    told,
    watch::{self, Left, Watch},
};
use crate::{
    app::App,
    domain::{
        ids::{AccountName, JobKey},
        job::Job,
    },
    embedded::{JobView, Replayed, State, WorkerInfo},
};

/// Hands in jobs; prints one JSON object for each, on a terminal a line.
///
/// A job's id is its idempotency key: the same job handed in again is the same job, and its result is printed. --new
/// makes another job of the same content; `longshore job retry` runs an ended one again, one generation later.
///
/// Example: longshore submit nic.json --wait
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own on the command line")]
pub(super) struct Arguments {
    /// Files with a job each, or - for stdin with a job, or with one on each line
    #[arg(required = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<String>,
    /// Work the jobs in this process and wait for their ends
    #[arg(long, short = 'w')]
    wait: bool,
    /// Run jobs again that were handed in before and ended other than completed
    #[arg(long)]
    retry_failed: bool,
    /// Check jobs and packages, send and store nothing
    #[arg(long, conflicts_with_all = ["wait", "retry_failed"])]
    dry_run: bool,
    /// Give each job a new id
    #[arg(long, conflicts_with = "retry_failed")]
    new: bool,
}

/// One job of the input, as far as it came.
enum Item {
    /// Not accepted.
    Refused(Box<Refused>),
    /// Checked only.
    Checked(Box<Checked>),
    /// In the home now.
    Accepted { key: JobKey, first: Box<JobResult> },
    /// In the home since an earlier time, and left as it is.
    Known { view: Box<JobView> },
}

pub(super) async fn run(context: &mut Context, arguments: Arguments) -> Outcome {
    let home = context.reach()?;
    let texts = intake::read(&arguments.files)?;
    let jobs = texts.iter().map(|text| intake::decode(home.parts(), text, arguments.new)).collect();
    let wishes = Wishes { wait: arguments.wait, retries: arguments.retry_failed, is_dry: arguments.dry_run };
    to(context, &home, jobs, wishes).await
}

/// What is to be done with the jobs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wishes {
    /// Work them here and wait for their ends.
    pub(super) wait: bool,
    /// Run those again that ended other than completed.
    pub(super) retries: bool,
    /// Check them, nothing else.
    pub(super) is_dry: bool,
}

/// Hands the jobs to whatever home there is.
pub(super) async fn to(
    context: &mut Context,
    home: &Reached,
    jobs: Vec<Result<Job, Box<Refused>>>,
    wishes: Wishes,
) -> Outcome {
    match home {
        Reached::Embedded(app) => hand_in(context, app, jobs, wishes).await,
        Reached::Fleet(fleet) => fleet::submit::hand_in(context, fleet, jobs, wishes).await,
    }
}

/// Checks and accepts the jobs, and follows them when asked.
async fn hand_in(context: &mut Context, app: &App, jobs: Vec<Result<Job, Box<Refused>>>, wishes: Wishes) -> Outcome {
    let mut items = Vec::new();
    for job in jobs {
        let item = match job {
            Ok(job) => take(app, job, wishes.is_dry, wishes.retries).await?,
            Err(refused) => Item::Refused(refused),
        };
        if !wishes.wait {
            // One at a time, as they are accepted: a stream may be long.
            print(context, app, &item).await?;
        }
        items.push(item);
    }
    if wishes.wait {
        return wait(context, app, items).await;
    }
    let accepted = items.iter().filter_map(|item| match item {
        Item::Accepted { key, .. } => Some(&key.account),
        Item::Known { .. } | Item::Refused(_) | Item::Checked(_) => None,
    });
    if let Some(nobody) = nobody_for(app, accepted).await? {
        context.remark(&format!("{nobody}; start one with: longshore worker"));
    }
    let codes = items.iter().map(|item| match item {
        Item::Refused(refused) => refused.exit,
        Item::Known { view } => super::ending::exit_of(view, &[]),
        Item::Checked(_) | Item::Accepted { .. } => Exit::Done,
    });
    Ok(summed(&codes.collect::<Vec<_>>()))
}

/// Says so when no worker is running that takes the jobs of these accounts: those that others' `sign` and `submit --wait` run
/// work their own jobs only, and one that does not know an account only waits with its jobs.
pub(super) async fn nobody_for(
    app: &App,
    accounts: impl IntoIterator<Item = &AccountName>,
) -> Result<Option<String>, Stop> {
    let accounts: BTreeSet<&AccountName> = accounts.into_iter().collect();
    let workers = if accounts.is_empty() { Vec::new() } else { app.home.workers().await? };
    Ok(lonely(&accounts, &workers))
}

/// The accounts that none of these workers works for, in a sentence.
fn lonely(accounts: &BTreeSet<&AccountName>, workers: &[WorkerInfo]) -> Option<String> {
    let lonely = accounts.iter().filter(|account| !workers.iter().any(|worker| worker.works_for(account)));
    let lonely: Vec<&str> = lonely.map(|account| account.as_str()).collect();
    if lonely.is_empty() {
        return None;
    }
    Some(if workers.iter().all(|worker| worker.is_restricted) {
        "no worker is running on this home".to_owned()
    } else {
        format!("no worker that knows account {} is running on this home", lonely.join(", "))
    })
}

/// One job: its own code. Several: 1 when some did not go well.
pub(super) fn summed(codes: &[Exit]) -> Exit {
    match codes {
        [only] => *only,
        several if several.iter().all(|code| *code == Exit::Done) => Exit::Done,
        _ => Exit::SomeFailed,
    }
}

async fn take(app: &App, job: Job, is_dry: bool, retries: bool) -> Result<Item, Stop> {
    match intake::known(app, &job).await? {
        Some(Err(refused)) => return Ok(Item::Refused(refused)),
        Some(Ok(view)) => return again(app, view, retries).await,
        None => {}
    }
    let checked = match intake::check(app, job).await {
        Ok(checked) => checked,
        Err(refused) => return Ok(Item::Refused(refused)),
    };
    if is_dry {
        return Ok(Item::Checked(Box::new(checked)));
    }
    match intake::accept(app, checked).await? {
        Ok(Taken::New(checked)) => {
            let key = checked.job.key();
            let first = Box::new(JobResult::accepted(&key, checked.job.kind, checked.warnings));
            Ok(Item::Accepted { key, first })
        }
        Ok(Taken::Same(view)) => again(app, view, retries).await,
        Err(refused) => Ok(Item::Refused(refused)),
    }
}

/// A job that was handed in before: its state is the answer, unless it is to run again.
async fn again(app: &App, view: Box<JobView>, retries: bool) -> Result<Item, Stop> {
    if !retries || !view.state().is_end() || view.state() == State::Completed {
        return Ok(Item::Known { view });
    }
    let key = view.summary.key.clone();
    match app.home.replay(&key, |_| {}).await? {
        Replayed::Ticket(ticket) => {
            let first = Box::new(JobResult::accepted(&key, ticket.job.kind, Vec::new()));
            Ok(Item::Accepted { key, first })
        }
        Replayed::Message | Replayed::NotEnded(_) | Replayed::Completed | Replayed::Unknown => Ok(Item::Known { view }),
    }
}

async fn print(context: &mut Context, app: &App, item: &Item) -> Result<(), Stop> {
    match item {
        Item::Refused(refused) => print_refused(context, refused),
        Item::Checked(checked) => print_checked(context, checked),
        Item::Accepted { key, first } => print_accepted(context, key, first),
        Item::Known { view } => {
            suggest_retry(context, app, view).await?;
            if context.form() == Form::Table {
                return print_result(context, view);
            }
            Ok(context.out.line(&JobResult::of(view))?)
        }
    }
}

/// A job that was not accepted: for people why, for programs the same object as for all.
pub(super) fn print_refused(context: &mut Context, refused: &Refused) -> Result<(), Stop> {
    eprint!("{}", refused.problem.render(&context.aside));
    if context.form() == Form::Table {
        return Ok(());
    }
    Ok(context.out.line(&refused.result)?)
}

/// A job that is well, and was not sent.
pub(super) fn print_checked(context: &mut Context, checked: &Checked) -> Result<(), Stop> {
    if context.form() == Form::Table {
        return print_done(context, &described(checked));
    }
    Ok(context.out.line(&valid(checked))?)
}

/// A job that was accepted just now.
pub(super) fn print_accepted(context: &mut Context, key: &JobKey, first: &JobResult) -> Result<(), Stop> {
    if context.form() != Form::Table {
        return Ok(context.out.line(first)?);
    }
    for warning in &first.warnings {
        context.remark(&format!("{}: {warning}", key.id));
    }
    print_done(context, &format!("{} · {} · accepted", key.id, key.account))
}

fn print_done(context: &mut Context, text: &str) -> Result<(), Stop> {
    let style = context.style;
    let line = format!("{} {}\n", style.mark(Mark::Done), style.paint(Paint::Good, &style.text(text)));
    Ok(context.out.text(&line)?)
}

fn valid(checked: &Checked) -> serde_json::Value {
    let job = &checked.job;
    let mut result =
        JobResult::bare(Some(job.id.to_string()), Some(job.account.to_string()), Some(job.kind), "valid", None);
    result.warnings.clone_from(&checked.warnings);
    let mut value = serde_json::to_value(&result).unwrap_or_default();
    if let (Some(members), Some(facts)) = (value.as_object_mut(), &checked.facts) {
        members.insert("package".to_owned(), serde_json::to_value(facts).unwrap_or_default());
    }
    value
}

fn described(checked: &Checked) -> String {
    let package = checked.facts.as_ref().map(|facts| {
        format!(" · {}, {} files, {} INF, SHA-256 {}", size(facts.size), facts.files, facts.inf_files, facts.sha256)
    });
    let warnings: Vec<String> = checked.warnings.iter().map(|warning| format!(" · {warning}")).collect();
    format!("{} · {} · valid{}{}", checked.job.id, checked.job.account, package.unwrap_or_default(), warnings.concat())
}

/// Names the way to run an ended job again.
async fn suggest_retry(context: &Context, app: &App, view: &JobView) -> Result<(), Stop> {
    if view.state().is_end() && view.state() != State::Completed {
        let name = intake::name_of(app, &view.summary.key).await?;
        context.remark(&format!(
            "{name} was handed in before and ended {}; to run it again: longshore job retry {name}",
            view.state()
        ));
    }
    Ok(())
}

async fn wait(context: &mut Context, app: &App, items: Vec<Item>) -> Outcome {
    let open = items.iter().filter_map(|item| match item {
        Item::Accepted { key, .. } => Some(key.clone()),
        Item::Known { view } if !view.state().is_end() => Some(view.summary.key.clone()),
        Item::Known { .. } | Item::Refused(_) | Item::Checked(_) => None,
    });
    let mut watch = Watch::new(open);
    let left = if watch.is_empty() { Left::AllEnded } else { watch::work_and_follow(context, app, &mut watch).await? };
    let mut codes = Vec::new();
    for item in &items {
        let key = match item {
            Item::Refused(_) | Item::Checked(_) => {
                print(context, app, item).await?;
                codes.push(if let Item::Refused(refused) = item { refused.exit } else { Exit::Done });
                continue;
            }
            Item::Accepted { key, .. } => key,
            Item::Known { view } => {
                suggest_retry(context, app, view).await?;
                &view.summary.key
            }
        };
        codes.push(finish(context, app, key, &watch, left).await?);
    }
    if left == Left::Detached {
        say_detached(context, app, &watch).await?;
    }
    Ok(summed(&codes))
}

/// Prints how a followed job stands, and gives its code.
pub(super) async fn finish(
    context: &mut Context,
    app: &App,
    key: &JobKey,
    watch: &Watch,
    left: Left,
) -> Result<Exit, Stop> {
    let Some(view) = app.home.job(key).await? else {
        return Err(Stop::internal(format!("job {key} is gone from the home's file")));
    };
    let exit = watch::exit_of(&view, watch, left);
    if context.form() == Form::Table {
        print_result(context, &view)?;
    } else {
        let mut result = JobResult::of(&view);
        if exit == Exit::SignIn {
            result.error = watch.sign_in_error(key);
        }
        context.out.line(&result)?;
    }
    if exit == Exit::SignIn
        && let Some(error) = watch.sign_in_error(key)
    {
        let problem =
            super::output::Problem::new(format!("sign-in of account {} is refused; the job waits", key.account))
                .what(error.message)
                .next(error.next_step)
                .next(format!("longshore job watch {}", intake::name_of(app, key).await?));
        eprint!("{}", problem.render(&context.aside));
    }
    Ok(exit)
}

/// A job's end, for people: downloads with path, size and hash, or why there are none.
pub(super) fn print_result(context: &mut Context, view: &JobView) -> Result<(), Stop> {
    let style = context.style;
    let state = view.state();
    let mark = match state {
        State::Completed => Mark::Done,
        State::Failed | State::DeadLettered | State::TimedOut | State::Cancelled => Mark::Failed,
        State::Accepted | State::Running | State::Waiting | State::Cancelling => Mark::Waiting,
    };
    let key = &view.summary.key;
    let mut lines = Vec::new();
    let progress = view.ticket.as_ref().map(|ticket| &ticket.progress);
    for file in progress.iter().flat_map(|progress| &progress.downloads) {
        let compared = told::of_file(file).map(|words| format!(" · {words}")).unwrap_or_default();
        lines.push(format!("{}  {}  {}{compared}", file.kind, file.path, size(file.size)));
        lines.push(format!("         SHA-256 {}", file.sha256));
    }
    lines.extend(progress.iter().flat_map(|progress| &progress.warnings).map(|warning| format!("note     {warning}")));
    if let Some(reason) = view.end.as_ref().and_then(|end| end.reason.as_ref()) {
        lines.push(format!("what     {}", reason.message));
        lines.push(format!("next     {}", reason.next));
        lines.push(format!("trace    correlation id {}", key.correlation_id().0));
    }
    // The mark brings its own colour; everything else is made safe to show.
    let head = format!("{} · {} · {state}", key.id, key.account);
    let mut text = format!("{} {}\n", style.mark(mark), style.text(&head));
    for line in lines {
        text.put(format_args!("  {}\n", style.text(&line)));
    }
    Ok(context.out.text(&text)?)
}

/// Ctrl-C: says what is true of the jobs that were left.
pub(super) async fn say_detached(context: &Context, app: &App, watch: &Watch) -> Result<(), Stop> {
    let jobs = watch.open(&app.home).await?;
    let Some(first) = jobs.first() else { return Ok(()) };
    let names: Vec<&str> = jobs.iter().map(|key| key.id.as_str()).collect();
    let first = intake::name_of(app, first).await?;
    let goes_on = match nobody_for(app, jobs.iter().map(|key| &key.account)).await? {
        None => "a worker goes on with it; to see more".to_owned(),
        Some(nobody) => format!("it waits in the home's file, since {nobody}, and goes on with"),
    };
    context.remark(&format!(
        "left {}; nothing is cancelled or lost; {goes_on}: longshore job watch {first}",
        names.join(", ")
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Moment;

    #[test]
    fn a_worker_that_does_not_know_the_account_is_nobody() {
        let account = |name: &str| AccountName::parse(name).unwrap();
        let (contoso, fabrikam) = (account("contoso"), account("fabrikam"));
        let worker = |is_restricted, known: Option<&AccountName>| WorkerInfo {
            id: 1,
            pid: 1,
            since: Moment::default(),
            messages: 0,
            is_restricted,
            accounts: known.map(|known| BTreeSet::from([known.clone()])),
        };
        let both = BTreeSet::from([&contoso, &fabrikam]);
        let told = |workers: &[WorkerInfo]| lonely(&both, workers);
        assert_eq!(told(&[worker(false, None)]), None);
        assert_eq!(told(&[worker(false, Some(&contoso)), worker(false, Some(&fabrikam))]), None);
        let some = told(&[worker(false, Some(&contoso)), worker(true, Some(&fabrikam))]).unwrap();
        assert!(some.contains("account fabrikam") && !some.contains("contoso"), "{some}");
        for nobody in [&[][..], &[worker(true, None)]] {
            assert_eq!(told(nobody).as_deref(), Some("no worker is running on this home"));
        }
        assert_eq!(lonely(&BTreeSet::new(), &[]), None);
    }
}

//! `longshore doctor`: is everything well, and if not, what to do.

use std::{collections::BTreeSet, time::Duration};

use clap::Args;
use serde_json::{Value, json};

use super::{
    auth,
    context::{Context, Reached},
    exit::Exit,
    finding::{Finding, counted, screen},
    fleet,
    output::{Form, duration, size},
    stop::{Outcome, Stop},
    try_write, worker,
};
use crate::{
    app::{App, Parts, desk::DeskError, settings},
    clock,
    domain::{
        failure::{Failure, Kind},
        ids::AccountName,
        service::Request,
    },
    embedded::EventFilter,
    engine::ports::SignIn,
    http,
};

/// Looks at configuration, network, clock, sign-in, roles, quota and home; whatever is wrong has a next step.
///
/// Reads one page of products with each account, and writes nothing there. In a fleet it looks at the broker, at what the user may do
/// there, at its lanes, and at the memory, and sends a canary to each return lane. Exit 0 when all is well, else the code of the worst finding.
///
/// Example: longshore doctor
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// An older copy of the home's file, or of the broker's messages, was put back: every job under way looks first
    #[arg(long)]
    restored: bool,
    /// See, too, whether each account may probably write: asks to commit a submission that does not exist, which changes nothing
    #[arg(long, conflicts_with = "restored")]
    try_write: bool,
}

pub(super) async fn run(context: &mut Context, arguments: Arguments) -> Outcome {
    let home = context.reach()?;
    if arguments.restored {
        return match &home {
            Reached::Embedded(app) => restored(context, app).await,
            Reached::Fleet(fleet) => fleet::doctor::restored(context, fleet).await,
        };
    }
    let parts = home.parts();
    let mut findings = vec![configuration(parts)];
    findings.extend(network(parts).await);
    let mut is_rate_shared = true;
    if let Reached::Fleet(fleet) = &home {
        let servers = fleet::doctor::look(context, fleet).await;
        findings.extend(servers.findings);
        is_rate_shared = servers.is_memory_there;
    }
    for name in parts.loaded.settings.accounts.keys() {
        findings.extend(account(&home, name, arguments.try_write, is_rate_shared).await);
    }
    if let Reached::Embedded(app) = &home {
        findings.push(in_the_file(app).await?);
    }
    tell(context, &findings)?;
    Ok(findings.iter().map(|finding| finding.exit).max().unwrap_or(Exit::Done))
}

async fn restored(context: &mut Context, app: &App) -> Outcome {
    if !app.home.workers().await?.is_empty() {
        let problem = super::output::Problem::new("workers are running on this home");
        return Err(Stop::new(Exit::WrongState, problem.next("stop them, then: longshore doctor --restored")));
    }
    app.home.restored()?;
    context.remark("a new life of the home begins: every job under way looks before it writes");
    Ok(Exit::Done)
}

fn configuration(app: &Parts) -> Finding {
    let files: Vec<String> = app.loaded.files.iter().map(|file| file.display().to_string()).collect();
    let files = if files.is_empty() { "no file".to_owned() } else { files.join(", ") };
    let accounts = app.loaded.settings.accounts.len();
    if accounts == 0 {
        let next = "write [accounts.NAME] into longshore.toml; longshore schema config shows how";
        return Finding::bad("configuration", Exit::Input, format!("{files}, no account"), next);
    }
    let shortened = worker::shortened(&app.loaded).map(|origin| format!(", waits shortened by {origin}"));
    Finding::good(
        "configuration",
        format!("{files}, {}, no unknown keys{}", counted(accounts, "account"), shortened.unwrap_or_default()),
    )
}

/// Proxy and names, for every host that is called.
async fn network(app: &Parts) -> Vec<Finding> {
    let options = settings::http(&app.loaded.settings);
    let endpoints = &app.loaded.settings.endpoints;
    let mut findings = Vec::new();
    let mut hosts = BTreeSet::new();
    for url in [endpoints.authority.url(), endpoints.hardware.url()] {
        let host = url.host_str().unwrap_or_default().to_owned();
        if !hosts.insert(host.clone()) {
            continue;
        }
        match http::route(&options, url) {
            Ok(http::Route::Direct) => {
                let port = url.port_or_known_default().unwrap_or(443);
                let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let found = tokio::time::timeout(Duration::from_secs(10), tokio::net::lookup_host((bare, port))).await;
                let is_known = found.is_ok_and(|found| found.is_ok_and(|addresses| addresses.count() > 0));
                findings.push(if is_known {
                    Finding::good("network", format!("{host}: its name is known, direct"))
                } else {
                    Finding::bad(
                        "network",
                        Exit::Unavailable,
                        format!("{host}: its name is not known here"),
                        "check DNS, or name the proxy in [http] proxy or HTTPS_PROXY",
                    )
                });
            }
            Ok(route) => findings.push(Finding::good("network", format!("{host}: {route}"))),
            Err(error) => findings.push(Finding::bad(
                "network",
                Exit::Input,
                error.to_string(),
                "mend [http] proxy, or HTTPS_PROXY",
            )),
        }
    }
    findings
}

/// Sign-in, clock, roles and quota of one account.
async fn account(home: &Reached, name: &AccountName, is_write_tried: bool, is_rate_shared: bool) -> Vec<Finding> {
    let tested = auth::test(home.parts(), name).await;
    if tested.exit != Exit::Done {
        let next = tested.next.unwrap_or_else(|| "longshore auth test".to_owned());
        return vec![Finding::bad("sign-in", tested.exit, format!("{name}: {}", tested.text), next)];
    }
    let mut findings = vec![Finding::good("sign-in", format!("{name}: {}", tested.text))];
    if is_rate_shared {
        findings.extend(roles(home, name, is_write_tried).await);
    } else {
        let text = format!("{name}: not tried: the memory that shares the rate does not answer");
        findings.push(Finding::open("roles", text));
    }
    findings.push(quota(home, name).await);
    findings
}

/// Clock and roles, by reading one page.
async fn roles(home: &Reached, name: &AccountName, is_write_tried: bool) -> Vec<Finding> {
    let read = match home.desk(name.clone()) {
        Ok(mut desk) => desk.call(&Request::ListProducts { next: None }).await,
        Err(error) => Err(error),
    };
    let answer = match read {
        Ok(answer) => answer,
        Err(error) => return vec![refused(home.parts(), name, &error)],
    };
    let mut findings: Vec<Finding> = answer.date.map(clock_finding).into_iter().collect();
    findings.push(Finding::good("roles", format!("{name}: may read products")));
    findings.push(if is_write_tried {
        try_write::run(home, name).await
    } else {
        Finding::open("roles", format!("{name}: may create (not tried; --try-write makes it probable)"))
    });
    findings
}

fn clock_finding(theirs: jiff::Timestamp) -> Finding {
    let apart = clock::now().duration_since(theirs).as_secs();
    let text = format!("{} s from the service's", apart.abs());
    if apart.unsigned_abs() <= fleet::memory::CLOCKS.as_secs() {
        Finding::good("clock", text)
    } else {
        Finding::bad("clock", Exit::Unavailable, text, "set this machine's clock (NTP)")
    }
}

fn refused(app: &Parts, name: &AccountName, error: &DeskError) -> Finding {
    if let DeskError::Call(Failure::Permanent(cause)) = error
        && cause.kind == Kind::Forbidden
    {
        let text = format!("{name}: may not read products: {}", cause.message);
        return Finding::bad("roles", Exit::NotAllowed, text, give_role(app, name));
    }
    unanswered(&format!("{name}: may read products"), error, "longshore doctor")
}

/// A question of the roles that got no answer; `again` is the command that asks it again.
pub(super) fn unanswered(question: &str, error: &DeskError, again: &str) -> Finding {
    let text = format!("{question} (cannot be told: {error})");
    match error {
        // Nothing is wrong: the jobs are at work.
        DeskError::RateUsedUp { .. } => Finding::open("roles", text),
        DeskError::SignIn(SignIn::Throttled { .. }) | DeskError::Call(Failure::Throttled(_)) => {
            Finding::bad("roles", exit_of(error), text, format!("wait until it is over, then: {again}"))
        }
        DeskError::SignIn(_) | DeskError::Call(_) | DeskError::Home(_) => {
            Finding::bad("roles", exit_of(error), text, format!("check network and endpoints, then: {again}"))
        }
    }
}

/// What to do when the role is missing.
pub(super) fn give_role(app: &Parts, name: &AccountName) -> String {
    let client = app.loaded.settings.accounts.get(name).map(|a| a.client_id.to_string()).unwrap_or_default();
    format!("add the role \"Driver Submitter\" to application {client} (Partner Center, Users, Azure AD applications)")
}

/// The code of a call that gave nothing.
pub(super) const fn exit_of(error: &DeskError) -> Exit {
    match error {
        DeskError::SignIn(SignIn::Refused { .. }) => Exit::SignIn,
        DeskError::SignIn(SignIn::Throttled { .. })
        | DeskError::Call(Failure::Throttled(_))
        | DeskError::RateUsedUp { .. } => Exit::RateLimited,
        DeskError::SignIn(SignIn::Later { .. }) | DeskError::Call(_) => Exit::Unavailable,
        DeskError::Home(_) => Exit::LocalIo,
    }
}

/// What the account's rate means.
async fn quota(home: &Reached, name: &AccountName) -> Finding {
    let told = &home.parts().loaded.settings;
    let Some(account) = told.accounts.get(name) else { return Finding::open("quota", name.to_string()) };
    let limits = settings::limits(told, account);
    let polls = limits.calls_per_minute * limits.poll_share;
    let every =
        |jobs: f64| duration(Duration::try_from_secs_f64(jobs * 60.0 / polls.max(0.01)).unwrap_or(Duration::MAX));
    let throttled = match home {
        Reached::Embedded(app) => {
            let event = Some(crate::domain::event::Name::Throttled);
            let filter = EventFilter { account: Some(name.clone()), name: event, limit: 1_000, job: None };
            app.home.events(0, filter).await.map(|events| events.len()).unwrap_or_default()
        }
        Reached::Fleet(_) => 0,
    };
    let throttled = if throttled == 0 {
        String::new()
    } else {
        format!("; throttled {} in what is kept", counted(throttled, "time"))
    };
    Finding::good(
        "quota",
        format!(
            "{name}: {} calls a minute = 60 submissions looked at every {}; with 1,000 in flight one look each in {}{throttled}",
            limits.calls_per_minute,
            every(60.0),
            every(1_000.0),
        ),
    )
}

/// The embedded home.
async fn in_the_file(app: &App) -> Result<Finding, Stop> {
    let (held, workers, oldest) = (app.home.size().await?, app.home.workers().await?, app.home.oldest_job().await?);
    let damage = app.home.integrity().await?;
    let file = app.home.file().display().to_string();
    if !damage.is_empty() {
        let next = "stop all workers, put a copy of the file back, then: longshore doctor --restored";
        return Ok(Finding::bad("home", Exit::LocalIo, format!("{file} is damaged: {}", damage.join("; ")), next));
    }
    let now = clock::moment();
    let oldest = oldest.map(|(_, at)| format!(", the oldest from {} ago", duration(now.since(at))));
    // One that works certain jobs only, as `submit --wait` does, takes nothing else.
    let running = match workers.iter().filter(|worker| !worker.is_restricted).count() {
        0 => "no worker running".to_owned(),
        count => format!("{} running", counted(count, "worker")),
    };
    let text = format!(
        "{file}, {}, {}{}, {}, writable · {running}",
        size(held.bytes),
        counted(held.jobs, "job"),
        oldest.unwrap_or_default(),
        counted(held.dead_letters, "dead letter"),
    );
    Ok(Finding::good("home", text))
}

fn tell(context: &mut Context, findings: &[Finding]) -> Result<(), Stop> {
    if context.form() != Form::Table {
        let rows: Vec<Value> = findings.iter().map(Finding::row).collect();
        return Ok(context.out.document(&json!({ "findings": rows }))?);
    }
    let text = screen(&context.style, findings);
    Ok(context.out.text(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        failure::{Cause, Pause},
        time::Moment,
    };

    #[test]
    fn a_rate_that_jobs_use_up_is_an_open_question_and_a_pause_is_no_matter_of_the_network() {
        let account = AccountName::parse("contoso").unwrap();
        let used_up = DeskError::RateUsedUp { account, until: Moment::default() };
        let open = unanswered("contoso: may read products", &used_up, "longshore doctor");
        assert!(open.exit == Exit::Done && !open.is_known && open.next.is_none(), "{}", open.text);
        let pause = Pause { retry_after: None, cause: Cause::new(Kind::Throttled, "throttled until 12:00") };
        let paused = unanswered("q", &Failure::Throttled(pause).into(), "longshore doctor");
        assert_eq!(
            (paused.exit, paused.next.as_deref()),
            (Exit::RateLimited, Some("wait until it is over, then: longshore doctor"))
        );
    }
}

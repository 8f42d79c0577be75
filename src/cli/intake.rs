//! Jobs as people hand them in: read, checked whole before anything is stored, then accepted.

use std::path::Path;

use serde_json::Value;

use super::{
    context::unknown_account,
    exit::Exit,
    misread,
    output::Problem,
    result::{JobError, JobResult},
    stop::Stop,
};
use crate::{
    app::{App, Parts, packages::Inspection, views::Views},
    clock,
    domain::{
        failure::Failure,
        ids::{AccountName, JobId, JobKey, Malformed, Sha256},
        job::{Job, Work},
        ticket::{PackageFacts, Ticket},
        trace::Trace,
    },
    embedded::{Accepted, JobFilter, JobView},
    engine::ports::Packages as _,
};

/// The largest input in all: a hundred jobs of the largest size.
const MOST_INPUT: u64 = 128 << 20;

/// One job's text and where it came from.
#[derive(Debug, Clone)]
pub(super) struct Text {
    /// `nic.json`, `stdin, line 3`.
    pub(super) place: String,
    pub(super) bytes: Vec<u8>,
}

/// A job that was not accepted.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) exit: Exit,
    pub(super) problem: Problem,
    pub(super) result: JobResult,
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Self::new(refused.exit, refused.problem)
    }
}

/// A job that may be accepted: everything about it was checked.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    pub(super) job: Job,
    pub(super) hash: Sha256,
    pub(super) facts: Option<PackageFacts>,
    pub(super) warnings: Vec<String>,
}

/// What became of a job that was handed in.
#[derive(Debug)]
pub(super) enum Taken {
    /// It is ours now.
    New(Box<Checked>),
    /// The same job was handed in before.
    Same(Box<JobView>),
}

/// Reads the files, `-` for stdin. A file ending in `.ndjson` or `.jsonl`, and stdin, may hold a job on each line.
pub(super) fn read(files: &[String]) -> Result<Vec<Text>, Stop> {
    let mut texts = Vec::new();
    for file in files {
        let (place, bytes) = if file == "-" {
            ("stdin".to_owned(), bounded(std::io::stdin().lock(), "stdin")?)
        } else {
            let opened = std::fs::File::open(file).map_err(|error| no_file(file, &error_words(&error)))?;
            (file.clone(), bounded(opened, file)?)
        };
        let may_hold_lines = file == "-"
            || Path::new(file)
                .extension()
                .is_some_and(|end| end.eq_ignore_ascii_case("ndjson") || end.eq_ignore_ascii_case("jsonl"));
        texts.extend(if may_hold_lines { lines(&place, bytes) } else { vec![Text { place, bytes }] });
    }
    if texts.is_empty() {
        let problem = Problem::new("there is no job in the input").what("the input is empty");
        return Err(Stop::input(problem.next("longshore schema jobs shows what a job looks like")));
    }
    Ok(texts)
}

fn no_file(name: &str, why: &str) -> Stop {
    let problem = Problem::new(format!("{name} cannot be read")).what(why);
    Stop::input(problem.next("name a file that holds a job, or - for stdin"))
}

fn bounded(input: impl std::io::Read, name: &str) -> Result<Vec<u8>, Stop> {
    let mut bytes = Vec::new();
    let read = std::io::Read::read_to_end(&mut std::io::Read::take(input, MOST_INPUT + 1), &mut bytes);
    let problem = match read {
        Ok(_) if u64::try_from(bytes.len()).unwrap_or(u64::MAX) <= MOST_INPUT => return Ok(bytes),
        Ok(_) => {
            Problem::new(format!("{name} is too large")).what(format!("at most {MOST_INPUT} bytes are read at once"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => return Err(no_file(name, "it is a folder")),
        Err(error) => return Err(no_file(name, &error_words(&error))),
    };
    Err(Stop::input(problem.next("hand the jobs in by smaller parts")))
}

/// The reason without the system's number.
pub(super) fn error_words(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::NotFound { "no such file".to_owned() } else { error.kind().to_string() }
}

/// One job a line when the first line is a whole document and there are more, else one job.
fn lines(place: &str, bytes: Vec<u8>) -> Vec<Text> {
    let filled: Vec<(usize, &[u8])> = bytes
        .split(|byte| *byte == b'\n')
        .enumerate()
        .filter(|(_, line)| line.iter().any(|byte| !byte.is_ascii_whitespace()))
        .collect();
    let is_list = filled.len() > 1
        && filled
            .first()
            .is_some_and(|(_, line)| line.trim_ascii().starts_with(b"{") && line.trim_ascii().ends_with(b"}"));
    if is_list {
        return filled
            .into_iter()
            .map(|(number, line)| Text { place: format!("{place}, line {}", number + 1), bytes: line.to_vec() })
            .collect();
    }
    if filled.is_empty() { Vec::new() } else { vec![Text { place: place.to_owned(), bytes }] }
}

/// Decodes a job. Without an id, or with `is_new`, it gets a new one.
pub(super) fn decode(app: &Parts, text: &Text, is_new: bool) -> Result<Job, Box<Refused>> {
    let most = app.loaded.settings.jobs.max_size.0;
    let told = Told::of(&text.bytes);
    let length = u64::try_from(text.bytes.len()).unwrap_or(u64::MAX);
    if length > most {
        let what = format!("{}: {length} bytes; [jobs] max_size allows {most}", text.place);
        let problem = Problem::new("the job is too large").what(what.clone());
        let next = "name large things by reference, or raise [jobs] max_size (at most 1 MiB)";
        return Err(told.refused("too-large", Exit::Input, problem.next(next), &what, next));
    }
    let new_id = || JobId::parse(&clock::uuid_v7().to_string()).ok();
    let mut job = Job::decode(&text.bytes, new_id).map_err(|mistake| {
        let problem = misread::problem(&text.place, &mistake);
        let (what, next) = (problem.what.join("; "), problem.next.join("; "));
        told.refused("invalid-job", Exit::Input, problem, &what, &next)
    })?;
    if is_new && let Some(id) = new_id() {
        job.id = id;
    }
    Ok(job)
}

/// What an input tells about itself even when it is no job.
struct Told {
    job: Option<String>,
    account: Option<String>,
}

impl Told {
    fn of(bytes: &[u8]) -> Self {
        let value: Option<Value> = serde_json::from_slice(bytes).ok();
        let member = |name: &str| value.as_ref()?.get(name)?.as_str().map(|text| text.chars().take(128).collect());
        Self { job: member("id"), account: member("account") }
    }

    fn refused(self, code: &str, exit: Exit, problem: Problem, message: &str, next: &str) -> Box<Refused> {
        let error = JobError {
            code: code.to_owned(),
            message: message.to_owned(),
            http_status: None,
            correlation_id: None,
            next_step: next.to_owned(),
            retryable: false,
        };
        let result = JobResult::refused(self.job, self.account, None, error);
        Box::new(Refused { exit, problem, result })
    }
}

fn refused(job: &Job, code: &str, exit: Exit, problem: Problem) -> Box<Refused> {
    let message = if problem.what.is_empty() { problem.summary.clone() } else { problem.what.join("; ") };
    let error = JobError {
        code: code.to_owned(),
        message: crate::telemetry::redact(&message).into_owned(),
        http_status: None,
        correlation_id: None,
        next_step: problem.next.join("; "),
        retryable: false,
    };
    let result = JobResult::refused(Some(job.id.to_string()), Some(job.account.to_string()), Some(job.kind), error);
    Box::new(Refused { exit, problem, result })
}

/// Checks everything about a job that can be checked without calling the service: account, credential, sink, source,
/// package. Reads the whole package.
pub(super) async fn check(app: &Parts, job: Job) -> Result<Checked, Box<Refused>> {
    check_account(app, &job)?;
    // ORDER: the hash is taken before anything is sealed; the same job handed in again has the same.
    let hash = job.content_hash();
    let work = job.work().map_err(|mistake| {
        let problem = Problem::new("the job cannot be accepted").what(mistake.to_string());
        refused(&job, "invalid-job", Exit::Input, problem.next("longshore schema jobs"))
    })?;
    if let Some(download) = &work.download {
        app.packages.check_sink(&download.to).await.map_err(|failure| {
            let next = "name a folder below [sinks] roots as file:///…";
            of_failure(&job, "sink", "the downloads cannot be written there", &failure, next)
        })?;
    }
    let (facts, warnings) = check_package(app, &job, &work).await?;
    Ok(Checked { job, hash, facts, warnings })
}

fn check_account(app: &Parts, job: &Job) -> Result<(), Box<Refused>> {
    if !app.loaded.settings.accounts.contains_key(&job.account) {
        let mut problem = unknown_account(&app.loaded, job.account.as_str());
        if let Some(first) = problem.what.first_mut() {
            *first = format!("account: {first}");
        }
        return Err(refused(job, "unknown-account", Exit::Input, problem));
    }
    app.service.check_credential(&job.account).map_err(|unusable| {
        let problem = Problem::new("the account's credential cannot be used").what(unusable.to_string());
        let next = "set the variable or write the file that is named, then: longshore auth test";
        refused(job, "credential", Exit::Input, problem.next(next))
    })
}

async fn check_package(
    app: &Parts,
    job: &Job,
    work: &Work,
) -> Result<(Option<PackageFacts>, Vec<String>), Box<Refused>> {
    let Some(package) = &work.package else { return Ok((None, Vec::new())) };
    let unreadable = |failure: &Failure| {
        let next = "name a package that can be read: file:///… below [sources] roots, or https: from [sources] hosts";
        of_failure(job, "source", "the package cannot be read", failure, next)
    };
    app.packages.check_source(package).map_err(|failure| unreadable(&failure))?;
    if !package.preflight {
        let facts = app.packages.measure(package).await.map_err(|failure| unreadable(&failure))?;
        return Ok((Some(facts), vec!["the package was not looked into: preflight is off".to_owned()]));
    }
    let product = match &work.product {
        crate::domain::job::Target::Create(members) => Some(members),
        crate::domain::job::Target::Existing(_) => None,
    };
    match app.packages.look_into(package, product).await {
        Ok((facts, report)) => Ok((Some(facts), report.warnings)),
        Err(Inspection::Failed(failure)) => Err(unreadable(&failure)),
        Err(Inspection::Refused(refusal)) => {
            Err(refused(job, "preflight", Exit::Input, preflight_problem(&file_of(&package.source), &refusal)))
        }
    }
}

/// The last part of a source, for people; never its query.
pub(super) fn file_of(source: &str) -> String {
    let path = source.split(['?', '#']).next().unwrap_or_default();
    path.rsplit('/').find(|part| !part.is_empty()).unwrap_or(path).to_owned()
}

/// A refusal of preflight, every finding with its rule and remedy.
pub(super) fn preflight_problem(file: &str, refusal: &crate::package::preflight::Refusal) -> Problem {
    let mut problem = Problem::new("the package was refused before anything was sent");
    let mut rules: Vec<String> = Vec::new();
    for finding in &refusal.findings {
        let inside = finding.file.as_ref().map(|inside| format!("{inside}: ")).unwrap_or_default();
        problem = problem.what(format!("{file}: {inside}{}", finding.problem));
        let rule = format!("{} ({})", finding.rule, finding.source);
        if !rules.contains(&rule) {
            rules.push(rule);
        }
        if !problem.next.contains(&finding.remedy) {
            problem = problem.next(finding.remedy.clone());
        }
    }
    problem.rule(rules.join(", "))
}

fn of_failure(job: &Job, code: &str, summary: &str, failure: &Failure, next: &str) -> Box<Refused> {
    let cause = failure.cause();
    let exit = if cause.kind == crate::domain::failure::Kind::LocalIo { Exit::LocalIo } else { Exit::Input };
    refused(job, code, exit, Problem::new(summary).what(cause.message.clone()).next(next))
}

/// The job under this id, if there is one: the same job, or another content under its id.
pub(super) async fn known(app: &App, job: &Job) -> Result<Option<Result<Box<JobView>, Box<Refused>>>, Stop> {
    let Some(view) = app.home.job(&job.key()).await? else { return Ok(None) };
    if view.hash == job.content_hash().to_string() {
        return Ok(Some(Ok(Box::new(view))));
    }
    Ok(Some(Err(other_content(job))))
}

fn other_content(job: &Job) -> Box<Refused> {
    let problem = Problem::new(format!("job {} exists with other content", job.id))
        .what("an id stands for one content: kind, account and spec")
        .next("take another id, or let --new make one")
        .next(format!("longshore job show {}", job.id));
    refused(job, "other-content", Exit::Input, problem)
}

/// Stores a checked job, its source sealed.
pub(super) async fn accept(app: &App, checked: Checked) -> Result<Result<Taken, Box<Refused>>, Stop> {
    let ticket = ticket(app, &checked)?;
    Ok(match app.home.accept(ticket).await? {
        Accepted::New => Ok(Taken::New(Box::new(checked))),
        Accepted::Same(view) => Ok(Taken::Same(view)),
        Accepted::OtherContent { .. } => Err(other_content(&checked.job)),
    })
}

/// The trace of whoever runs this program: pipelines hand theirs on in `TRACEPARENT` and `TRACESTATE`.
pub(super) fn trace_of_caller() -> Option<Trace> {
    let state = std::env::var("TRACESTATE").ok();
    Trace::read(&std::env::var("TRACEPARENT").ok()?, state.as_deref())
}

fn ticket(app: &App, checked: &Checked) -> Result<Ticket, Stop> {
    let mut job = checked.job.clone();
    app.packages.seal(&mut job).map_err(|error| Stop::internal(error.to_string()))?;
    let now = clock::moment();
    let has_deadline = job.deadline.is_some();
    let producer = ["USER", "USERNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let mut ticket = Ticket::new(job, checked.hash, producer.filter(|name| !name.is_empty()), now);
    ticket.trace = trace_of_caller();
    if !has_deadline {
        ticket.deadline = now.after(app.loaded.settings.jobs.deadline);
    }
    // What was hashed is what is sent: a source that changes from here on ends the job.
    ticket.progress.package.clone_from(&checked.facts);
    Ok(ticket)
}

/// The job that somebody names: `id`, or `account/id` when several accounts have it.
pub(super) async fn find(views: impl Into<Views<'_>>, named: &str) -> Result<JobKey, Stop> {
    let views = views.into();
    let malformed = |error: Malformed| {
        Stop::input(Problem::new(format!("{named:?} is no job id")).what(error.to_string()).next("longshore job list"))
    };
    if let Some((account, id)) = named.split_once('/') {
        let account = AccountName::parse(account).map_err(malformed)?;
        return Ok(JobKey { account, id: JobId::parse(id).map_err(malformed)? });
    }
    let id = JobId::parse(named).map_err(malformed)?;
    match views.named(&id).await?.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(unknown_job(views, named).await?),
        several => {
            let keys: Vec<String> = several.iter().map(ToString::to_string).collect();
            let problem = Problem::new(format!("several accounts have a job {id}")).what(keys.join(", "));
            Err(Stop::input(problem.next(format!("name one with its account: {}", keys.join(", or ")))))
        }
    }
}

/// How a person names this job: by its id, and by its account, too, where another account has a job of the same id.
pub(super) async fn name_of(views: impl Into<Views<'_>>, key: &JobKey) -> Result<String, Stop> {
    let is_alone = views.into().named(&key.id).await?.len() < 2;
    Ok(if is_alone { key.id.to_string() } else { key.to_string() })
}

/// Nobody knows this job: the nearest name that somebody knows.
pub(super) async fn unknown_job(views: impl Into<Views<'_>>, named: &str) -> Result<Stop, Stop> {
    let latest = views.into().jobs(JobFilter { limit: 1_000, ..JobFilter::default() }).await?;
    let known: Vec<String> = latest.iter().map(|job| job.key.id.to_string()).collect();
    let problem = Problem::new(format!("there is no job {named}"));
    let problem = match crate::config::nearest(named, known.iter().map(String::as_str)) {
        Some(near) => problem.next(format!("did you mean {near}?")),
        None => problem.next("longshore job list"),
    };
    Ok(Stop::new(Exit::NotFound, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str) -> Vec<String> {
        lines("stdin", text.as_bytes().to_vec()).into_iter().map(|text| text.place).collect()
    }

    #[test]
    fn stdin_holds_one_document_or_one_job_a_line() {
        assert_eq!(places("{\n  \"id\": \"a\"\n}\n"), ["stdin"]);
        assert_eq!(places("{\"id\":\"a\"}\n\n{\"id\":\"b\"}\n"), ["stdin, line 1", "stdin, line 3"]);
        assert_eq!(places("{\"id\":\"a\"}\nnot json\n"), ["stdin, line 1", "stdin, line 2"]);
        assert!(places(" \n\n").is_empty());
    }

    #[test]
    fn a_source_is_shown_without_its_query() {
        assert_eq!(file_of("https://h/c/nic.cab?sig=secret"), "nic.cab");
        assert_eq!(file_of("file:///b/"), "b");
    }
}

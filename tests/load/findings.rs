//! What the run came to: what was lost or doubled, and the figures beside their bounds.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};
use longshore::{
    app::App,
    domain::{event::Name, ids::JobKey},
    embedded::{EventFilter, JobView, State},
    package::verify,
    sandbox::Sandbox,
};
use serde_json::{Value, json};

use super::{RATE, drivers::Driver, folder::TOKEN_LIFE, permits, run_folder, search};

/// A kill so soon after a token request may have hit it before the token was kept.
const IN_FLIGHT_MS: i64 = 250;

/// One line of the table.
#[derive(Debug)]
struct Figure {
    what: &'static str,
    is: String,
    bound: String,
    is_kept: bool,
}

/// What the run came to.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Which job, which invariant.
    broken: Vec<String>,
    figures: Vec<Figure>,
    operations: BTreeMap<(String, String), [u64; 3]>,
}

impl Findings {
    /// Reads events, journal, verdict, permits and files.
    pub(crate) async fn gather(
        app: &App,
        sandbox: &Sandbox,
        drivers: &[Driver],
        kills: &[i64],
        started: usize,
    ) -> Result<Self> {
        let mut findings = Self::default();
        let (verdict, journal) = (sandbox.verdict(), sandbox.journal());
        let journal = journal.as_array().map(Vec::as_slice).unwrap_or_default();
        let ends = ends(app).await?;
        let mut completed = 0;
        for driver in drivers {
            let view = app.home.job(&driver.key).await?;
            let broken = job(driver, view.as_ref(), ends.get(&driver.key).copied().unwrap_or(0), &verdict);
            completed += usize::from(view.is_some_and(|view| view.state() == State::Completed));
            findings.broken.extend(broken.into_iter().map(|what| format!("{}: {what}", driver.key.id)));
        }
        let violations = verdict.get("violations").and_then(Value::as_array).cloned().unwrap_or_default();
        findings.broken.extend(violations.iter().map(|what| format!("the sandbox: {what}")));
        let total = |name: &str| verdict.pointer(&format!("/totals/{name}")).and_then(Value::as_u64).unwrap_or(0);
        let jobs = u64::try_from(drivers.len())?;
        findings.most("jobs that did not complete", jobs - u64::try_from(completed)?, 0);
        findings.most("products doubled", total("products_doubled"), 0);
        findings.most("commits doubled", total("committed_submissions_doubled"), 0);
        findings.most("products without a commit", total("orphans"), 0);
        findings.exactly("products", total("products"), jobs);
        findings.exactly("committed submissions", total("committed_submissions"), jobs);
        findings.exactly("end events", u64::try_from(ends.values().sum::<usize>())?, jobs);
        findings.most("dead letters", app.home.size().await?.dead_letters, 0);
        findings.rates(&verdict, &permits::read(app.home.file())?)?;
        findings.tokens(journal, kills)?;
        findings.shown("workers killed, started", format!("{}, {started}", kills.len()));
        findings.shown("events", app.home.size().await?.events.to_string());
        findings.count(journal);
        Ok(findings)
    }

    fn rates(&mut self, verdict: &Value, instants: &[i64]) -> Result<()> {
        let rate = f64::from(RATE);
        let permits = u64::try_from(permits::most_within(instants, 10_000_000))?;
        self.within("permits of the home in any 10 s", permits, 10.0 * rate * 1.01 + 1.0);
        let calls = verdict.pointer("/calls/max_in_60_seconds").and_then(Value::as_u64).context("no calls")?;
        self.within("calls at the sandbox in any 60 s", calls, 60.0 * rate * 1.01 + rate);
        let total = verdict.pointer("/calls/total").and_then(Value::as_u64).context("no calls")?;
        let short = verdict.pointer("/calls/max_in_10_seconds").and_then(Value::as_u64).context("no calls")?;
        self.shown("permits, calls, most calls in 10 s", format!("{}, {total}, {short}", instants.len()));
        Ok(())
    }

    /// Token requests against what explains them.
    fn tokens(&mut self, journal: &[Value], kills: &[i64]) -> Result<()> {
        let at = |entry: &Value| entry.get("at_ms").and_then(Value::as_i64).unwrap_or(0);
        let has = |entry: &Value, fault: &str| text(entry, "fault").contains(fault);
        let requests: Vec<&Value> =
            journal.iter().filter(|entry| text(entry, "operation").starts_with("getToken")).collect();
        let span = journal.last().map_or(0, at) - journal.first().map_or(0, at);
        let half = i64::try_from(TOKEN_LIFE.as_millis())? / 2;
        let lifetimes = u64::try_from(span / half + 1)?;
        let forced = u64::try_from(journal.iter().filter(|entry| has(entry, "token-expiry")).count())?;
        let is_faulted = |entry: &&&Value| !text(entry, "fault").is_empty();
        let faulted = u64::try_from(requests.iter().filter(is_faulted).count())?;
        let hit = |kill: &&i64| requests.iter().any(|entry| (0..IN_FLIGHT_MS).contains(&(**kill - at(entry))));
        let killed = u64::try_from(kills.iter().filter(hit).count())?;
        let made = u64::try_from(requests.len())?;
        let bound = lifetimes + forced + faulted + killed;
        let told =
            format!("{bound} ({lifetimes} lifetimes, {forced} forced, {faulted} spoilt, {killed} hit by a kill)");
        self.figures.push(Figure { what: "token requests", is: made.to_string(), bound: told, is_kept: made <= bound });
        Ok(())
    }

    /// Requests by operation: all, those with a fault, those whose caller went away.
    fn count(&mut self, journal: &[Value]) {
        for entry in journal {
            let key = (service(text(entry, "operation")).to_owned(), text(entry, "operation").to_owned());
            let [all, faulted, aborted] = self.operations.entry(key).or_default();
            *all += 1;
            *faulted += u64::from(!text(entry, "fault").is_empty());
            *aborted += u64::from(entry.get("aborted") == Some(&json!(true)));
        }
    }

    fn figure(&mut self, what: &'static str, is: u64, bound: String, is_kept: bool) {
        self.figures.push(Figure { what, is: is.to_string(), bound, is_kept });
    }

    fn most(&mut self, what: &'static str, is: u64, bound: u64) {
        self.figure(what, is, bound.to_string(), is <= bound);
    }

    fn exactly(&mut self, what: &'static str, is: u64, bound: u64) {
        self.figure(what, is, bound.to_string(), is == bound);
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of a run of minutes")]
    fn within(&mut self, what: &'static str, is: u64, bound: f64) {
        self.figure(what, is, format!("{bound:.0}"), is as f64 <= bound);
    }

    fn shown(&mut self, what: &'static str, is: String) {
        self.figures.push(Figure { what, is, bound: String::new(), is_kept: true });
    }

    /// Prints it all; was everything kept?
    pub(crate) fn print(mut self, took: Duration, seed: u64, folder: &Path) -> Result<bool> {
        let secrets = search::run(&run_folder::root())?;
        self.figures.push(Figure {
            what: "files that hold a secret",
            is: secrets.found.len().to_string(),
            bound: format!("0 ({} secrets × {} files searched)", secrets.secrets, secrets.files),
            is_kept: secrets.found.is_empty() && secrets.secrets > 0,
        });
        let mut operations = Table::new();
        operations.load_style(presets::NOTHING).set_header([
            "service",
            "operation",
            "requests",
            "with a fault",
            "cut off",
        ]);
        for ((service, operation), [all, faulted, aborted]) in &self.operations {
            operations.add_row([service, operation, &all.to_string(), &faulted.to_string(), &aborted.to_string()]);
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(["figure", "is", "bound", ""]);
        for Figure { what, is, bound, is_kept } in &self.figures {
            let mark = if bound.is_empty() {
                ""
            } else if *is_kept {
                "ok"
            } else {
                "BROKEN"
            };
            table.add_row([*what, is, bound, mark]);
        }
        println!("\n{operations}\n\n{table}\n");
        for what in self.broken.iter().take(40) {
            println!("broken: {what}");
        }
        for (path, form) in &secrets.found {
            println!("broken: a secret stands in {} ({form})", path.display());
        }
        let is_clean = self.broken.is_empty() && self.figures.iter().all(|figure| figure.is_kept);
        let verdict = if is_clean { "nothing lost, nothing doubled" } else { "FAILED" };
        println!("load: {verdict} · {:.1} s (goal 240 s) · seed {seed} · {}", took.as_secs_f64(), folder.display());
        Ok(is_clean)
    }
}

fn text<'a>(entry: &'a Value, name: &str) -> &'a str {
    entry.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn service(operation: &str) -> &'static str {
    match operation {
        token if token.starts_with("getToken") => "token",
        blob if blob.contains("Blo") || blob.starts_with("download") => "blob",
        _ => "hardware",
    }
}

/// End events of each job, every event once.
async fn ends(app: &App) -> Result<BTreeMap<JobKey, usize>> {
    let mut ends = BTreeMap::new();
    let mut after = 0;
    loop {
        let page = app.home.events(after, EventFilter::default()).await?;
        let Some((last, _)) = page.last() else { return Ok(ends) };
        after = *last;
        for (_, event) in page.iter().filter(|(_, event)| event.name.is_end() || event.name == Name::Refused) {
            *ends.entry(event.job.clone()).or_default() += 1;
        }
    }
}

/// What must hold for one job: one end, one product, one commit, its own bytes, a signed package that verifies.
fn job(driver: &Driver, view: Option<&JobView>, ends: usize, verdict: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    let Some(view) = view else { return vec!["it is gone from the home".to_owned()] };
    if view.state() != State::Completed {
        let reason = view.end.as_ref().and_then(|end| end.reason.as_ref());
        broken.push(format!("it ended {}: {}", view.state(), reason.map_or("no reason", |reason| &reason.message)));
    }
    if ends != 1 {
        broken.push(format!("{ends} end events"));
    }
    let correlation = driver.key.correlation_id().0.to_string();
    let effects = verdict.get("by_correlation").and_then(|all| all.get(&correlation));
    for name in ["products", "submissions", "committed_submissions"] {
        let count = effects.and_then(|effects| effects.get(name)).and_then(Value::as_u64).unwrap_or(0);
        if count != 1 {
            broken.push(format!("{count} {name}"));
        }
    }
    let sent = effects.and_then(|effects| effects.get("package_sha256")).cloned().unwrap_or_default();
    if sent != json!([driver.sha256]) {
        broken.push(format!("the service has the package {sent}, ours is {}", json!(driver.sha256)));
    }
    let downloads = view.ticket.as_ref().map(|ticket| ticket.progress.downloads.clone()).unwrap_or_default();
    if downloads.len() != 1 {
        broken.push(format!("{} downloads", downloads.len()));
    }
    for file in downloads {
        if let Err(failure) = verify::verify(Path::new(&file.path), Some(&driver.cabinet)) {
            broken.push(failure.to_string());
        }
    }
    broken
}

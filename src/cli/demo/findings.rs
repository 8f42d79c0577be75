//! What the demo came to: each driver's story, and whether every invariant was kept. All of it is read, nothing is told.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::{
    super::{output::duration, stop::Stop, watch::Watch},
    drivers::{Driver, Trouble},
    folder::Folder,
    workers::Workers,
};
use crate::{
    app::App,
    domain::{
        event::{Event, Name},
        ids::{JobKey, Sha256},
    },
    embedded::{JobView, State},
    package::verify,
    sandbox::Sandbox,
};

/// The end of a driver's row.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) job: JobKey,
    pub(super) text: String,
    pub(super) is_good: bool,
}

/// What the demo came to.
#[derive(Debug)]
pub(super) struct Findings {
    pub(super) stories: Vec<Story>,
    /// Which driver, which invariant; empty when all is well.
    pub(super) broken: Vec<String>,
    /// Signed packages that were verified again by this process.
    pub(super) packages: Vec<PathBuf>,
    verdict: Value,
    secrets: Secrets,
    jobs: usize,
    lost: usize,
}

/// Secrets searched for, files searched, secrets found.
#[derive(Debug, Default)]
struct Secrets {
    files: usize,
    found: Vec<PathBuf>,
}

impl Findings {
    /// Reads events, journal, verdict and files.
    pub(super) async fn gather(
        app: &App,
        folder: &Folder,
        sandbox: &Sandbox,
        drivers: &[Driver],
        watch: &Watch,
        workers: &Workers,
    ) -> Result<Self, Stop> {
        let verdict = sandbox.verdict();
        let journal = sandbox.journal();
        let journal: &[Value] = journal.as_array().map_or(&[], Vec::as_slice);
        let mut findings = Self {
            stories: Vec::new(),
            broken: Vec::new(),
            packages: Vec::new(),
            secrets: search(folder),
            verdict,
            jobs: drivers.len(),
            lost: 0,
        };
        for driver in drivers {
            let key = driver.key();
            let Some(view) = app.home.job(&key).await? else {
                return Err(Stop::internal(format!("job {key} is gone from the home's file")));
            };
            let mut broken = findings.invariants(driver, &view, folder);
            let note = trouble(driver, watch.events(&key), journal);
            broken.extend(note.as_ref().err().cloned());
            let took = took(watch.events(&key)).map(duration).unwrap_or_default();
            let text = if broken.is_empty() {
                format!("signed, downloaded, verified {took:>7}   {}", note.unwrap_or_default()).trim_end().to_owned()
            } else {
                broken.first().cloned().unwrap_or_default()
            };
            findings.stories.push(Story { job: key, text, is_good: broken.is_empty() });
            findings.broken.extend(broken.into_iter().map(|what| format!("{}: {what}", driver.name)));
        }
        findings.totals(workers);
        Ok(findings)
    }

    /// What must hold for one driver: one end, one product, one commit, its own bytes, a signed package that verifies.
    fn invariants(&mut self, driver: &Driver, view: &JobView, folder: &Folder) -> Vec<String> {
        let mut broken = Vec::new();
        if view.state() != State::Completed {
            self.lost += 1;
            let why = view.end.as_ref().and_then(|end| end.reason.as_ref()).map(|reason| reason.message.as_str());
            return vec![format!("it ended {}: {}", view.state(), why.unwrap_or("no reason was given"))];
        }
        let correlation = driver.key().correlation_id().0.to_string();
        let effects = self.verdict.get("by_correlation").and_then(|all| all.get(&correlation));
        let count = |name: &str| effects.and_then(|effects| effects.get(name)).and_then(Value::as_u64).unwrap_or(0);
        for (name, words) in [("products", "products"), ("committed_submissions", "committed submissions")] {
            if count(name) != 1 {
                broken.push(format!("{} {words} for one job", count(name)));
            }
        }
        let sent = effects.and_then(|effects| effects.get("package_sha256")).cloned().unwrap_or_default();
        if sent != json!([driver.sha256]) {
            broken.push(format!("the service has {sent}, the package is {}", json!(driver.sha256)));
        }
        let downloads = view.ticket.as_ref().map(|ticket| ticket.progress.downloads.clone()).unwrap_or_default();
        if downloads.is_empty() {
            broken.push("nothing was downloaded".to_owned());
        }
        for file in downloads {
            let path = PathBuf::from(&file.path);
            if !file.is_verified {
                broken.push(format!("{} was downloaded, not compared", file.path));
            }
            match verify_again(&path, &file.sha256, &folder.cabinets().join(format!("{}.cab", driver.name))) {
                Ok(()) => self.packages.push(path),
                Err(why) => broken.push(why),
            }
        }
        broken
    }

    /// What must hold for all of them.
    fn totals(&mut self, workers: &Workers) {
        let violations = self.verdict.get("violations").and_then(Value::as_array).cloned().unwrap_or_default();
        self.broken.extend(violations.iter().filter_map(Value::as_str).map(|what| format!("the sandbox: {what}")));
        if self.count("products") != u64::try_from(self.jobs).unwrap_or(u64::MAX) {
            self.broken.push(format!("the sandbox: {} products for {} jobs", self.count("products"), self.jobs));
        }
        if self.count("orphans") > 0 {
            self.broken.push(format!("the sandbox: {} products without a commit", self.count("orphans")));
        }
        for path in &self.secrets.found {
            self.broken.push(format!("the demo's secret stands in {}", path.display()));
        }
        if workers.killed != 1 {
            self.broken.push(format!("{} workers were killed, not one", workers.killed));
        }
    }

    fn count(&self, name: &str) -> u64 {
        self.verdict.pointer(&format!("/totals/{name}")).and_then(Value::as_u64).unwrap_or(0)
    }

    /// `5 products for 5 jobs · doubled 0 · lost 0 · …`
    pub(super) fn verdict_line(&self) -> String {
        format!(
            "{} products for {} jobs · doubled {} · lost {} · {} packages verified · secrets found {} in {} files",
            self.count("products"),
            self.jobs,
            self.count("products_doubled") + self.count("committed_submissions_doubled"),
            self.lost,
            self.packages.len(),
            self.secrets.found.len(),
            self.secrets.files,
        )
    }

    /// All of it, for a program.
    pub(super) fn document(&self, folder: &Folder, took: Duration) -> Value {
        let stories: Vec<Value> = self
            .stories
            .iter()
            .map(|story| json!({ "job": story.job.id, "good": story.is_good, "text": story.text }))
            .collect();
        json!({
            "schema": 1,
            "clean": self.broken.is_empty(),
            "broken": self.broken,
            "drivers": stories,
            "packages": self.packages,
            "out": folder.out(),
            "seconds": took.as_secs_f64(),
            "verdict": self.verdict,
        })
    }
}

#[cfg(test)]
impl Findings {
    /// What five drivers came to, with what is broken of it.
    pub(super) fn sample(verdict: Value, lost: usize, packages: usize, secrets: &[&str], broken: &[&str]) -> Self {
        Self {
            stories: Vec::new(),
            broken: broken.iter().map(|what| (*what).to_owned()).collect(),
            packages: (0..packages).map(|number| format!("demo-out/{number}.zip").into()).collect(),
            verdict,
            secrets: Secrets { files: 34, found: secrets.iter().map(PathBuf::from).collect() },
            jobs: 5,
            lost,
        }
    }
}

/// From acceptance to the end, by the events' own times.
fn took(events: &[Event]) -> Option<Duration> {
    let first = events.iter().find(|event| event.name == Name::Accepted)?;
    let last = events.iter().rfind(|event| event.name.is_end())?;
    Some(last.time.since(first.time))
}

/// Did the driver's trouble really happen, and how was it come through?
fn trouble(driver: &Driver, events: &[Event], journal: &[Value]) -> Result<String, String> {
    let correlation = driver.key().correlation_id().0.to_string();
    let products: Vec<u64> = journal
        .iter()
        .filter(|entry| entry.get("correlation_id").and_then(Value::as_str) == Some(&correlation))
        .filter_map(|entry| entry.get("product_id").and_then(Value::as_u64))
        .collect();
    let is_ours = |entry: &&Value| {
        let is_named = entry.get("correlation_id").and_then(Value::as_str) == Some(&correlation);
        is_named || entry.get("product_id").and_then(Value::as_u64).is_some_and(|id| products.contains(&id))
    };
    let ours: Vec<&Value> = journal.iter().filter(is_ours).collect();
    if let Some(fault) = driver.trouble.fault()
        && !ours.iter().any(|entry| text(entry, "fault").is_some_and(|names| names.contains(fault)))
    {
        return Err(format!("its trouble never came: the journal holds no {fault}"));
    }
    match driver.trouble {
        Trouble::Nothing => Ok(String::new()),
        Trouble::Throttled => {
            let waits = events.iter().filter_map(|event| event.data.get("wait_seconds").and_then(Value::as_f64));
            let waited = Duration::try_from_secs_f64(waits.sum::<f64>()).unwrap_or_default();
            if waited.is_zero() {
                Err("it was throttled and did not wait".to_owned())
            } else {
                Ok(format!("waited {}", duration(waited)))
            }
        }
        Trouble::AnswerLost => {
            let looks = ours.iter().filter(|entry| text(entry, "operation") == Some("listProducts")).count();
            let adopted = events.iter().find_map(|event| {
                let done = event.data.get("done").filter(|done| done.get("adopted") == Some(&Value::Bool(true)))?;
                done.get("id").map(|id| id.to_string().replace('"', ""))
            });
            let adopted = adopted.ok_or("its product was not found by a look")?;
            Ok(format!("looked {}, adopted {adopted}", times(looks)))
        }
        Trouble::UrlExpires => {
            let blocks: Vec<&&Value> =
                ours.iter().filter(|entry| text(entry, "operation") == Some("putBlock")).collect();
            let is_good = |entry: &&&Value| entry.get("status").and_then(Value::as_u64) == Some(201);
            let before = blocks.iter().take_while(|entry| is_good(entry)).count();
            let after = blocks.iter().skip(before).filter(|entry| is_good(entry)).count();
            Ok(format!("new URL after block {before}, then {after} more"))
        }
        Trouble::WorkerKilled => {
            let killed = driver.killed.ok_or("its worker was never killed")?;
            let span = killed.taken_over.ok_or("nobody was seen to take over")?;
            Ok(format!("taken over after {}", duration(span)))
        }
    }
}

fn times(count: usize) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

fn text<'a>(entry: &'a Value, name: &str) -> Option<&'a str> {
    entry.get(name).and_then(Value::as_str)
}

/// Is the signed package there, with the recorded bytes, and does it hold what was submitted?
fn verify_again(signed: &Path, sha256: &Sha256, cabinet: &Path) -> Result<(), String> {
    let bytes = fs::read(signed).map_err(|error| format!("{} cannot be read: {error}", signed.display()))?;
    if Sha256::of(&bytes) != *sha256 {
        return Err(format!("{} is not what was downloaded", signed.display()));
    }
    verify::verify(signed, Some(cabinet)).map(|_| ()).map_err(|failure| failure.to_string())
}

/// Looks for the account's secret in everything that was written, but for where it lies by design.
fn search(folder: &Folder) -> Secrets {
    let mut secrets = Secrets::default();
    let (by_design, simulated) = (folder.secret_file(), folder.sandbox());
    let mut open = vec![folder.root().to_owned(), folder.out().to_owned()];
    while let Some(place) = open.pop() {
        for entry in fs::read_dir(&place).into_iter().flatten().flatten() {
            let path = entry.path();
            if path == by_design || path == simulated {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else if let Some(is_there) = holds(&path, folder.secret().expose_secret().as_bytes()) {
                secrets.files += 1;
                if is_there {
                    secrets.found.push(path);
                }
            }
        }
    }
    secrets
}

/// Does the file hold these bytes? None when it cannot be read.
fn holds(path: &Path, wanted: &[u8]) -> Option<bool> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.read_to_end(&mut bytes).ok()?;
    Some(bytes.windows(wanted.len().max(1)).any(|window| window == wanted))
}

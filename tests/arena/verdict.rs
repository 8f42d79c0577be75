//! The verdict: what was lost, doubled, announced twice or left behind, and what a person was asked.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use longshore::{
    clock,
    domain::{event::Class, ids::JobKey},
    package::verify::verify,
};
use serde_json::{Value, json};

use super::{Arena, Driver, left::Looker};

/// What leaves a delay is in no queue for a moment, so the broker is empty when it stays so.
const STAYS: Duration = Duration::from_millis(1_500);
/// A person is asked so often at most.
const ROUNDS: usize = 6;

/// What a run came to.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) jobs: usize,
    /// Jobs without an end, or whose end is not the completion that they must come to.
    pub(crate) lost: Vec<String>,
    /// Jobs whose one signed package fits to what was submitted.
    pub(crate) verified: usize,
    /// Calls that took effect twice.
    pub(crate) doubled: Vec<String>,
    /// What else does not hold.
    pub(crate) broken: Vec<String>,
    /// Ends that asked for a person, of accounts with product markers and without.
    pub(crate) needs_person: (usize, usize),
    /// Ends other than that and completed, by class.
    pub(crate) other_ends: BTreeMap<String, usize>,
    /// Longest wait still parked when all jobs had ended.
    pub(crate) longest_due: Duration,
    /// From then until the broker was empty.
    pub(crate) emptied_after: Duration,
    /// Different events, and all copies.
    pub(crate) events: (usize, usize),
    /// Ends that were announced with two outcomes.
    pub(crate) reworded: usize,
}

impl Verdict {
    /// Does everything hold? So many doubled calls may count, of a worker that was stopped beyond its lease.
    pub(crate) fn is_kept(&self, allowed: usize) -> bool {
        self.lost.is_empty() && self.doubled.len() <= allowed && self.broken.is_empty() && self.needs_person.0 == 0
    }

    /// All that does not hold.
    pub(crate) fn problems(&self) -> Vec<String> {
        let lost = self.lost.iter().map(|what| format!("lost: {what}"));
        let doubled = self.doubled.iter().map(|what| format!("doubled: {what}"));
        let asked = (self.needs_person.0 > 0)
            .then(|| format!("a person was asked {} times for products with markers", self.needs_person.0));
        lost.chain(doubled).chain(self.broken.iter().map(|what| format!("broken: {what}"))).chain(asked).collect()
    }
}

impl Arena {
    /// Decides for the person who is asked, until every job is completed. The workers go on meanwhile.
    pub(crate) async fn resolve(&mut self, longest: Duration) -> Result<()> {
        for _ in 0..ROUNDS {
            self.ended(longest).await?;
            let ends = self.jobs.iter().filter_map(|job| Some((job.key.clone(), self.heard.last_end(&job.key)?)));
            let asked: Vec<(JobKey, u32, Vec<String>)> = ends
                .filter(|(_, (_, end))| end.name != "completed")
                .map(|(key, (generation, end))| (key, generation, end.candidates))
                .collect();
            if asked.is_empty() {
                return Ok(());
            }
            for (key, _, candidates) in &asked {
                self.decide(&key.to_string(), candidates).await?;
            }
            self.until("what was decided ends", longest, async |arena| {
                let is_over = |(key, generation, _): &(JobKey, u32, _)| {
                    arena.heard.last_end(key).is_some_and(|(last, _)| last > *generation)
                };
                Ok(asked.iter().all(is_over))
            })
            .await?;
        }
        Ok(())
    }

    /// The one candidate is the job's own: nobody else makes products of that name.
    async fn decide(&self, job: &str, candidates: &[String]) -> Result<()> {
        let mut arguments = vec!["dead-letter", "replay", job];
        if let [candidate] = candidates {
            arguments.extend(["--adopt", candidate.as_str()]);
        }
        self.run(&arguments).await.map(drop)
    }

    /// Waits until the broker is empty, stops the workers, and gathers what came of it all.
    pub(crate) async fn verdict(&mut self) -> Result<Verdict> {
        let mut verdict = Verdict { jobs: self.jobs.len(), ..Verdict::default() };
        let url = self.broker.server.url();
        verdict.longest_due = Looker::connect(&url, &self.names).await?.longest_due().await?;
        let begun = clock::monotonic();
        let looker = Looker::connect(&url, &self.names).await?;
        // A ticket that wakes may find its record held and park once more, for what is left of a lease.
        let longest = verdict.longest_due + 3 * Duration::from_secs(16) + Duration::from_secs(30);
        let mut empty_since = None;
        let mut emptied = self
            .until("the broker stays empty", longest, async |_| {
                if !looker.left().await?.at_work.is_empty() {
                    empty_since = None;
                    return Ok(false);
                }
                let since = *empty_since.get_or_insert_with(clock::monotonic);
                verdict.emptied_after = since.duration_since(begun);
                Ok(since.elapsed() > STAYS && begun.elapsed() > verdict.longest_due + STAYS)
            })
            .await;
        let mut others = Vec::new();
        if emptied.is_ok() {
            // What a worker held unsettled lies in its lane when the worker is gone.
            self.workers.stop().await?;
            let mut empty_since = None;
            emptied = self
                .until("the broker stays empty without workers", STAYS * 10, async |_| {
                    others.extend(looker.catch_canaries().await?);
                    if !looker.left().await?.at_work.is_empty() {
                        empty_since = None;
                        return Ok(false);
                    }
                    Ok(empty_since.get_or_insert_with(clock::monotonic).elapsed() > STAYS)
                })
                .await;
        }
        if let Err(error) = emptied {
            verdict.broken.push(format!("left in the broker: {:?} ({error:#})", looker.left().await?.at_work));
        }
        verdict.broken.extend(others.into_iter().map(|other| format!("left in the broker without workers: {other}")));
        self.sandbox.inspected().await;
        self.judge(&mut verdict);
        looker.clear().await?;
        Ok(verdict)
    }

    fn judge(&self, verdict: &mut Verdict) {
        let service = self.sandbox.verdict();
        for job in &self.jobs {
            self.judge_job(job, &service, verdict);
        }
        let strings = |name: &str| service.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        for violation in strings("violations") {
            let text = violation.to_string();
            let of_doubles = text.contains("doubled") || text.contains("more than one");
            if !of_doubles {
                verdict.broken.push(format!("the service: {text}"));
            }
        }
        // Also what was made without a job's name, which no job counts.
        let made = service.pointer("/totals/products").and_then(Value::as_u64).unwrap_or(0);
        let jobs = u64::try_from(self.jobs.len()).unwrap_or(u64::MAX);
        if made > jobs && verdict.doubled.is_empty() {
            verdict.doubled.push(format!("{made} products for {jobs} jobs"));
        }
        let orphans = service.pointer("/totals/orphans").and_then(Value::as_u64).unwrap_or(0);
        if orphans > 0 {
            verdict.broken.push(format!("{orphans} products without a commit"));
        }
        verdict.broken.extend(self.heard.refused().into_iter().map(|what| format!("refused: {what}")));
        verdict.events = self.heard.counts();
    }

    fn judge_job(&self, job: &Driver, service: &Value, verdict: &mut Verdict) {
        let (key, ends) = (&job.key, self.heard.ends(&job.key));
        for (generation, end) in &ends {
            if end.ids.len() != 1 {
                verdict.broken.push(format!("{key}: {} end ids of generation {generation}", end.ids.len()));
            }
            verdict.reworded += usize::from(end.is_reworded);
            match end.class.as_deref() {
                Some(class) if class == Class::NeedsPerson.as_str() => {
                    let (marked, plain) = &mut verdict.needs_person;
                    *(if job.is_marked { marked } else { plain }) += 1;
                }
                Some(class) => {
                    *verdict.other_ends.entry(class.to_owned()).or_default() += 1;
                    verdict.broken.push(format!("{key}: generation {generation} ended {}, {class}", end.name));
                }
                None => {}
            }
        }
        let generations = u32::try_from(ends.len()).unwrap_or(u32::MAX);
        if ends.keys().copied().ne(1..=generations) {
            verdict.broken.push(format!("{key}: ends of generations {:?}", ends.keys()));
        }
        if ends.values().next_back().is_none_or(|end| end.name != "completed") {
            let last = ends.values().next_back().map_or("no end", |end| end.name.as_str());
            verdict.lost.push(format!("{key}: {last}"));
        }
        if let Some(end) = ends.values().next_back().filter(|end| end.name == "completed") {
            let [file] = end.downloads.as_slice() else {
                return verdict.broken.push(format!("{key}: {} downloads", end.downloads.len()));
            };
            match verify(file, Some(&job.cabinet)) {
                Ok(_) => verdict.verified += 1,
                Err(failure) => verdict.broken.push(format!("{key}: {failure}")),
            }
        }
        let correlation = key.correlation_id().0.to_string();
        let effects = service.get("by_correlation").and_then(|all| all.get(&correlation));
        for what in ["products", "submissions", "committed_submissions"] {
            let count = effects.and_then(|effects| effects.get(what)).and_then(Value::as_u64).unwrap_or(0);
            if count > 1 {
                verdict.doubled.push(format!("{key}: {count} {what}"));
            } else if count == 0 {
                verdict.lost.push(format!("{key}: no {what}"));
            }
        }
        let sent = effects.and_then(|effects| effects.get("package_sha256")).cloned().unwrap_or_default();
        if sent != json!([job.sha256]) {
            verdict.broken.push(format!("{key}: the service has the package {sent}, ours is {}", json!(job.sha256)));
        }
    }
}

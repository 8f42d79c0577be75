//! What people are shown of jobs: one hash each, and one index over all of them, newest first.
//!
//! Written by the very script that writes a record, so that no step pays a round trip for it. A claim knows only the record;
//! what the ticket tells is added by the settlement that hands it on, parks it or ends the job. Nothing decides by it: a
//! view that is lost fills again as jobs move, and loses nothing but what was shown.

use std::collections::BTreeMap;

use ::redis::Value;

use super::{Store, foreign, memory};
use crate::{
    domain::{
        claim::Birth,
        event::EndName,
        ids::{JobId, JobKey},
        plan::JobRecord,
        step::Place,
        ticket::Ticket,
        time::Moment,
        view::{JobFilter, JobSummary, JobView, State, Transfer},
    },
    engine::ports::Unavailable,
};

/// So many entries of the index are looked at in one go.
const BATCH: u32 = 500;

/// A list without a limit has so many.
const LIMIT: u32 = 100;

/// What is shown of a job beside its record.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shown {
    /// What its ticket tells, when somebody has just settled it.
    pub ticket: Option<TicketFacts>,
    /// The transfer under way.
    pub transfer: Option<Transfer>,
}

/// What a ticket tells of its job.
#[derive(Debug, Clone, PartialEq)]
pub struct TicketFacts(Vec<(&'static str, String)>);

impl TicketFacts {
    /// The facts of a ticket that goes on, waits, or is the last one.
    #[must_use]
    pub fn of(ticket: &Ticket) -> Self {
        let millis = |at: Moment| at.as_millis().to_string();
        Self(vec![
            ("kind", ticket.job.kind.name().to_owned()),
            ("labels", serde_json::to_string(&ticket.job.labels).unwrap_or_default()),
            ("accepted_at", millis(ticket.accepted_at)),
            ("deadline", millis(ticket.deadline)),
            ("product", ticket.progress.product_id.map(|id| id.to_string()).unwrap_or_default()),
            ("submission", ticket.progress.submission_id.map(|id| id.to_string()).unwrap_or_default()),
            ("due", ticket.due.map(millis).unwrap_or_default()),
            // Whoever settles is at work no more.
            ("until", String::new()),
        ])
    }
}

impl Shown {
    /// Names and values; a later one counts.
    pub(super) fn fields(&self, record: &JobRecord) -> Vec<(&'static str, String)> {
        let millis = |at: Moment| at.as_millis().to_string();
        let Place { generation, step, r#try } = record.place;
        let mut fields = vec![
            ("generation", generation.to_string()),
            ("step", step.to_string()),
            ("try", r#try.to_string()),
            ("until", record.holder.map(|holder| millis(holder.until)).unwrap_or_default()),
            ("wish_at", record.wish.map(|wish| millis(wish.at)).unwrap_or_default()),
            ("ended", record.end.as_ref().map(|end| state(end.name).as_str().to_owned()).unwrap_or_default()),
            ("ended_at", record.end.as_ref().map(|end| millis(end.at)).unwrap_or_default()),
            ("due", String::new()),
        ];
        if let Some(TicketFacts(facts)) = &self.ticket {
            fields.extend(facts.iter().cloned());
        }
        if record.end.is_some() {
            fields.push(("due", String::new()));
        }
        let transfer = self.transfer.filter(|_| record.end.is_none());
        let transfer = transfer.map(|Transfer { done, total, at }| format!("{done} {total} {}", at.as_millis()));
        fields.push(("transfer", transfer.unwrap_or_default()));
        fields
    }
}

const fn state(end: EndName) -> State {
    match end {
        EndName::Completed => State::Completed,
        EndName::Failed => State::Failed,
        EndName::Cancelled => State::Cancelled,
        EndName::TimedOut => State::TimedOut,
        EndName::DeadLettered => State::DeadLettered,
    }
}

/// What is written of one job, read back. What is missing or odd counts as unknown: it is only shown.
#[derive(Debug, Default)]
struct Fields(BTreeMap<String, String>);

impl Fields {
    fn of(parts: &[String]) -> Self {
        let pairs = parts.chunks_exact(2);
        Self(pairs.filter_map(|pair| Some((pair.first()?.clone(), pair.get(1)?.clone()))).collect())
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }

    fn moment(&self, name: &str) -> Option<Moment> {
        self.number(name).map(Moment::from_millis)
    }

    fn transfer(&self) -> Option<Transfer> {
        let mut words = self.text("transfer")?.split(' ');
        let mut number = || words.next()?.parse::<u64>().ok();
        let (done, total, at) = (number()?, number()?, number()?);
        Some(Transfer { done, total, at: Moment::from_millis(i64::try_from(at).ok()?) })
    }

    fn state(&self, now: Moment) -> State {
        if let Some(ended) = self.text("ended").and_then(|ended| ended.parse().ok()) {
            ended
        } else if self.text("wish_at").is_some() {
            State::Cancelling
        } else if self.moment("until").is_some_and(|until| until > now) {
            State::Running
        } else {
            State::Waiting
        }
    }

    /// `seen`: its place in the index, for a job whose ticket has told nothing yet.
    fn summary(&self, key: JobKey, seen: Moment, now: Moment) -> JobSummary {
        let place = |name| self.number(name).unwrap_or_default();
        let labels = self.text("labels").and_then(|labels| serde_json::from_str(labels).ok());
        JobSummary {
            key,
            kind: self.text("kind").and_then(|kind| kind.parse().ok()),
            labels: labels.unwrap_or_default(),
            state: self.state(now),
            place: Place {
                generation: self.number("generation").unwrap_or_default(),
                step: place("step"),
                r#try: self.number("try").unwrap_or_default(),
            },
            accepted_at: self.moment("accepted_at").unwrap_or(seen),
            deadline: self.moment("deadline"),
            touched_at: self.moment("touched_at").unwrap_or(seen),
            ended_at: self.moment("ended_at"),
            product_id: self.text("product").map(str::to_owned),
            submission_id: self.text("submission").map(str::to_owned),
            next_due: self.moment("due"),
        }
    }
}

/// Does a job pass the filter, but for its account and its page?
fn passes(summary: &JobSummary, filter: &JobFilter) -> bool {
    let has_label = |(name, value): &(String, String)| summary.labels.get(name) == Some(value);
    let has_text = |text: &String| {
        let labels = summary.labels.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
        let ids = [summary.product_id.as_deref(), summary.submission_id.as_deref()].into_iter().flatten();
        let text = text.to_lowercase();
        summary.key.to_string().to_lowercase().contains(&text)
            || labels.chain(ids).any(|word| word.to_lowercase().contains(&text))
    };
    filter.state.is_none_or(|state| state == summary.state)
        && filter.kind.is_none_or(|kind| Some(kind) == summary.kind)
        && filter.label.as_ref().is_none_or(has_label)
        && filter.text.as_ref().is_none_or(has_text)
        && filter
            .before
            .as_ref()
            .is_none_or(|(at, key)| (summary.accepted_at, summary.key.to_string()) < (*at, key.to_string()))
}

impl Store {
    pub(super) fn view(&self, job: &JobKey) -> String {
        self.key("view", &job.to_string())
    }

    /// A word without a slash: no job has such a name.
    pub(super) fn view_index(&self) -> String {
        self.key("view", "index")
    }

    /// The jobs that pass the filter, newest first.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobSummary>, Unavailable> {
        let limit = usize::try_from(if filter.limit == 0 { LIMIT } else { filter.limit }).unwrap_or(usize::MAX);
        let wanted = filter.account.as_ref().map(|account| format!("{account}/")).unwrap_or_default();
        let newest = filter.before.as_ref().map_or_else(|| "+inf".to_owned(), |(at, _)| at.as_millis().to_string());
        let (mut found, mut passed_over) = (Vec::new(), 0_u32);
        loop {
            let mut call = self.inner.scripts.list.prepare_invoke();
            call.key(self.view_index()).arg(self.key("view", "")).arg(&wanted).arg(&newest);
            call.arg(passed_over).arg(BATCH);
            let answer: Vec<Value> = self.run(&mut call).await?;
            let mut answer = answer.into_iter();
            let mut number = || answer.next().and_then(|value| ::redis::from_redis_value::<i64>(value).ok());
            let now = number().map(Moment::from_millis).ok_or_else(|| foreign("a list of jobs"))?;
            let looked_at = number().and_then(|count| u32::try_from(count).ok());
            for job in answer {
                let job: Vec<String> = ::redis::from_redis_value(job).map_err(|_| foreign("a list of jobs"))?;
                let [key, seen, parts @ ..] = job.as_slice() else { continue };
                let (Some(key), Ok(seen)) = (JobKey::parse(key), seen.parse()) else { continue };
                let summary = Fields::of(parts).summary(key, Moment::from_millis(seen), now);
                if passes(&summary, filter) {
                    found.push(summary);
                }
                if found.len() >= limit {
                    return Ok(found);
                }
            }
            match looked_at {
                Some(BATCH) => passed_over = passed_over.saturating_add(BATCH),
                Some(_) => return Ok(found),
                None => return Err(foreign("a list of jobs")),
            }
        }
    }

    /// All that is known of one job; none when nobody knows it.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn job(&self, job: &JobKey) -> Result<Option<JobView>, Unavailable> {
        let mut call = self.inner.scripts.shown.prepare_invoke();
        call.key(self.born()).key(self.record(job)).key(self.view(job));
        let answer: Vec<String> = self.run(&mut call).await?;
        let (known, parts) = answer.split_at_checked(6).ok_or_else(|| foreign("the answer of a script"))?;
        let known = memory::read(known)?;
        let mut fields = Fields::of(parts);
        if let Some(record) = known.record.as_ref().filter(|_| fields.0.is_empty()) {
            // What was shown is gone; the record still tells where the job stands.
            fields.0.extend(Shown::default().fields(record).into_iter().map(|(name, value)| (name.to_owned(), value)));
        }
        if fields.0.is_empty() {
            return Ok(None);
        }
        let transfer = fields.transfer();
        let wish_at = fields.moment("wish_at");
        let summary = fields.summary(job.clone(), known.now, known.now);
        let record = known.record.as_ref();
        let end = record.and_then(|record| record.end.clone()).filter(|_| summary.state.is_end());
        Ok(Some(JobView {
            hash: record.map(|record| record.hash.to_string()).unwrap_or_default(),
            ticket: end.as_ref().map(|end| (*end.ticket).clone()),
            holder: record
                .and_then(|record| record.holder)
                .filter(|_| known.holder_lives && summary.state == State::Running)
                .map(|holder| holder.claimant.worker),
            wish_at,
            doubt_since: known
                .known()
                .filter(|record| record.needs_look())
                .and_then(|record| record.begun_at.or(record.suspect_since)),
            end,
            transfer,
            record: known.record,
            summary,
        }))
    }

    /// The jobs of this id, of whatever configured accounts.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn named(&self, id: &JobId) -> Result<Vec<JobKey>, Unavailable> {
        let mut found = Vec::new();
        for account in self.options().accounts.keys() {
            let key = JobKey { account: account.clone(), id: id.clone() };
            let mut exists = ::redis::cmd("EXISTS");
            exists.arg(self.view(&key)).arg(self.record(&key));
            let count: u8 = self.inner.link.query(&exists).await?;
            if count > 0 {
                found.push(key);
            }
        }
        Ok(found)
    }

    /// Since when the memory remembers, and whether anything can have been lost then: what is shown of earlier is not whole.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn birth(&self) -> Result<Birth, Unavailable> {
        let mut call = self.inner.scripts.load.prepare_invoke();
        // No job's record: only the mark is asked for.
        call.key(self.born()).key(self.key("job", ""));
        let answer: Vec<String> = self.run(&mut call).await?;
        Ok(memory::read(&answer)?.birth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_odd_counts_as_unknown() {
        let parts = ["kind", "no such kind", "labels", "{", "until", "x", "step", "10", "transfer", "1 2"];
        let fields = Fields::of(&parts.map(str::to_owned));
        let key = JobKey::parse("contoso/a").unwrap();
        let summary = fields.summary(key, Moment::from_millis(5), Moment::from_millis(9));
        assert_eq!((summary.kind, summary.state, summary.place.step), (None, State::Waiting, 10));
        assert_eq!((summary.accepted_at, fields.transfer()), (Moment::from_millis(5), None));
        assert!(summary.labels.is_empty());
    }
}

//! What people are shown of jobs: one hash each, and one index over all of them, newest first.
//!
//! Written by the very script that writes a record, so that no step pays a round trip for it. A claim knows only the record;
//! what the ticket tells is added by the settlement that hands it on, parks it or ends the job. Nothing decides by it: a
//! view that is lost fills again as jobs move, and loses nothing but what was shown.

use std::collections::BTreeMap;

use ::redis::Value;
use serde::{Deserialize, Serialize};

use super::{Store, foreign, memory};
use crate::{
    domain::{
        claim::Birth,
        event::EndName,
        ids::{JobId, JobKey, Topic},
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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TicketFacts {
    kind: String,
    topic: Option<Topic>,
    labels: BTreeMap<String, String>,
    accepted_at: Moment,
    deadline: Option<Moment>,
    product: Option<String>,
    submission: Option<String>,
    due: Option<Moment>,
}

impl TicketFacts {
    /// The facts of a ticket that goes on, waits, or is the last one.
    #[must_use]
    pub fn of(ticket: &Ticket) -> Self {
        Self {
            kind: ticket.job.kind.name().to_owned(),
            topic: Some(ticket.job.topic()),
            labels: ticket.job.labels.clone(),
            accepted_at: ticket.accepted_at,
            deadline: Some(ticket.deadline),
            product: ticket.progress.product_id.map(|id| id.to_string()),
            submission: ticket.progress.submission_id.map(|id| id.to_string()),
            due: ticket.due,
        }
    }
}

/// What a record tells, in a few words of one field: every write of a record writes it, so it is short.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stand {
    place: Place,
    /// Until when somebody is at work.
    until: Option<Moment>,
    wish_at: Option<Moment>,
    ended: Option<(State, Moment)>,
    transfer: Option<Transfer>,
}

impl Default for Stand {
    fn default() -> Self {
        Self { place: Place::FIRST, until: None, wish_at: None, ended: None, transfer: None }
    }
}

impl Stand {
    fn of(record: &JobRecord, shown: &Shown) -> Self {
        Self {
            place: record.place,
            // Whoever settles is at work no more.
            until: record.holder.filter(|_| shown.ticket.is_none()).map(|holder| holder.until),
            wish_at: record.wish.map(|wish| wish.at),
            ended: record.end.as_ref().map(|end| (state(end.name), end.at)),
            transfer: shown.transfer.filter(|_| record.end.is_none()),
        }
    }

    fn state(&self, now: Moment) -> State {
        match (self.ended, self.wish_at, self.until) {
            (Some((state, _)), ..) => state,
            (None, Some(_), _) => State::Cancelling,
            (None, None, Some(until)) if until > now => State::Running,
            (None, None, Some(_) | None) => State::Waiting,
        }
    }

    fn read(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let mut number = || words.next()?.parse::<i64>().ok();
        let (generation, step, r#try) = (number()?, number()?, number()?);
        let place = Place {
            generation: u32::try_from(generation).ok()?,
            step: u16::try_from(step).ok()?,
            r#try: u32::try_from(r#try).ok()?,
        };
        let mut moment = || number().map(Moment::from_millis);
        let (until, wish_at, ended_at) = (moment(), moment(), moment());
        let ended = words.next().and_then(|state| state.parse().ok());
        let mut number = || words.next()?.parse::<u64>().ok();
        let transfer = number().zip(number()).zip(number());
        let transfer = transfer.and_then(|((done, total), at)| {
            Some(Transfer { done, total, at: Moment::from_millis(i64::try_from(at).ok()?) })
        });
        Some(Self { place, until, wish_at, ended: ended.zip(ended_at), transfer })
    }
}

impl std::fmt::Display for Stand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Place { generation, step, r#try: number } = self.place;
        write!(f, "{generation} {step} {number}")?;
        for at in [self.until, self.wish_at, self.ended.map(|(_, at)| at)] {
            match at {
                Some(at) => write!(f, " {}", at.as_millis())?,
                None => f.write_str(" -")?,
            }
        }
        f.write_str(self.ended.map_or(" -", |_| " "))?;
        f.write_str(self.ended.map_or("", |(state, _)| state.as_str()))?;
        match self.transfer {
            Some(Transfer { done, total, at }) => write!(f, " {done} {total} {}", at.as_millis()),
            None => Ok(()),
        }
    }
}

impl Shown {
    /// Names and values that are written with this record.
    pub(super) fn fields(&self, record: &JobRecord) -> Vec<(&'static str, String)> {
        let mut fields = vec![("stand", Stand::of(record, self).to_string())];
        if let Some(facts) = &self.ticket {
            fields.push(("ticket", serde_json::to_string(facts).unwrap_or_default()));
            fields.push(("accepted_at", facts.accepted_at.as_millis().to_string()));
        }
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
struct Seen {
    stand: Stand,
    ticket: Option<TicketFacts>,
    touched_at: Option<Moment>,
}

impl Seen {
    /// None when there is nothing.
    fn of(parts: &[String]) -> Option<Self> {
        let mut seen = Self::default();
        for pair in parts.chunks_exact(2) {
            let [name, value] = pair else { continue };
            match name.as_str() {
                "stand" => seen.stand = Stand::read(value).unwrap_or_default(),
                "ticket" => seen.ticket = serde_json::from_str(value).ok(),
                "touched_at" => seen.touched_at = value.parse().ok().map(Moment::from_millis),
                _ => {}
            }
        }
        (!parts.is_empty()).then_some(seen)
    }

    /// `at`: its place in the index, for a job whose ticket has told nothing yet.
    fn summary(self, key: JobKey, at: Moment, now: Moment) -> JobSummary {
        let state = self.stand.state(now);
        let (is_told, ticket) = (self.ticket.is_some(), self.ticket.unwrap_or_default());
        JobSummary {
            key,
            kind: ticket.kind.parse().ok(),
            topic: ticket.topic,
            labels: ticket.labels,
            state,
            place: self.stand.place,
            accepted_at: if is_told { ticket.accepted_at } else { at },
            deadline: ticket.deadline,
            touched_at: self.touched_at.unwrap_or(at),
            ended_at: self.stand.ended.map(|(_, at)| at),
            product_id: ticket.product,
            submission_id: ticket.submission,
            next_due: ticket.due.filter(|_| matches!(state, State::Waiting | State::Cancelling)),
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
            let answer: Vec<Value> = self.run("list", &mut call).await?;
            let mut answer = answer.into_iter();
            let mut number = || answer.next().and_then(|value| ::redis::from_redis_value::<i64>(value).ok());
            let now = number().map(Moment::from_millis).ok_or_else(|| foreign("a list of jobs"))?;
            let looked_at = number().and_then(|count| u32::try_from(count).ok());
            for job in answer {
                let job: Vec<String> = ::redis::from_redis_value(job).map_err(|_| foreign("a list of jobs"))?;
                let [key, at, parts @ ..] = job.as_slice() else { continue };
                let (Some(key), Ok(at), Some(seen)) = (JobKey::parse(key), at.parse(), Seen::of(parts)) else {
                    continue;
                };
                let summary = seen.summary(key, Moment::from_millis(at), now);
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
        let answer: Vec<String> = self.run("shown", &mut call).await?;
        let (known, parts) = answer.split_at_checked(6).ok_or_else(|| foreign("the answer of a script"))?;
        let known = memory::read(known)?;
        // When what was shown is gone the record still tells where the job stands.
        let of_record = |record| Seen { stand: Stand::of(record, &Shown::default()), ..Seen::default() };
        let Some(seen) = Seen::of(parts).or_else(|| known.record.as_ref().map(of_record)) else { return Ok(None) };
        let Stand { transfer, wish_at, .. } = seen.stand;
        let summary = seen.summary(job.clone(), known.now, known.now);
        let record = known.record.as_ref();
        // An end of another epoch may have been retried since.
        let end = known.known().and_then(|record| record.end.clone()).filter(|_| summary.state.is_end());
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
        let answer: Vec<String> = self.run("load", &mut call).await?;
        Ok(memory::read(&answer)?.birth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_odd_counts_as_unknown() {
        let parts = ["stand", "1 x", "ticket", "{", "touched_at", "soon", "tomorrow", "1"];
        let seen = Seen::of(&parts.map(str::to_owned)).unwrap();
        let summary = seen.summary(JobKey::parse("contoso/a").unwrap(), Moment::from_millis(5), Moment::from_millis(9));
        assert_eq!((summary.kind, summary.state, summary.place), (None, State::Waiting, Place::FIRST));
        assert_eq!((summary.accepted_at, summary.touched_at), (Moment::from_millis(5), Moment::from_millis(5)));
        assert!(Seen::of(&[]).is_none());
    }

    #[test]
    fn a_stand_reads_as_it_is_written() {
        let at = Moment::from_millis;
        let place = Place { generation: 2, step: 50, r#try: 7 };
        let transfer = Some(Transfer { done: 3, total: 10, at: at(9) });
        for stand in [
            Stand { place, ..Stand::default() },
            Stand { place, until: Some(at(5)), transfer, ..Stand::default() },
            Stand { place, wish_at: Some(at(6)), ..Stand::default() },
            Stand { place, wish_at: Some(at(6)), ended: Some((State::TimedOut, at(7))), ..Stand::default() },
        ] {
            assert_eq!(Stand::read(&stand.to_string()), Some(stand), "{stand}");
        }
    }
}

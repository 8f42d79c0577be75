//! Jobs handed to a fleet, and followed by its events.
//!
//! The same job handed in again is the same job: whoever lost the broker in between hands it in once more, and an end that was
//! missed is announced again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    app::Fleet,
    cli::{
        context::Context,
        ending,
        exit::Exit,
        intake::{self, Checked, Refused},
        output::{Form, Problem},
        result::{JobError, JobResult},
        signals::Signals,
        stop::{Outcome, Stop},
        submit::{self, Wishes},
        watch::{Left, Screen},
    },
    clock,
    domain::{
        event::{Class, End, EndName, Event, Name},
        ids::{AccountName, JobKey, Topic},
        job::{Deadline, Job},
        step::Place,
        ticket::{Downloaded, Ticket},
        view::{JobSummary, JobView, State},
    },
    engine::ports::Unavailable,
    rabbitmq::{Follow, FollowError},
};

/// How long nothing is heard before the time is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Checks the jobs, hands them in, and follows them when asked.
pub(in crate::cli) async fn hand_in(
    context: &mut Context,
    fleet: &Fleet,
    jobs: Vec<Result<Job, Box<Refused>>>,
    wishes: Wishes,
) -> Outcome {
    let mut items = Vec::new();
    for job in jobs {
        items.push(match job {
            Ok(job) => intake::check(fleet, job).await,
            Err(refused) => Err(refused),
        });
    }
    let mut codes: Vec<Exit> =
        items.iter().filter_map(|item| item.as_ref().err()).map(|refused| refused.exit).collect();
    for refused in items.iter().filter_map(|item| item.as_ref().err()) {
        submit::print_refused(context, refused)?;
    }
    let checked: Vec<&Checked> = items.iter().filter_map(|item| item.as_ref().ok()).collect();
    if wishes.is_dry {
        for checked in checked {
            submit::print_checked(context, checked)?;
            codes.push(Exit::Done);
        }
        return Ok(submit::summed(&codes));
    }
    let mut sent: Vec<Sent> = checked.into_iter().map(|checked| Sent::new(fleet, checked)).collect::<Result<_, _>>()?;
    if wishes.retries {
        for sent in &mut sent {
            sent.run_again_if_failed(context, fleet).await?;
        }
    }
    if !sent.is_empty() {
        let mut crowd = Crowd::new(sent);
        codes.extend(fleet.connected(async |fleet| crowd.run(context, fleet, wishes.wait).await).await??);
    }
    Ok(submit::summed(&codes))
}

/// One job on its way.
struct Sent {
    /// As it would stand at its first place.
    ticket: Ticket,
    body: Vec<u8>,
    /// Its last ticket, one generation later, when it ended other than completed and is to run again.
    again: Option<Box<Ticket>>,
    warnings: Vec<String>,
    events: Vec<Event>,
    end: Option<End>,
    /// Why its sign-in is refused, while it is.
    sign_in: Option<JobError>,
    /// Why it never became a job.
    refused: Option<(Class, String)>,
}

impl Sent {
    fn new(fleet: &Fleet, checked: &Checked) -> Result<Self, Stop> {
        let mut job = checked.job.clone();
        let now = clock::moment();
        // A deadline is fixed as an instant once; what was hashed is what is sent.
        let deadline = job
            .deadline
            .map_or_else(|| now.after(fleet.loaded.settings.jobs.deadline), |deadline| deadline.instant(now));
        job.deadline = Some(Deadline::At(deadline));
        if let (Some(facts), Some(package)) =
            (&checked.facts, job.spec.get_mut("package").and_then(|p| p.as_object_mut()))
        {
            package.entry("sha256").or_insert_with(|| facts.sha256.to_string().into());
        }
        let body = serde_json::to_vec(&job).map_err(|error| Stop::internal(error.to_string()))?;
        let hash = job.content_hash();
        let trace = intake::trace_of_caller();
        let ticket = Ticket { trace, ..Ticket::new(job, hash, fleet.user(), now) };
        Ok(Self {
            ticket,
            body,
            again: None,
            warnings: checked.warnings.clone(),
            events: Vec::new(),
            end: None,
            sign_in: None,
            refused: None,
        })
    }

    /// Takes up the end that the memory knows of this very job, unless it is "completed".
    async fn run_again_if_failed(&mut self, context: &Context, fleet: &Fleet) -> Result<(), Stop> {
        let key = self.key();
        let Some(view) = fleet.memory().job(&key).await? else { return Ok(()) };
        // Other content is no repeat: it is handed in, and refused.
        if !view.state().is_end() || view.state() == State::Completed || view.hash != self.ticket.hash.to_string() {
            return Ok(());
        }
        match view.end {
            Some(end) => {
                let ticket = end.ticket.retried(view.summary.place.generation, clock::moment());
                self.again = Some(Box::new(ticket));
            }
            None => context.remark(&format!("how job {key} ended is forgotten: it is handed in as it is")),
        }
        Ok(())
    }

    /// Of which generation an event must be to tell of this run.
    fn generation(&self) -> u32 {
        self.again.as_ref().map_or(Place::FIRST.generation, |ticket| ticket.place.generation)
    }

    async fn publish(&self, fleet: &Fleet) -> Result<(), Unavailable> {
        match &self.again {
            Some(ticket) => fleet.broker().run_again(ticket).await,
            None => fleet.broker().submit(&self.ticket.job, self.ticket.trace.as_ref(), self.body.clone()).await,
        }
    }

    fn key(&self) -> JobKey {
        self.ticket.key()
    }

    fn topic(&self) -> (AccountName, Option<Topic>) {
        (self.ticket.job.account.clone(), Some(self.ticket.job.topic()))
    }

    /// Keeps what the status view tells, when no events are heard.
    fn see(&mut self, view: &JobView) {
        if view.hash != self.ticket.hash.to_string() {
            let problem = format!("job {} exists with other content; take another id, or --new", self.key());
            self.refused = Some((Class::OtherContent, problem));
        } else if view.state().is_end() {
            self.end.clone_from(&view.end);
        }
    }

    /// Keeps what an event tells.
    fn note(&mut self, event: Event) {
        let text = |name: &str| event.data.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
        if event.name == Name::Stuck && event.data.get("sign_in").is_some() {
            self.sign_in = Some(JobError {
                code: "sign-in".to_owned(),
                message: text("message"),
                http_status: None,
                correlation_id: Some(self.key().correlation_id()),
                next_step: text("next"),
                retryable: false,
            });
        } else {
            self.sign_in = None;
        }
        // A refused event speaks of a message: of ours, when it names it.
        if event.name == Name::Refused && text("message_id") == self.ticket.job.id.as_str() {
            let class = event.data.get("class").and_then(|class| serde_json::from_value(class.clone()).ok());
            self.refused = Some((class.unwrap_or(Class::Undecodable), text("message")));
        }
        // The end of a generation before this one may be announced once more.
        if let Some(name) =
            end_of(event.name).filter(|_| generation_of(&event).is_none_or(|of| of >= self.generation()))
        {
            let member = |name: &str| event.data.get(name).cloned().unwrap_or_default();
            let mut ticket = self.ticket.clone();
            ticket.progress.product_id = serde_json::from_value(member("product_id")).ok();
            ticket.progress.submission_id = serde_json::from_value(member("submission_id")).ok();
            let downloads: Vec<Downloaded> = serde_json::from_value(member("downloads")).unwrap_or_default();
            ticket.progress.downloads = downloads;
            ticket.progress.warnings = serde_json::from_value(member("warnings")).unwrap_or_default();
            let reason = serde_json::from_value(member("reason")).ok();
            self.end = Some(End { name, at: event.time, reason, ticket: Box::new(ticket) });
        }
        self.events.push(event);
    }

    /// How it stands, as far as its events tell.
    fn view(&self) -> JobView {
        let ticket = self.end.as_ref().map_or(&self.ticket, |end| &end.ticket);
        let generation = self.events.last().and_then(generation_of).unwrap_or(self.generation());
        let state = match &self.end {
            Some(end) => match end.name {
                EndName::Completed => State::Completed,
                EndName::Failed => State::Failed,
                EndName::Cancelled => State::Cancelled,
                EndName::TimedOut => State::TimedOut,
                EndName::DeadLettered => State::DeadLettered,
            },
            None if self.events.is_empty() => State::Accepted,
            None => State::Waiting,
        };
        let at = |event: &Event| event.time;
        JobView {
            summary: JobSummary {
                key: self.key(),
                kind: Some(ticket.job.kind),
                topic: Some(ticket.job.topic()),
                labels: ticket.job.labels.clone(),
                state,
                place: Place { generation, ..ticket.place },
                accepted_at: ticket.accepted_at,
                deadline: Some(ticket.deadline),
                touched_at: self.events.last().map_or(ticket.accepted_at, at),
                ended_at: self.end.as_ref().map(|end| end.at),
                product_id: ticket.progress.product_id.map(|id| id.to_string()),
                submission_id: ticket.progress.submission_id.map(|id| id.to_string()),
                next_due: None,
            },
            hash: ticket.hash.to_string(),
            ticket: Some(ticket.clone()),
            holder: None,
            record: None,
            wish_at: None,
            doubt_since: None,
            end: self.end.clone(),
            transfer: None,
        }
    }
}

/// The generation that an event tells of.
fn generation_of(event: &Event) -> Option<u32> {
    event.sequence.split('.').next()?.parse().ok()
}

const fn end_of(name: Name) -> Option<EndName> {
    match name {
        Name::Completed => Some(EndName::Completed),
        Name::Failed => Some(EndName::Failed),
        Name::Cancelled => Some(EndName::Cancelled),
        Name::TimedOut => Some(EndName::TimedOut),
        Name::DeadLettered => Some(EndName::DeadLettered),
        Name::Accepted | Name::Refused | Name::Started | Name::Progressed | Name::Throttled | Name::Stuck => None,
    }
}

/// Jobs that are handed in together.
struct Crowd {
    sent: BTreeMap<JobKey, Sent>,
    /// In the order of the input.
    order: Vec<JobKey>,
}

impl Crowd {
    fn new(sent: Vec<Sent>) -> Self {
        let order = sent.iter().map(Sent::key).collect();
        Self { sent: sent.into_iter().map(|sent| (sent.key(), sent)).collect(), order }
    }

    async fn run(&mut self, context: &mut Context, fleet: &Fleet, waits: bool) -> Result<Vec<Exit>, Stop> {
        if !waits {
            let (accepted, failed) = self.publish(fleet).await;
            for sent in accepted.iter().filter_map(|key| self.sent.get(key)) {
                let first = JobResult::accepted(&sent.key(), sent.ticket.job.kind, sent.warnings.clone());
                submit::print_accepted(context, &sent.key(), &first)?;
            }
            return match failed {
                None => Ok(vec![Exit::Done; accepted.len()]),
                Some(down) => Err(self.halted(&accepted, &down)),
            };
        }
        // ORDER: bind before publishing; an event that nobody is bound for is gone.
        let follow = match self.follow(fleet).await {
            Ok(follow) => Some(follow),
            Err(FollowError::Down(down)) => return Err(down.into()),
            Err(FollowError::Forbidden(right)) => {
                let lacks = format!("the broker's user lacks {right}");
                if let Err(down) = fleet.memory().birth().await {
                    let problem = Problem::new("neither events nor the status view can be followed");
                    let problem = problem.what(lacks).what(down.to_string());
                    return Err(Stop::new(
                        Exit::NotAllowed,
                        problem.next("grant the right, or leave --wait out; see docs/FLEET.md"),
                    ));
                }
                context.remark(&format!(
                    "events are not heard ({lacks}); the status view is asked instead, which tells ends, but not that a job is \
                     refused"
                ));
                None
            }
        };
        if let (accepted, Some(down)) = self.publish(fleet).await {
            return Err(self.halted(&accepted, &down));
        }
        let left = self.see_through(context, fleet, follow).await?;
        let mut codes = Vec::new();
        for key in &self.order {
            if let Some(sent) = self.sent.get(key) {
                codes.push(finish(context, sent, left)?);
            }
        }
        if left == Left::Detached {
            context.remark(
                "left; nothing is cancelled or lost, the fleet goes on; to see more, hand the same job in again",
            );
        }
        Ok(codes)
    }

    async fn follow(&self, fleet: &Fleet) -> Result<Follow, FollowError> {
        let topics: BTreeSet<(AccountName, Option<Topic>)> = self.open().map(Sent::topic).collect();
        let topics: Vec<(AccountName, Option<Topic>)> = topics.into_iter().collect();
        fleet.broker().follow(&topics).await
    }

    /// Asks the status view for the jobs that have not ended.
    async fn look(&mut self, fleet: &Fleet, screen: &mut Screen) {
        for sent in self.sent.values_mut().filter(|sent| sent.end.is_none() && sent.refused.is_none()) {
            // Silent or emptied for a while, it tells later.
            if let Ok(Some(view)) = fleet.memory().job(&sent.key()).await {
                screen.look(&view);
                sent.see(&view);
            }
        }
    }

    fn open(&self) -> impl Iterator<Item = &Sent> {
        self.sent.values().filter(|sent| sent.end.is_none() && sent.refused.is_none())
    }

    /// Hands in what is open, in the order of the input, until one is not accepted: those that were, and why not.
    async fn publish(&self, fleet: &Fleet) -> (Vec<JobKey>, Option<Unavailable>) {
        let mut accepted = Vec::new();
        let is_open = |sent: &&Sent| sent.end.is_none() && sent.refused.is_none();
        for sent in self.order.iter().filter_map(|key| self.sent.get(key)).filter(is_open) {
            if let Err(down) = sent.publish(fleet).await {
                return (accepted, Some(down));
            }
            accepted.push(sent.key());
        }
        (accepted, None)
    }

    /// Some were accepted, and then no more.
    fn halted(&self, accepted: &[JobKey], down: &Unavailable) -> Stop {
        let of = self.order.len();
        let mut problem = Problem::new(format!("{} of {of} jobs were accepted, then no more", accepted.len()));
        problem = problem.what(down.to_string());
        if let Some(key) = self.order.iter().find(|key| !accepted.contains(key)) {
            problem =
                problem.what(format!("whether job {key} was accepted is not known; those after it were not handed in"));
        }
        Stop::new(
            Exit::Unavailable,
            problem.next("hand the same jobs in again: those that were accepted are the same jobs"),
        )
    }

    async fn see_through(
        &mut self,
        context: &mut Context,
        fleet: &Fleet,
        mut follow: Option<Follow>,
    ) -> Result<Left, Stop> {
        let signals = Signals::listen();
        let mut screen = Screen::new(context, self.order.len());
        let grace = fleet.loaded.settings.waits.parks.after_deadline;
        let begun = clock::moment();
        loop {
            if self.open().next().is_none() {
                if let Some(follow) = follow {
                    follow.close().await;
                }
                return Ok(Left::AllEnded);
            }
            if self.open().all(|sent| sent.sign_in.is_some()) {
                return Ok(Left::SignInRefused);
            }
            let now = clock::moment();
            let is_late = |sent: &Sent| now > sent.ticket.deadline.max(begun).after(grace);
            if self.open().all(is_late) {
                return Ok(Left::TooLate);
            }
            let heard = async {
                if let Some(follow) = &mut follow {
                    return follow.next(LOOK).await;
                }
                tokio::time::sleep(LOOK).await;
                Ok(None)
            };
            let next = tokio::select! {
                next = heard => next,
                () = signals.stop.cancelled() => return Ok(Left::Detached),
            };
            match next {
                Ok(None) if follow.is_none() => self.look(fleet, &mut screen).await,
                Ok(None) => {}
                Ok(Some(event)) => {
                    let Some(sent) = self.sent.get_mut(&event.job) else { continue };
                    if sent.events.iter().any(|seen| seen.id == event.id) {
                        continue;
                    }
                    if context.form() == Form::Ndjson {
                        context.out.line(&event.cloud_event())?;
                    }
                    screen.event(&event);
                    sent.note(event);
                }
                Err(down) => {
                    tracing::warn!(%down, "events are not heard; following anew");
                    let Some(again) = self.again(fleet, &signals).await else { return Ok(Left::Detached) };
                    follow = Some(again);
                }
            }
        }
    }

    /// Follows anew once the broker is there again, and hands the jobs in once more: an end that was missed is announced
    /// again. None when somebody does not want to wait for it.
    async fn again(&self, fleet: &Fleet, signals: &Signals) -> Option<Follow> {
        loop {
            if let Ok(follow) = self.follow(fleet).await
                && self.publish(fleet).await.1.is_none()
            {
                return Some(follow);
            }
            if self.open().all(|sent| clock::moment() > sent.ticket.deadline) {
                return None;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = signals.stop.cancelled() => return None,
            }
        }
    }
}

fn finish(context: &mut Context, sent: &Sent, left: Left) -> Result<Exit, Stop> {
    if let (None, Some((class, message))) = (&sent.end, &sent.refused) {
        let next = format!("see docs/errors/{class}.md; what was refused: longshore dead-letter show {}", sent.key());
        let problem = Problem::new(format!("job {} is refused", sent.key())).what(message.clone()).next(next.clone());
        let error = JobError {
            code: class.to_string(),
            message: message.clone(),
            http_status: None,
            correlation_id: None,
            next_step: next,
            retryable: false,
        };
        let (id, account) = (Some(sent.key().id.to_string()), Some(sent.key().account.to_string()));
        let result = JobResult::refused(id, account, Some(sent.ticket.job.kind), error);
        let exit = if *class == Class::NotAllowed { Exit::NotAllowed } else { Exit::Input };
        submit::print_refused(context, &Refused { exit, problem, result })?;
        return Ok(exit);
    }
    let view = sent.view();
    let exit = match left {
        _ if sent.end.is_some() => ending::exit_of(&view, &sent.events),
        Left::SignInRefused => Exit::SignIn,
        Left::AllEnded | Left::TooLate | Left::Detached => Exit::TimedOut,
    };
    if context.form() == Form::Table {
        submit::print_result(context, &view)?;
    } else {
        let mut result = JobResult::of(&view);
        if exit == Exit::SignIn {
            result.error.clone_from(&sent.sign_in);
        }
        context.out.line(&result)?;
    }
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clock;

    fn sent() -> Sent {
        let text = r#"{"id":"a","kind":"status-poll","account":"contoso","spec":{"product":{"id":"1"},"submission":{"id":"2"}}}"#;
        let job = Job::decode(text.as_bytes(), || None).unwrap();
        let hash = job.content_hash();
        let ticket = Ticket::new(job, hash, None, clock::moment());
        Sent {
            ticket,
            body: Vec::new(),
            again: None,
            warnings: Vec::new(),
            events: Vec::new(),
            end: None,
            sign_in: None,
            refused: None,
        }
    }

    fn event(sent: &Sent, name: Name, data: serde_json::Value) -> Event {
        Event::of(&sent.ticket, name, 1, clock::moment(), data)
    }

    #[test]
    fn a_job_ends_with_what_its_end_event_tells() {
        let mut sent = sent();
        assert_eq!(sent.view().state(), State::Accepted);
        sent.note(event(&sent, Name::Started, json!({})));
        assert_eq!(sent.view().state(), State::Waiting);
        let data = json!({ "product_id": "14300000000000001", "submission_id": null, "warnings": ["w"],
            "downloads": [{ "kind": "signedPackage", "path": "/x", "sha256": "0".repeat(64), "size": 1 }] });
        sent.note(event(&sent, Name::Completed, data));
        let result = JobResult::of(&sent.view());
        assert_eq!((result.state.as_str(), result.product_id.as_deref()), ("completed", Some("14300000000000001")));
        assert_eq!((result.downloads.len(), result.warnings, result.error.is_none()), (1, vec!["w".to_owned()], true));
    }

    #[test]
    fn an_end_of_an_earlier_generation_is_no_end_of_a_job_that_runs_again() {
        let mut sent = sent();
        let again = sent.ticket.clone().retried(1, clock::moment());
        let (earlier, later) =
            (event(&sent, Name::Failed, json!({})), Event::of(&again, Name::Failed, 1, clock::moment(), json!({})));
        sent.again = Some(Box::new(again));
        sent.note(earlier);
        assert!(sent.end.is_none());
        sent.note(later);
        assert_eq!((sent.view().state(), sent.view().summary.place.generation), (State::Failed, 2));
    }

    #[test]
    fn a_refused_sign_in_lasts_until_anything_else_happens() {
        let mut sent = sent();
        sent.note(event(&sent, Name::Stuck, json!({ "sign_in": true, "message": "no", "next": "mend it" })));
        assert_eq!(sent.sign_in.as_ref().map(|error| error.next_step.as_str()), Some("mend it"));
        sent.note(event(&sent, Name::Progressed, json!({})));
        assert!(sent.sign_in.is_none());
    }
}

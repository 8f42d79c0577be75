//! Jobs followed to their ends, while a worker of this process works them if nobody else does.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    context::Context,
    ending,
    exit::Exit,
    output::{Form, Row, Rows, Style},
    result::JobError,
    signals::Signals,
    stop::Stop,
    told::{self, tell},
};
use crate::{
    app::App,
    clock,
    domain::{
        event::{Event, Name},
        ids::JobKey,
        step::Step,
        ticket::SignInRefused,
        time::Moment,
    },
    embedded::{Embedded, EventFilter, JobView, State, Transfer},
};

/// How often the home is asked for news.
const LOOK: Duration = Duration::from_millis(100);

/// Why the following of jobs ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Every job has ended.
    AllEnded,
    /// The accounts' sign-in is refused: the jobs wait for a person.
    SignInRefused,
    /// The deadline and its grace are over.
    TooLate,
    /// Ctrl-C.
    Detached,
}

/// Jobs and what was seen of them.
pub(super) struct Watch {
    keys: BTreeSet<JobKey>,
    /// The last event that was read; none before the first reading.
    after: Option<u64>,
    seen: BTreeMap<JobKey, Vec<Event>>,
    /// When we began: a refusal of sign-in before is shown, but does not end the following.
    since: Moment,
    /// Jobs whose sign-in was refused since.
    refused: BTreeMap<JobKey, SignInRefused>,
}

impl Watch {
    /// Follows these jobs, what has happened so far included.
    pub(super) fn new(keys: impl IntoIterator<Item = JobKey>) -> Self {
        Self {
            keys: keys.into_iter().collect(),
            after: None,
            seen: BTreeMap::new(),
            since: Moment::default(),
            refused: BTreeMap::new(),
        }
    }

    /// Events of a job so far, oldest first.
    pub(super) fn events(&self, job: &JobKey) -> &[Event] {
        self.seen.get(job).map_or(&[], Vec::as_slice)
    }

    /// Is there nothing to follow?
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The jobs that have not ended.
    pub(super) async fn open(&self, home: &Embedded) -> Result<Vec<JobKey>, Stop> {
        let mut open = Vec::new();
        for key in &self.keys {
            if home.job(key).await?.is_some_and(|view| !view.state().is_end()) {
                open.push(key.clone());
            }
        }
        Ok(open)
    }

    /// Whoever follows wants the jobs tried now: those that wait for sign-in alone come at once, and only what is refused
    /// from now on counts.
    async fn begin(&mut self, home: &Embedded) -> Result<(), Stop> {
        self.since = home.now().await?;
        for key in &self.keys {
            home.wake_signed_in(key).await?;
        }
        Ok(())
    }

    /// Notes whether the job waits because its sign-in was refused since we began.
    fn look(&mut self, view: &JobView) {
        let refused = view.ticket.as_ref().and_then(|ticket| ticket.sign_in.as_ref());
        match refused.filter(|refused| refused.at > self.since && !view.state().is_end()) {
            Some(refused) => self.refused.insert(view.summary.key.clone(), refused.clone()),
            None => self.refused.remove(&view.summary.key),
        };
    }

    /// Why sign-in is refused, as the job's ticket tells.
    pub(super) fn sign_in_error(&self, job: &JobKey) -> Option<JobError> {
        let refused = self.refused.get(job)?;
        Some(JobError {
            code: "sign-in".to_owned(),
            message: refused.message.clone(),
            http_status: None,
            correlation_id: Some(job.correlation_id()),
            next_step: refused.next.clone(),
            retryable: false,
        })
    }

    /// What happened since the last time; at first, all that has ever happened to these jobs.
    pub(super) async fn news(&mut self, home: &Embedded) -> Result<Vec<Event>, Stop> {
        let Some(after) = self.after else { return self.past(home).await };
        let only = if self.keys.len() == 1 { self.keys.first().cloned() } else { None };
        let news = read(home, after, only).await?;
        self.after = news.last().map_or(self.after, |(number, _)| Some(*number));
        Ok(self.noted(news))
    }

    /// Job by job, so that the events of all others are not read; from here on everybody's are, to see what is new.
    async fn past(&mut self, home: &Embedded) -> Result<Vec<Event>, Stop> {
        let last = home.last_event().await?;
        let mut past = Vec::new();
        for key in &self.keys {
            past.extend(read(home, 0, Some(key.clone())).await?);
        }
        past.retain(|(number, _)| *number <= last);
        past.sort_by_key(|(number, _)| *number);
        self.after = Some(last);
        Ok(self.noted(past))
    }

    fn noted(&mut self, mut events: Vec<(u64, Event)>) -> Vec<Event> {
        events.retain(|(_, event)| self.keys.contains(&event.job));
        for (_, event) in &events {
            self.seen.entry(event.job.clone()).or_default().push(event.clone());
        }
        events.into_iter().map(|(_, event)| event).collect()
    }
}

/// All events behind this number, of one job or of all.
async fn read(home: &Embedded, mut after: u64, job: Option<JobKey>) -> Result<Vec<(u64, Event)>, Stop> {
    let mut events = Vec::new();
    loop {
        let page = home.events(after, EventFilter { job: job.clone(), ..EventFilter::default() }).await?;
        let Some((last, _)) = page.last() else { return Ok(events) };
        after = *last;
        events.extend(page);
    }
}

/// Works one job in this process for at most so long, without a word.
pub(super) async fn work_for(app: &App, job: &JobKey, longest: Duration) -> Result<(), Stop> {
    let crew = app.worker_of(&BTreeSet::from([job.clone()]))?;
    let (stop, now) = (CancellationToken::new(), CancellationToken::new());
    let mut working = Box::pin(crew.run(&stop, &now));
    let ended = async {
        loop {
            match app.home.job(job).await {
                Ok(Some(view)) if !view.state().is_end() => tokio::time::sleep(LOOK).await,
                Ok(_) => return Ok(()),
                Err(error) => return Err(Stop::from(error)),
            }
        }
    };
    let seen = tokio::select! {
        _ = &mut working => Ok(()),
        ended = ended => ended,
        () = tokio::time::sleep(longest) => Ok(()),
    };
    stop.cancel();
    working.await;
    seen
}

/// Works the jobs in this process, beside any other worker, and follows them to their ends.
pub(super) async fn work_and_follow(context: &mut Context, app: &App, watch: &mut Watch) -> Result<Left, Stop> {
    watch.begin(&app.home).await?;
    let crew = app.worker_of(&watch.keys)?;
    let signals = Signals::listen();
    let (stop, now) = (CancellationToken::new(), CancellationToken::new());
    let mut working = Box::pin(crew.run(&stop, &now));
    let left = tokio::select! {
        _ = &mut working => Err(Stop::internal("the worker of this process ended by itself")),
        left = follow(context, app, watch, &signals) => left,
    };
    // What is under way is finished, unless somebody presses Ctrl-C once more.
    stop.cancel();
    if matches!(left, Ok(Left::Detached)) {
        context.remark("finishing the call under way; Ctrl-C once more leaves at once");
    }
    tokio::select! {
        _ = &mut working => {}
        () = signals.now.cancelled() => {}
    }
    left
}

async fn follow(context: &mut Context, app: &App, watch: &mut Watch, signals: &Signals) -> Result<Left, Stop> {
    let mut screen = Screen::new(context, watch.keys.len());
    let grace = app.loaded.settings.waits.parks.after_deadline;
    // A job whose deadline passed long ago still gets the time to be told so.
    let begun = clock::moment();
    loop {
        for event in watch.news(&app.home).await? {
            match context.form() {
                Form::Ndjson => context.out.line(&event.cloud_event())?,
                Form::Json | Form::Table => {}
            }
            screen.event(&event);
        }
        let now = clock::moment();
        let (mut open, mut is_late) = (0, true);
        for key in watch.keys.clone() {
            let Some(view) = app.home.job(&key).await? else { continue };
            screen.look(&view);
            watch.look(&view);
            if !view.state().is_end() {
                open += 1;
                is_late &= view.summary.deadline.is_some_and(|deadline| now > deadline.max(begun).after(grace));
            }
        }
        if open == 0 {
            // The end's own event was written with it.
            for event in watch.news(&app.home).await? {
                if context.form() == Form::Ndjson {
                    context.out.line(&event.cloud_event())?;
                }
                screen.event(&event);
            }
            return Ok(Left::AllEnded);
        }
        if watch.refused.len() >= open {
            return Ok(Left::SignInRefused);
        }
        if is_late {
            return Ok(Left::TooLate);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = signals.stop.cancelled() => return Ok(Left::Detached),
        }
    }
}

/// The code of a job that was followed so far.
pub(super) fn exit_of(view: &JobView, watch: &Watch, left: Left) -> Exit {
    if view.state().is_end() {
        return ending::exit_of(view, watch.events(&view.summary.key));
    }
    match left {
        Left::SignInRefused => Exit::SignIn,
        Left::AllEnded | Left::TooLate | Left::Detached => Exit::TimedOut,
    }
}

/// The rows on the screen.
pub(super) struct Screen {
    rows: Option<Rows>,
    shown: BTreeMap<JobKey, Shown>,
    is_single: bool,
    style: Style,
}

/// What is shown of one job.
struct Shown {
    row: Row,
    is_done: bool,
    moving_since: Option<Instant>,
    /// The pause that is told stays on the screen for so long.
    quiet_until: Moment,
}

impl Screen {
    pub(super) fn new(context: &Context, jobs: usize) -> Self {
        // Rows for people only: a script that reads JSON wants a quiet stderr.
        let is_shown = context.form() == Form::Table || std::io::stderr().is_terminal();
        Self {
            rows: is_shown.then(|| context.rows()),
            shown: BTreeMap::new(),
            is_single: jobs == 1,
            style: context.aside,
        }
    }

    fn of(&mut self, job: &JobKey) -> Option<&mut Shown> {
        let (rows, is_single) = (self.rows.as_ref()?, self.is_single);
        let row = || {
            if !is_single {
                return rows.row(job.id.as_str(), job.id.as_str().len().max(12));
            }
            rows.print(&self.style.text(&format!("{} · {}", job.id, job.account)));
            rows.row("", 0)
        };
        Some(self.shown.entry(job.clone()).or_insert_with(|| Shown {
            row: row(),
            is_done: false,
            moving_since: None,
            quiet_until: Moment::default(),
        }))
    }

    pub(super) fn event(&mut self, event: &Event) {
        let Some(told) = tell(event) else { return };
        let is_single = self.is_single;
        let rows = self.rows.clone();
        let Some(shown) = self.of(&event.job) else { return };
        shown.moving_since = None;
        if event.name.is_end() {
            shown.is_done = true;
            if event.name == Name::Completed {
                shown.row.done(&told);
            } else {
                shown.row.failed(&told);
            }
            return;
        }
        shown.is_done = false;
        if event.name == Name::Throttled {
            shown.quiet_until = event.time.after(told::pause(event));
        }
        // One job has room for its whole story: what is done stays, and a new row below it moves.
        if is_single
            && event.data.get("done").is_some()
            && let Some(rows) = rows
        {
            shown.row.done(&told);
            shown.row = rows.row("", 0);
        } else {
            shown.row.doing(&told);
        }
    }

    pub(super) fn look(&mut self, view: &JobView) {
        let Some(shown) = self.of(&view.summary.key) else { return };
        if shown.is_done {
            return;
        }
        let (at, now) = (Step::from_number(view.summary.place.step), clock::moment());
        if at == Some(Step::Poll)
            && shown.quiet_until < now
            && view.ticket.as_ref().is_some_and(|ticket| ticket.sign_in.is_none())
            && let Some(text) = told::watched(view, now)
        {
            return shown.row.ticking(&text);
        }
        if view.state() != State::Running {
            return;
        }
        if let (Some(transfer), Some(Step::Upload | Step::Download)) = (view.transfer, at)
            && transfer.done < transfer.total
            && is_fresh(&transfer)
        {
            let since = *shown.moving_since.get_or_insert_with(clock::monotonic);
            shown.row.bytes(transfer.done, Some(transfer.total), clock::monotonic().saturating_duration_since(since));
        }
    }
}

/// Does it move now? What an earlier step left behind does not.
pub(super) fn is_fresh(transfer: &Transfer) -> bool {
    clock::moment().since(transfer.at) < Duration::from_secs(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{job::Job, ticket::Ticket},
        embedded::Options,
    };

    fn ticket(id: &str) -> Ticket {
        let text = format!(
            r#"{{"id":"{id}","kind":"status-poll","account":"contoso","spec":{{"product":{{"id":"1"}},"submission":{{"id":"2"}}}}}}"#
        );
        let job = Job::decode(text.as_bytes(), || None).unwrap();
        let hash = job.content_hash();
        Ticket::new(job, hash, None, clock::moment())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn several_jobs_are_followed_from_their_beginnings_and_others_are_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let home = Embedded::open(Options::new(folder.path())).unwrap();
        for id in ["c", "other", "a"] {
            home.accept(ticket(id)).await.unwrap();
        }
        let mut watch = Watch::new(["a", "c", "late"].map(|id| ticket(id).key()));
        let mut news = async || -> Vec<String> {
            let news = watch.news(&home).await.unwrap_or_default();
            news.iter().map(|event| event.job.id.to_string()).collect()
        };
        assert_eq!(news().await, ["c", "a"], "as they happened");
        assert!(news().await.is_empty());
        home.accept(ticket("other-too")).await.unwrap();
        home.accept(ticket("late")).await.unwrap();
        assert_eq!(news().await, ["late"]);
        assert!(news().await.is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_a_refusal_of_sign_in_that_is_newer_than_the_command_counts() {
        let folder = tempfile::tempdir().unwrap();
        let home = Embedded::open(Options::new(folder.path())).unwrap();
        home.accept(ticket("a")).await.unwrap();
        let mut watch = Watch::new([ticket("a").key()]);
        assert!(watch.begin(&home).await.is_ok());
        let mut view = home.job(&ticket("a").key()).await.unwrap().unwrap();
        for (at, is_counted) in [(watch.since, false), (watch.since.after(Duration::from_millis(1)), true)] {
            let refused = SignInRefused { at, message: "no".to_owned(), next: "mend it".to_owned() };
            view.ticket.as_mut().unwrap().sign_in = Some(refused);
            watch.look(&view);
            assert_eq!(watch.sign_in_error(&view.summary.key).is_some(), is_counted);
        }
        view.ticket.as_mut().unwrap().sign_in = None;
        watch.look(&view);
        assert!(watch.refused.is_empty(), "it goes on");
    }
}

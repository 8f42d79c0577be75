//! The engine while the memory does not answer: polls go on without a claim, everything else waits.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use longshore::{
    clock,
    domain::{
        claim::{Epoch, Loaded},
        event::End,
        failure::Failure,
        ids::{AccountName, JobKey, ProductId, SubmissionId},
        job::{Job, PackageSpec},
        plan::JobRecord,
        quota::Admission,
        service::{Answer, PageLink, Product, Request, Response, SignedUrl, Submission, Workflow},
        settlement::{Entry, Next, Settlement},
        step::{Kind, QuotaClass, Step},
        ticket::{PackageFacts, StepResult, Ticket, Watch},
        time::Moment,
    },
    engine::{
        intake::{Control, ControlTicket},
        ports::{
            CallIds, Clock, Fetch, Fetched, Listing, Listings, Memory, Origin, Packages, Permit, Ports, Queue, Quota,
            Received, Service, Settled, SignIn, Swapped, Token, TransferHooks, Turn, TurnKey, Turns, Unavailable,
            Upload, Views,
        },
        settings::Settings,
        worker::Worker,
    },
    redis::{Options, Rates, Store},
};

use crate::{
    harness::{account, at, options, scope, ticket},
    servers,
};

/// A queue that keeps what is settled, over a memory that is not there.
struct Home {
    memory: Store,
    rates: Rates,
    settled: Mutex<Vec<Settlement>>,
}

impl Queue for Home {
    type Delivery = ();

    async fn receive(&self, _: Kind) -> Result<Received<()>, Unavailable> {
        std::future::pending().await
    }

    async fn settle(&self, (): (), _: Option<&JobKey>, settlement: Settlement) -> Result<Settled, Unavailable> {
        self.settled.lock().unwrap().push(settlement);
        Ok(Settled::Done)
    }
}

impl Memory for Home {
    async fn load(&self, job: &JobKey) -> Result<Loaded<StepResult, End>, Unavailable> {
        self.memory.load(job).await
    }

    async fn swap(&self, job: &JobKey, epoch: Epoch, version: u64, record: &JobRecord) -> Result<Swapped, Unavailable> {
        self.memory.swap(job, epoch, version, record).await
    }
}

impl Turns for Home {
    async fn take_turn(&self, key: &TurnKey, job: &JobKey) -> Result<Turn, Unavailable> {
        self.memory.take_turn(key, job).await
    }

    async fn stamp_turn(&self, key: &TurnKey, job: &JobKey, begun_at: Moment) -> Result<bool, Unavailable> {
        self.memory.stamp_turn(key, job, begun_at).await
    }

    async fn end_turn(&self, key: &TurnKey, job: &JobKey, begun_at: Option<Moment>) -> Result<(), Unavailable> {
        self.memory.end_turn(key, job, begun_at).await
    }

    async fn own(&self, account: &AccountName, product: ProductId, job: &JobKey) -> Result<(), Unavailable> {
        self.memory.own(account, product, job).await
    }

    async fn owner(&self, account: &AccountName, product: ProductId) -> Result<Option<JobKey>, Unavailable> {
        self.memory.owner(account, product).await
    }
}

impl Listings for Home {
    async fn join_listing(&self, account: &AccountName, from: Moment, job: &JobKey) -> Result<Listing, Unavailable> {
        self.memory.join_listing(account, from, job).await
    }

    async fn add_page(
        &self,
        account: &AccountName,
        job: &JobKey,
        products: &[Product],
        next: Option<&PageLink>,
    ) -> Result<bool, Unavailable> {
        self.memory.add_page(account, job, products, next).await
    }

    async fn page_failed(&self, account: &AccountName, job: &JobKey) -> Result<(), Unavailable> {
        self.memory.page_failed(account, job).await
    }

    async fn leave_listing(&self, account: &AccountName, job: &JobKey) -> Result<(), Unavailable> {
        self.memory.leave_listing(account, job).await
    }

    async fn listed(&self, account: &AccountName, name: &str) -> Result<Vec<Product>, Unavailable> {
        self.memory.listed(account, name).await
    }
}

impl Quota for Home {
    async fn permit(
        &self,
        account: &AccountName,
        class: QuotaClass,
        refusals: u32,
        chance: f64,
    ) -> Result<Admission, Unavailable> {
        self.rates.permit(account, class, refusals, chance).await
    }

    async fn throttled(&self, account: &AccountName, pause: Duration) -> Result<Moment, Unavailable> {
        self.rates.throttled(account, pause).await
    }

    async fn paused_until(&self, account: &AccountName) -> Result<Moment, Unavailable> {
        self.rates.paused_until(account).await
    }

    async fn failed(&self, account: &AccountName) -> Result<Option<Moment>, Unavailable> {
        self.rates.failed(account).await
    }

    async fn succeeded(&self, account: &AccountName) -> Result<(), Unavailable> {
        self.rates.succeeded(account).await
    }

    async fn polls_in_flight(&self, account: &AccountName) -> Result<u64, Unavailable> {
        self.rates.polls_in_flight(account).await
    }

    fn polls_per_minute(&self, account: &AccountName) -> f64 {
        self.rates.polls_per_minute(account)
    }
}

impl Views for Home {
    fn transferred(&self, _: &JobKey, _: u64, _: u64) {}
}

/// Shows one submission; counts who asks.
struct Shows {
    state: &'static str,
    asked: Mutex<Vec<Request>>,
}

impl Service for Shows {
    fn knows(&self, _: &AccountName) -> bool {
        true
    }

    async fn sign_in(&self, _: &AccountName) -> Result<Token, SignIn> {
        Ok(Token { secret: "token".into(), version: "1".to_owned() })
    }

    async fn renew(&self, account: &AccountName, _: &Token) -> Result<Token, SignIn> {
        self.sign_in(account).await
    }

    async fn call(
        &self,
        _: &AccountName,
        request: &Request,
        _: CallIds,
        _: Permit,
        _: &Token,
    ) -> Result<Answer, Failure> {
        self.asked.lock().unwrap().push(request.clone());
        let workflow = Workflow {
            step: Some("scanning".to_owned()),
            state: Some(self.state.to_owned()),
            messages: Vec::new(),
            error_report: None,
        };
        let submission = Submission {
            id: SubmissionId::new(2),
            product: ProductId::new(1),
            name: "nic".to_owned(),
            kind: "initial".to_owned(),
            commit_status: None,
            workflow: Some(workflow),
            downloads: None,
            created: None,
        };
        Ok(Answer { response: Response::Submission(Box::new(submission)), http_status: 200, date: None })
    }
}

struct NoPackages;

impl Packages for NoPackages {
    fn seal(&self, _: &mut Job) -> Result<(), Unavailable> {
        Ok(())
    }

    async fn inspect(
        &self,
        _: &PackageSpec,
        _: Option<&serde_json::Map<String, serde_json::Value>>,
    ) -> Result<(PackageFacts, Vec<String>), Failure> {
        panic!("no package is asked for")
    }

    async fn upload<H: TransferHooks>(
        &self,
        _: &PackageSpec,
        _: &PackageFacts,
        _: SignedUrl,
        _: &H,
    ) -> Result<Upload, Failure> {
        panic!("no package is asked for")
    }

    async fn download<H: TransferHooks>(&self, _: &Fetch<'_>, _: SignedUrl, _: &H) -> Result<Fetched, Failure> {
        panic!("no package is asked for")
    }
}

struct Wall;

impl Clock for Wall {
    fn boot_time(&self) -> Duration {
        clock::boot_time()
    }

    fn wall(&self) -> Moment {
        clock::moment()
    }

    fn chance(&self) -> f64 {
        0.5
    }

    async fn sleep(&self, span: Duration) {
        tokio::time::sleep(span).await;
    }
}

struct Outside {
    home: Home,
    service: Shows,
}

impl Ports for Outside {
    type Home = Home;
    type Service = Shows;
    type Packages = NoPackages;
    type Clock = Wall;

    fn home(&self) -> &Home {
        &self.home
    }

    fn service(&self) -> &Shows {
        &self.service
    }

    fn packages(&self) -> &NoPackages {
        &NoPackages
    }

    fn clock(&self) -> &Wall {
        &Wall
    }
}

/// Hands a message to a worker whose memory is not there. Returns what it settled and what it asked the service.
async fn handled(body: String, state: &'static str, calls_per_minute: f64) -> (Settlement, usize) {
    let accounts = [(account(), scope(calls_per_minute))].into();
    let address = at(format!("redis://127.0.0.1:{}", servers::free_port()));
    let memory = Store::new(&address, Options { accounts, max_workers: 1, ..options() }).unwrap();
    let rates = Rates::new(memory.clone());
    let home = Home { memory, rates, settled: Mutex::default() };
    let outside = Arc::new(Outside { home, service: Shows { state, asked: Mutex::default() } });
    let worker = Worker::new(Arc::clone(&outside), Arc::new(Settings::default()), 7);
    let received = Received {
        delivery: (),
        origin: Origin::Return,
        body,
        is_redelivered: false,
        is_spent: false,
        producer: None,
        message_id: None,
        published_at: None,
        trace: None,
    };
    assert_eq!(worker.handle(received).await.unwrap(), Settled::Done);
    let mut settled = outside.home.settled.lock().unwrap();
    let asked = outside.service.asked.lock().unwrap().len();
    (settled.pop().unwrap(), asked)
}

/// A ticket at a step, its workflow watched for an hour.
fn watched(step: Step) -> Ticket {
    let mut ticket = ticket("watched").at_step(step);
    let since = clock::moment().before(Duration::from_secs(3_600));
    let (step, state) = (Some("scanning".to_owned()), Some("started".to_owned()));
    ticket.progress.watch =
        Some(Watch { since, step, state, unchanged_since: since, said_stuck: true, almost_since: None });
    ticket
}

fn text(ticket: &Ticket) -> String {
    serde_json::to_string(ticket).unwrap()
}

fn next(settlement: &Settlement) -> &Ticket {
    let Next::Ticket(ticket) = &settlement.next else { panic!("{settlement:?}") };
    ticket
}

/// Nothing is written but one marked ticket.
fn assert_quiet(settlement: &Settlement) {
    assert_eq!((&settlement.entry, settlement.claimant), (&Entry::Nothing, None));
    assert!(settlement.events.is_empty() && next(settlement).suspect, "{settlement:?}");
}

/// It waits as long as a write waits for the memory.
fn assert_parked(settlement: &Settlement, ticket: &Ticket) {
    assert_quiet(settlement);
    let parked = next(settlement);
    assert_eq!(parked.place, ticket.place);
    let wait = parked.due.unwrap().since(clock::moment());
    assert!((100..=256).contains(&wait.as_secs()), "{wait:?}");
}

#[tokio::test]
async fn a_poll_without_news_hands_on_the_next_try() {
    let ticket = watched(Step::Poll);
    let (settlement, asked) = handled(text(&ticket), "started", 60_000.0).await;
    assert_eq!(asked, 1);
    assert_quiet(&settlement);
    assert_eq!(next(&settlement).place, ticket.place.next_try());
    assert!(next(&settlement).due.unwrap() > clock::moment());
}

#[tokio::test]
async fn a_poll_with_news_and_one_that_would_end_the_job_wait_for_the_memory() {
    let ticket = watched(Step::Poll);
    for state in ["failed", "moved"] {
        let (settlement, asked) = handled(text(&ticket), state, 60_000.0).await;
        assert_eq!(asked, 1, "{state}");
        assert_parked(&settlement, &ticket);
    }
    // Its deadline has come: the end is for who can claim it.
    let late = Ticket { deadline: clock::moment().before(Duration::from_secs(1)), ..ticket.clone() };
    let (settlement, asked) = handled(text(&late), "started", 60_000.0).await;
    assert_eq!(asked, 0);
    assert_parked(&settlement, &late);
}

#[tokio::test]
async fn a_poll_that_is_refused_a_permit_parks_its_own_place_and_counts_it() {
    let ticket = watched(Step::Poll);
    let (settlement, asked) = handled(text(&ticket), "started", 1.0).await;
    assert_eq!(asked, 0);
    assert_quiet(&settlement);
    assert_eq!((next(&settlement).place, next(&settlement).refusals), (ticket.place, 1));
}

#[tokio::test]
async fn every_other_step_waits_for_the_memory() {
    for step in [Step::Commit, Step::Download, Step::CreateSubmission] {
        let ticket = watched(step);
        let (settlement, asked) = handled(text(&ticket), "started", 60_000.0).await;
        assert_eq!(asked, 0, "{step}");
        assert_parked(&settlement, &ticket);
    }
}

#[tokio::test]
async fn a_wish_waits_for_the_memory_and_does_not_come_again_at_once() {
    let until = clock::moment().after(Duration::from_secs(3_600));
    let control = ControlTicket { control: Control::Cancel, job: ticket("x").key(), generation: None, until };
    let body = serde_json::to_string(&control).unwrap();
    let (settlement, _) = handled(body.clone(), "started", 60_000.0).await;
    let Next::Raw { body: parked, due } = settlement.next else { panic!("{settlement:?}") };
    assert_eq!(parked, body);
    assert!(due.since(clock::moment()).as_secs() >= 30);
}

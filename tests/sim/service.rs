//! A model of the service: effects, answers that get lost, lists that lag.

use std::time::Duration;

use longshore::{
    domain::{
        failure::{Cause, Failure, Kind as CauseKind, Pause, RetryClass},
        ids::{AccountName, JobKey, ProductId, Sha256, SubmissionId},
        job::{Job, PackageSpec},
        retry::Policy,
        service::{
            Answer, CommitStatus, Download, Page, PageLink, Product, Request, Response, SignedUrl, Submission,
            SubmissionKind, Workflow,
        },
        ticket::{Downloaded, PackageFacts},
        time::Moment,
    },
    engine::ports::{
        CallIds, Clock, Fetch, Fetched, Packages, Permit, Ports, Service, SignIn, Token, TransferHooks, Unavailable,
        Upload,
    },
};
use secrecy::SecretString;
use serde_json::{Map, Value};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    home::SimHome,
    world::{MadeProduct, MadeSubmission, State, World},
};

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(300);
const PAGE: usize = 3;

/// One worker's way to the service.
pub struct SimService {
    pub world: World,
    pub who: u64,
    pub jobs: Vec<JobKey>,
}

/// What the seed has in store for one call.
enum Plot {
    /// Executed and answered.
    Plain,
    /// Executed, perhaps late; the answer never comes.
    LostAnswer { after: Duration },
    /// Never executed; the connection breaks.
    LostRequest,
    /// Not executed: a pause.
    Throttled { told: Option<Duration> },
    /// Executed or not, answered 503.
    Failed { executed: bool },
}

impl SimService {
    fn plot(&self) -> Plot {
        let mut state = self.world.lock();
        let mix = state.mix;
        if state.strike(mix.throttle, "429") {
            let seconds = state.faults.between(1, 90);
            return Plot::Throttled { told: state.faults.happens(0.7).then(|| Duration::from_secs(seconds)) };
        }
        if state.strike(mix.lost_request, "lost request") {
            return Plot::LostRequest;
        }
        if state.strike(mix.lost_answer, "lost answer") {
            let after = Duration::from_secs(state.faults.between(0, mix.late_arrival_s));
            return Plot::LostAnswer { after };
        }
        if state.strike(mix.failure, "503") {
            return Plot::Failed { executed: state.faults.happens(0.5) };
        }
        Plot::Plain
    }

    fn job(&self, ids: CallIds) -> JobKey {
        self.jobs.iter().find(|job| job.correlation_id() == ids.correlation).unwrap().clone()
    }
}

impl Service for SimService {
    fn knows(&self, _account: &AccountName) -> bool {
        true
    }

    async fn sign_in(&self, _account: &AccountName) -> Result<Token, SignIn> {
        Ok(Token { secret: SecretString::from("sim"), version: "1".to_owned() })
    }

    async fn renew(&self, account: &AccountName, _refused: &Token) -> Result<Token, SignIn> {
        self.sign_in(account).await
    }

    async fn call(
        &self,
        account: &AccountName,
        request: &Request,
        ids: CallIds,
        _permit: Permit,
        _token: &Token,
    ) -> Result<Answer, Failure> {
        self.world.lock().leaves(self.who, account, request.operation());
        self.world.edge(self.who, request.operation()).await;
        let plot = self.plot();
        let paused = account.clone();
        let (job, account, request) = (self.job(ids), account.clone(), request.clone());
        let class = request.retry_class();
        let unclear = |kind, message: &str| match class {
            RetryClass::Create | RetryClass::Guarded => Failure::Indeterminate(Cause::new(kind, message)),
            RetryClass::Read | RetryClass::Overwrite | RetryClass::Converge => {
                Failure::Transient(Cause::new(kind, message))
            }
        };
        let arrival = Duration::from_millis(self.world.lock().order.between(1, 200));
        let outcome = match plot {
            Plot::Throttled { told } => {
                let cause = Cause::new(CauseKind::Throttled, "429");
                Err(Failure::Throttled(Pause { retry_after: told, cause }))
            }
            Plot::LostRequest => {
                tokio::time::sleep(arrival).await;
                Err(unclear(CauseKind::Disconnected, "connection reset"))
            }
            Plot::LostAnswer { after } => {
                // The request goes on without whoever sent it.
                let world = self.world.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(arrival + after).await;
                    let _answer = execute(&mut world.lock(), &account, &job, &request);
                });
                let wait = Duration::from_millis(self.world.lock().order.between(200, 300_000));
                tokio::time::sleep(wait.min(RESPONSE_TIMEOUT)).await;
                Err(unclear(CauseKind::Timeout, "no answer"))
            }
            Plot::Failed { executed: false } => {
                tokio::time::sleep(arrival).await;
                Err(unclear(CauseKind::ServerError, "503"))
            }
            Plot::Failed { executed: true } | Plot::Plain => {
                let is_failed = matches!(plot, Plot::Failed { .. });
                let (answer, answered) = oneshot::channel();
                let world = self.world.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(arrival).await;
                    let executed = execute(&mut world.lock(), &account, &job, &request);
                    tokio::time::sleep(arrival).await;
                    let _gone = answer.send(executed);
                });
                match answered.await {
                    Ok(_) if is_failed => Err(unclear(CauseKind::ServerError, "503")),
                    Ok(executed) => executed,
                    Err(_) => Err(unclear(CauseKind::Disconnected, "the world ended")),
                }
            }
        };
        self.world.edge(self.who, "answer").await;
        if let Err(Failure::Throttled(pause)) = &outcome {
            let mut state = self.world.lock();
            let now = state.now();
            let until = now.after(pause.retry_after.unwrap_or(Policy::default().throttle_pause));
            state.pauses.push((Some(self.who), paused, now, until));
        }
        outcome.map(|response| Answer { response, http_status: 200, date: None })
    }
}

fn refused(kind: CauseKind, message: &str) -> Failure {
    let cause = Cause::new(kind, message);
    if kind == CauseKind::AlreadyDone { Failure::Indeterminate(cause) } else { Failure::Permanent(cause) }
}

fn execute(state: &mut State, account: &AccountName, job: &JobKey, request: &Request) -> Result<Response, Failure> {
    state.note(&format!("EFFECT {} by {job}", request.operation()));
    let now = state.now();
    match request {
        Request::CreateProduct(new) => {
            let product = make_product(state, account, job, &new.members);
            Ok(Response::Product(product))
        }
        Request::ListProducts { next } => {
            let from: usize = next.as_ref().map_or(0, |link| link.0.parse().unwrap());
            let visible = state.products.iter().filter(|p| p.account == *account && p.visible_from <= now);
            let mut items: Vec<Product> = visible.skip(from).take(PAGE + 1).map(|p| p.product.clone()).collect();
            let next = (items.len() > PAGE).then(|| PageLink((from + PAGE).to_string()));
            items.truncate(PAGE);
            Ok(Response::Products(Page { items, next }))
        }
        Request::GetProduct(id) => {
            let found = state.products.iter().find(|p| p.product.id == *id);
            found
                .map(|p| Response::Product(p.product.clone()))
                .ok_or_else(|| refused(CauseKind::NotFound, "no product"))
        }
        Request::CreateSubmission { product, name, kind } => {
            let has_initial =
                state.submissions.iter().any(|s| s.product == *product && s.kind == SubmissionKind::Initial);
            if *kind == SubmissionKind::Initial && has_initial {
                return Err(refused(CauseKind::AlreadyDone, "Initial submission already exists"));
            }
            let submission = make_submission(state, job, *product, name, *kind);
            Ok(Response::Submission(Box::new(show(&submission, now))))
        }
        Request::ListSubmissions { product, .. } => {
            let of = state.submissions.iter().filter(|s| s.product == *product && s.visible_from <= now);
            Ok(Response::Submissions(Page { items: of.map(|s| show(s, now)).collect(), next: None }))
        }
        Request::GetSubmission { submission, .. } => {
            let found = state.submissions.iter().find(|s| s.id == *submission);
            found
                .map(|s| Response::Submission(Box::new(show(s, now))))
                .ok_or_else(|| refused(CauseKind::NotFound, "no submission"))
        }
        Request::Commit { submission, .. } => {
            let Some(found) = state.submissions.iter_mut().find(|s| s.id == *submission) else {
                return Err(refused(CauseKind::NotFound, "no submission"));
            };
            if found.committed.is_some() {
                return Err(refused(CauseKind::AlreadyDone, "Only pending submissions can be committed."));
            }
            found.committed = Some(now);
            state.effects.entry(job.clone()).or_default().commits += 1;
            Ok(Response::Accepted)
        }
    }
}

fn make_product(state: &mut State, account: &AccountName, job: &JobKey, members: &Map<String, Value>) -> Product {
    let now = state.now();
    let lag = state.mix.list_lag_s;
    let visible_from = now.after(Duration::from_secs(state.order.between(0, lag)));
    let mut fields = members.clone();
    let name = fields.remove("productName").and_then(|n| n.as_str().map(str::to_owned)).unwrap();
    let product = Product {
        id: ProductId::new(14_300_000_000_000_000 + state.products.len() as u64 + 1),
        shared_id: None,
        name,
        is_committed: Some(false),
        created: state.mix.has_created.then(|| now.timestamp()),
        fields,
    };
    state.effects.entry(job.clone()).or_default().products += 1;
    let made = MadeProduct { product: product.clone(), by: job.clone(), account: account.clone(), visible_from };
    state.products.push(made);
    product
}

fn make_submission(
    state: &mut State,
    job: &JobKey,
    product: ProductId,
    name: &str,
    kind: SubmissionKind,
) -> MadeSubmission {
    let now = state.now();
    let submission = MadeSubmission {
        id: SubmissionId::new(1_152_921_504_606_846_976 + state.submissions.len() as u64 + 1),
        product,
        name: name.to_owned(),
        kind,
        blob: None,
        committed: None,
        signed_after: Duration::from_secs(state.order.between(30, 600)),
        // The service lists a product's submissions at once, or within the first look's time.
        visible_from: now,
    };
    state.effects.entry(job.clone()).or_default().submissions += 1;
    state.submissions.push(submission.clone());
    submission
}

fn show(made: &MadeSubmission, now: Moment) -> Submission {
    let is_signed = made.committed.is_some_and(|at| now.since(at) >= made.signed_after);
    let slot = Download { kind: "initialPackage".to_owned(), url: SignedUrl::new(format!("sim://{}", made.id)) };
    let signed = Download { kind: "signedPackage".to_owned(), url: SignedUrl::new(format!("sim://{}", made.id)) };
    Submission {
        id: made.id,
        product: made.product,
        name: made.name.clone(),
        kind: if made.kind == SubmissionKind::Initial { "initial" } else { "derived" }.to_owned(),
        commit_status: Some(if made.committed.is_some() { CommitStatus::Accepted } else { CommitStatus::Pending }),
        workflow: made.committed.map(|_| Workflow {
            step: Some(if is_signed { "finalizeIngestion" } else { "scanning" }.to_owned()),
            state: Some(if is_signed { "completed" } else { "started" }.to_owned()),
            ..Workflow::default()
        }),
        downloads: Some(if is_signed { vec![slot, signed] } else { vec![slot] }),
        created: None,
    }
}

/// Packages whose bytes are the job's name.
pub struct SimPackages {
    pub world: World,
    pub who: u64,
}

impl Packages for SimPackages {
    fn seal(&self, _job: &mut Job) -> Result<(), Unavailable> {
        Ok(())
    }

    async fn inspect(
        &self,
        package: &PackageSpec,
        _product: Option<&Map<String, Value>>,
    ) -> Result<(PackageFacts, Vec<String>), Failure> {
        self.world.edge(self.who, "inspect").await;
        let of: JobKey = serde_json::from_str(package.source.trim_start_matches("sim:")).unwrap();
        let panics = self.world.lock().panics_at.as_ref() == Some(&of);
        assert!(!panics, "this package breaks its reader");
        let sha256 = Sha256::of(package.source.as_bytes());
        Ok((PackageFacts { sha256, size: 1, files: 1, inf_files: 1 }, Vec::new()))
    }

    async fn upload<H: TransferHooks>(
        &self,
        package: &PackageSpec,
        _facts: &PackageFacts,
        slot: SignedUrl,
        hooks: &H,
    ) -> Result<Upload, Failure> {
        self.world.edge(self.who, "upload blocks").await;
        if hooks.is_out_of_time() {
            return Ok(Upload::Paused);
        }
        if !hooks.may_replace().await {
            return Ok(Upload::NotHolder);
        }
        {
            let mut state = self.world.lock();
            let id: SubmissionId = slot.expose().trim_start_matches("sim://").parse().unwrap();
            let by: JobKey = serde_json::from_str(package.source.trim_start_matches("sim:")).unwrap();
            state.note(&format!("EFFECT put block list by {by}"));
            if let Some(made) = state.submissions.iter_mut().find(|s| s.id == id)
                && made.committed.is_none()
            {
                made.blob = Some(by);
            }
        }
        self.world.edge(self.who, "uploaded").await;
        Ok(Upload::Done { bytes: 1 })
    }

    async fn download<H: TransferHooks>(
        &self,
        fetch: &Fetch<'_>,
        _url: SignedUrl,
        _hooks: &H,
    ) -> Result<Fetched, Failure> {
        self.world.edge(self.who, "download").await;
        let path = fetch.submission.to_string();
        if let Some((submitted, _)) = fetch.submitted {
            let state = self.world.lock();
            let by: JobKey = serde_json::from_str(submitted.source.trim_start_matches("sim:")).unwrap();
            let is_ours = state.submissions.iter().any(|s| s.id == fetch.submission && s.blob.as_ref() == Some(&by));
            if !is_ours {
                return Err(refused(CauseKind::Verification, "foreign bytes"));
            }
        }
        let file = Downloaded {
            kind: fetch.kind.to_owned(),
            sha256: Sha256::of(path.as_bytes()),
            path,
            size: 1,
            is_verified: fetch.submitted.is_some(),
            unverified: None,
        };
        Ok(Fetched::Done { file, warnings: Vec::new() })
    }
}

pub struct SimClock {
    pub world: World,
    pub start: Instant,
}

impl Clock for SimClock {
    fn boot_time(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall(&self) -> Moment {
        self.world.now()
    }

    fn chance(&self) -> f64 {
        self.world.lock().order.unit()
    }

    async fn sleep(&self, span: Duration) {
        tokio::time::sleep(span).await;
    }
}

/// Everything that one worker of a seed sees.
pub struct SimPorts {
    pub home: SimHome,
    pub service: SimService,
    pub packages: SimPackages,
    pub clock: SimClock,
}

impl Ports for SimPorts {
    type Home = SimHome;
    type Service = SimService;
    type Packages = SimPackages;
    type Clock = SimClock;

    fn home(&self) -> &SimHome {
        &self.home
    }

    fn service(&self) -> &SimService {
        &self.service
    }

    fn packages(&self) -> &SimPackages {
        &self.packages
    }

    fn clock(&self) -> &SimClock {
        &self.clock
    }
}

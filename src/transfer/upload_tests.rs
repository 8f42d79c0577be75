use std::sync::atomic::Ordering;

use super::{
    super::blob_server::{BlobServer, Caller, Fault, http, noise, settings},
    flight::{Landed, Stopped},
    *,
};
use crate::{clock, domain::service::SignedUrl};

struct Bench {
    server: BlobServer,
    caller: Caller,
    package: LocalPackage,
    content: Vec<u8>,
    settings: Settings,
    _dir: tempfile::TempDir,
}

impl Bench {
    async fn new(size: usize) -> Self {
        let server = BlobServer::start().await;
        let dir = tempfile::tempdir().unwrap();
        let content = noise(size);
        let path = dir.path().join("nic.cab");
        std::fs::write(&path, &content).unwrap();
        let package = LocalPackage::measure(&path, u64::MAX).unwrap();
        Self { caller: Caller::of(&server), server, package, content, settings: settings(), _dir: dir }
    }

    async fn upload(&self) -> Result<Outcome, Failure> {
        upload(&http(), &self.settings, &self.package, &self.caller).await
    }

    async fn uploaded(&self) -> Uploaded {
        match self.upload().await {
            Ok(Outcome::Uploaded(uploaded)) => {
                assert_eq!(self.server.content(), self.content);
                uploaded
            }
            other => panic!("{other:?}; the server saw {:?}", self.server.store().operations),
        }
    }

    fn urls(&self, urls: impl IntoIterator<Item = SignedUrl>) {
        self.caller.urls.lock().unwrap().extend(urls);
    }

    fn no_block_landed_twice(&self) {
        for (id, (times, _)) in &self.server.store().landed {
            assert_eq!(*times, 1, "{id}");
        }
    }
}

const FAR: &str = "2099-01-01T00%3A00%3A00Z";

#[tokio::test]
async fn a_small_package_goes_in_one_request_and_is_verified() {
    let bench = Bench::new(1000).await;
    let uploaded = bench.uploaded().await;
    assert!(uploaded.is_verified);
    assert_eq!((uploaded.etag.as_deref(), uploaded.sent), (Some("\"0x1\""), 1000));
    assert_eq!(bench.server.store().operations, ["put", "head"]);
    assert_eq!(bench.caller.asked.load(Ordering::SeqCst), 1);
    assert_eq!(bench.caller.reported.lock().unwrap().last(), Some(&(1000, 1000)));
}

#[tokio::test]
async fn a_large_package_goes_in_blocks_with_no_more_in_memory_than_lanes() {
    let bench = Bench::new(40_300).await;
    let uploaded = bench.uploaded().await;
    assert_eq!((bench.server.count("block"), bench.server.count("commit")), (41, 1));
    assert!(uploaded.is_verified && uploaded.peak_blocks <= bench.settings.lanes(), "{uploaded:?}");
    assert!(uploaded.peak_blocks > 1, "blocks go in parallel");
    assert_eq!(bench.caller.asked.load(Ordering::SeqCst), 1, "only the commit replaces the blob");
    bench.no_block_landed_twice();
}

#[tokio::test]
async fn the_short_last_block_goes_when_all_others_are_there() {
    for _ in 0..5 {
        let bench = Bench::new(1_200).await;
        bench.server.fail("block", Fault::Answer(500, "InternalError"));
        bench.uploaded().await;
        let plan = Plan::new(&bench.package.sha256, 1_200, 1000, FIRST_GENERATION);
        assert_eq!(bench.server.store().order, plan.ids());
        assert_eq!(bench.server.count("block"), 3);
    }
}

#[test]
fn a_transfer_can_move_between_threads() {
    fn is_send<T: Send>(_: impl FnOnce() -> T) {}
    let (http, settings) = (reqwest::Client::new(), settings());
    is_send(|| -> _ {
        let package: Option<(LocalPackage, Caller)> = None;
        let (http, settings) = (http.clone(), settings.clone());
        async move {
            if let Some((package, caller)) = &package {
                drop(upload(&http, &settings, package, caller).await);
            }
        }
    });
    is_send(|| {
        let wanted: Option<(super::super::download::Wanted, Caller)> = None;
        async move {
            if let Some((wanted, caller)) = &wanted {
                drop(super::super::download::download(&http, &settings, wanted, caller).await);
            }
        }
    });
}

#[tokio::test]
async fn an_interrupted_upload_goes_on_without_sending_a_finished_block_again() {
    let bench = Bench::new(20_500).await;
    for _ in 0..2 {
        bench.caller.patience.store(6, Ordering::SeqCst);
        let Ok(Outcome::Paused { acknowledged }) = bench.upload().await else { panic!() };
        assert!(acknowledged > 0 && acknowledged < bench.package.size);
        assert!(bench.server.store().blob.is_none());
    }
    bench.caller.patience.store(-1, Ordering::SeqCst);
    let uploaded = bench.uploaded().await;
    assert!(uploaded.resumed > 0);
    assert_eq!(uploaded.resumed + uploaded.sent, bench.package.size);
    bench.no_block_landed_twice();
}

#[tokio::test]
async fn an_upload_that_is_dropped_anywhere_is_finished_by_the_next() {
    for requests in 1..14 {
        let bench = Bench::new(9_300).await;
        bench.urls([bench.server.issue(requests, FAR, "rwl")]);
        // The second URL never comes: the first process dies while it waits for it.
        let waiting = Waiting(&bench.caller);
        let client = http();
        let died = upload(&client, &bench.settings, &bench.package, &waiting);
        tokio::select! {
            _ = died => {}
            () = waiting.asked_twice() => {}
        }
        bench.uploaded().await;
        bench.no_block_landed_twice();
    }
}

/// Gives one URL and then waits for ever.
struct Waiting<'a>(&'a Caller);

impl Waiting<'_> {
    async fn asked_twice(&self) {
        while self.0.fetched.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
    }
}

impl Hooks for Waiting<'_> {
    async fn fresh_url(&self) -> Result<SignedUrl, Failure> {
        let url = self.0.fresh_url().await;
        if self.0.fetched.load(Ordering::SeqCst) > 1 { std::future::pending().await } else { url }
    }
    async fn may_replace(&self) -> bool {
        true
    }
    fn out_of_time(&self) -> bool {
        false
    }
    fn progress(&self, _: u64, _: u64) {}
    fn chance(&self) -> f64 {
        0.0
    }
}

#[tokio::test]
async fn a_url_that_expires_in_mid_upload_is_renewed_and_the_upload_goes_on() {
    let bench = Bench::new(12_000).await;
    bench.urls([bench.server.issue(4, FAR, "rwl"), bench.server.issue(5, FAR, "rwl")]);
    bench.uploaded().await;
    assert_eq!(bench.caller.fetched.load(Ordering::SeqCst), 3);
    bench.no_block_landed_twice();
}

#[tokio::test]
async fn a_url_near_its_end_is_renewed_before_it_is_refused() {
    let bench = Bench::new(12_000).await;
    let mut settings = settings();
    settings.renew_margin = Duration::from_secs(u64::MAX / 4);
    let soon = jiff::Timestamp::from_second(clock::now().as_second() + 20).unwrap();
    // Half of its life is left when it is first used, so nothing happens; when the service's clock is past that, it is.
    bench.urls([bench.server.issue(i64::MAX, &format!("{soon}").replace(':', "%3A"), "rwl")]);
    let mut renewal = Renewal::begin(&settings, &bench.caller).await.unwrap();
    assert!(!renewal.is_near_end(5, 4), "no word of the service's clock yet");
    renewal.heard(Some(clock::now()), true);
    assert!(!renewal.is_near_end(5, 4));
    renewal.heard(soon.checked_sub(Duration::from_secs(9)).ok(), true);
    assert!(renewal.is_near_end(5, 4));
    renewal.early().await.unwrap();
    assert!(!renewal.is_near_end(5, 4), "the new one is far from its end");
    assert_eq!(bench.caller.fetched.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_url_that_stays_refused_ends_the_upload_for_good() {
    let bench = Bench::new(500).await;
    bench.urls((0..9).map(|n| SignedUrl::new(format!("{}/store/ingestion/7f3c?sig=bad{n}", bench.server.base))));
    let failure = bench.upload().await.unwrap_err();
    assert!(matches!(&failure, Failure::Permanent(cause) if cause.kind == Kind::SasExpired), "{failure:?}");
    assert_eq!(bench.caller.fetched.load(Ordering::SeqCst), 4, "three new ones in all");
    assert!(!format!("{failure:?} {failure}").contains("bad"));

    let bench = Bench::new(500).await;
    let bad = SignedUrl::new(format!("{}/store/ingestion/7f3c?sig=bad", bench.server.base));
    bench.urls([bad.clone(), bad]);
    assert!(bench.upload().await.is_err());
    assert_eq!(bench.caller.fetched.load(Ordering::SeqCst), 2, "the same URL is not tried again");
}

#[tokio::test]
async fn a_new_url_of_another_blob_begins_a_new_upload() {
    let bench = Bench::new(5_000).await;
    // Refused at once; the usual URL that follows has another path.
    let other = SignedUrl::new(format!("{}/store/ingestion/other?sig=old", bench.server.base));
    bench.urls([other]);
    bench.uploaded().await;
}

#[tokio::test]
async fn lost_answers_at_every_operation_leave_one_right_blob() {
    for operation in ["block", "commit", "head", "list"] {
        let bench = Bench::new(4_200).await;
        bench.server.fail(operation, Fault::LostAnswer);
        bench.uploaded().await;
        assert_eq!(bench.server.count(operation), if operation == "block" { 6 } else { 2 }, "{operation}");
    }
    let bench = Bench::new(900).await;
    bench.server.fail("put", Fault::LostAnswer);
    bench.uploaded().await;
}

#[tokio::test]
async fn busy_answers_are_waited_out_and_lower_the_concurrency() {
    let bench = Bench::new(12_000).await;
    for _ in 0..3 {
        bench.server.fail("block", Fault::Answer(503, "ServerBusy"));
    }
    bench.server.fail("commit", Fault::Answer(500, "OperationTimedOut"));
    bench.server.fail("list", Fault::Html);
    bench.uploaded().await;
    bench.no_block_landed_twice();
}

#[tokio::test]
async fn the_concurrency_is_halved_and_comes_back_after_twenty_successes() {
    let bench = Bench::new(2000).await;
    let renewal = Renewal::begin(&bench.settings, &bench.caller).await.unwrap();
    let mut session = Session {
        http: &http(),
        settings: &bench.settings,
        package: &bench.package,
        hooks: &bench.caller,
        can_read: true,
        renewal,
        plan: Plan::new(&bench.package.sha256, 200_000, 1000, 1),
        in_blocks: true,
        acknowledged: BTreeSet::new(),
        sent: 0,
        resumed: 0,
        was_cleared: false,
        missing_blocks: 0,
        tries: BTreeMap::new(),
        lanes: 4,
        streak: 0,
        buffers: Buffers::default(),
    };
    let busy = Trouble::read("Put Block", 503, &reqwest::header::HeaderMap::new(), "");
    for (block, lanes) in [(1, 2), (2, 1), (3, 1)] {
        let stopped = session.stopped(&session.plan.block(block), Stopped::Trouble(busy.clone())).await;
        assert!(stopped.is_ok());
        assert_eq!(session.lanes, lanes);
    }
    for index in 0..100 {
        let answer = Answer { headers: reqwest::header::HeaderMap::new(), body: String::new() };
        session.landed(&session.plan.block(index), &Landed { answer, took: Duration::ZERO });
        assert_eq!(session.lanes, (1 + usize::try_from(index + 1).unwrap() / 20).min(4));
    }
}

#[tokio::test]
async fn spent_tries_and_long_pauses_are_parked() {
    let bench = Bench::new(500).await;
    for _ in 0..8 {
        bench.server.fail("put", Fault::Answer(503, "ServerBusy"));
    }
    let failure = bench.upload().await.unwrap_err();
    assert!(matches!(&failure, Failure::Transient(cause) if cause.http_status == Some(503)), "{failure:?}");
    assert_eq!(bench.server.count("put"), 8);

    let bench = Bench::new(5000).await;
    bench.server.fail("block", Fault::RetryAfter(503, 60));
    let failure = bench.upload().await.unwrap_err();
    assert_eq!(failure.cause().retry_after, Some(Duration::from_mins(1)));
}

#[tokio::test]
async fn a_block_that_was_damaged_on_its_way_is_sent_once_more_and_not_twice() {
    let bench = Bench::new(4_200).await;
    bench.server.fail("block", Fault::FlippedBit);
    bench.uploaded().await;
    let bench = Bench::new(900).await;
    bench.server.fail("put", Fault::FlippedBit);
    bench.server.fail("put", Fault::FlippedBit);
    let failure = bench.upload().await.unwrap_err();
    assert!(matches!(&failure, Failure::Permanent(cause) if cause.api_code.as_deref() == Some("Md5Mismatch")));
}

#[tokio::test]
async fn a_worker_that_was_overtaken_does_not_replace_the_blob() {
    for size in [500, 5000] {
        let bench = Bench::new(size).await;
        bench.caller.is_holder.store(false, Ordering::SeqCst);
        assert_eq!(bench.upload().await, Ok(Outcome::NotHolder));
        assert!(bench.server.store().blob.is_none());
    }
}

#[tokio::test]
async fn blocks_that_are_too_large_are_made_smaller() {
    let mut bench = Bench::new(9 << 20).await;
    bench.settings.single_shot_max = 100 << 20;
    bench.settings.block_size = 8 << 20;
    bench.server.store().max_block = 4 << 20;
    let uploaded = bench.uploaded().await;
    assert!(uploaded.is_verified);
    let ids: Vec<String> = bench.server.store().list.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(ids, Plan::new(&bench.package.sha256, 9 << 20, 4 << 20, 2).ids());
}

#[tokio::test]
async fn leftovers_with_ids_of_another_length_are_cleared_once() {
    let bench = Bench::new(5000).await;
    bench.server.store().staged.insert("YWJj".to_owned(), vec![1]);
    bench.uploaded().await;
    assert_eq!(bench.server.count("commit"), 2);
    assert_eq!(bench.caller.asked.load(Ordering::SeqCst), 2, "clearing replaces the blob, too");
}

#[tokio::test]
async fn staged_blocks_that_vanish_before_the_commit_are_sent_again() {
    let bench = Bench::new(5000).await;
    bench.server.fail("commit", Fault::Answer(400, "InvalidBlockList"));
    bench.uploaded().await;
    for _ in 0..3 {
        bench.server.fail("commit", Fault::Answer(400, "InvalidBlockList"));
    }
    // Another content, so that the blob of before does not count.
    let other = Bench::new(5001).await;
    for _ in 0..3 {
        other.server.fail("commit", Fault::Answer(400, "InvalidBlockList"));
    }
    assert!(matches!(other.upload().await, Err(Failure::Permanent(_))));
}

#[tokio::test]
async fn a_blob_that_is_already_there_is_not_sent_again() {
    let bench = Bench::new(5000).await;
    bench.uploaded().await;
    let again = bench.uploaded().await;
    assert_eq!((again.sent, again.resumed), (0, 5000));
    bench.no_block_landed_twice();
}

#[tokio::test]
async fn a_url_that_may_only_write_is_used_without_looking() {
    let bench = Bench::new(5000).await;
    bench.urls([bench.server.issue(i64::MAX, FAR, "w")]);
    assert!(!bench.uploaded().await.is_verified);
    assert_eq!((bench.server.count("head"), bench.server.count("list")), (0, 0));

    let bench = Bench::new(5000).await;
    bench.urls([bench.server.issue(i64::MAX, FAR, "r")]);
    assert!(matches!(bench.upload().await, Err(Failure::Permanent(_))));
}

#[tokio::test]
async fn somebody_elses_bytes_in_the_slot_are_replaced_by_ours() {
    let bench = Bench::new(5000).await;
    bench.server.store().blob = Some((b"somebody else".to_vec(), None));
    bench.uploaded().await;
}

#[tokio::test]
async fn a_source_that_changes_ends_the_upload_for_good() {
    let bench = Bench::new(5000).await;
    std::fs::write(&bench.package.path, noise(4999)).unwrap();
    let failure = bench.upload().await.unwrap_err();
    assert!(matches!(&failure, Failure::Permanent(cause) if cause.kind == Kind::Source), "{failure:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_matter_for_later() {
    let mut bench = Bench::new(500).await;
    bench.settings.attempts = 2;
    let nowhere = "http://127.0.0.1:1/store/ingestion/7f3c?sig=geheim";
    bench.urls([SignedUrl::new(nowhere)]);
    let failure = bench.upload().await.unwrap_err();
    assert!(matches!(&failure, Failure::Transient(cause) if cause.kind == Kind::NotSent), "{failure:?}");
    assert!(!format!("{failure:?}").contains("geheim"));
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_in_time() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut bench = Bench::new(500).await;
    bench.settings.attempts = 1;
    bench.settings.request_timeout = Duration::from_millis(50);
    bench.settings.min_rate = u64::MAX;
    bench.urls([SignedUrl::new(format!("http://{}/c/b?sig=x", listener.local_addr().unwrap()))]);
    let failure = bench.upload().await.unwrap_err();
    assert!(matches!(&failure, Failure::Transient(cause) if cause.kind == Kind::Timeout), "{failure:?}");
}

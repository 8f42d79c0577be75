use std::{fs, sync::atomic::Ordering};

use super::{
    super::{
        blob_server::{BlobServer, Caller, Fault, http, noise, settings},
        part::is_strong,
        transient,
    },
    *,
};

struct Bench {
    server: BlobServer,
    caller: Caller,
    content: Vec<u8>,
    wanted: Wanted,
    dir: tempfile::TempDir,
}

impl Bench {
    async fn new(size: usize) -> Self {
        let server = BlobServer::start().await;
        let content = noise(size);
        server.store().blob = Some((content.clone(), None));
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("signedPackage_1.zip");
        let wanted = Wanted { target, max_bytes: 1 << 30, overwrite: false };
        Self { caller: Caller::of(&server), server, content, wanted, dir }
    }

    async fn download(&self) -> Result<Outcome, Failure> {
        download(&http(), &settings(), &self.wanted, &self.caller).await
    }

    async fn downloaded(&self) -> Downloaded {
        let Ok(Outcome::Downloaded(done)) = self.download().await else { panic!() };
        assert_eq!(fs::read(&self.wanted.target).unwrap(), self.content);
        assert_eq!((done.size, done.sha256), (self.content.len() as u64, Sha256::of(&self.content)));
        assert_eq!(fs::read_dir(self.dir.path()).unwrap().count(), 1, "nothing but the file is left");
        done
    }
}

#[tokio::test]
async fn a_file_arrives_whole_and_leaves_nothing_beside_it() {
    let bench = Bench::new(100_000).await;
    assert!(!bench.downloaded().await.was_there);
    assert!(bench.downloaded().await.was_there, "the same content again is done already");
    let empty = Bench::new(0).await;
    empty.downloaded().await;
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_stopped() {
    let bench = Bench::new(300_000).await;
    bench.server.fail("get", Fault::CutBody(100_000));
    bench.server.fail("get", Fault::CutBody(50_000));
    bench.downloaded().await;
    let ranges = bench.server.store().ranges.clone();
    assert_eq!(ranges.len(), 3);
    assert_eq!(ranges[0], "whole");
    assert!(ranges[1].starts_with("bytes=") && ranges[1] != "bytes=0-", "{ranges:?}");
}

#[tokio::test]
async fn a_later_process_goes_on_and_changed_content_begins_anew() {
    for changes in [false, true] {
        let mut bench = Bench::new(3 << 20).await;
        bench.caller.patience.store(1, Ordering::SeqCst);
        let Ok(Outcome::Paused { done }) = bench.download().await else { panic!() };
        assert!(done > 0 && done < 3 << 20);
        if changes {
            bench.content.reverse();
            let mut store = bench.server.store();
            store.blob = Some((bench.content.clone(), None));
            store.etag += 1;
        }
        bench.caller.patience.store(-1, Ordering::SeqCst);
        bench.downloaded().await;
        assert_eq!(bench.server.store().ranges, ["whole".to_owned(), format!("bytes={done}-")]);
    }
}

#[tokio::test]
async fn bytes_without_a_tag_are_not_gone_on_with() {
    let bench = Bench::new(5000).await;
    fs::write(bench.dir.path().join(".signedPackage_1.zip.part"), b"who knows").unwrap();
    bench.downloaded().await;
    assert_eq!(bench.server.store().ranges, ["whole"]);
}

#[tokio::test]
async fn a_complete_part_is_put_in_its_place() {
    let bench = Bench::new(5000).await;
    fs::write(bench.dir.path().join(".signedPackage_1.zip.part"), &bench.content).unwrap();
    fs::write(bench.dir.path().join(".signedPackage_1.zip.part.etag"), "\"0x0\"").unwrap();
    bench.downloaded().await;
    assert_eq!(bench.server.store().ranges, ["bytes=5000-"]);
}

#[tokio::test]
async fn a_file_with_other_content_is_overwritten_only_when_told() {
    let mut bench = Bench::new(5000).await;
    fs::write(&bench.wanted.target, b"mine").unwrap();
    let failure = bench.download().await.unwrap_err();
    assert!(matches!(&failure, Failure::Permanent(cause) if cause.kind == Kind::Sink), "{failure:?}");
    assert_eq!(fs::read(&bench.wanted.target).unwrap(), b"mine");
    bench.wanted.overwrite = true;
    bench.downloaded().await;
}

#[tokio::test]
async fn a_refused_url_is_renewed_and_busy_answers_are_waited_out() {
    let bench = Bench::new(5000).await;
    bench.server.fail("get", Fault::Answer(503, "ServerBusy"));
    bench.server.fail("get", Fault::Answer(403, "AuthenticationFailed"));
    bench.server.fail("get", Fault::LostAnswer);
    bench.downloaded().await;
    assert_eq!(bench.caller.fetched.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_file_above_the_cap_is_refused_before_it_fills_the_disk() {
    let mut bench = Bench::new(5000).await;
    bench.wanted.max_bytes = 4999;
    assert!(matches!(bench.download().await, Err(Failure::Permanent(_))));
    assert!(!bench.wanted.target.exists());
}

#[tokio::test]
async fn two_processes_do_not_write_the_same_part() {
    let bench = Bench::new(5000).await;
    let held = Part::open(&Paths::of(&bench.wanted.target).unwrap()).unwrap();
    let failure = bench.download().await.unwrap_err();
    assert!(matches!(&failure, Failure::Transient(_)) && failure.to_string().contains("another process"), "{failure}");
    drop(held);
    bench.downloaded().await;
}

#[test]
fn ranges_are_read_and_weak_tags_are_not_trusted() {
    assert_eq!(range_of("bytes 5-9/10"), Some((Some(5), Some(10))));
    assert_eq!(range_of("bytes */10"), Some((None, Some(10))));
    assert_eq!(range_of("items 1-2/3"), None);
    assert!(is_strong("\"0x8DE\"") && !is_strong("W/\"0x8DE\"") && !is_strong("\"\"") && !is_strong("\"a\n\""));
}

#[tokio::test]
async fn a_verdict_that_nobody_waits_for_sets_nothing_aside() {
    let bench = Bench::new(5000).await;
    let Ok(Fetched::Ready(ready)) = fetch(&http(), &settings(), &bench.wanted, &bench.caller).await else { panic!() };
    let (begun, begins) = tokio::sync::oneshot::channel();
    let placed = ready.place(move |_, pace| {
        begun.send(()).unwrap();
        while pace.beat().is_ok() {}
        Err::<(), _>(permanent(Kind::Verification, "a library took the end of the reads for damage"))
    });
    tokio::select! {
        biased;
        _ = placed => panic!("it has no end of its own"),
        _ = begins => {}
    }
    // The lock goes with the thread that was left behind: then all is done that it does.
    let paths = Paths::of(&bench.wanted.target).unwrap();
    while Part::open(&paths).is_err() {
        tokio::task::yield_now().await;
    }
    let names: Vec<_> = fs::read_dir(bench.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().ends_with(".rejected")), "{names:?}");
    bench.downloaded().await;
    assert_eq!(bench.server.store().ranges, ["whole", "bytes=5000-"], "the bytes are gone on with");
}

#[tokio::test]
async fn a_file_that_is_refused_never_gets_its_name_and_a_later_call_begins_anew() {
    let bench = Bench::new(5000).await;
    let fetched = async || {
        let Ok(Fetched::Ready(ready)) = fetch(&http(), &settings(), &bench.wanted, &bench.caller).await else {
            panic!()
        };
        ready
    };
    let target = bench.wanted.target.clone();
    let refused = fetched().await.place(move |part, _| {
        assert!(!target.exists(), "it is looked at before it has its name");
        Err::<(), _>(permanent(Kind::Verification, format!("{} is another", part.display())))
    });
    let failure = refused.await.unwrap_err();
    let rejected = bench.dir.path().join("signedPackage_1.zip.rejected");
    assert!(failure.to_string().contains(&rejected.display().to_string()), "{failure}");
    assert!(!bench.wanted.target.exists());
    assert_eq!(fs::read(&rejected).unwrap(), bench.content);
    assert_eq!(fs::read_dir(bench.dir.path()).unwrap().count(), 1, "and nothing else is left");

    // Our own disk's trouble refuses nothing: the bytes stay where a later call finds them.
    let later = fetched().await.place(|_, _| Err::<(), _>(transient(Kind::LocalIo, "x")));
    assert!(matches!(later.await, Err(Failure::Transient(_))));
    let (file, checked) = fetched().await.place(|_, _| Ok(7)).await.unwrap();
    assert_eq!((file.path.as_path(), checked), (bench.wanted.target.as_path(), 7));
    assert_eq!(bench.server.store().ranges, ["whole", "whole", "bytes=5000-"]);
}

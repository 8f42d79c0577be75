//! Slow lines and lines that stand still, in both directions.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    Settings,
    blob::{Payload, Request, send},
    blob_server::{BlobServer, Caller, Until},
    download,
    sas::Sas,
    source, trouble,
};
use crate::{
    clock,
    domain::{
        failure::{Failure, Kind},
        service::SignedUrl,
    },
    http::{self, Stream},
};

/// What a whole answer may take where there is a limit on it.
const TOTAL: Duration = Duration::from_millis(60);
const LONG: Duration = Duration::from_secs(30);

fn client(stream: Stream) -> reqwest::Client {
    let options = http::Options { response_timeout: TOTAL, ..http::Options::default() };
    http::stream_builder(&options, stream).unwrap().no_proxy().build().unwrap()
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    (listener, base)
}

/// Reads one request's body of so many bytes, a little at a time, and answers when `at_least` has passed.
async fn take_slowly(listener: TcpListener, length: usize, at_least: Duration) -> TcpStream {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut buffer = vec![0; length / 64];
    let (mut taken, begun) = (0, clock::monotonic());
    let mut ticks = tokio::time::interval(at_least / 64);
    while taken < length || begun.elapsed() < at_least {
        ticks.tick().await;
        if taken < length {
            taken += socket.read(&mut buffer).await.unwrap();
        }
    }
    socket.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    socket
}

async fn put(base: &str, length: usize, settings: &Settings) -> Result<(), trouble::Trouble> {
    let sas = Sas::parse(&SignedUrl::new(format!("{base}/c/b?sp=w&sig=x"))).unwrap();
    let request = Request {
        what: "Put Block",
        method: reqwest::Method::PUT,
        parameters: &[],
        headers: &[],
        payload: Payload::Bytes(vec![7; length].into()),
    };
    let client = client(Stream::Sent { stall: settings.stall_timeout });
    send(&client, settings, &sas, request, |_| {}).await.map(|_| ())
}

#[tokio::test]
async fn a_block_may_take_longer_than_any_answer_while_its_bytes_go() {
    const LENGTH: usize = 16 << 20;
    let (listener, base) = listen().await;
    let settings = Settings { stall_timeout: LONG, ..Settings::default() };
    let (_socket, sent) = tokio::join!(take_slowly(listener, LENGTH, 4 * TOTAL), put(&base, LENGTH, &settings));
    assert_eq!(sent, Ok(()));
}

#[tokio::test]
async fn a_block_of_which_no_byte_goes_is_given_up() {
    let (listener, base) = listen().await;
    let settings = Settings { stall_timeout: TOTAL, ..Settings::default() };
    let hold = async {
        let held = listener.accept().await.unwrap();
        std::future::pending::<()>().await;
        drop(held);
    };
    let trouble = tokio::select! {
            biased;
        sent = put(&base, 64 << 20, &settings) => sent.unwrap_err(),
        () = hold => unreachable!(),
    };
    assert!(matches!(trouble.kind, Kind::Timeout | Kind::Disconnected), "{trouble:?}");
    assert_eq!(trouble.action, trouble::Action::Retry);
}

/// Answers every request with one byte of a long body, and no more; or without end, as fast as it is taken.
async fn promise(listener: TcpListener, is_endless: bool) {
    let mut held = Vec::new();
    loop {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(socket.read(&mut request).await.unwrap() > 0);
        let answer = b"HTTP/1.1 200 OK\r\netag: \"1\"\r\ncontent-length: 1000000000\r\n\r\n0";
        socket.write_all(answer).await.unwrap();
        while is_endless && socket.write_all(b"0").await.is_ok() {
            tokio::task::yield_now().await;
        }
        held.push(socket);
    }
}

fn limits() -> source::Limits {
    source::Limits { answer: TOTAL, idle: TOTAL, ..source::Limits::default() }
}

async fn fetched(is_endless: bool, limits: source::Limits) -> Failure {
    let (listener, base) = listen().await;
    let dir = tempfile::tempdir().unwrap();
    let rules = source::SourceRules { allow_loopback_http: true, ..source::SourceRules::default() };
    let builder = http::stream_builder(&http::Options::default(), Stream::Received { idle: LONG }).unwrap();
    let fetcher = source::Fetcher::new(builder, rules).unwrap();
    let url = format!("{base}/nic.cab");
    let failure = tokio::select! {
            biased;
        got = fetcher.fetch(&url, dir.path(), limits) => got.unwrap_err(),
        () = promise(listener, is_endless) => unreachable!(),
    };
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    failure
}

#[tokio::test]
async fn a_source_that_sends_nothing_any_more_or_too_slowly_is_given_up_for_now() {
    let too_slow = source::Limits { least_rate: 1 << 40, ..limits() };
    for (is_endless, limits, why) in [(false, limits(), "nothing any more"), (true, too_slow, "bytes per second")] {
        let failure = fetched(is_endless, limits).await;
        assert!(matches!(&failure, Failure::Transient(cause) if cause.kind == Kind::Timeout), "{failure:?}");
        assert!(failure.to_string().contains(why), "{failure}");
    }
}

#[tokio::test]
async fn a_source_that_cannot_come_in_in_its_time_is_refused_by_the_name_of_the_setting() {
    let failure = fetched(true, source::Limits { whole: TOTAL, ..limits() }).await;
    assert!(matches!(&failure, Failure::Permanent(cause) if cause.kind == Kind::Source), "{failure:?}");
    assert!(failure.to_string().contains("[transfer] source_timeout"), "{failure}");
}

#[tokio::test]
async fn a_download_that_drips_stops_when_the_time_is_up() {
    let (listener, base) = listen().await;
    let dir = tempfile::tempdir().unwrap();
    let mut caller = Caller::of(&BlobServer::start().await);
    caller.urls.get_mut().unwrap().push_back(SignedUrl::new(format!("{base}/c/b?sp=r&sig=x")));
    let ends = clock::monotonic() + 2 * TOTAL;
    let caller = Until { caller, ends };
    let wanted = download::Wanted { target: dir.path().join("a.zip"), max_bytes: 1 << 30, overwrite: false };
    let (client, settings) = (client(Stream::Received { idle: LONG }), Settings::default());
    let ended = tokio::select! {
            biased;
        ended = download::download(&client, &settings, &wanted, &caller) => ended.unwrap(),
        () = promise(listener, true) => unreachable!(),
    };
    assert!(matches!(ended, download::Outcome::Paused { done } if done > 0), "{ended:?}");
}

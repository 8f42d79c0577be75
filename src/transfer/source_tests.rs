use std::{fs, net::SocketAddr, sync::Mutex};

use axum::{Router, body::Body, extract::State, http::Uri, response::Response};
use tokio::{net::TcpListener, task::JoinSet};

use super::*;
use crate::domain::ids::Sha256;

/// What the web server says to a path.
type Answers = Arc<Mutex<Vec<(String, u16, String)>>>;

struct Web {
    base: String,
    answers: Answers,
    _task: JoinSet<()>,
}

impl Web {
    async fn start() -> Self {
        let answers = Answers::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(answer).with_state(Arc::clone(&answers));
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { base, answers, _task: task }
    }

    fn says(&self, path: &str, status: u16, text: &str) {
        self.answers.lock().unwrap().push((path.to_owned(), status, text.to_owned()));
    }
}

async fn answer(State(answers): State<Answers>, uri: Uri) -> Response {
    let found = answers.lock().unwrap().iter().find(|(path, ..)| path == uri.path()).cloned();
    let (_, status, text) = found.unwrap_or((String::new(), 404, String::new()));
    let answer = Response::builder().status(status);
    if (300..400).contains(&status) {
        return answer.header("location", text).body(Body::empty()).unwrap();
    }
    answer.body(Body::from(text)).unwrap()
}

fn fetcher(rules: SourceRules) -> Fetcher {
    Fetcher::new(reqwest::Client::builder().no_proxy(), rules).unwrap()
}

fn loopback() -> SourceRules {
    SourceRules { allow_loopback_http: true, ..SourceRules::default() }
}

fn is_source(failure: &Failure) -> bool {
    matches!(failure, Failure::Permanent(cause) if cause.kind == Kind::Source)
}

#[tokio::test]
async fn a_file_is_used_in_place_and_percent_escapes_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a b+c%.cab");
    fs::write(&path, b"hello").unwrap();
    let url = Url::from_file_path(&path).unwrap().to_string();
    assert!(url.contains("%20"));
    let rules = SourceRules { roots: Some(vec![dir.path().to_owned()]), ..SourceRules::default() };
    let package = fetcher(rules).fetch(&url, dir.path(), Limits::default()).await.unwrap();
    assert_eq!(
        (package.path.as_path(), package.sha256),
        (path.canonicalize().unwrap().as_path(), Sha256::of(b"hello"))
    );
    drop(package);
    assert!(path.exists(), "a file that is not ours stays");
}

#[tokio::test]
async fn a_file_outside_the_roots_is_refused_links_and_dots_included() {
    let dir = tempfile::tempdir().unwrap();
    let (inside, outside) = (dir.path().join("in"), dir.path().join("out.cab"));
    fs::create_dir(&inside).unwrap();
    fs::write(&outside, b"x").unwrap();
    fs::write(inside.join("in.cab"), b"x").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(&outside, inside.join("link.cab")).unwrap();
    let rules = SourceRules { roots: Some(vec![inside.clone()]), ..SourceRules::default() };
    let inside = Url::from_file_path(&inside).unwrap();
    assert!(rules.check(&format!("{inside}/in.cab")).is_ok());
    for bad in ["../out.cab", "%2e%2e/out.cab", "..%2Fout.cab", "link.cab", "missing.cab", "in.cab%00"] {
        assert!(is_source(&rules.check(&format!("{inside}/{bad}")).unwrap_err()), "{bad}");
    }
    for bad in ["file:in.cab", "file://server/share/x.cab", "/etc/passwd", "C:\\x.cab", "", "ftp://h/x"] {
        assert!(is_source(&rules.check(bad).unwrap_err()), "{bad}");
    }
    let nowhere = rules.check("file:///nowhere/at/all.cab").unwrap_err().to_string();
    assert!(nowhere.contains("outside"), "what is outside is not told to exist or not: {nowhere}");
}

#[test]
fn hosts_are_allowed_by_name_and_by_wildcard() {
    let rules =
        SourceRules { hosts: vec!["*.blob.core.windows.net".into(), "Builds.Example".into()], ..Default::default() };
    for good in ["https://a.blob.core.windows.net/x?sig=1", "https://builds.example:8443/x", "https://BUILDS.example/x"]
    {
        assert!(rules.check(good).is_ok(), "{good}");
    }
    for bad in [
        "https://blob.core.windows.net/x",
        "https://evilblob.core.windows.net/x",
        "https://builds.example.evil/x",
        "https://user:geheim@builds.example/x",
        "http://builds.example/x",
        "https://10.0.0.1/x",
        "http://127.0.0.1/x",
    ] {
        let failure = rules.check(&format!("{bad}?sig=geheim")).unwrap_err();
        assert!(is_source(&failure) && !failure.to_string().contains("geheim"), "{failure}");
    }
    let any = SourceRules { hosts: vec!["*".into()], ..Default::default() };
    assert!(any.check("https://8.8.8.8/x").is_ok());
    for private in ["10.1.2.3", "127.0.0.1", "[::1]", "169.254.169.254", "[fe80::1]", "[::ffff:10.0.0.1]", "0x7f.1"] {
        assert!(any.check(&format!("https://{private}/x")).is_err(), "{private}");
    }
    let named = SourceRules { hosts: vec!["10.1.2.3".into(), "[fd00::1]".into()], ..Default::default() };
    assert!(named.check("https://10.1.2.3/x").is_ok() && named.check("https://[fd00::1]/x").is_ok());
}

#[test]
fn private_and_reserved_addresses_are_told_from_public_ones() {
    for private in [
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.1.1",
        "192.0.0.8",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fc00::1",
        "fd12::1",
        "ff02::1",
        "64:ff9b::a00:1",
        "2002:a00:1::1",
        "::ffff:192.168.0.1",
        "2001:db8::1",
        "2001::1",
    ] {
        assert!(!is_public(private.parse().unwrap()), "{private}");
    }
    for public in
        ["8.8.8.8", "20.60.1.1", "2603:1030::1", "2a00:1450::1", "64:ff9b::808:808", "172.32.0.1", "100.128.0.1"]
    {
        assert!(is_public(public.parse().unwrap()), "{public}");
    }
}

#[test]
fn a_name_with_private_addresses_only_is_refused_and_mixed_ones_are_filtered() {
    let address = |text: &str| -> SocketAddr { text.parse().unwrap() };
    let (private, public) = (address("10.0.0.1:0"), address("8.8.8.8:0"));
    assert_eq!(allowed(vec![private, public], false), Some(vec![public]));
    assert_eq!(allowed(vec![private], false), None);
    assert_eq!(allowed(vec![private], true), Some(vec![private]));
}

#[tokio::test]
async fn a_name_that_resolves_to_loopback_is_not_connected_to() {
    let rules = SourceRules { hosts: vec!["*".into()], ..SourceRules::default() };
    let dir = tempfile::tempdir().unwrap();
    let failure =
        fetcher(rules).fetch("https://localhost:1/x?sig=geheim", dir.path(), Limits::default()).await.unwrap_err();
    assert!(is_source(&failure) && failure.to_string().contains("private"), "{failure:?}");
    assert!(!failure.to_string().contains("geheim"));
}

#[tokio::test]
async fn a_package_from_the_web_is_spooled_and_goes_with_its_last_user() {
    let web = Web::start().await;
    web.says("/nic.cab", 200, "hello");
    let dir = tempfile::tempdir().unwrap();
    let url = format!("{}/nic.cab?sig=geheim", web.base);
    let package = fetcher(loopback()).fetch(&url, dir.path(), Limits::default()).await.unwrap();
    assert_eq!((package.size, package.sha256), (5, Sha256::of(b"hello")));
    assert_eq!(package.path.extension().unwrap(), "cab");
    drop(package);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn redirects_are_followed_five_times_and_never_to_where_the_rules_forbid() {
    let web = Web::start().await;
    web.says("/end", 200, "hello");
    for hop in 0..6 {
        let next = if hop == 0 { "/end".to_owned() } else { format!("/hop{}", hop - 1) };
        web.says(&format!("/hop{hop}"), 302, &next);
    }
    web.says("/private", 302, "https://10.0.0.1/x?sig=geheim");
    web.says("/file", 302, "file:///etc/passwd");
    web.says("/loop", 302, "/loop");
    web.says("/nowhere", 302, "");
    let dir = tempfile::tempdir().unwrap();
    let fetcher = fetcher(SourceRules { hosts: vec!["*".into()], ..loopback() });
    let fetch = async |path: &str| fetcher.fetch(&format!("{}{path}", web.base), dir.path(), Limits::default()).await;
    assert!(fetch("/hop4").await.is_ok());
    for bad in ["/hop5", "/private", "/file", "/loop", "/nowhere", "/missing"] {
        let failure = fetch(bad).await.unwrap_err();
        assert!(is_source(&failure) && !failure.to_string().contains("geheim"), "{bad}: {failure:?}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    // From somewhere else in the world, loopback is a private address like any other.
    let from = Url::parse("https://builds.example/x").unwrap();
    assert!(fetcher.rules.remote(&format!("{}/end", web.base), Some(&from)).is_err());
}

#[test]
fn a_source_that_cannot_come_in_in_time_is_refused_and_one_that_may_is_not() {
    let whole = Duration::from_secs(1000);
    let limits = Limits { whole, answer: whole, ..Limits::default() };
    let verdict = |size, promised, seconds| limits.verdict("s", (size, promised), Duration::from_secs(seconds));
    for (size, promised, seconds) in
        [(0, Some(1000), 1), (240, Some(1000), 450), (260, Some(1000), 600), (400, None, 600), (1000, Some(1000), 1000)]
    {
        assert_eq!(verdict(size, promised, seconds), Ok(()), "{size} of {promised:?} in {seconds} s");
    }
    for (size, promised, seconds) in [(240, Some(1000), 501), (999, Some(1000), 1001)] {
        let failure = verdict(size, promised, seconds).unwrap_err();
        assert!(is_source(&failure) && failure.to_string().contains("[transfer] source_timeout"), "{failure:?}");
    }
    let later = verdict(5000, None, 1001).unwrap_err();
    assert!(matches!(&later, Failure::Transient(cause) if cause.kind == Kind::Timeout), "{later:?}");
    assert!(later.to_string().contains("[transfer] source_timeout"), "{later}");
}

#[tokio::test]
async fn a_source_that_is_too_large_empty_or_busy_leaves_nothing_behind() {
    let web = Web::start().await;
    web.says("/large", 200, &"x".repeat(101));
    web.says("/empty", 200, "");
    web.says("/busy", 503, "");
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { max_bytes: 100, ..Limits::default() };
    let fetcher = fetcher(loopback());
    let fetch = async |path: &str| fetcher.fetch(&format!("{}{path}", web.base), dir.path(), limits).await.unwrap_err();
    assert!(is_source(&fetch("/large").await));
    assert!(is_source(&fetch("/empty").await));
    assert!(matches!(fetch("/busy").await, Failure::Transient(cause) if cause.http_status == Some(503)));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

fn no_environment(_: &str) -> Option<String> {
    None
}

fn url(text: &str) -> Url {
    text.parse().unwrap()
}

/// A server that reads one request head, answers with these bytes and closes; gives back the head.
async fn one_answer(listener: TcpListener, answer: &'static [u8]) -> String {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut chunk = [0; 1024];
        let read = socket.read(&mut chunk).await.unwrap();
        if read == 0 {
            break;
        }
        head.extend_from_slice(&chunk[..read]);
    }
    socket.write_all(answer).await.unwrap();
    socket.shutdown().await.unwrap();
    String::from_utf8(head).unwrap()
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[test]
fn plain_http_is_for_loopback_addresses_only() {
    for good in [
        "https://manage.devcenter.microsoft.com/v2.0/my",
        "http://127.0.0.1:8080/",
        "http://127.9.9.9",
        "http://[::1]:1",
    ] {
        assert!(check_endpoint(&url(good)).is_ok(), "{good}");
    }
    for bad in [
        "http://localhost/",
        "http://10.0.0.1/",
        "http://0.0.0.0/",
        "ftp://127.0.0.1/",
        "data:,x",
        "https://u:secret@host/",
    ] {
        let error = check_endpoint(&url(bad)).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn loopback_and_exceptions_go_without_a_proxy() {
    let environment = |name: &str| match name {
        "https_proxy" => Some("proxy.corp.example:3128".to_owned()),
        "NO_PROXY" => Some(".internal.example, 10.0.0.0/8,[fd00::1], plain.example:8443, 2001:db8::/32".to_owned()),
        _ => None,
    };
    let proxies = Proxies::resolve(&Options::default(), &environment).unwrap();
    let goes_direct = |text: &str| proxies.of(&url(text)).is_none();
    for direct in [
        "http://127.0.0.1:1/",
        "https://[::1]/",
        "https://localhost/",
        "https://a.internal.example/",
        "https://internal.example/",
        "https://10.200.3.4/",
        "https://[fd00::1]/",
        "https://plain.example:8443/",
        "https://[2001:db8:5::1]/",
    ] {
        assert!(goes_direct(direct), "{direct}");
    }
    for proxied in [
        "https://manage.devcenter.microsoft.com/",
        "https://notinternal.example/",
        "https://11.0.0.1/",
        "https://plain.example/",
        "https://[fd00::2]/",
    ] {
        assert!(!goes_direct(proxied), "{proxied}");
    }
    let route = proxies.route(&url("https://login.microsoftonline.com/"));
    assert_eq!(route.to_string(), "proxy http://proxy.corp.example:3128/ (from https_proxy)");
}

#[test]
fn the_setting_goes_before_the_environment_and_hides_its_password() {
    let options = Options { proxy: Some("http://build:s3cret@proxy.example:8080".to_owned()), ..Options::default() };
    let environment = |name: &str| (name == "HTTPS_PROXY").then(|| "http://other.example".to_owned());
    let route = Proxies::resolve(&options, &environment).unwrap().route(&url("https://example.com/"));
    assert_eq!(route.to_string(), "proxy http://…@proxy.example:8080/ (from [http] proxy)");
    assert!(!format!("{options:?}").contains("s3cret"));
    let broken = Options { proxy: Some("socks5://user:s3cret@proxy".to_owned()), ..Options::default() };
    let error = client_in(&broken, &no_environment).unwrap_err().to_string();
    assert!(error.contains("only http:// and https://") && !error.contains("s3cret"), "{error}");
}

#[tokio::test]
async fn https_goes_through_the_proxy_with_its_credentials_and_a_refusal_sends_nothing() {
    let (listener, address) = listener().await;
    let options = Options { proxy: Some(format!("http://build:s3cret@{address}")), ..Options::default() };
    let client = client_in(&options, &no_environment).unwrap();
    let request = client.get("https://service.example.invalid/x").send();
    let (head, outcome) = tokio::join!(
        one_answer(listener, b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n"),
        request
    );
    assert!(head.starts_with("CONNECT service.example.invalid:443 HTTP/1.1"), "{head}");
    assert!(head.contains("Basic YnVpbGQ6czNjcmV0\r\n"), "{head}");
    let error = outcome.unwrap_err();
    assert_eq!(classify_transport(&error), Sent::Nothing, "{error:?}");
    assert!(!describe(&error).contains("s3cret"));
}

#[test]
fn what_the_system_says_is_told_without_its_number() {
    let error = std::io::Error::from_raw_os_error(104);
    assert!(!without_number(&error.to_string()).contains("os error"), "{error}");
    assert_eq!(without_number("Connection reset by peer (os error 104)"), "Connection reset by peer");
    assert_eq!(without_number("invalid peer certificate: Expired"), "invalid peer certificate: Expired");
}

#[tokio::test]
async fn a_refused_connection_sends_nothing_and_a_broken_one_perhaps() {
    let (first, address) = listener().await;
    drop(first);
    let client = client_in(&Options::default(), &no_environment).unwrap();
    let refused = client.post(format!("http://{address}/")).body("x").send().await.unwrap_err();
    assert_eq!(classify_transport(&refused), Sent::Nothing);
    let (second, address) = listener().await;
    let request = client.post(format!("http://{address}/")).body("x").send();
    let (_, broken) = tokio::join!(one_answer(second, b""), request);
    assert_eq!(classify_transport(&broken.unwrap_err()), Sent::Perhaps);
}

#[tokio::test]
async fn redirects_are_answers_and_the_client_names_itself() {
    let (listener, address) = listener().await;
    let client = client_in(&Options::default(), &no_environment).unwrap();
    let (head, response) = tokio::join!(
        one_answer(
            listener,
            b"HTTP/1.1 302 Found\r\nlocation: https://elsewhere.example/\r\ncontent-length: 0\r\n\r\n"
        ),
        client.get(format!("http://{address}/")).send()
    );
    assert_eq!(response.unwrap().status(), 302);
    assert!(head.contains(&format!("user-agent: {USER_AGENT}")), "{head}");
}

#[tokio::test]
async fn a_body_over_the_cap_is_refused_whether_its_length_is_told_or_not() {
    for (answer, start) in [
        (&b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789"[..], "0123"),
        (&b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n"[..], "0123"),
    ] {
        let client = client_in(&Options::default(), &no_environment).unwrap();
        for cap in [4, 10] {
            let (listener, address) = listener().await;
            let (_, response) =
                tokio::join!(one_answer(listener, answer), client.get(format!("http://{address}/")).send());
            match read_capped(response.unwrap(), cap).await {
                Ok(body) => assert_eq!((&body[..], cap), (&b"0123456789"[..], 10)),
                Err(error) => assert!(matches!(error, BodyError::TooLarge(4)), "{error:?}"),
            }
        }
        let (listener, address) = listener().await;
        let (_, response) = tokio::join!(one_answer(listener, answer), client.get(format!("http://{address}/")).send());
        assert_eq!(read_start(response.unwrap(), 4).await, start);
    }
}

#[test]
fn a_certificate_file_without_certificates_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("company.pem");
    std::fs::write(&path, "no certificate").unwrap();
    let options = Options { ca_file: Some(path), ..Options::default() };
    assert!(client_in(&options, &no_environment).unwrap_err().to_string().contains("company.pem"));
    let missing = Options { ca_file: Some(folder.path().join("missing.pem")), ..Options::default() };
    assert!(matches!(client_in(&missing, &no_environment), Err(Error::CaFile { .. })));
}

/// A certificate authority of a company, and a server's certificate by it.
struct Company {
    ca: String,
    server: Arc<rustls::ServerConfig>,
}

impl Company {
    fn new(host: &str) -> Self {
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, key);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Self { ca, server: Arc::new(server) }
    }

    /// Answers one request over TLS, or fails with the handshake.
    fn serve(&self, listener: &std::net::TcpListener) -> std::io::Result<()> {
        use std::io::{Read as _, Write as _};
        let connection = rustls::ServerConnection::new(Arc::clone(&self.server)).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, listener.accept()?.0);
        let mut head = [0; 4096];
        let read = stream.read(&mut head)?;
        assert!(head[..read].starts_with(b"GET /x HTTP/1.1\r\n"));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")?;
        stream.flush()
    }
}

/// A proxy: carries one CONNECT to `to`, whatever it asks for; gives back its head.
async fn connect_proxy(listener: TcpListener, to: String) -> String {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    socket.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    let mut server = tokio::net::TcpStream::connect(to).await.unwrap();
    // Whoever breaks it off: the two ends tell.
    tokio::io::copy_bidirectional(&mut socket, &mut server).await.ok();
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn a_proxy_and_a_company_authority_lead_to_the_service_from_settings_and_environment() {
    const HOST: &str = "service.example.invalid";
    let folder = tempfile::tempdir().unwrap();
    let (company, other) = (Company::new(HOST), Company::new(HOST));
    let file = |name: &str, pem: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, pem).unwrap();
        Some(path)
    };
    let (ours, wrong) = (file("company.pem", &company.ca), file("other.pem", &other.ca));
    let company = Arc::new(company);
    for (by_setting, ca_file, is_trusted) in
        [(true, &ours, true), (false, &ours, true), (true, &wrong, false), (false, &None, false)]
    {
        let tls = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = tls.local_addr().unwrap().to_string();
        let served = Arc::clone(&company);
        let serving = tokio::task::spawn_blocking(move || served.serve(&tls));
        let (proxy, address) = listener().await;
        let at = format!("http://build:s3cret@{address}");
        let environment = |name: &str| (name == "HTTPS_PROXY" && !by_setting).then(|| at.clone());
        let options = Options { proxy: by_setting.then(|| at.clone()), ca_file: ca_file.clone(), ..Options::default() };
        let client = client_in(&options, &environment).unwrap();
        let get = async { client.get(format!("https://{HOST}/x")).send().await?.text().await };
        let (head, got) = tokio::join!(connect_proxy(proxy, to), get);
        assert!(head.starts_with(&format!("CONNECT {HOST}:443 ")) && head.contains("Basic YnVpbGQ6czNjcmV0"), "{head}");
        assert_eq!(serving.await.unwrap().is_ok(), is_trusted);
        match got {
            Ok(text) => assert_eq!((text.as_str(), is_trusted), ("hello", true)),
            Err(error) => {
                let told = describe(&error);
                assert!(!is_trusted && told.contains("certificate") && !told.contains("s3cret"), "{told}");
                assert_eq!(classify_transport(&error), Sent::Nothing);
            }
        }
    }
}

/// Answers one request with bytes one by one until `long_enough`, then ends the body; `None`: one byte, and no end.
async fn drip(listener: TcpListener, long_enough: Option<Duration>) {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut chunk = [0; 4096];
    assert!(socket.read(&mut chunk).await.unwrap() > 0);
    socket.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n0").await.unwrap();
    let Some(long_enough) = long_enough else { return std::future::pending().await };
    let begun = crate::clock::monotonic();
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    while begun.elapsed() < long_enough {
        ticks.tick().await;
        if socket.write_all(b"0").await.is_err() {
            return;
        }
    }
    socket.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_stream_may_take_longer_than_an_answer_and_ends_when_nothing_comes() {
    let total = Duration::from_millis(60);
    let options = Options { response_timeout: total, ..Options::default() };
    let idle = |idle| stream_builder_in(&options, Stream::Received { idle }, &no_environment).unwrap().build().unwrap();
    let sent = Stream::Sent { stall: Duration::from_secs(30) };
    let sending = stream_builder_in(&options, sent, &no_environment).unwrap().build().unwrap();
    let fetch = async |client: Client, until: Option<Duration>| {
        let (listener, address) = listener().await;
        let got = async { client.get(format!("http://{address}/")).send().await?.bytes().await };
        tokio::select! {
            biased;
            got = got => got,
            () = async { drip(listener, until).await; std::future::pending().await } => unreachable!(),
        }
    };
    let whole = client_in(&options, &no_environment).unwrap();
    assert!(fetch(whole, Some(4 * total)).await.unwrap_err().is_timeout(), "a call has a limit on the whole");
    for stream in [idle(Duration::from_secs(30)), sending] {
        assert!(!fetch(stream, Some(4 * total)).await.unwrap().is_empty());
    }
    assert!(fetch(idle(total), None).await.unwrap_err().is_timeout());
}

use std::sync::{Arc, Mutex};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method as SentMethod, StatusCode, Uri},
    response::Response as Reply,
};
use serde_json::Value;
use tokio::{io::AsyncReadExt as _, net::TcpListener, task::JoinSet};

use super::*;
use crate::{
    domain::{
        ids::{ProductId, SubmissionId},
        service::{NewProduct, PageLink, SubmissionKind},
    },
    partner_center::contract,
};

/// A request as the server saw it.
#[derive(Debug, Clone)]
struct Seen {
    method: SentMethod,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

type Journal = Arc<Mutex<Vec<Seen>>>;

/// A server on loopback that gives one answer to everything.
struct Server {
    base: Url,
    journal: Journal,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn answering(status: u16, headers: &'static [(&'static str, &'static str)], body: impl Into<Bytes>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/v2.0/my/hardware/", listener.local_addr().unwrap()).parse().unwrap();
        let journal = Journal::default();
        let body: Bytes = body.into();
        let handler = move |State(journal): State<Journal>, method, uri, sent_headers, sent| {
            let reply = headers
                .iter()
                .fold(Reply::builder().status(StatusCode::from_u16(status).unwrap()), |reply, (name, value)| {
                    reply.header(*name, *value)
                })
                .body(Body::from(body.clone()))
                .unwrap();
            journal.lock().unwrap().push(Seen { method, uri, headers: sent_headers, body: sent });
            async { reply }
        };
        let router = axum::Router::new().fallback(handler).with_state(journal.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { base, journal, _tasks: tasks }
    }

    fn client(&self) -> Client {
        client(&self.base)
    }

    fn seen(&self) -> Seen {
        self.journal.lock().unwrap().last().unwrap().clone()
    }
}

fn client(base: &Url) -> Client {
    let http = http::client(&http::Options::default()).unwrap();
    Client::new(base, http, Duration::from_secs(30)).unwrap()
}

async fn call(client: &Client, request: &Request) -> Result<Answer, Failure> {
    let (correlation, request_id) = (CorrelationId(uuid::Uuid::from_u128(1)), RequestId(uuid::Uuid::from_u128(2)));
    client.call(request, &SecretString::from("a.b.c"), correlation, request_id).await
}

fn every_request() -> [Request; 9] {
    let (product, submission) = (ProductId::new(14_300_000_000_004_711), SubmissionId::new(1_152_921_505_900_000_077));
    let create = |kind| Request::CreateSubmission { product, name: "Example \"1\"".to_owned(), kind };
    [
        Request::CreateProduct(new_product()),
        Request::ListProducts { next: None },
        Request::ListProducts { next: Some(PageLink("/v2.0/my/hardware/products?continuationToken=a%2Bb%3D".into())) },
        Request::GetProduct(product),
        create(SubmissionKind::Initial),
        create(SubmissionKind::Derived),
        Request::ListSubmissions { product, next: None },
        Request::GetSubmission { product, submission },
        Request::Commit { product, submission },
    ]
}

fn new_product() -> NewProduct {
    let Value::Object(members) = contract::examples("NewProduct")[0].clone() else { panic!("no object") };
    NewProduct { members }
}

/// A body that this request can read.
fn good_body(request: &Request) -> String {
    let example = |schema: &str| contract::examples(schema)[0].to_string();
    match request {
        Request::CreateProduct(_) | Request::GetProduct(_) => example("Product"),
        Request::ListProducts { .. } => example("ProductList"),
        Request::CreateSubmission { .. } | Request::GetSubmission { .. } => example("Submission"),
        Request::ListSubmissions { .. } => example("SubmissionList"),
        Request::Commit { .. } => String::new(),
    }
}

#[tokio::test]
async fn every_request_has_the_method_path_and_body_of_the_contract() {
    let operations = contract::block("operations");
    for request in every_request() {
        let server = Server::answering(200, &[], good_body(&request)).await;
        call(&server.client(), &request).await.unwrap();
        let seen = server.seen();
        let entry =
            operations.as_array().unwrap().iter().find(|entry| entry["id"] == request.operation()).unwrap().clone();
        let path = entry["path"]
            .as_str()
            .unwrap()
            .replace("{productId}", "14300000000004711")
            .replace("{submissionId}", "1152921505900000077");
        assert_eq!(seen.method, entry["method"].as_str().unwrap());
        assert_eq!(seen.uri.path(), format!("/v2.0/my/hardware{path}"));
        match entry["request"].as_str() {
            None => {
                assert!(seen.body.is_empty());
                assert!(!seen.headers.contains_key("content-type"));
            }
            Some(schema) => {
                let body: Value = serde_json::from_slice(&seen.body).unwrap();
                assert_eq!(contract::objections(schema, &body), Vec::<String>::new(), "{body}");
                assert_eq!(seen.headers["content-type"], "application/json");
                assert_eq!(seen.headers["content-length"], seen.body.len().to_string());
            }
        }
    }
}

#[test]
fn the_retry_classes_are_those_of_the_contract() {
    let operations = contract::block("operations");
    for request in every_request() {
        let entry = operations.as_array().unwrap().iter().find(|entry| entry["id"] == request.operation()).unwrap();
        assert_eq!(serde_json::to_value(request.retry_class()).unwrap(), entry["retryClass"], "{request:?}");
    }
}

#[test]
fn request_bodies_that_break_the_strict_schema_would_be_noticed() {
    let mut body = contract::examples("NewProduct")[0].clone();
    assert!(contract::objections("NewProduct", &body).is_empty());
    body["markettingNames"] = json!([]);
    assert!(!contract::objections("NewProduct", &body).is_empty());
}

#[tokio::test]
async fn every_request_carries_token_and_ids_and_the_page_token_unchanged() {
    let request = Request::ListProducts { next: Some(PageLink("/v2.0/my/hardware/products?t=RVh%2BQQ%3D%3D".into())) };
    let server = Server::answering(200, &[], r#"{"value":[]}"#).await;
    call(&server.client(), &request).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen.uri.query(), Some("t=RVh%2BQQ%3D%3D"));
    assert_eq!(seen.headers["authorization"], "Bearer a.b.c");
    assert_eq!(seen.headers["accept"], "application/json");
    assert_eq!(seen.headers[MS_CORRELATION_ID], "00000000-0000-0000-0000-000000000001");
    assert_eq!(seen.headers[MS_REQUEST_ID], "00000000-0000-0000-0000-000000000002");
}

#[tokio::test]
async fn answers_carry_status_and_the_services_clock() {
    for status in [200, 201, 202] {
        for request in every_request() {
            let headers = &[("date", "Sun, 01 Nov 2026 10:00:00 GMT")];
            let server = Server::answering(status, headers, good_body(&request)).await;
            let answer = call(&server.client(), &request).await.unwrap();
            assert_eq!(answer.http_status, status);
            assert_eq!(answer.date.unwrap().to_string(), "2026-11-01T10:00:00Z");
        }
    }
}

#[tokio::test]
async fn a_commit_is_accepted_whatever_its_body() {
    let [.., commit] = every_request();
    for body in ["", "<html>", r#"{"commitStatus":"commitStarted"}"#] {
        let server = Server::answering(202, &[], body).await;
        assert_eq!(call(&server.client(), &commit).await.unwrap().response, Response::Accepted);
    }
}

#[tokio::test]
async fn a_list_leads_to_its_next_page_on_this_host() {
    let server = Server::answering(200, &[], contract::examples("ProductList")[0].to_string()).await;
    let first = call(&server.client(), &Request::ListProducts { next: None }).await.unwrap();
    let Response::Products(page) = first.response else { panic!("no products") };
    let next = page.next.unwrap();
    assert_eq!(next.0, "/v2.0/my/hardware/products?pageSize=50&continuationToken=RVhBTVBMRQ%3D%3D");
    let second = call(&server.client(), &Request::ListProducts { next: Some(next) }).await.unwrap();
    let Response::Products(page) = second.response else { panic!("no products") };
    assert_eq!(page.next, None, "the page names itself as the next one");
}

#[tokio::test]
async fn a_success_that_cannot_be_read_is_unclear_for_writes() {
    for request in every_request() {
        for body in ["", "{}", "<html></html>", "{\"id\":"] {
            let server = Server::answering(201, &[], body).await;
            let outcome = call(&server.client(), &request).await;
            match (request.retry_class().needs_begin(), outcome) {
                (true, Ok(answer)) => assert_eq!(answer.response, Response::Accepted),
                (true, Err(failure)) => {
                    assert!(matches!(failure, Failure::Indeterminate(_)), "{failure:?}");
                    assert_eq!(failure.cause().kind, Kind::BadAnswer);
                }
                (false, outcome) => {
                    let failure = outcome.unwrap_err();
                    assert!(matches!(failure, Failure::Transient(_)), "{failure:?}");
                    assert_eq!((failure.cause().kind, failure.cause().http_status), (Kind::BadAnswer, Some(201)));
                }
            }
        }
    }
}

#[tokio::test]
async fn refusals_of_the_contract_are_told_apart() {
    let examples = contract::examples("ErrorEnvelope").into_iter().chain(contract::examples("GatewayError"));
    let [create, .., get, commit] = every_request();
    let mut told = Vec::new();
    for body in examples {
        let status = body.get("statusCode").and_then(Value::as_u64).unwrap_or(502);
        let server = Server::answering(u16::try_from(status).unwrap(), &[], body.to_string()).await;
        for request in [&create, &get, &commit] {
            told.push(call(&server.client(), request).await.unwrap_err());
        }
    }
    let lines: Vec<_> = told.iter().map(|failure| format!("{:?}: {failure}", failure.cause().kind)).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[tokio::test]
async fn a_body_over_the_cap_is_refused() {
    let server = Server::answering(200, &[], vec![b' '; BODY_CAP + 1]).await;
    let failure = call(&server.client(), &Request::ListProducts { next: None }).await.unwrap_err();
    assert!(failure.to_string().contains("larger than 16777216 bytes"), "{failure}");
    let server = Server::answering(200, &[], vec![b' '; 1001]).await;
    let client = server.client().with_largest_answer(1000);
    let failure = call(&client, &Request::ListProducts { next: None }).await.unwrap_err();
    assert!(failure.to_string().contains("larger than 1000 bytes"), "{failure}");
}

#[tokio::test]
async fn nothing_sent_is_transient_even_for_a_create() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/v2.0/my/hardware", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    for request in every_request() {
        let failure = call(&client(&base), &request).await.unwrap_err();
        assert!(matches!(&failure, Failure::Transient(cause) if cause.kind == Kind::NotSent), "{failure:?}");
    }
}

/// A server that reads a request's head, writes these bytes and cuts the connection.
async fn cut_after(answer: &'static [u8], request: &Request) -> Failure {
    use tokio::io::AsyncWriteExt as _;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/v2.0/my/hardware", listener.local_addr().unwrap()).parse().unwrap();
    let cut = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut chunk = [0; 4096];
        assert!(socket.read(&mut chunk).await.unwrap() > 0);
        socket.write_all(answer).await.unwrap();
        socket.flush().await.unwrap();
        drop(socket);
        // Nobody listens any more: a repeat behind our back would fail differently.
        drop(listener);
    };
    tokio::join!(cut, async { call(&client(&base), request).await.unwrap_err() }).1
}

#[tokio::test]
async fn a_cut_connection_is_unclear_for_writes_wherever_it_is_cut() {
    let [create, .., get, commit] = every_request();
    for answer in [
        &b""[..],
        b"HTTP/1.1 201 Cre",
        b"HTTP/1.1 201 Created\r\ncontent-length: 50\r\n\r\n{\"id\":1",
        b"gibberish\r\n\r\n",
    ] {
        let failure = cut_after(answer, &create).await;
        assert!(matches!(&failure, Failure::Indeterminate(cause) if cause.kind == Kind::Disconnected), "{failure:?}");
        let failure = cut_after(answer, &get).await;
        assert!(matches!(&failure, Failure::Transient(cause) if cause.kind == Kind::Disconnected), "{failure:?}");
    }
    assert!(matches!(cut_after(b"", &commit).await, Failure::Indeterminate(_)));
}

#[tokio::test]
async fn an_answer_that_never_comes_ends_with_the_time_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base: Url = format!("http://{}/v2.0/my/hardware", listener.local_addr().unwrap()).parse().unwrap();
    let http = http::client(&http::Options::default()).unwrap();
    let client = Client::new(&base, http, Duration::from_millis(100)).unwrap();
    let [create, ..] = every_request();
    let failure = call(&client, &create).await.unwrap_err();
    assert!(matches!(&failure, Failure::Indeterminate(cause) if cause.kind == Kind::Timeout), "{failure:?}");
}

#[tokio::test]
async fn a_token_that_cannot_stand_in_a_header_is_never_sent() {
    let server = Server::answering(200, &[], "{}").await;
    let ids = (CorrelationId(uuid::Uuid::nil()), RequestId(uuid::Uuid::nil()));
    let token = SecretString::from("a\r\nx: y");
    let outcome = server.client().call(&Request::ListProducts { next: None }, &token, ids.0, ids.1).await;
    assert!(matches!(outcome, Err(Failure::Unauthorized(_))));
    assert!(server.journal.lock().unwrap().is_empty());
}

#[test]
fn plain_http_to_another_machine_is_refused() {
    let http = http::client(&http::Options::default()).unwrap();
    let base = "http://10.1.2.3/v2.0/my/hardware".parse().unwrap();
    assert!(Client::new(&base, http, Duration::from_secs(1)).is_err());
}

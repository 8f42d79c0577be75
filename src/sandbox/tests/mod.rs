//! The sandbox over a real socket, as a client meets it.

mod blobs;
mod faulty;
mod hardware;
mod tokens;

use super::*;
use reqwest::{Method, StatusCode};
use serde_json::json;

pub(super) const TENANT: &str = "7d1f0c52-3a6e-4b19-9f41-5c2e8ab70d13";
pub(super) const CLIENT: &str = "c0a9e6d4-58b7-4f02-8e3d-91a64b7f2c58";
pub(super) const SECRET: &str = "Zk8~q+T1/=example%";
pub(super) const OS: &str = "WINDOWS_v100_X64_GE_FULL";

/// A sandbox with one account, and a caller that has a token for it.
pub(super) struct World {
    pub(super) sandbox: Sandbox,
    pub(super) http: reqwest::Client,
    token: String,
    correlation: String,
}

pub(super) fn options() -> Options {
    Options {
        speed: 0.0,
        step_duration: Duration::from_secs(3),
        metadata_delay: Duration::from_secs(10),
        accounts: vec![Account::new("contoso", TENANT, CLIENT).with_secret(SECRET)],
        ..Options::default()
    }
}

/// A caller without pooled connections: a cut one must not be met again.
pub(super) fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(Duration::from_secs(20)).build().unwrap()
}

impl World {
    pub(super) async fn start(options: Options) -> Self {
        let sandbox = Sandbox::start(options).await.unwrap();
        let mut world = Self { sandbox, http: http(), token: String::new(), correlation: "job-1".to_owned() };
        world.token = world.new_token().await;
        world
    }

    pub(super) fn of_job(mut self, correlation: &str) -> Self {
        correlation.clone_into(&mut self.correlation);
        self
    }

    pub(super) async fn new_token(&self) -> String {
        let body = self.ask_token("oauth2/token", &secret_form()).await.1;
        body["access_token"].as_str().unwrap().to_owned()
    }

    pub(super) async fn renew(&mut self) {
        self.token = self.new_token().await;
    }

    pub(super) async fn ask_token(&self, path: &str, form: &[(&str, &str)]) -> (StatusCode, Value) {
        let url = format!("{}/{TENANT}/{path}", self.sandbox.url());
        let response = self.http.post(url).form(form).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    pub(super) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}/v2.0/my/hardware{path}", self.sandbox.url());
        self.http
            .request(method, url)
            .bearer_auth(&self.token)
            .header("MS-CorrelationId", &self.correlation)
            .header("MS-RequestId", "r1")
    }

    pub(super) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
    }

    pub(super) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call(Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    pub(super) async fn create_product(&self, body: Value) -> u64 {
        let (status, body) = self.call(Method::POST, "/products", Some(body)).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        body["id"].as_u64().unwrap()
    }

    /// A product with an initial submission: the path of the submission, and the answer to its creation.
    pub(super) async fn submission(&self) -> (String, Value) {
        let product = self.create_product(new_product("nic")).await;
        let path = format!("/products/{product}/submissions");
        let body = json!({ "name": "nic 1", "type": "initial" });
        let (status, body) = self.call(Method::POST, &path, Some(body)).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        (format!("{path}/{}", body["id"]), body)
    }

    pub(super) async fn commit(&self, path: &str) -> (StatusCode, Value) {
        self.call(Method::POST, &format!("{path}/commit"), Some(json!({}))).await
    }

    pub(super) async fn put(&self, url: &str, bytes: &[u8]) -> reqwest::Response {
        let request = self.http.put(url).header("x-ms-blob-type", "BlockBlob").body(bytes.to_vec());
        request.send().await.unwrap()
    }

    pub(super) async fn control(&self, method: Method, path: &str, body: Value) -> Value {
        let url = format!("{}/_sim/{path}", self.sandbox.url());
        let response = self.http.request(method, url).json(&body).send().await.unwrap();
        assert!(response.status().is_success(), "{path}");
        response.json().await.unwrap()
    }

    /// Carries a package to the end of its workflow.
    pub(super) async fn finish(&self, path: &str) {
        assert_eq!(self.commit(path).await.0, StatusCode::ACCEPTED);
        self.sandbox.inspected().await;
        self.sandbox.advance(Duration::from_secs(21));
    }
}

pub(super) fn secret_form() -> [(&'static str, &'static str); 4] {
    [
        ("grant_type", "client_credentials"),
        ("client_id", CLIENT),
        ("client_secret", SECRET),
        ("resource", "https://manage.devcenter.microsoft.com"),
    ]
}

pub(super) fn new_product(name: &str) -> Value {
    json!({
        "productName": name, "testHarness": "Attestation", "deviceType": "internal", "isTestSign": false,
        "isFlightSign": false, "requestedSignatures": [OS],
    })
}

pub(super) fn package() -> Vec<u8> {
    // Built once: a cabinet holds the time at which it was built, and tests compare one with another.
    static PACKAGE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    let inf = package::tests::INF.as_bytes();
    PACKAGE.get_or_init(|| package::tests::cabinet(&[("nic\\nic.inf", inf), ("nic\\nic.sys", &[9; 5000])])).clone()
}

/// The URL of the download of this kind.
pub(super) fn item(submission: &Value, kind: &str) -> String {
    let items = submission["downloads"]["items"].as_array().unwrap();
    items.iter().find(|item| item["type"] == kind).unwrap()["url"].as_str().unwrap().to_owned()
}

/// Checks a value against a schema of the contract.
pub(super) fn check_schema(name: &str, value: &Value) {
    let text = include_str!("../../../tests/contract/hardware-api.md");
    let start = text.find("```json contract=schemas\n").unwrap();
    let block = text[start..].split_once('\n').unwrap().1.split_once("\n```").unwrap().0;
    let all: Value = serde_json::from_str(block).unwrap();
    let schema = json!({ "$ref": format!("#/$defs/{name}"), "$defs": all["$defs"] });
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(value).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{name}: {errors:?}\n{value}");
}

/// The examples of the contract for one schema.
pub(super) fn examples(name: &str) -> Vec<Value> {
    let text = include_str!("../../../tests/contract/hardware-api.md");
    let label = format!("```json example={name}\n");
    text.split(&label).skip(1).map(|rest| serde_json::from_str(rest.split_once("\n```").unwrap().0).unwrap()).collect()
}

#[tokio::test]
async fn it_refuses_to_listen_beyond_loopback_unless_allowed() {
    let open = Options { listen: "0.0.0.0:0".parse().unwrap(), ..Options::default() };
    assert!(matches!(Sandbox::start(open.clone()).await, Err(Error::NotLoopback(_))));
    Sandbox::start(Options { allow_remote: true, ..open }).await.unwrap().stop().await;
}

#[tokio::test]
async fn the_overlay_is_toml_that_names_a_secret_which_works_and_holds_none() {
    let sandbox = Sandbox::start(Options::default()).await.unwrap();
    let overlay: toml::Value = toml::from_str(&sandbox.overlay()).unwrap();
    assert_eq!(overlay["endpoints"]["authority"].as_str(), Some(sandbox.url().as_str()));
    assert_eq!(overlay["endpoints"]["hardware"].as_str(), Some(format!("{}/v2.0/my/hardware", sandbox.url()).as_str()));
    let account = &overlay["accounts"]["sandbox"];
    let reference = account["credential"]["secret"].as_str().unwrap();
    let secret = std::fs::read_to_string(reference.strip_prefix("file:").unwrap()).unwrap();
    assert!(!sandbox.overlay().contains(&secret));
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", account["client_id"].as_str().unwrap()),
        ("client_secret", &secret),
        ("resource", "https://manage.devcenter.microsoft.com"),
    ];
    let url = format!("{}/{}/oauth2/token", sandbox.url(), account["tenant_id"].as_str().unwrap());
    let status = http().post(url).form(&form).send().await.unwrap().status();
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn a_stop_closes_the_port_and_takes_the_temporary_folder_along() {
    let world = World::start(options()).await;
    let (path, created) = world.submission().await;
    world.put(&item(&created, "initialPackage"), &package()).await;
    world.finish(&path).await;
    let folder = world.sandbox.shared.folder.path().to_owned();
    let url = world.sandbox.url();
    assert!(folder.exists());
    world.sandbox.stop().await;
    assert!(!folder.exists());
    assert!(world.http.get(url).send().await.is_err());
}

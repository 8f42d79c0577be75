//! The token endpoint.

use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};

async fn refused(world: &World, path: &str, form: &[(&str, &str)]) -> (u16, String, u64) {
    let (status, body) = world.ask_token(path, form).await;
    check_schema("TokenError", &body);
    let number = body["error_codes"][0].as_u64().unwrap();
    let text = body["error_description"].as_str().unwrap();
    assert!(text.starts_with(&format!("AADSTS{number}: ")) && text.contains("\r\nTrace ID: "), "{text}");
    (status.as_u16(), body["error"].as_str().unwrap().to_owned(), number)
}

fn with<'a>(name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut form: Vec<(&str, &str)> = secret_form().into_iter().filter(|(own, _)| *own != name).collect();
    if !value.is_empty() {
        form.push((name, value));
    }
    form
}

#[tokio::test]
async fn version_one_speaks_in_strings_and_version_two_in_integers() {
    let world = World::start(options()).await;
    let (status, one) = world.ask_token("oauth2/token", &secret_form()).await;
    assert_eq!(status, StatusCode::OK);
    check_schema("TokenResponse", &one);
    assert_eq!(one["expires_in"], "3599");
    let number = |name: &str| one[name].as_str().unwrap().parse::<i64>().unwrap();
    assert_eq!(number("expires_on") - number("not_before"), 3899);
    assert!(one.get("refresh_token").is_none());
    let mut form = with("resource", "");
    form.push(("scope", "https://manage.devcenter.microsoft.com/.default"));
    let (_, two) = world.ask_token("oauth2/v2.0/token", &form).await;
    assert_eq!(two["expires_in"], 3599);
    for absent in ["expires_on", "not_before", "resource"] {
        assert!(two.get(absent).is_none());
    }
}

#[tokio::test]
async fn every_wrong_request_has_its_number() {
    let world = World::start(options()).await;
    let v1 = "oauth2/token";
    let cases = [
        (v1, with("client_secret", "wrong"), (401, "invalid_client", 7_000_215)),
        (v1, with("client_secret", ""), (401, "invalid_client", 7_000_218)),
        (v1, with("client_id", TENANT), (400, "unauthorized_client", 700_016)),
        (v1, with("client_id", ""), (400, "invalid_request", 900_144)),
        (v1, with("grant_type", "password"), (400, "unsupported_grant_type", 70003)),
        (v1, with("resource", "https://example.invalid"), (400, "invalid_resource", 500_011)),
        ("oauth2/v2.0/token", secret_form().to_vec(), (400, "invalid_request", 901_002)),
    ];
    for (path, form, (status, error, number)) in cases {
        assert_eq!(refused(&world, path, &form).await, (status, error.to_owned(), number));
    }
    let url = format!("{}/{CLIENT}/oauth2/token", world.sandbox.url());
    let body: Value = world.http.post(url).form(&secret_form()).send().await.unwrap().json().await.unwrap();
    assert_eq!(body["error_codes"][0], 90002);
    let url = format!("{}/{TENANT}/oauth2/token", world.sandbox.url());
    let response = world.http.get(url).send().await.unwrap();
    assert_eq!(response.status(), 400);
    assert_eq!(response.json::<Value>().await.unwrap()["error_codes"][0], 900_561);
}

#[tokio::test]
async fn an_expired_secret_is_named_as_such() {
    let mut options = options();
    options.accounts[0].secrets[0].expires = Some(Timestamp::UNIX_EPOCH);
    let sandbox = Sandbox::start(options).await.unwrap();
    let world = World { sandbox, http: http(), token: String::new(), correlation: String::new() };
    assert_eq!(refused(&world, "oauth2/token", &secret_form()).await.2, 7_000_222);
}

struct Signer {
    key: rcgen::KeyPair,
    certificate: rcgen::Certificate,
}

impl Signer {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["longshore".to_owned()]).unwrap().self_signed(&key).unwrap();
        Self { key, certificate }
    }

    fn sha256(&self) -> Vec<u8> {
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.certificate.der()).as_ref().to_vec()
    }

    fn sha1(&self) -> Vec<u8> {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, self.certificate.der());
        digest.as_ref().to_vec()
    }

    fn sign(&self, header: &Header, claims: &Value) -> String {
        let key = EncodingKey::from_rsa_pem(self.key.serialize_pem().as_bytes()).unwrap();
        jsonwebtoken::encode(header, claims, &key).unwrap()
    }
}

fn claims(aud: &str, from: i64, to: i64) -> Value {
    let now = crate::clock::now().as_second();
    let jti = crate::clock::uuid_v4().to_string();
    json!({ "aud": aud, "iss": CLIENT, "sub": CLIENT, "jti": jti, "nbf": now + from, "iat": now, "exp": now + to })
}

fn assertion_form(assertion: &str) -> Vec<(&str, &str)> {
    let mut form = with("client_secret", "");
    form.push(("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"));
    form.push(("client_assertion", assertion));
    form
}

#[tokio::test]
async fn assertions_are_verified_in_both_forms_every_shape_of_audience_and_lenient_padding() {
    let (signer, stranger) = (Signer::new(), Signer::new());
    let mut options = options();
    options.accounts[0].certificates.push(signer.certificate.pem());
    let world = World::start(options).await;
    let url = format!("{}/{TENANT}/oauth2/token", world.sandbox.url());
    let ps256 = |thumbprint: String| Header { x5t_s256: Some(thumbprint), ..Header::new(Algorithm::PS256) };
    let rs256 = |thumbprint: String| Header { x5t: Some(thumbprint), ..Header::new(Algorithm::RS256) };
    let new = ps256(URL_SAFE_NO_PAD.encode(signer.sha256()));
    let microsoft = format!("https://login.microsoftonline.com/{TENANT}");
    let good = [
        signer.sign(&new, &claims(&url, -60, 540)),
        signer.sign(&ps256(URL_SAFE.encode(signer.sha256())), &claims(&url, -60, 540)),
        signer.sign(&rs256(URL_SAFE_NO_PAD.encode(signer.sha1())), &claims(&url, -60, 540)),
        signer.sign(&rs256(STANDARD.encode(signer.sha1())), &claims(&url, -60, 540)),
        signer.sign(&new, &claims(&format!("{microsoft}/v2.0"), -60, 540)),
        signer.sign(&new, &claims(&format!("{microsoft}/oauth2/token"), -60, 540)),
        signer.sign(&new, &claims(&format!("{microsoft}/oauth2/v2.0/token"), -60, 540)),
    ];
    for assertion in &good {
        let (status, body) = world.ask_token("oauth2/token", &assertion_form(assertion)).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let payload = body["access_token"].as_str().unwrap().split('.').nth(1).unwrap().to_owned();
        let token: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
        assert_eq!((token["appidacr"].as_str(), token["ver"].as_str()), (Some("2"), Some("1.0")));
    }
    let bad = [
        (stranger.sign(&new, &claims(&url, -60, 540)), 700_027),
        (stranger.sign(&ps256(URL_SAFE_NO_PAD.encode(stranger.sha256())), &claims(&url, -60, 540)), 700_027),
        (signer.sign(&new, &claims("https://example.invalid", -60, 540)), 50013),
        (signer.sign(&new, &claims(&url, 60, 540)), 500_133),
        (signer.sign(&new, &claims(&url, -600, -60)), 500_133),
        (signer.sign(&rs256(URL_SAFE_NO_PAD.encode(signer.sha256())), &claims(&url, -60, 540)), 700_027),
        ("not.a.token".to_owned(), 50012),
    ];
    for (assertion, number) in &bad {
        assert_eq!(refused(&world, "oauth2/token", &assertion_form(assertion)).await.2, *number);
    }
    // An hour behind: the same assertions are of the future now, and the answer's date says so.
    world.control(Method::POST, "clock", json!({ "offset": -3600 })).await;
    let request = world.http.post(&url).form(&assertion_form(&good[0]));
    let response = request.send().await.unwrap();
    let date = response.headers()["date"].to_str().unwrap().to_owned();
    assert_eq!(response.json::<Value>().await.unwrap()["error_codes"][0], 500_133);
    let date = jiff::fmt::rfc2822::parse(&date).unwrap().timestamp();
    assert!((crate::clock::now().as_second() - date.as_second() - 3600).abs() < 60);
}

#[tokio::test]
async fn a_reused_assertion_is_refused_only_when_that_is_asked_for() {
    let signer = Signer::new();
    for reject in [false, true] {
        let mut options = Options { reject_reused_jti: reject, ..options() };
        options.accounts[0].certificates.push(signer.certificate.pem());
        let world = World::start(options).await;
        let url = format!("{}/{TENANT}/oauth2/token", world.sandbox.url());
        let header =
            Header { x5t_s256: Some(URL_SAFE_NO_PAD.encode(signer.sha256())), ..Header::new(Algorithm::PS256) };
        let assertion = signer.sign(&header, &claims(&url, -60, 540));
        assert_eq!(world.ask_token("oauth2/token", &assertion_form(&assertion)).await.0, StatusCode::OK);
        let again = world.ask_token("oauth2/token", &assertion_form(&assertion)).await.0;
        assert_eq!(again.as_u16(), if reject { 401 } else { 200 });
    }
}

#[tokio::test]
async fn the_api_takes_only_tokens_that_are_ours_for_it_and_still_good() {
    let mut world = World::start(options()).await;
    assert_eq!(world.call(Method::GET, "/products", None).await.0, StatusCode::OK);
    let good = std::mem::take(&mut world.token);
    for bad in ["", "x.y.z", &good[..good.len() - 2]] {
        bad.clone_into(&mut world.token);
        let response = world.request(Method::GET, "/products").send().await.unwrap();
        assert_eq!(response.status(), 401);
        assert!(response.bytes().await.unwrap().is_empty());
    }
    let (_, other) = world.ask_token("oauth2/token", &with("resource", "https://onestore.microsoft.com")).await;
    other["access_token"].as_str().unwrap().clone_into(&mut world.token);
    let (status, body) = world.call(Method::GET, "/products", None).await;
    assert_eq!(status, 401);
    check_schema("GatewayError", &body);
    world.token = good;
    world.control(Method::POST, "tokens/expire", json!({})).await;
    assert_eq!(world.call(Method::GET, "/products", None).await.0, 401);
    world.renew().await;
    assert_eq!(world.call(Method::GET, "/products", None).await.0, StatusCode::OK);
    world.control(Method::POST, "roles", json!({ "client_id": CLIENT, "missing": true })).await;
    assert_eq!(world.call(Method::GET, "/products?top=1", None).await.0, 403);
    let roles = json!({ "client_id": CLIENT, "missing": false, "roles": ["Manager"] });
    world.control(Method::POST, "roles", roles).await;
    assert_eq!(world.call(Method::GET, "/products", None).await.0, StatusCode::OK);
    assert_eq!(world.call(Method::POST, "/products", Some(new_product("x"))).await.0, 403);
}

#[tokio::test]
async fn requests_are_counted_per_key() {
    let world = World::start(options()).await;
    for secret in [SECRET, "wrong"] {
        world.ask_token("oauth2/token", &with("client_secret", secret)).await;
    }
    let keys = world.control(Method::GET, "keys", json!({})).await;
    let expected = json!([{
        "tenant_id": TENANT, "client_id": CLIENT, "audience": "https://manage.devcenter.microsoft.com",
        "requests": 3, "issued": 2, "refused": 1,
    }]);
    assert_eq!(keys["token_keys"], expected);
}

//! The hardware API.

use super::*;

#[tokio::test]
async fn the_contracts_products_are_taken_and_read_back_as_its_schemas_say() {
    let world = World::start(options()).await;
    for example in examples("NewProduct") {
        let (status, made) = world.call(Method::POST, "/products/", Some(example.clone())).await;
        assert_eq!(status, StatusCode::CREATED);
        check_schema("Product", &made);
        assert!(made["id"].as_u64().unwrap() > 14_300_000_000_000_000);
        assert!(made["sharedProductId"].as_u64().unwrap() > 1 << 60);
        for (name, value) in example.as_object().unwrap() {
            let expected =
                if name == "testHarness" { json!(value.as_str().unwrap().to_lowercase()) } else { value.clone() };
            assert_eq!(made[name], expected, "{name}");
        }
        let read = world.get(&format!("/products/{}", made["id"])).await;
        assert_eq!(read, made);
    }
}

#[tokio::test]
async fn a_bad_product_is_refused_with_its_members() {
    let world = World::start(options()).await;
    let (status, body) =
        world.call(Method::POST, "/products", Some(json!({ "productName": " ", "isTestSign": 1 }))).await;
    assert_eq!(status, 422);
    check_schema("ErrorEnvelope", &body);
    let targets: Vec<&str> = body["error"]["validationErrors"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|error| error["target"].as_str())
        .collect();
    assert_eq!(targets, ["isTestSign", "productName", "requestedSignatures"]);
    let request = world.request(Method::POST, "/products").header("content-type", "application/json");
    let response = request.body("{").send().await.unwrap();
    assert_eq!(response.status(), 400);
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "invalidInput");
    let response = world.request(Method::POST, "/products").body("{}").send().await.unwrap();
    assert_eq!(response.status(), 415);
    assert_eq!(world.get("/products").await["value"], json!([]));
}

#[tokio::test]
async fn unknown_members_are_ignored_unless_requests_are_strict() {
    for strict in [false, true] {
        let world = World::start(Options { strict_requests: strict, ..options() }).await;
        let mut body = new_product("x");
        body["markettingNames"] = json!([]);
        let (status, body) = world.call(Method::POST, "/products", Some(body)).await;
        assert_eq!(status.as_u16(), if strict { 422 } else { 201 });
        assert_eq!(body["error"]["validationErrors"][0]["target"] == "markettingNames", strict);
    }
}

#[tokio::test]
async fn a_long_list_comes_in_pages_that_hold_every_product_once() {
    let world = World::start(Options { page_size: 3, ..options() }).await;
    let mut made = Vec::new();
    for number in 0..8 {
        made.push(world.create_product(new_product(&format!("p{number}"))).await);
    }
    let (mut seen, mut path, mut pages) = (Vec::new(), "/products".to_owned(), 0);
    loop {
        let page = world.get(&path).await;
        check_schema("ProductList", &page);
        pages += 1;
        seen.extend(page["value"].as_array().unwrap().iter().map(|product| product["id"].as_u64().unwrap()));
        let links = page["links"].as_array().unwrap();
        let Some(next) = links.iter().find(|link| link["rel"] == "next_link") else { break };
        path = next["href"].as_str().unwrap().split_once("/v2.0/my/hardware").unwrap().1.to_owned();
        assert!(path.contains("%3D"), "{path}");
    }
    assert_eq!((seen, pages), (made, 3));
}

#[tokio::test]
async fn a_deep_list_fails_where_it_is_told_to() {
    let world = World::start(Options { page_size: 2, list_fails_at_page: Some(2), ..options() }).await;
    for number in 0..5 {
        world.create_product(new_product(&format!("p{number}"))).await;
    }
    let page = world.get("/products").await;
    let next = page["links"][1]["href"].as_str().unwrap().split_once("/v2.0/my/hardware").unwrap().1.to_owned();
    let (status, body) = world.call(Method::GET, &next, None).await;
    assert_eq!(status, 500);
    check_schema("GatewayError", &body);
}

#[tokio::test]
async fn what_is_new_is_missing_in_lists_for_the_lag_and_can_be_read_at_once() {
    let world = World::start(Options { list_lag: Duration::from_secs(5), ..options() }).await;
    let (path, _) = world.submission().await;
    let product = path.split('/').nth(2).unwrap();
    assert_eq!(world.get("/products").await["value"], json!([]));
    assert_eq!(world.get(&format!("/products/{product}/submissions")).await["value"], json!([]));
    assert_eq!(world.get(&format!("/products/{product}")).await["productName"], "nic");
    world.control(Method::POST, "clock", json!({ "advance": 5 })).await;
    assert_eq!(world.get("/products").await["value"].as_array().unwrap().len(), 1);
    assert_eq!(world.get(&format!("/products/{product}/submissions")).await["value"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn accounts_do_not_see_each_others_products() {
    let mut options = options();
    options.accounts.push(Account::new("other", CLIENT, TENANT).with_secret(SECRET));
    let mut world = World::start(options).await;
    let product = world.create_product(new_product("mine")).await;
    let url = format!("{}/{CLIENT}/oauth2/token", world.sandbox.url());
    let mut form = secret_form();
    form[1].1 = TENANT;
    let token: Value = world.http.post(url).form(&form).send().await.unwrap().json().await.unwrap();
    token["access_token"].as_str().unwrap().clone_into(&mut world.token);
    assert_eq!(world.get("/products").await["value"], json!([]));
    let (status, body) = world.call(Method::GET, &format!("/products/{product}"), None).await;
    assert_eq!((status.as_u16(), body["error"]["code"].as_str()), (404, Some("entityNotFound")));
}

#[tokio::test]
async fn a_package_goes_from_upload_to_signed_download_and_metadata() {
    let world = World::start(options()).await;
    let (path, created) = world.submission().await;
    check_schema("Submission", &created);
    assert_eq!((created["commitStatus"].as_str(), created.get("workflowStatus")), (Some("commitPending"), None));
    let slot = item(&created, "initialPackage");
    for part in ["skoid=", "&sp=rwl&", "rscd=attachment%3B%20filename%3Dinitial_", "&sig="] {
        assert!(slot.contains(part), "{slot}");
    }
    assert_eq!(world.put(&slot, &package()).await.status(), StatusCode::CREATED);
    assert_eq!(world.commit(&path).await, (StatusCode::ACCEPTED, Value::Null));
    let running = world.get(&path).await;
    check_schema("Submission", &running);
    assert_eq!(running["commitStatus"], "commitComplete");
    world.sandbox.inspected().await;
    world.sandbox.advance(Duration::from_secs(7));
    let running = world.get(&path).await;
    assert_eq!(running["workflowStatus"]["currentStep"], "scanning");
    assert!(item(&running, "initialPackage").contains("sp=rl&"));
    world.sandbox.advance(Duration::from_secs(14));
    let signed = world.get(&path).await;
    check_schema("Submission", &signed);
    let kinds: Vec<&str> =
        signed["downloads"]["items"].as_array().unwrap().iter().filter_map(|item| item["type"].as_str()).collect();
    assert_eq!(kinds, ["initialPackage", "signedPackage", "certificationReport"]);
    let zip = world.http.get(item(&signed, "signedPackage")).send().await.unwrap().bytes().await.unwrap();
    let mut zip = zip::ZipArchive::new(io::Cursor::new(zip)).unwrap();
    let mut note = String::new();
    io::Read::read_to_string(&mut zip.by_name("sandbox.json").unwrap(), &mut note).unwrap();
    let hash = store::hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &package()).as_ref());
    assert!(note.contains(&hash));
    assert!(world.http.get(item(&signed, "certificationReport")).send().await.unwrap().status().is_success());
    world.sandbox.advance(Duration::from_secs(10));
    let url = item(&world.get(&path).await, "driverMetadata");
    let metadata: Value = world.http.get(url).send().await.unwrap().json().await.unwrap();
    check_schema("DriverMetadata", &metadata);
    assert!(metadata.to_string().contains("PCI\\\\VEN_1234&DEV_0001"));
    let product = world.get(path.split("/submissions").next().unwrap()).await;
    assert_eq!(product["isCommitted"], true);
    let list = world.get(path.rsplit_once('/').unwrap().0).await;
    check_schema("SubmissionList", &list);
    assert!(list["value"][0].get("downloads").is_none());
    let verdict = world.sandbox.verdict();
    assert_eq!(verdict["clean"], true, "{verdict}");
    assert_eq!(verdict["by_correlation"]["job-1"]["package_sha256"], json!([hash]));
}

#[tokio::test]
async fn a_package_against_the_rules_fails_with_a_report_that_can_be_read() {
    let world = World::start(options()).await;
    let (path, created) = world.submission().await;
    world.put(&item(&created, "initialPackage"), &package::tests::cabinet(&[("nic.inf", b"[Version]")])).await;
    world.finish(&path).await;
    let failed = world.get(&path).await;
    check_schema("Submission", &failed);
    assert_eq!(failed["commitStatus"], "commitFailed");
    let status = &failed["workflowStatus"];
    assert_eq!(
        (status["currentStep"].as_str(), status["state"].as_str()),
        (Some("packageInfoValidation"), Some("failed"))
    );
    assert_eq!(failed["downloads"]["items"], json!([]));
    let report = world.http.get(status["errorReport"].as_str().unwrap()).send().await.unwrap().text().await.unwrap();
    assert!(report.contains("at the root of the cabinet"), "{report}");
    let (status, body) = world.call(Method::PATCH, &path, Some(json!({ "name": "n" }))).await;
    assert_eq!((status.as_u16(), body["error"]["code"].as_str()), (403, Some("updateUnauthorized")));
}

#[tokio::test]
async fn a_commit_without_a_blob_is_taken_then_fails_and_is_no_clean_run() {
    let world = World::start(options()).await;
    let (path, _) = world.submission().await;
    world.finish(&path).await;
    assert_eq!(world.get(&path).await["workflowStatus"]["state"], "failed");
    let verdict = world.control(Method::GET, "verdict", json!({})).await;
    assert_eq!(
        (verdict["clean"].as_bool(), verdict["totals"]["commits_without_blob"].as_u64()),
        (Some(false), Some(1))
    );
}

#[tokio::test]
async fn a_commit_takes_both_forms_once_and_asks_for_its_headers() {
    for body in ["", "{}"] {
        let world = World::start(options()).await;
        let (path, created) = world.submission().await;
        world.put(&item(&created, "initialPackage"), &package()).await;
        let url = format!("{path}/commit");
        let untyped = world.request(Method::POST, &url).header("content-length", body.len()).body(body);
        assert_eq!(untyped.send().await.unwrap().status(), 415);
        let commit = || {
            let request = world.request(Method::POST, &url).header("content-type", "application/json");
            request.header("content-length", body.len()).body(body).send()
        };
        let response = commit().await.unwrap();
        assert_eq!(response.status(), 202, "{body}");
        assert!(response.bytes().await.unwrap().is_empty());
        let response = commit().await.unwrap();
        assert_eq!(response.status(), 400);
        let again: Value = response.json().await.unwrap();
        assert_eq!(again["error"]["code"], "requestInvalidForCurrentState");
        assert_eq!(again["error"]["message"], "Only pending submissions can be committed.");
    }
}

/// Sends bytes as they are; says the first line of the answer.
async fn raw(world: &World, text: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(world.sandbox.address()).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_commit_without_a_length_is_411_or_503_by_switch() {
    for (as_503, expected) in [(false, "HTTP/1.1 411"), (true, "HTTP/1.1 503")] {
        let world = World::start(Options { commit_without_headers_503: as_503, ..options() }).await;
        let (path, _) = world.submission().await;
        let text = format!(
            "POST /v2.0/my/hardware{path}/commit HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\n\r\n",
            world.token
        );
        let line = raw(&world, &text).await;
        assert!(line.starts_with(expected), "{line}");
    }
}

#[tokio::test]
async fn submissions_that_cannot_be_are_refused_in_the_contracts_words() {
    let world = World::start(options()).await;
    let (path, _) = world.submission().await;
    let list = path.rsplit_once('/').unwrap().0;
    let create = |path: String, kind: &'static str| {
        let world = &world;
        async move {
            let (status, body) = world.call(Method::POST, &path, Some(json!({ "name": "n", "type": kind }))).await;
            let error = &body["error"];
            (
                status.as_u16(),
                error["code"].as_str().unwrap_or("").to_owned(),
                error["message"].as_str().unwrap_or("").to_owned(),
            )
        }
    };
    let known = |code: &str, keywords: &[&str], (status, is, message): (u16, String, String), expected: u16| {
        assert_eq!((status, is.as_str()), (expected, code), "{message}");
        assert!(keywords.iter().all(|word| message.to_lowercase().contains(word)), "{message}");
    };
    let state = "requestInvalidForCurrentState";
    known(state, &["initial submission already exists"], create(list.to_owned(), "initial").await, 400);
    known("invalidInput", &["derived submission", "attestation"], create(list.to_owned(), "derived").await, 400);
    known("entityNotFound", &["product not found"], create("/products/7/submissions".to_owned(), "initial").await, 404);
    let mut hlk = new_product("hlk");
    hlk["testHarness"] = json!("HLK");
    let hlk = format!("/products/{}/submissions", world.create_product(hlk).await);
    known(state, &["derived submission", "no initial submission"], create(hlk.clone(), "derived").await, 400);
    assert_eq!(create(hlk.clone(), "initial").await.0, 201);
    known(state, &["not signed"], create(hlk, "derived").await, 400);
    let (status, body) = world.call(Method::POST, "/products/7/submissions/8/commit", Some(json!({}))).await;
    assert_eq!((status.as_u16(), body["error"]["message"].as_str()), (404, Some("No submission found")));
}

#[tokio::test]
async fn patches_change_what_they_may_and_are_refused_otherwise() {
    let world = World::start(options()).await;
    let lonely = format!("/products/{}", world.create_product(new_product("lonely")).await);
    let rename = json!({ "productName": "renamed" });
    let (status, body) = world.call(Method::PATCH, &lonely, Some(rename.clone())).await;
    assert_eq!(status, 403);
    assert_eq!(body["error"]["message"], "Cannot update product without an initial submission");
    let (path, created) = world.submission().await;
    let product = path.split("/submissions").next().unwrap();
    assert_eq!(world.call(Method::PATCH, product, Some(rename)).await, (StatusCode::NO_CONTENT, Value::Null));
    assert_eq!(world.get(product).await["productName"], "renamed");
    assert_eq!(world.call(Method::PATCH, product, Some(json!({}))).await.0, 422);
    assert_eq!(world.call(Method::PATCH, &path, Some(json!({ "name": "two" }))).await.0, 204);
    assert_eq!(world.get(&path).await["name"], "two");
    world.put(&item(&created, "initialPackage"), &package()).await;
    world.finish(&path).await;
    let late = json!({ "announcementDate": "2027-01-01T00:00:00Z" });
    let (status, body) = world.call(Method::PATCH, product, Some(late)).await;
    assert_eq!(status, 403);
    assert!(body["error"]["message"].as_str().unwrap().contains("ingestion"));
}

#[tokio::test]
async fn the_looks_of_answers_follow_their_switches() {
    let options = Options {
        string_ids: true,
        wrong_link_host: true,
        created_date_time: false,
        commit_received_first: true,
        raw_sas: true,
        ..options()
    };
    let world = World::start(options).await;
    let (_, body) = world.call(Method::POST, "/products", Some(new_product("x"))).await;
    check_schema("Product", &body);
    assert!(body["id"].is_string() && body.get("createdDateTime").is_none());
    assert!(body["links"][0]["href"].as_str().unwrap().starts_with("https://hardwareapi.microsoft.com/"));
    let path = format!("/products/{}/submissions", body["id"].as_str().unwrap());
    let (_, created) = world.call(Method::POST, &path, Some(json!({ "name": "n", "type": "initial" }))).await;
    let raw = item(&created, "initialPackage");
    assert!(raw.contains("attachment%3B filename"), "{raw}");
    let (before, sig) = raw.split_once("sig=").unwrap();
    let good = format!("{}sig={}", before.replace(' ', "%20"), sig.replace('+', "%2B"));
    assert_eq!(world.put(&good, &package()).await.status(), 201);
    let path = format!("{path}/{}", created["id"].as_str().unwrap());
    world.commit(&path).await;
    let read = world.get(&path).await;
    assert_eq!((read["commitStatus"].as_str(), read.get("workflowStatus")), (Some("commitReceived"), None));
    world.sandbox.advance(Duration::from_secs(1));
    assert_eq!(world.get(&path).await["commitStatus"], "commitComplete");
}

#[tokio::test]
async fn the_limiter_throttles_one_client_and_says_for_how_long() {
    let world = World::start(Options { calls_per_minute: Some(3), ..options() }).await;
    for _ in 0..3 {
        assert_eq!(world.call(Method::GET, "/products", None).await.0, 200);
    }
    let response = world.request(Method::GET, "/products").send().await.unwrap();
    assert_eq!(response.status(), 429);
    let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((50..=60).contains(&wait));
    check_schema("GatewayError", &response.json().await.unwrap());
    let verdict = world.sandbox.verdict();
    assert_eq!(
        (verdict["calls"]["throttled"].as_u64(), verdict["calls"]["max_in_60_seconds"].as_u64()),
        (Some(1), Some(4))
    );
}

#[tokio::test]
async fn doubles_and_orphans_are_told_per_correlation_id() {
    let world = World::start(options()).await.of_job("a");
    world.create_product(new_product("x")).await;
    world.create_product(new_product("x")).await;
    let world = world.of_job("b");
    let (path, created) = world.submission().await;
    world.put(&item(&created, "initialPackage"), &package()).await;
    world.finish(&path).await;
    let verdict = world.sandbox.verdict();
    assert_eq!(verdict["clean"], false);
    assert_eq!(
        (verdict["totals"]["products_doubled"].as_u64(), verdict["totals"]["orphans"].as_u64()),
        (Some(1), Some(2))
    );
    assert_eq!(verdict["by_correlation"]["b"]["committed_submissions"], 1);
}

//! Faults on demand.

use super::*;

async fn arm(world: &World, fault: Value) {
    world.control(Method::POST, "faults", fault).await;
}

async fn entries(world: &World, query: &str) -> Vec<Value> {
    let journal = world.control(Method::GET, &format!("journal?{query}"), json!({})).await;
    journal.as_array().unwrap().clone()
}

#[tokio::test]
async fn a_lost_answer_is_executed_and_the_connection_is_cut() {
    let world = World::start(options()).await;
    arm(&world, json!({ "operation": "createProduct", "fault": "lost-answer", "match": { "product_name": "nic" } }))
        .await;
    world.create_product(new_product("other")).await;
    let lost = world.request(Method::POST, "/products").json(&new_product("nic")).send().await;
    assert!(lost.is_err_and(|error| !error.is_timeout()));
    assert_eq!(world.get("/products").await["value"].as_array().unwrap().len(), 2);
    let entries = entries(&world, "operation=createProduct&faulted=true").await;
    assert_eq!(entries.len(), 1);
    let entry = &entries[0];
    assert_eq!(
        (entry["status"].as_u64(), entry["effect"].as_bool(), entry["fault"].as_str()),
        (Some(0), Some(true), Some("lost-answer"))
    );
    assert_eq!((entry["correlation_id"].as_str(), entry["client_id"].as_str()), (Some("job-1"), Some(CLIENT)));
}

#[tokio::test]
async fn a_lost_answer_can_also_be_a_gateways_word() {
    let world = World::start(options()).await;
    arm(&world, json!({ "operation": "createProduct", "fault": "lost-answer", "params": { "status": 504 } })).await;
    let (status, body) = world.call(Method::POST, "/products", Some(new_product("nic"))).await;
    assert_eq!(status, 504);
    check_schema("GatewayError", &body);
    assert_eq!(world.get("/products").await["value"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_dropped_request_is_not_executed() {
    let world = World::start(options()).await;
    arm(
        &world,
        json!([
            { "operation": "createProduct", "fault": "dropped-request" },
            { "operation": "listProducts", "fault": "dropped-request", "after": 1, "params": { "status": 503 } },
        ]),
    )
    .await;
    assert!(world.request(Method::POST, "/products").json(&new_product("nic")).send().await.is_err());
    assert_eq!(world.get("/products").await["value"], json!([]));
    assert_eq!(world.call(Method::GET, "/products", None).await.0, 503);
    assert_eq!(entries(&world, "effect=true&operation=api").await.len(), 0);
}

#[tokio::test]
async fn throttles_tell_the_wait_in_every_known_place() {
    let world = World::start(options()).await;
    let styles = [
        ("header", "retry-after", "7"),
        ("milliseconds", "retry-after-ms", "7000"),
        ("ms-milliseconds", "x-ms-retry-after-ms", "7000"),
    ];
    for (style, header, value) in styles {
        let params = json!({ "seconds": 7, "style": style });
        arm(&world, json!({ "operation": "createProduct", "fault": "throttle", "params": params })).await;
        let response = world.request(Method::POST, "/products").json(&new_product("nic")).send().await.unwrap();
        assert_eq!((response.status().as_u16(), response.headers()[header].to_str().unwrap()), (429, value));
    }
    let params = json!({ "seconds": 7, "style": "message" });
    arm(&world, json!({ "operation": "api", "fault": "throttle", "params": params })).await;
    let response = world.request(Method::GET, "/products").send().await.unwrap();
    assert!(!response.headers().contains_key("retry-after"));
    assert!(response.text().await.unwrap().contains("Try again in 7 seconds"));
    arm(&world, json!({ "operation": "getTokenV1", "fault": "throttle", "params": { "seconds": 60 } })).await;
    let url = format!("{}/{TENANT}/oauth2/token", world.sandbox.url());
    let response = world.http.post(url).form(&secret_form()).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (429, "60"));
    assert_eq!(response.text().await.unwrap(), "Too Many Requests");
    assert_eq!(world.get("/products").await["value"], json!([]));
}

#[tokio::test]
async fn gateways_answer_in_their_own_shapes_executed_or_not() {
    let world = World::start(options()).await;
    arm(&world, json!({ "operation": "createProduct", "fault": "gateway-500" })).await;
    let (status, body) = world.call(Method::POST, "/products", Some(new_product("one"))).await;
    assert_eq!(status, 500);
    check_schema("GatewayError", &body);
    arm(&world, json!({ "operation": "createProduct", "fault": "html-502", "params": { "executed": true } })).await;
    let response = world.request(Method::POST, "/products").json(&new_product("two")).send().await.unwrap();
    assert_eq!(response.status(), 502);
    assert!(response.text().await.unwrap().starts_with("<html>"));
    let list = world.get("/products").await;
    assert_eq!((list["value"].as_array().unwrap().len(), list["value"][0]["productName"].as_str()), (1, Some("two")));
}

#[tokio::test]
async fn a_commit_502_took_effect_and_says_that_it_did_not() {
    let world = World::start(options()).await;
    let (path, created) = world.submission().await;
    world.put(&item(&created, "initialPackage"), &package()).await;
    arm(&world, json!({ "operation": "commitSubmission", "fault": "commit-502" })).await;
    for _ in 0..2 {
        let (status, body) = world.commit(&path).await;
        assert_eq!((status.as_u16(), body["error"]["code"].as_str()), (502, Some("requestInvalidForCurrentState")));
    }
    assert_eq!(world.get(&path).await["commitStatus"], "commitComplete");
    assert_eq!(world.sandbox.verdict()["by_correlation"]["job-1"]["committed_submissions"], 1);
}

#[tokio::test]
async fn answers_look_odd_for_as_many_reads_as_asked() {
    let world = World::start(options()).await;
    let missing = json!({ "operation": "createSubmission", "fault": "missing-downloads", "params": { "reads": 1 } });
    arm(&world, missing).await;
    let (path, created) = world.submission().await;
    assert!(created.get("downloads").is_none());
    assert!(world.get(&path).await.get("downloads").is_none());
    let slot = item(&world.get(&path).await, "initialPackage");
    world.put(&slot, &package()).await;
    world.commit(&path).await;
    world.sandbox.inspected().await;
    arm(
        &world,
        json!([
            { "operation": "getSubmission", "fault": "null-workflow", "params": { "reads": 2 } },
            { "operation": "getSubmission", "fault": "numeric-step", "after": 2 },
            { "operation": "getSubmission", "fault": "case-flip", "after": 3 },
            { "operation": "getSubmission", "fault": "string-ids", "after": 4 },
        ]),
    )
    .await;
    for _ in 0..2 {
        let read = world.get(&path).await;
        check_schema("Submission", &read);
        assert_eq!(read.get("workflowStatus"), Some(&Value::Null));
    }
    let numeric = world.get(&path).await;
    check_schema("Submission", &numeric);
    assert_eq!(numeric["workflowStatus"]["currentStep"], 1);
    let flipped = world.get(&path).await;
    assert_eq!((flipped["commitStatus"].as_str(), flipped["type"].as_str()), (Some("CommitComplete"), Some("Initial")));
    assert!(world.get(&path).await["id"].is_string());
    let plain = world.get(&path).await;
    assert!(plain["id"].is_u64() && plain["workflowStatus"]["currentStep"] == "packageInfoValidation");
}

#[tokio::test]
async fn the_signed_package_can_come_late_and_reads_can_be_stale() {
    let mut world = World::start(options()).await;
    let (path, created) = world.submission().await;
    world.put(&item(&created, "initialPackage"), &package()).await;
    arm(
        &world,
        json!([
            { "operation": "getSubmission", "fault": "stale-reads" },
            { "operation": "getSubmission", "fault": "late-signed", "params": { "reads": 2 } },
        ]),
    )
    .await;
    assert_eq!(world.get(&path).await["commitStatus"], "commitPending");
    world.finish(&path).await;
    assert_eq!(world.get(&path).await["commitStatus"], "commitPending", "until there is a newer token");
    world.renew().await;
    for _ in 0..2 {
        let read = world.get(&path).await;
        assert_eq!(read["workflowStatus"]["state"], "completed");
        assert!(!read.to_string().contains("signedPackage"));
    }
    assert!(world.get(&path).await.to_string().contains("signedPackage"));
}

#[tokio::test]
async fn a_new_product_can_be_late_in_lists() {
    let world = World::start(options()).await;
    arm(&world, json!({ "operation": "createProduct", "fault": "late-list", "params": { "seconds": 30 } })).await;
    world.create_product(new_product("late")).await;
    world.create_product(new_product("early")).await;
    assert_eq!(world.get("/products").await["value"].as_array().unwrap().len(), 1);
    world.sandbox.advance(Duration::from_secs(30));
    assert_eq!(world.get("/products").await["value"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_token_expires_in_the_middle_and_a_role_goes_missing() {
    let mut world = World::start(options()).await;
    arm(&world, json!({ "operation": "listProducts", "fault": "token-expiry" })).await;
    for _ in 0..2 {
        assert_eq!(world.call(Method::GET, "/products", None).await.0, 401);
    }
    world.renew().await;
    arm(&world, json!({ "operation": "api", "fault": "role-missing" })).await;
    assert_eq!(world.call(Method::GET, "/products", None).await.0, 403);
    assert_eq!(world.call(Method::GET, "/products", None).await.0, 200);
}

#[tokio::test]
async fn urls_can_be_expired_when_handed_out_or_after_so_many_blocks() {
    let world = World::start(options()).await;
    arm(&world, json!({ "operation": "createSubmission", "fault": "expired-sas" })).await;
    let (path, created) = world.submission().await;
    assert_eq!(world.put(&item(&created, "initialPackage"), b"x").await.status(), 403);
    let slot = item(&world.get(&path).await, "initialPackage");
    arm(&world, json!({ "operation": "putBlock", "fault": "expired-sas", "after": 2 })).await;
    let block = |slot: &str, number: u8| {
        let id = url::form_urlencoded::byte_serialize(format!("AAA{number}").as_bytes()).collect::<String>();
        world.http.put(format!("{slot}&comp=block&blockid={id}")).body(vec![number; 100_000]).send()
    };
    for (number, expected) in [(0, 201), (1, 201), (2, 403), (3, 403)] {
        assert_eq!(block(&slot, number).await.unwrap().status(), expected, "{number}");
    }
    let fresh = item(&world.get(&path).await, "initialPackage");
    assert_eq!(block(&fresh, 2).await.unwrap().status(), 201);
    let list =
        world.http.get(format!("{fresh}&comp=blocklist&blocklisttype=all")).send().await.unwrap().text().await.unwrap();
    assert!(["AAA0", "AAA1", "AAA2"].iter().all(|id| list.contains(id)) && !list.contains("AAA3"), "{list}");
}

#[tokio::test]
async fn blobs_are_cut_short_turned_and_lost() {
    let world = World::start(options()).await;
    let (_, created) = world.submission().await;
    let slot = item(&created, "initialPackage");
    let bytes: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
    world.put(&slot, &bytes).await;
    arm(
        &world,
        json!([
            { "operation": "downloadBlob", "fault": "truncated-body", "params": { "bytes": 300_000 } },
            { "operation": "downloadBlob", "fault": "flipped-bit", "after": 1 },
            { "operation": "putBlob", "fault": "status", "params": { "status": 503 } },
            { "operation": "putBlock", "fault": "flipped-bit" },
            { "operation": "putBlockList", "fault": "lost-blocks" },
        ]),
    )
    .await;
    assert!(world.http.get(&slot).send().await.unwrap().bytes().await.is_err());
    let turned = world.http.get(&slot).send().await.unwrap().bytes().await.unwrap();
    assert_eq!((turned[0], &turned[1..]), (1, &bytes[1..]));
    let busy = world.put(&slot, b"x").await;
    assert_eq!((busy.status().as_u16(), busy.headers()["x-ms-error-code"].to_str().unwrap()), (503, "ServerBusy"));
    let block = || {
        let md5 = "XUFAKrxLKna5cZ2REBfFkg==";
        world.http.put(format!("{slot}&comp=block&blockid=AAAA")).header("Content-MD5", md5).body("hello").send()
    };
    assert_eq!(block().await.unwrap().headers()["x-ms-error-code"], "Md5Mismatch");
    assert_eq!(block().await.unwrap().status(), 201);
    let xml = "<BlockList><Latest>AAAA</Latest></BlockList>";
    let lost = world.http.put(format!("{slot}&comp=blocklist")).body(xml).send().await.unwrap();
    assert_eq!(lost.headers()["x-ms-error-code"], "InvalidBlockList");
    let whole = world.http.get(&slot).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(whole, bytes);
}

#[tokio::test]
async fn somebody_else_writes() {
    let world = World::start(options()).await;
    let (_, created) = world.submission().await;
    let slot = item(&created, "initialPackage");
    world.put(&slot, b"mine").await;
    arm(&world, json!({ "operation": "headBlob", "fault": "foreign-write" })).await;
    assert_ne!(world.http.head(&slot).send().await.unwrap().headers()["content-length"], "4");
    arm(&world, json!({ "operation": "putBlock", "fault": "foreign-write", "params": { "mode": "stage" } })).await;
    let put = world.http.put(format!("{slot}&comp=block&blockid=AAAA")).body("x").send().await.unwrap();
    assert_eq!(put.headers()["x-ms-error-code"], "InvalidBlobOrBlock");
}

#[tokio::test]
async fn the_token_endpoint_answers_in_every_bad_way() {
    let world = World::start(options()).await;
    arm(
        &world,
        json!([
            { "operation": "getTokenV1", "fault": "status", "params": { "status": 400 } },
            { "operation": "getTokenV1", "fault": "gateway-500", "after": 1, "params": { "status": 503 } },
            { "operation": "getTokenV1", "fault": "large-body", "after": 2 },
            { "operation": "getTokenV1", "fault": "truncated-body", "after": 3 },
            { "operation": "getTokenV1", "fault": "lost-answer", "after": 4 },
            { "operation": "getTokenV1", "fault": "date-offset", "after": 5, "params": { "seconds": 86400 } },
        ]),
    )
    .await;
    let url = format!("{}/{TENANT}/oauth2/token", world.sandbox.url());
    let ask = || world.http.post(&url).form(&secret_form()).send();
    let body: Value = ask().await.unwrap().json().await.unwrap();
    assert_eq!(body["error"], "temporarily_unavailable");
    assert!(ask().await.unwrap().text().await.unwrap().contains("Service is unavailable"));
    assert!(ask().await.unwrap().bytes().await.unwrap().len() > 64 * 1024);
    assert!(ask().await.unwrap().bytes().await.is_err());
    assert!(ask().await.is_err());
    let late = ask().await.unwrap();
    let date = jiff::fmt::rfc2822::parse(late.headers()["date"].to_str().unwrap()).unwrap().timestamp();
    assert!(date.as_second() - crate::clock::now().as_second() > 80_000);
    let verdict = world.sandbox.verdict();
    assert_eq!(
        (verdict["tokens"][0]["requests"].as_u64(), verdict["tokens"][0]["issued"].as_u64()),
        (Some(7), Some(5))
    );
}

#[tokio::test]
async fn a_slow_answer_was_executed_before_the_caller_gave_up() {
    let world = World::start(options()).await;
    arm(&world, json!({ "operation": "createProduct", "fault": "slow", "params": { "seconds": 1000 } })).await;
    let request = world.request(Method::POST, "/products").json(&new_product("slow"));
    let late = request.timeout(Duration::from_millis(300)).send().await;
    assert!(late.is_err_and(|error| error.is_timeout()));
    assert_eq!(world.get("/products").await["value"].as_array().unwrap().len(), 1);
    arm(&world, json!({ "operation": "createProduct", "fault": "black-hole" })).await;
    let request = world.request(Method::POST, "/products").json(&new_product("hole"));
    assert!(request.timeout(Duration::from_millis(300)).send().await.is_err_and(|error| error.is_timeout()));
    assert_eq!(world.get("/products").await["value"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_workflow_can_be_stuck_and_be_released_or_fail_where_it_is_told_to() {
    let world = World::start(options()).await;
    let (path, created) = world.submission().await;
    world.put(&item(&created, "initialPackage"), &package()).await;
    arm(&world, json!({ "operation": "commitSubmission", "fault": "stuck", "params": { "step": "validation" } })).await;
    world.finish(&path).await;
    world.sandbox.advance(Duration::from_secs(10_000));
    assert_eq!(world.get(&path).await["workflowStatus"]["currentStep"], "validation");
    let id: u64 = path.rsplit('/').next().unwrap().parse().unwrap();
    world.control(Method::POST, "workflow", json!({ "submission_id": id, "release": true })).await;
    world.sandbox.advance(Duration::from_secs(10));
    assert!(world.get(&path).await.to_string().contains("signedPackage"));
    let (path, created) = world.submission().await;
    world.put(&item(&created, "initialPackage"), &package()).await;
    let params = json!({ "step": "scanning", "message": "malware" });
    arm(&world, json!({ "operation": "commitSubmission", "fault": "failed-step", "params": params })).await;
    world.finish(&path).await;
    let failed = world.get(&path).await;
    check_schema("Submission", &failed);
    let status = &failed["workflowStatus"];
    assert_eq!((status["currentStep"].as_str(), status["messages"][0].as_str()), (Some("scanning"), Some("malware")));
}

#[tokio::test]
async fn faults_are_listed_counted_and_removed_and_the_journal_filters() {
    let world = World::start(options()).await;
    arm(&world, json!({ "operation": "getProduct", "fault": "gateway-500", "count": null, "probability": 0.5 })).await;
    let product = world.create_product(new_product("x")).await;
    let mut failed: u64 = 0;
    for _ in 0..40 {
        failed += u64::from(world.call(Method::GET, &format!("/products/{product}"), None).await.0 == 500);
    }
    assert!((5..35).contains(&failed));
    let faults = world.control(Method::GET, "faults", json!({})).await;
    assert_eq!((faults[0]["seen"].as_u64(), faults[0]["hits"].as_u64()), (Some(40), Some(failed)));
    assert_eq!(entries(&world, "status=500").await.len() as u64, failed);
    assert_eq!(entries(&world, &format!("product_id={product}&effect=true")).await.len(), 1);
    let url = format!("{}/_sim/journal?format=ndjson&limit=3", world.sandbox.url());
    let lines = world.http.get(url).send().await.unwrap().text().await.unwrap();
    assert_eq!(lines.lines().count(), 3);
    assert_eq!(world.control(Method::DELETE, "faults", json!({})).await["removed"], 1);
    let url = format!("{}/_sim/faults", world.sandbox.url());
    let wrong = json!({ "operation": "getProdukt", "fault": "slow" });
    assert_eq!(world.http.post(url).json(&wrong).send().await.unwrap().status(), 400);
}

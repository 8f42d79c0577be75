//! The blob service.

use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};

fn md5(bytes: &[u8]) -> String {
    STANDARD.encode(Md5::digest(bytes))
}

fn id(number: u32) -> String {
    STANDARD.encode(format!("g1-7f3c9a20d4e15b68-{number:08}"))
}

fn escaped(id: &str) -> String {
    url::form_urlencoded::byte_serialize(id.as_bytes()).collect()
}

struct Slot {
    world: World,
    path: String,
    url: String,
}

impl Slot {
    async fn open(options: Options) -> Self {
        let world = World::start(options).await;
        let (path, created) = world.submission().await;
        let url = item(&created, "initialPackage");
        Self { world, path, url }
    }

    async fn block(&self, id: &str, bytes: &[u8]) -> reqwest::Response {
        let url = format!("{}&comp=block&blockid={}", self.url, escaped(id));
        self.world.http.put(url).header("Content-MD5", md5(bytes)).body(bytes.to_vec()).send().await.unwrap()
    }

    async fn commit_blocks(&self, element: &str, ids: &[&str]) -> reqwest::Response {
        let mut xml = "<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>".to_owned();
        for id in ids {
            xml.extend(["<", element, ">", id, "</", element, ">"]);
        }
        xml.push_str("</BlockList>");
        let request = self.world.http.put(format!("{}&comp=blocklist", self.url));
        request
            .header("Content-MD5", md5(xml.as_bytes()))
            .header("x-ms-blob-content-md5", md5(b"x"))
            .body(xml)
            .send()
            .await
            .unwrap()
    }

    async fn list(&self) -> (u16, String) {
        let url = format!("{}&comp=blocklist&blocklisttype=all", self.url);
        let response = self.world.http.get(url).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    async fn bytes(&self) -> Vec<u8> {
        self.world.http.get(&self.url).send().await.unwrap().bytes().await.unwrap().to_vec()
    }
}

/// Status, code in the header, body; the code must stand in the body, too.
async fn error(response: reqwest::Response) -> (u16, String, String) {
    let status = response.status().as_u16();
    let code = response.headers()["x-ms-error-code"].to_str().unwrap().to_owned();
    let body = response.text().await.unwrap();
    assert!(body.contains(&format!("<Code>{code}</Code>")), "{body}");
    (status, code, body)
}

async fn refused(response: reqwest::Response) -> (u16, String) {
    let (status, code, _) = error(response).await;
    (status, code)
}

fn named(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test]
async fn a_single_put_is_stored_checked_and_read_back_in_ranges() {
    let slot = Slot::open(options()).await;
    let missing = slot.world.http.head(&slot.url).send().await.unwrap();
    assert_eq!(
        (missing.status().as_u16(), missing.headers()["x-ms-error-code"].to_str().unwrap()),
        (404, "BlobNotFound")
    );
    assert_eq!(slot.list().await.0, 404);
    let put = slot.world.put(&slot.url, b"hello").await;
    assert_eq!(put.status(), 201);
    assert_eq!(put.headers()["content-md5"], "XUFAKrxLKna5cZ2REBfFkg==");
    assert!(put.headers()["etag"].to_str().unwrap().starts_with("\"0x"));
    let head = slot.world.http.head(&slot.url).send().await.unwrap();
    assert_eq!(
        (head.headers()["content-length"].to_str().unwrap(), &head.headers()["content-md5"]),
        ("5", &put.headers()["content-md5"])
    );
    let part = slot.world.http.get(&slot.url).header("Range", "bytes=1-3").send().await.unwrap();
    assert_eq!((part.status().as_u16(), part.headers()["content-range"].to_str().unwrap()), (206, "bytes 1-3/5"));
    assert_eq!(part.text().await.unwrap(), "ell");
    let outside = slot.world.http.get(&slot.url).header("Range", "bytes=9-").send().await.unwrap();
    assert_eq!(refused(outside).await, named(416, "InvalidRange"));
    let changed = slot.world.http.get(&slot.url).header("If-Match", "\"0x1\"").send().await.unwrap();
    assert_eq!(refused(changed).await, named(412, "ConditionNotMet"));
    assert_eq!(slot.bytes().await, b"hello");
}

#[tokio::test]
async fn blocks_are_staged_listed_in_order_and_committed_in_the_lists_order() {
    let slot = Slot::open(options()).await;
    assert_eq!(slot.block(&id(1), b"world").await.status(), 201);
    let first = slot.block(&id(0), b"hello ").await;
    assert_eq!(first.headers()["content-md5"].to_str().unwrap(), md5(b"hello "));
    let expected = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList><CommittedBlocks /><UncommittedBlocks><Block><Name>{}</Name>\
         <Size>6</Size></Block><Block><Name>{}</Name><Size>5</Size></Block></UncommittedBlocks></BlockList>",
        id(0),
        id(1)
    );
    assert_eq!(slot.list().await, (200, expected));
    assert_eq!(slot.world.http.head(&slot.url).send().await.unwrap().status(), 404);
    let list = [id(0), id(1)];
    let list = [list[0].as_str(), &list[1]];
    assert_eq!(slot.commit_blocks("Latest", &list).await.status(), 201);
    assert_eq!(slot.bytes().await, b"hello world");
    let head = slot.world.http.head(&slot.url).send().await.unwrap();
    assert_eq!(head.headers()["content-md5"].to_str().unwrap(), md5(b"x"), "it is stored unverified");
    // A repeat finds the blocks among the committed ones, unless it insists on uncommitted ones.
    assert_eq!(slot.commit_blocks("Latest", &list).await.status(), 201);
    assert_eq!(refused(slot.commit_blocks("Uncommitted", &list).await).await, named(400, "InvalidBlockList"));
    assert_eq!(refused(slot.commit_blocks("Latest", &[&id(7)]).await).await, named(400, "InvalidBlockList"));
    assert_eq!(slot.bytes().await, b"hello world");
}

#[tokio::test]
async fn ids_of_another_length_are_refused_until_an_empty_list_clears_them() {
    let slot = Slot::open(options()).await;
    slot.block("AAAA", b"old").await;
    assert_eq!(refused(slot.block(&id(0), b"new").await).await, named(400, "InvalidBlobOrBlock"));
    assert_eq!(slot.commit_blocks("Latest", &["AAAA"]).await.status(), 201);
    assert_eq!(refused(slot.block(&id(0), b"new").await).await, named(400, "InvalidBlobOrBlock"));
    assert_eq!(slot.commit_blocks("Latest", &[]).await.status(), 201);
    assert_eq!(slot.block(&id(0), b"new").await.status(), 201);
    let long = STANDARD.encode([7; 65]);
    assert_eq!(refused(slot.block(&long, b"x").await).await, named(400, "InvalidQueryParameterValue"));
    assert_eq!(refused(slot.block("not base64!", b"x").await).await, named(400, "InvalidQueryParameterValue"));
}

#[tokio::test]
async fn a_put_blob_drops_what_was_staged() {
    let slot = Slot::open(options()).await;
    slot.block(&id(0), b"staged").await;
    slot.world.put(&slot.url, b"whole").await;
    let (_, list) = slot.list().await;
    assert!(list.contains("<UncommittedBlocks />"), "{list}");
}

#[tokio::test]
async fn every_checksum_is_checked() {
    let slot = Slot::open(options()).await;
    let put = |query: &str| slot.world.http.put(format!("{}{query}", slot.url)).body("hello");
    let block = format!("&comp=block&blockid={}", escaped(&id(0)));
    let wrong = put(&block).header("Content-MD5", md5(b"other")).send().await.unwrap();
    let (status, code, body) = error(wrong).await;
    assert_eq!((status, code.as_str()), (400, "Md5Mismatch"));
    assert!(body.contains("<ServerCalculatedMd5>XUFAKrxLKna5cZ2REBfFkg==</ServerCalculatedMd5>"));
    let both = put(&block).header("Content-MD5", md5(b"hello")).header("x-ms-content-crc64", "V0JSBnCFdzM=");
    assert_eq!(refused(both.send().await.unwrap()).await, named(400, "BothCrc64AndMd5HeaderPresent"));
    let wrong = put(&block).header("x-ms-content-crc64", "AAAAAAAAAAA=").send().await.unwrap();
    assert_eq!(refused(wrong).await, named(400, "Crc64Mismatch"));
    let none = put(&block).header("Content-MD5", "short").send().await.unwrap();
    assert_eq!(refused(none).await, named(400, "InvalidMd5"));
    assert_eq!(slot.list().await.0, 404, "nothing of it was stored");
    let good = put(&block).send().await.unwrap();
    assert_eq!((good.status().as_u16(), good.headers()["x-ms-content-crc64"].to_str().unwrap()), (201, "V0JSBnCFdzM="));
    let list = put("&comp=blocklist").header("Content-MD5", md5(b"other")).send().await.unwrap();
    assert_eq!(refused(list).await, named(400, "Md5Mismatch"));
    let list = put("&comp=blocklist").send().await.unwrap();
    assert_eq!(refused(list).await, named(400, "InvalidXmlDocument"));
    let untyped = put("").send().await.unwrap();
    assert_eq!(refused(untyped).await, named(400, "MissingRequiredHeader"));
    let blob = put("").header("x-ms-blob-type", "BlockBlob").header("x-ms-blob-content-md5", md5(b"other"));
    assert_eq!(refused(blob.send().await.unwrap()).await, named(400, "Md5Mismatch"));
}

#[tokio::test]
async fn limits_follow_the_version_of_the_request() {
    let slot = Slot::open(options()).await;
    let bytes = vec![1; 4_194_305];
    let url = format!("{}&comp=block&blockid={}", slot.url, escaped(&id(0)));
    let put = |version: &'static str| slot.world.http.put(&url).header("x-ms-version", version).body(bytes.clone());
    let (status, code, body) = error(put("2015-04-05").send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (413, "RequestBodyTooLarge"));
    assert!(body.contains("<MaxLimit>4194304</MaxLimit>"));
    let good = put("2021-12-02").header("x-ms-client-request-id", "me").send().await.unwrap();
    assert_eq!(good.status(), 201);
    assert_eq!(
        (&good.headers()["x-ms-version"], &good.headers()["x-ms-client-request-id"]),
        (&"2021-12-02".parse().unwrap(), &"me".parse().unwrap())
    );
    assert_eq!(refused(put("2099-01-01").send().await.unwrap()).await, named(400, "InvalidHeaderValue"));
}

#[tokio::test]
async fn a_body_without_a_length_is_411() {
    let slot = Slot::open(options()).await;
    let stream = futures_util::stream::iter([Ok::<_, io::Error>("hello")]);
    let request = slot.world.http.put(&slot.url).header("x-ms-blob-type", "BlockBlob");
    let response = request.body(reqwest::Body::wrap_stream(stream)).send().await.unwrap();
    assert_eq!(refused(response).await, named(411, "MissingContentLengthHeader"));
}

#[tokio::test]
async fn what_the_url_does_not_allow_is_refused() {
    let slot = Slot::open(Options { upload_permissions: "w".to_owned(), ..options() }).await;
    assert_eq!(slot.world.put(&slot.url, b"x").await.status(), 201);
    let read = slot.world.http.get(&slot.url).send().await.unwrap();
    assert_eq!(refused(read).await, named(403, "AuthorizationPermissionMismatch"));
    let altered = slot.url.replace("sp=w", "sp=rw");
    let (status, code, body) = error(slot.world.http.get(altered).send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (403, "AuthenticationFailed"));
    assert!(body.contains("<AuthenticationErrorDetail>Signature did not match"));
    let bare = slot.url.split('?').next().unwrap();
    assert_eq!(
        refused(slot.world.http.get(bare).send().await.unwrap()).await,
        named(401, "NoAuthenticationInformation")
    );
    let create = Slot::open(Options { upload_permissions: "c".to_owned(), ..options() }).await;
    assert_eq!(create.world.put(&create.url, b"x").await.status(), 201);
    assert_eq!(refused(create.world.put(&create.url, b"y").await).await, named(403, "UnauthorizedBlobOverwrite"));
}

#[tokio::test]
async fn an_expired_url_says_when_and_a_new_read_gives_a_good_one() {
    let slot = Slot::open(Options { sas_lifetime: Duration::from_secs(30), ..options() }).await;
    assert_eq!(slot.world.put(&slot.url, b"x").await.status(), 201);
    slot.world.control(Method::POST, "clock", json!({ "offset": 60 })).await;
    let (status, code, body) = error(slot.world.put(&slot.url, &vec![1; 2_000_000]).await).await;
    assert_eq!((status, code.as_str()), (403, "AuthenticationFailed"));
    assert!(body.contains("Signature not valid in the specified time frame: Start [] - Expiry ["), "{body}");
    let fresh = item(&slot.world.get(&slot.path).await, "initialPackage");
    assert_eq!(fresh.split('?').next(), slot.url.split('?').next(), "host and path stay");
    assert_eq!(slot.world.put(&fresh, b"x").await.status(), 201);
}

#[tokio::test]
async fn every_read_signs_anew_unless_urls_are_fixed_and_slots_may_move() {
    let slot = Slot::open(options()).await;
    let again = item(&slot.world.get(&slot.path).await, "initialPackage");
    assert_ne!(again, slot.url);
    assert_eq!(slot.world.put(&slot.url, b"the old one stays good").await.status(), 201);
    let fixed = Slot::open(Options { fixed_sas: true, ..options() }).await;
    assert_eq!(item(&fixed.world.get(&fixed.path).await, "initialPackage"), fixed.url);
    let moving = Slot::open(Options { moving_slot: true, ..options() }).await;
    let moved = item(&moving.world.get(&moving.path).await, "initialPackage");
    assert_ne!(moved.split('?').next(), moving.url.split('?').next());
    assert_eq!(moving.world.put(&moved, &package()).await.status(), 201);
    moving.world.finish(&moving.path).await;
    assert_eq!(moving.world.get(&moving.path).await["workflowStatus"]["state"], "completed");
}

#[tokio::test]
async fn the_older_signature_works_just_as_well() {
    let options = Options { sas_kind: SasKind::Service, sas_version: "2017-04-17".to_owned(), ..options() };
    let slot = Slot::open(options).await;
    assert!(!slot.url.contains("skoid") && slot.url.contains("sv=2017-04-17"));
    assert_eq!(slot.world.put(&slot.url, b"x").await.status(), 201);
}

#[tokio::test]
async fn a_bearer_at_the_blob_host_is_refused_and_remembered() {
    let slot = Slot::open(options()).await;
    let request = slot.world.http.put(&slot.url).header("x-ms-blob-type", "BlockBlob").bearer_auth("secret-token");
    let response = request.body("x").send().await.unwrap();
    assert_eq!(refused(response).await, named(400, "InvalidAuthenticationInfo"));
    let verdict = slot.world.sandbox.verdict();
    assert_eq!((verdict["clean"].as_bool(), verdict["totals"]["bearer_to_blob"].as_u64()), (Some(false), Some(1)));
    let journal = slot.world.sandbox.journal().to_string();
    assert!(journal.contains("bearer-to-blob") && !journal.contains("secret-token"));
    for part in slot.url.split(['?', '&']).filter(|part| part.starts_with("sig=")) {
        assert!(!journal.contains(part));
    }
}

#[tokio::test]
async fn after_the_commit_of_the_submission_the_package_stays_as_it_is() {
    let slot = Slot::open(options()).await;
    slot.world.put(&slot.url, &package()).await;
    slot.world.finish(&slot.path).await;
    assert_eq!(refused(slot.world.put(&slot.url, b"other").await).await, named(409, "BlobImmutableDueToPolicy"));
    assert_eq!(slot.bytes().await, package());
}

#[tokio::test]
async fn blocks_that_were_acknowledged_and_come_again_are_counted() {
    let slot = Slot::open(options()).await;
    slot.world.sandbox.fault(Fault::next("putBlock", FaultKind::LostAnswer)).unwrap();
    let url = format!("{}&comp=block&blockid={}", slot.url, escaped(&id(0)));
    assert!(slot.world.http.put(url).body("lost").send().await.is_err());
    slot.block(&id(0), b"lost").await;
    slot.block(&id(1), b"once").await;
    assert_eq!(slot.world.sandbox.verdict()["totals"]["acknowledged_blocks_sent_again"], 0);
    slot.block(&id(1), b"once").await;
    let totals = &slot.world.sandbox.verdict()["totals"];
    assert_eq!(
        (totals["acknowledged_blocks_sent_again"].as_u64(), totals["blocks_received"].as_u64()),
        (Some(1), Some(4))
    );
}

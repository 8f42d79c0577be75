//! What the service writes, read tolerantly into our own words.
//!
//! Ids may be numbers or text, optional members may be absent, null or of another type, unknown members and values
//! pass. What a decision needs is never guessed: an entry without its id or name, or a list without its `value`, is an
//! error, since a list read as empty would make a second product. Source: contract/hardware-api.md, 6 and 13.

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::super::error_body::one_line;
use crate::domain::{
    ids::{ProductId, SharedProductId, SubmissionId},
    json::Object,
    service::{CommitStatus, Download, Page, PageLink, Product, SignedUrl, Submission, Workflow},
};

/// The members of a product that a caller can set, besides its name (section 6.2).
const SETTABLE: [&str; 11] = [
    "testHarness",
    "announcementDate",
    "deviceMetadataIds",
    "firmwareVersion",
    "deviceType",
    "isTestSign",
    "isFlightSign",
    "marketingNames",
    "selectedProductTypes",
    "requestedSignatures",
    "additionalAttributes",
];

/// A link inside an answer. Only `next_link` is followed.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Link {
    #[serde(default, deserialize_with = "lenient")]
    pub(super) href: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    pub(super) rel: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireProduct {
    id: ProductId,
    #[serde(default, deserialize_with = "lenient")]
    shared_product_id: Option<SharedProductId>,
    product_name: String,
    #[serde(default, deserialize_with = "lenient")]
    is_committed: Option<bool>,
    #[serde(default, deserialize_with = "instant")]
    created_date_time: Option<jiff::Timestamp>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireSubmission {
    id: SubmissionId,
    product_id: ProductId,
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "lenient")]
    commit_status: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    workflow_status: Option<Object<WireWorkflow>>,
    #[serde(default, deserialize_with = "lenient")]
    downloads: Option<Object<WireDownloads>>,
    #[serde(default, deserialize_with = "each")]
    links: Vec<Object<Link>>,
    #[serde(default, deserialize_with = "instant")]
    created_date_time: Option<jiff::Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireWorkflow {
    #[serde(default, deserialize_with = "lenient")]
    current_step: Option<Value>,
    #[serde(default, deserialize_with = "lenient")]
    state: Option<String>,
    #[serde(default, deserialize_with = "each")]
    messages: Vec<String>,
    #[serde(default, deserialize_with = "lenient")]
    error_report: Option<String>,
}

#[derive(Deserialize)]
struct WireDownloads {
    #[serde(default, deserialize_with = "each")]
    items: Vec<Object<WireDownload>>,
}

#[derive(Deserialize)]
struct WireDownload {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "lenient")]
    url: Option<String>,
}

#[derive(Deserialize)]
struct WireList<T> {
    value: Vec<T>,
    #[serde(default, deserialize_with = "each")]
    links: Vec<Object<Link>>,
}

/// Reads a product.
pub(super) fn product(body: &[u8]) -> Result<Product, String> {
    read::<Object<WireProduct>>(body).map(|wire| wire.0.into())
}

/// Reads a submission.
pub(super) fn submission(body: &[u8]) -> Result<Submission, String> {
    read::<Object<WireSubmission>>(body).map(|wire| wire.0.into())
}

/// Reads a page of products; `next` finds the next page among its links.
pub(super) fn products(body: &[u8], next: impl Fn(&[Link]) -> Option<PageLink>) -> Result<Page<Product>, String> {
    page::<WireProduct, Product>(body, next)
}

/// Reads a page of submissions; `next` finds the next page among its links.
pub(super) fn submissions(body: &[u8], next: impl Fn(&[Link]) -> Option<PageLink>) -> Result<Page<Submission>, String> {
    page::<WireSubmission, Submission>(body, next)
}

fn page<W, T>(body: &[u8], next: impl Fn(&[Link]) -> Option<PageLink>) -> Result<Page<T>, String>
where
    W: DeserializeOwned + Into<T>,
{
    let list = read::<Object<WireList<Object<W>>>>(body)?.0;
    let links: Vec<Link> = list.links.into_iter().map(|link| link.0).collect();
    Ok(Page { items: list.value.into_iter().map(|entry| entry.0.into()).collect(), next: next(&links) })
}

/// Reads JSON in two steps, so that repeated members are no error: the last one counts.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let text = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
    // Never the parser's own words: they may quote the body, and bodies hold signed URLs.
    let value: Value = serde_json::from_slice(text)
        .map_err(|error| format!("it is no JSON (line {}, column {})", error.line(), error.column()))?;
    serde_path_to_error::deserialize(value).map_err(|error| {
        let (path, text) = (error.path().to_string(), error.inner().to_string());
        let is_missing = text.starts_with("missing field");
        format!("{path}: {}", if is_missing { text.as_str() } else { "not of the expected type" })
    })
}

impl From<WireProduct> for Product {
    fn from(wire: WireProduct) -> Self {
        let fields = wire.rest.into_iter().filter(|(name, _)| SETTABLE.contains(&name.as_str())).collect();
        Self {
            id: wire.id,
            shared_id: wire.shared_product_id,
            name: wire.product_name,
            is_committed: wire.is_committed,
            created: wire.created_date_time,
            fields,
        }
    }
}

impl From<WireSubmission> for Submission {
    fn from(wire: WireSubmission) -> Self {
        let mut downloads = wire.downloads.map(|downloads| downloads.0.into_list());
        if let Some(list) = &mut downloads
            && !list.iter().any(|item| item.kind.eq_ignore_ascii_case(METADATA))
        {
            // S7: the metadata file stands among the downloads or among the links.
            list.extend(wire.links.into_iter().find_map(|link| link.0.into_metadata()));
        }
        Self {
            id: wire.id,
            product: wire.product_id,
            name: wire.name,
            kind: wire.kind,
            commit_status: filled(wire.commit_status).map(|text| CommitStatus::read(&text)),
            workflow: wire.workflow_status.map(|workflow| workflow.0.into()),
            downloads,
            created: wire.created_date_time,
        }
    }
}

const METADATA: &str = "driverMetadata";

impl Link {
    fn into_metadata(self) -> Option<Download> {
        let is_metadata = self.rel.is_some_and(|rel| rel.eq_ignore_ascii_case(METADATA));
        let url = self.href.filter(|href| is_metadata && url::Url::parse(href).is_ok())?;
        Some(Download { kind: METADATA.to_owned(), url: SignedUrl::new(url) })
    }
}

impl WireDownloads {
    fn into_list(self) -> Vec<Download> {
        let with_url = |item: Object<WireDownload>| {
            let WireDownload { kind, url } = item.0;
            filled(url).map(|url| Download { kind, url: SignedUrl::new(url) })
        };
        self.items.into_iter().filter_map(with_url).collect()
    }
}

impl From<WireWorkflow> for Workflow {
    fn from(wire: WireWorkflow) -> Self {
        let step = match wire.current_step {
            Some(Value::String(text)) => filled(Some(text)),
            Some(Value::Number(number)) => Some(number.to_string()),
            Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) | None => None,
        };
        Self {
            step,
            state: filled(wire.state),
            messages: messages(&wire.messages),
            error_report: filled(wire.error_report).map(SignedUrl::new),
        }
    }
}

/// Messages of a workflow that are kept. They go into events, records and terminals; nothing bounds what comes.
const MAX_MESSAGES: usize = 100;
/// Bytes of each.
const MAX_MESSAGE: usize = 2 << 10;

/// The service's words, fit to be kept and shown: cleaned, each cut, the first hundred, and how many more there were.
fn messages(all: &[String]) -> Vec<String> {
    let left_out = all.len().saturating_sub(MAX_MESSAGES);
    let mut kept: Vec<String> = (all.iter().take(MAX_MESSAGES))
        // Cleaning is for so much of it only, and before the cut: half a secret is none that is recognised.
        .map(|text| cut(&one_line(cut(text, 8 * MAX_MESSAGE).as_str()), MAX_MESSAGE))
        .filter(|text| !text.is_empty())
        .collect();
    if left_out > 0 {
        kept.push(format!("(and {left_out} more messages, which are left out)"));
    }
    kept
}

/// At most so many bytes, a mark at the cut included.
fn cut(text: &str, most: usize) -> String {
    const MARK: &str = "…";
    if text.len() <= most {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(most.saturating_sub(MARK.len()));
    format!("{}{MARK}", text.get(..end).unwrap_or_default())
}

fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty())
}

/// A member that may be anything: what is not of its type counts as absent.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).ok())
}

/// A list that may be absent, null or no list; entries of another type are left out.
fn each<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Array(entries) => entries.into_iter().filter_map(|entry| serde_json::from_value(entry).ok()).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => Vec::new(),
    })
}

/// An instant with or without fraction and offset; a missing offset is UTC (section 3.4).
fn instant<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<jiff::Timestamp>, D::Error> {
    let text: Option<String> = lenient(deserializer)?;
    Ok(text.and_then(|text| {
        let without_offset = || text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
        text.parse().ok().or_else(|| without_offset().map(|zoned| zoned.timestamp()))
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{
        domain::service::Verdict::{Failed, Open, Processing, Signed},
        partner_center::contract,
    };

    fn submission_of(value: &Value) -> Submission {
        submission(value.to_string().as_bytes()).unwrap()
    }

    fn links(links: &[Link]) -> Option<PageLink> {
        let next = links.iter().find(|link| link.rel.as_deref() == Some("next_link"))?;
        next.href.clone().map(PageLink)
    }

    #[test]
    fn every_product_of_the_contract_is_read() {
        for example in contract::examples("Product") {
            let product = product(example.to_string().as_bytes()).unwrap();
            assert_eq!(Some(product.id.get()), example["id"].as_u64());
            assert_eq!(product.name, example["productName"]);
            for name in SETTABLE {
                assert_eq!(product.fields.get(name), example.get(name), "{name}");
            }
            assert!(!product.fields.contains_key("productName") && !product.fields.contains_key("links"));
        }
        let created = &contract::examples("Product")[0];
        let product = product(created.to_string().as_bytes()).unwrap();
        assert_eq!(product.created.unwrap().to_string(), "2026-10-01T08:15:30.1234567Z");
        assert_eq!(
            (product.is_committed, product.shared_id.map(SharedProductId::get)),
            (Some(false), Some(1_152_921_505_700_001_234))
        );
    }

    #[test]
    fn every_list_of_the_contract_is_read() {
        for example in contract::examples("ProductList") {
            let page = products(example.to_string().as_bytes(), links).unwrap();
            assert_eq!(page.items.len(), example["value"].as_array().unwrap().len());
            assert!(page.next.unwrap().0.contains("continuationToken=RVhBTVBMRQ%3D%3D"));
        }
        for example in contract::examples("SubmissionList") {
            let page = submissions(example.to_string().as_bytes(), links).unwrap();
            assert_eq!(page.items.len(), example["value"].as_array().unwrap().len());
            assert_eq!(page.next, None);
        }
    }

    #[test]
    fn every_submission_of_the_contract_is_read() {
        let all: Vec<_> = contract::examples("Submission").iter().map(submission_of).collect();
        let verdicts: Vec<_> = all.iter().map(Submission::verdict).collect();
        assert_eq!(verdicts, [Open, Processing, Signed, Failed, Processing, Processing, Open, Processing]);
        let [created, _, signed, failed, _, as_text, empty, strange] = &all[..] else { panic!("{}", all.len()) };
        let upload = created.download("initialPackage").unwrap().url.expose();
        assert!(upload.ends_with("&sig=EXAMPLE%2BNOT%2FREAL%3D"), "byte for byte");
        assert_eq!(signed.downloads.as_ref().unwrap().len(), 5);
        assert_eq!(failed.workflow.as_ref().unwrap().messages.len(), 1);
        assert!(failed.workflow.as_ref().unwrap().error_report.is_some());
        assert_eq!(as_text.id.get(), 1_152_921_505_900_000_077);
        assert_eq!(as_text.workflow.as_ref().unwrap().step.as_deref(), Some("4"));
        assert_eq!(as_text.commit_status, Some(CommitStatus::Accepted));
        assert_eq!((&empty.workflow, &empty.downloads, &empty.commit_status), (&None, &None, &None));
        assert_eq!(strange.workflow.as_ref().unwrap().error_report, None);
        assert_eq!(strange.downloads.as_ref().unwrap()[0].kind, "BrandNewKind");
    }

    fn told(messages: &[String]) -> Vec<String> {
        let submission = submission_of(&json!({
            "id": 1, "productId": 2, "name": "n", "type": "initial", "workflowStatus": {"messages": messages},
        }));
        submission.workflow.unwrap().messages
    }

    #[test]
    fn words_of_a_workflow_are_cleaned_cut_and_counted() {
        let odd = "The \u{1b}[31mINF\u{202e}\r\nis bad: https://blob.example/r.txt?sv=1&sig=SECRET, password=hunter2";
        let clean = "The [31mINF is bad: https://blob.example/r.txt password=[hidden]";
        assert_eq!(told(&[odd.to_owned(), " \n".to_owned()]), [clean]);
        let long = told(&["é".repeat(5_000), "x".repeat(2 << 10)]);
        assert!(long[0].len() <= 2 << 10 && long[0].ends_with('…'), "{}", long[0].len());
        assert_eq!(long[1].len(), 2 << 10, "what fits is not cut");
        let many: Vec<String> = (0..250).map(|number| format!("message {number}")).collect();
        let kept = told(&many);
        assert_eq!((kept.len(), kept[99].as_str()), (101, "message 99"));
        assert_eq!(kept[100], "(and 150 more messages, which are left out)");
    }

    #[test]
    fn members_of_another_type_count_as_absent() {
        let submission = submission_of(&json!({
            "id": 1, "productId": "2", "name": "n", "type": "initial", "commitStatus": 5, "workflowStatus": "started",
            "downloads": {"items": [{"type": "signedPackage", "url": null}, {"type": "x", "url": ""}, 7, {"url": "u"},
                {"type": "ok", "url": "https://x/y?sig=1"}], "messages": 3},
            "links": [{"rel": "driverMetadata", "href": "https://x/meta"}, null], "createdDateTime": "yesterday",
        }));
        let kinds: Vec<_> = submission.downloads.iter().flatten().map(|item| item.kind.as_str()).collect();
        assert_eq!(kinds, ["ok", "driverMetadata"]);
        assert_eq!((submission.commit_status, submission.workflow, submission.created), (None, None, None));
    }

    #[test]
    fn dates_are_read_in_every_documented_form() {
        for (text, expected) in [
            ("2018-01-01T00:00:00", "2018-01-01T00:00:00Z"),
            ("2018-03-21T05:28:32.721Z", "2018-03-21T05:28:32.721Z"),
            ("2018-04-04T16:11:27.2965057+00:00", "2018-04-04T16:11:27.2965057Z"),
            ("2018-04-04T16:11:27+02:00", "2018-04-04T14:11:27Z"),
        ] {
            let body = json!({"id": 1, "productName": "n", "createdDateTime": text}).to_string();
            assert_eq!(product(body.as_bytes()).unwrap().created.unwrap().to_string(), expected);
        }
    }

    #[test]
    fn what_a_decision_needs_is_never_guessed() {
        for body in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"value":null}"#,
            r#"{"value":{}}"#,
            r#"{"value":[{"id":1}]}"#,
            r#"{"value":[[1,null,"n"]]}"#,
            r#"{"value":[{"id":1.5,"productName":"n"}]}"#,
            r#"{"value":[{"id":18446744073709551616,"productName":"n"}]}"#,
        ] {
            assert!(products(body.as_bytes(), links).is_err(), "{body}");
        }
        assert_eq!(products(b"\xEF\xBB\xBF{\"value\":[]}", links).unwrap().items, []);
    }

    #[test]
    fn a_problem_names_the_place_and_never_quotes_the_body() {
        let body = r#"{"value":[{"id":"https://blob/x?sig=SECRET","productName":"n"}]}"#;
        assert_eq!(products(body.as_bytes(), links).unwrap_err(), "value[0].id: not of the expected type");
        let missing = r#"{"id":1,"productId":2,"type":"initial"}"#;
        assert_eq!(submission(missing.as_bytes()).unwrap_err(), ".: missing field `name`");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _outcomes = (product(&body).is_ok(), submission(&body).is_ok(), products(&body, links).is_ok());
        }

        #[test]
        fn any_value_in_any_member_is_survived(member in 0..9_usize, value in json_value()) {
            const MEMBERS: [&str; 9] = ["id", "productId", "name", "type", "commitStatus", "workflowStatus", "downloads",
                "links", "createdDateTime"];
            let mut body = json!({"id": 1, "productId": 2, "name": "n", "type": "initial"});
            body[MEMBERS[member]] = value;
            let read = submission(body.to_string().as_bytes());
            prop_assert!(member < 4 || read.is_ok(), "{:?}", read);
        }
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let names = "items|messages|type|url|currentStep|state|errorReport|href|rel";
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(names, inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }
}

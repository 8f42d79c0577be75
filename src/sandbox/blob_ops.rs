//! What each operation does to a blob: Put Blob, Put Block, Put Block List, Get Block List, reading (blob-upload.md 4).

use std::collections::{BTreeMap, HashMap};

use axum::http::{HeaderName, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quick_xml::events::Event;

use super::blob::Request;
use super::errors::{Payload, Reply, storage};
use super::route::http_date;
use super::sas::Sas;
use super::store::{Blob, Block, Content, Received};

/// The largest list of blocks: 50,000 ids of 88 characters with their elements.
pub(super) const MOST_LIST: u64 = 16 << 20;
const MOST_COMMITTED: usize = 50_000;
const MOST_STAGED: usize = 100_000;

/// Limits of one version of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) block: u64,
    pub(super) blob: u64,
}

/// The limits that a version of the service has.
pub(super) fn limits(version: &str) -> Limits {
    if version >= "2019-12-12" {
        Limits { block: 4_194_304_000, blob: 5_242_880_000 }
    } else if version >= "2016-05-31" {
        Limits { block: 104_857_600, blob: 268_435_456 }
    } else {
        Limits { block: 4_194_304, blob: 67_108_864 }
    }
}

/// Whether the text is 16 bytes in base64.
pub(super) fn is_md5(text: &str) -> bool {
    STANDARD.decode(text).is_ok_and(|bytes| bytes.len() == 16)
}

/// Refuses an id that is none.
pub(super) fn check_block_id(id: Option<&str>) -> Option<Reply> {
    let Some(id) = id else {
        let text = "A required query parameter was not specified for this request.";
        let details = [("QueryParameterName", "blockid")];
        return Some(storage(400, "MissingRequiredQueryParameter", text, &details));
    };
    if STANDARD.decode(id).is_ok_and(|bytes| (1..=64).contains(&bytes.len())) {
        return None;
    }
    let details = [
        ("QueryParameterName", "blockid"),
        ("QueryParameterValue", id),
        ("Reason", "Not a valid base64 string of at most 64 bytes."),
    ];
    let text = "Value for one of the query parameters specified in the request URI is invalid.";
    Some(storage(400, "InvalidQueryParameterValue", text, &details))
}

/// A body that was taken and verified, and what it is for.
pub(super) struct Upload<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) received: Received,
}

impl Upload<'_> {
    pub(super) fn put_block(self, id: &str) -> Reply {
        let shared = self.request.shared;
        let segment = self.received.segment;
        let mut state = shared.lock();
        let Some(blob) = state.blobs.get_mut(&self.request.id) else { return gone() };
        if blob.is_frozen {
            return frozen();
        }
        let other = blob.staged.keys().next().map(String::len).or_else(|| {
            let committed = blob.content.iter().flat_map(|content| &content.blocks);
            committed.map(|block| block.id.len()).find(|length| *length > 0)
        });
        if other.is_some_and(|length| length != id.len()) {
            return storage(400, "InvalidBlobOrBlock", "The specified blob or block content is invalid.", &[]);
        }
        if blob.staged.len() >= MOST_STAGED && !blob.staged.contains_key(id) {
            let text = "The committed block count cannot exceed the maximum limit of 100000 uncommitted blocks.";
            return storage(409, "BlockCountExceedsLimit", text, &[]);
        }
        let size = segment.size;
        let again = blob.staged.get(id).is_some_and(|old| old.acknowledged && old.segment.md5 == segment.md5);
        let mut reply = created();
        reply = match (self.request.header("content-md5"), &self.received.crc64) {
            (None, Some(crc64)) => reply.with(HeaderName::from_static("x-ms-content-crc64"), crc64),
            _ => reply.with(HeaderName::from_static("content-md5"), &segment.md5),
        };
        blob.staged.insert(id.to_owned(), Block { id: id.to_owned(), segment, acknowledged: false });
        let count = &mut state.tally.blocks;
        count.received += 1;
        count.bytes += size;
        count.acknowledged_again += u64::from(again);
        count.acknowledged_again_bytes += if again { size } else { 0 };
        reply
    }

    pub(super) fn put_blob(self) -> Reply {
        let content_type = self.content_type();
        let md5 = self.request.header("x-ms-blob-content-md5").unwrap_or(&self.received.segment.md5).to_owned();
        let computed = self.received.segment.md5.clone();
        let blocks = vec![Block { id: String::new(), segment: self.received.segment, acknowledged: true }];
        let mut content = Content::new(blocks, Some(md5), &content_type);
        content.metadata = metadata(self.request);
        replace(self.request, content, |blob, content| {
            // Unlike its emulator, the service drops what was staged.
            blob.staged.clear();
            blob.content = Some(content);
        })
        .with(HeaderName::from_static("content-md5"), &computed)
    }

    fn content_type(&self) -> String {
        self.request.header("x-ms-blob-content-type").unwrap_or("application/octet-stream").to_owned()
    }

    pub(super) async fn put_block_list(self) -> Reply {
        let segment = self.received.segment.clone();
        let content = Content::single(segment, "application/xml");
        let Ok(xml) = axum::body::to_bytes(content.stream(0, content.size()), usize::MAX).await else {
            return storage(500, "InternalError", "(simulated) the disk of the sandbox refuses", &[]);
        };
        let Some(list) = read_list(&xml) else {
            return storage(400, "InvalidXmlDocument", "The specified XML is not syntactically valid.", &[]);
        };
        if list.len() > MOST_COMMITTED {
            return storage(400, "BlockListTooLong", "The block list may not contain more than 50,000 blocks.", &[]);
        }
        let chosen = {
            let state = self.request.shared.lock();
            let Some(blob) = state.blobs.get(&self.request.id) else { return gone() };
            choose(blob, &list)
        };
        let Some(blocks) = chosen else {
            return storage(400, "InvalidBlockList", "The specified block list is invalid.", &[]);
        };
        let md5 = self.request.header("x-ms-blob-content-md5").map(str::to_owned);
        let mut content = Content::new(blocks, md5, &self.content_type());
        content.metadata = metadata(self.request);
        replace(self.request, content, |blob, content| {
            blob.staged.clear();
            blob.content = Some(content);
        })
    }
}

fn created() -> Reply {
    Reply::empty(StatusCode::CREATED).with(HeaderName::from_static("x-ms-request-server-encrypted"), "true").effective()
}

fn gone() -> Reply {
    storage(404, "ResourceNotFound", "The specified resource does not exist.", &[])
}

fn frozen() -> Reply {
    let text = "This operation is not permitted as the blob is immutable due to a policy.";
    storage(409, "BlobImmutableDueToPolicy", text, &[])
}

fn metadata(request: &Request<'_>) -> Vec<(String, String)> {
    let headers = request.parts.headers.iter();
    headers
        .filter(|(name, _)| name.as_str().starts_with("x-ms-meta-"))
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
        .collect()
}

/// Puts the new content in place, if the request's conditions hold.
fn replace(request: &Request<'_>, content: Content, put: impl FnOnce(&mut Blob, Content)) -> Reply {
    let mut state = request.shared.lock();
    let Some(blob) = state.blobs.get_mut(&request.id) else { return gone() };
    if blob.is_frozen {
        return frozen();
    }
    if let Some(refusal) = condition(request, blob.content.as_ref(), true) {
        return refusal;
    }
    let (etag, modified) = (content.etag.clone(), http_date(content.modified));
    put(blob, content);
    created().with(header::ETAG, &etag).with(header::LAST_MODIFIED, &modified)
}

/// Why the conditional headers do not let the request pass.
fn condition(request: &Request<'_>, content: Option<&Content>, is_write: bool) -> Option<Reply> {
    let wanted = request.header("if-match");
    let unwanted = request.header("if-none-match");
    if wanted.is_some() && unwanted.is_some() {
        let text = "Multiple condition headers are not supported.";
        return Some(storage(400, "MultipleConditionHeadersNotSupported", text, &[]));
    }
    let is = |tag: &str| content.is_some_and(|content| tag == "*" || content.etag == tag);
    let not_met = || {
        let text = "The condition specified using HTTP conditional header(s) is not met.";
        storage(412, "ConditionNotMet", text, &[])
    };
    if wanted.is_some_and(|tag| !is(tag)) {
        return Some(not_met());
    }
    match unwanted {
        Some("*") if is_write && content.is_some() => {
            Some(storage(409, "BlobAlreadyExists", "The specified blob already exists.", &[]))
        }
        Some(tag) if is(tag) && is_write => Some(not_met()),
        Some(tag) if is(tag) => Some(Reply::empty(StatusCode::NOT_MODIFIED)),
        Some(_) | None => None,
    }
}

/// Where an element of a list looks for its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Search {
    Latest,
    Uncommitted,
    Committed,
}

/// Reads a list of blocks.
fn read_list(xml: &[u8]) -> Option<Vec<(Search, String)>> {
    let xml = std::str::from_utf8(xml).ok()?;
    let mut reader = quick_xml::Reader::from_str(xml.trim_start_matches('\u{feff}'));
    let mut list = Vec::new();
    let mut open: Option<(Search, String)> = None;
    let mut is_inside = false;
    let mut is_closed = false;
    loop {
        match reader.read_event().ok()? {
            Event::Start(element) => match element.name().as_ref() {
                "BlockList" if !is_inside && !is_closed => is_inside = true,
                "Latest" if is_inside && open.is_none() => open = Some((Search::Latest, String::new())),
                "Uncommitted" if is_inside && open.is_none() => open = Some((Search::Uncommitted, String::new())),
                "Committed" if is_inside && open.is_none() => open = Some((Search::Committed, String::new())),
                _ => return None,
            },
            Event::Text(text) => match &mut open {
                Some((_, id)) => id.push_str(text.trim()),
                None if text.trim().is_empty() => {}
                None => return None,
            },
            Event::End(_) => {
                if let Some(element) = open.take() {
                    list.push(element);
                } else {
                    (is_inside, is_closed) = (false, true);
                }
            }
            Event::Empty(element) if element.name().as_ref() == "BlockList" && !is_closed => is_closed = true,
            Event::Decl(_) | Event::Comment(_) => {}
            Event::Eof => return (is_closed && !is_inside).then_some(list),
            Event::Empty(_) | Event::CData(_) | Event::PI(_) | Event::DocType(_) | Event::GeneralRef(_) => return None,
        }
    }
}

/// The blocks of the list in its order, or none when one is missing.
fn choose(blob: &Blob, list: &[(Search, String)]) -> Option<Vec<Block>> {
    let committed: HashMap<&str, &Block> = blob
        .content
        .iter()
        .flat_map(|content| &content.blocks)
        .filter(|block| !block.id.is_empty())
        .map(|block| (block.id.as_str(), block))
        .collect();
    list.iter()
        .map(|(search, id)| {
            let (old, new) = (committed.get(id.as_str()).copied(), blob.staged.get(id));
            match search {
                Search::Latest => new.or(old),
                Search::Uncommitted => new,
                Search::Committed => old,
            }
            .cloned()
        })
        .collect()
}

/// Get Block List.
pub(super) fn block_list(query: &str, blob: Option<&Blob>) -> Reply {
    let kind = url::form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == "blocklisttype")
        .map_or_else(|| "committed".to_owned(), |(_, value)| value.to_lowercase());
    if !["committed", "uncommitted", "all"].contains(&kind.as_str()) {
        let details = [("QueryParameterName", "blocklisttype"), ("QueryParameterValue", kind.as_str())];
        let text = "Value for one of the query parameters specified in the request URI is invalid.";
        return storage(400, "InvalidQueryParameterValue", text, &details);
    }
    let Some(blob) = blob.filter(|blob| blob.content.is_some() || !blob.staged.is_empty()) else {
        return storage(404, "BlobNotFound", "The specified blob does not exist.", &[]);
    };
    let mut xml = "<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>".to_owned();
    let mut section = |name: &str, blocks: &mut dyn Iterator<Item = &Block>| {
        let inner: Vec<String> = blocks
            .map(|block| format!("<Block><Name>{}</Name><Size>{}</Size></Block>", block.id, block.segment.size))
            .collect();
        if inner.is_empty() {
            xml.extend(["<", name, " />"]);
        } else {
            xml.extend(["<", name, ">", &inner.concat(), "</", name, ">"]);
        }
    };
    if kind != "uncommitted" {
        let blocks = blob.content.iter().flat_map(|content| &content.blocks);
        section("CommittedBlocks", &mut blocks.filter(|block| !block.id.is_empty()));
    }
    if kind != "committed" {
        let sorted: &BTreeMap<String, Block> = &blob.staged;
        section("UncommittedBlocks", &mut sorted.values());
    }
    xml.push_str("</BlockList>");
    let size = blob.content.as_ref().map_or(0, Content::size);
    let reply = Reply::text(StatusCode::OK, "application/xml", xml)
        .with(HeaderName::from_static("x-ms-blob-content-length"), &size.to_string());
    match &blob.content {
        Some(content) => {
            reply.with(header::ETAG, &content.etag).with(header::LAST_MODIFIED, &http_date(content.modified))
        }
        None => reply,
    }
}

/// HEAD and GET.
pub(super) fn read(request: &Request<'_>, sas: &Sas, blob: Option<&Blob>, is_head: bool) -> Reply {
    let Some(content) = blob.and_then(|blob| blob.content.as_ref()) else {
        return storage(404, "BlobNotFound", "The specified blob does not exist.", &[]);
    };
    if let Some(refusal) = condition(request, Some(content), false) {
        return refusal;
    }
    let size = content.size();
    let range = request.header("x-ms-range").or_else(|| request.header("range")).filter(|_| !is_head);
    let range = match range.map(|text| parse_range(text, size)) {
        None | Some(Range::Whole) => None,
        Some(Range::Part(start, end)) => Some((start, end)),
        Some(Range::Outside) => {
            let text = "The range specified is invalid for the current size of the resource.";
            return storage(416, "InvalidRange", text, &[]).with(header::CONTENT_RANGE, &format!("bytes */{size}"));
        }
    };
    let (start, length) = range.map_or((0, size), |(start, end)| (start, end - start + 1));
    let mut reply = Reply::empty(if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK })
        .with(header::CONTENT_TYPE, &content.mime)
        .with(header::ACCEPT_RANGES, "bytes")
        .with(header::ETAG, &content.etag)
        .with(header::LAST_MODIFIED, &http_date(content.modified))
        .with(HeaderName::from_static("x-ms-blob-type"), "BlockBlob");
    if let Some((start, end)) = range {
        reply = reply.with(header::CONTENT_RANGE, &format!("bytes {start}-{end}/{size}"));
    }
    if let Some(md5) = &content.md5 {
        let name = if range.is_some() { "x-ms-blob-content-md5" } else { "content-md5" };
        reply = reply.with(HeaderName::from_static(name), md5);
    }
    if !sas.file_name.is_empty() {
        reply = reply.with(header::CONTENT_DISPOSITION, &format!("attachment; filename={}", sas.file_name));
    }
    for (name, value) in &content.metadata {
        if let Ok(name) = name.parse() {
            reply = reply.with(name, value);
        }
    }
    let body = if is_head { axum::body::Body::empty() } else { content.stream(start, length) };
    reply.payload = Payload::Stream(body, length);
    reply
}

/// What a `Range` header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    Whole,
    /// First and last byte.
    Part(u64, u64),
    Outside,
}

/// Reads one range; several, or none that can be read, mean the whole.
fn parse_range(text: &str, size: u64) -> Range {
    let Some((start, end)) = text.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Range::Whole;
    };
    let Ok(start) = start.trim().parse::<u64>() else { return Range::Whole };
    let end = match end.trim() {
        "" => u64::MAX,
        end => match end.parse::<u64>() {
            Ok(end) if end >= start => end,
            Ok(_) | Err(_) => return Range::Whole,
        },
    };
    if start >= size { Range::Outside } else { Range::Part(start, end.min(size - 1)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_list_of_the_contract_reads_and_broken_ones_do_not() {
        let text = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList><Latest>AAAA</Latest>\n\
                    <Uncommitted>BBBB</Uncommitted><Committed>CCCC</Committed></BlockList>";
        let list = read_list(text.as_bytes()).unwrap();
        let expected = [(Search::Latest, "AAAA"), (Search::Uncommitted, "BBBB"), (Search::Committed, "CCCC")];
        assert_eq!(list, expected.map(|(search, id)| (search, id.to_owned())));
        assert_eq!(read_list(b"<BlockList></BlockList>"), Some(Vec::new()));
        assert_eq!(read_list(b"<BlockList />"), Some(Vec::new()));
        for broken in
            ["", "<BlockList>", "<BlockList><Latest>A</Latest>", "<List/>", "<BlockList><A>x</A></BlockList>", "x"]
        {
            assert_eq!(read_list(broken.as_bytes()), None, "{broken}");
        }
    }

    #[test]
    fn ranges_are_read_as_the_service_reads_them() {
        for (text, expected) in [
            ("bytes=0-3", Range::Part(0, 3)),
            ("bytes=4-", Range::Part(4, 9)),
            ("bytes=4-100", Range::Part(4, 9)),
            ("bytes=10-", Range::Outside),
            ("bytes=3-1", Range::Whole),
            ("bytes=-3", Range::Whole),
            ("lines=1-2", Range::Whole),
        ] {
            assert_eq!(parse_range(text, 10), expected, "{text}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Range::Outside);
    }

    #[test]
    fn limits_follow_the_table_of_the_contract() {
        let text = include_str!("../../tests/contract/blob-upload.md");
        let start = text.find("```json example=LimitTable\n").unwrap();
        let block = text[start..].split_once('\n').unwrap().1.split_once("```").unwrap().0;
        let rows: Vec<serde_json::Value> = serde_json::from_str(block).unwrap();
        for row in rows {
            for version in [row["from"].as_str(), row["to"].as_str()].into_iter().flatten() {
                let limits = limits(version);
                assert_eq!(Some(limits.block), row["maxBlockBytes"].as_u64(), "{version}");
                assert_eq!(Some(limits.blob), row["maxPutBlobBytes"].as_u64(), "{version}");
            }
        }
    }

    proptest! {
        #[test]
        fn reading_a_list_survives_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(read_list(&bytes));
        }
    }
}

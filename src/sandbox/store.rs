//! Blobs on disk: each block is a file of its own, so a commit copies nothing and any size needs the same memory.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use md5::{Digest as _, Md5};
use std::collections::BTreeMap;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use uuid::Uuid;

use super::faults::serial;

/// How much of a blob is held in memory at once, per request.
const PIECE: usize = 256 * 1024;

/// The sandbox's folder; a temporary one goes with it.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    is_temporary: bool,
}

impl Folder {
    /// Opens the folder, or makes a temporary one.
    pub(super) fn open(wanted: Option<&Path>) -> io::Result<Self> {
        let (path, is_temporary) = match wanted {
            Some(path) => (path.to_owned(), false),
            None => (std::env::temp_dir().join(format!("longshore-sandbox-{}", crate::clock::uuid_v4())), true),
        };
        std::fs::create_dir_all(&path)?;
        Ok(Self { path, is_temporary })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A file name that is not in use.
    pub(super) fn fresh(&self, what: &str) -> PathBuf {
        self.path.join(format!("{what}-{}-{}.part", std::process::id(), serial()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_temporary
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::debug!(%error, "the sandbox's temporary folder stays");
        }
    }
}

/// One piece of a blob on disk. The file goes when nobody reads it any more.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    pub(super) size: u64,
    /// Base64.
    pub(super) md5: String,
    /// Keeps the folder while the file is in it.
    _folder: Arc<Folder>,
}

impl Segment {
    /// Takes over a finished file.
    pub(super) fn adopt(folder: &Arc<Folder>, path: PathBuf, size: u64, md5: String) -> Arc<Self> {
        Arc::new(Self { path, size, md5, _folder: Arc::clone(folder) })
    }

    /// Writes bytes that are in memory already. Blocking.
    pub(super) fn write(folder: &Arc<Folder>, bytes: &[u8]) -> io::Result<Arc<Self>> {
        let path = folder.fresh("blob");
        std::fs::write(&path, bytes)?;
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(Self::adopt(folder, path, size, STANDARD.encode(Md5::digest(bytes))))
    }

    /// Takes over a finished file whose checksum is not known yet. Blocking.
    pub(super) fn of_file(folder: &Arc<Folder>, path: PathBuf) -> io::Result<Arc<Self>> {
        let mut hash = Md5::new();
        let size = io::copy(&mut File::open(&path)?, &mut Hashing(&mut hash))?;
        Ok(Self::adopt(folder, path, size, STANDARD.encode(hash.finalize())))
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "a piece of a simulated blob stays on disk");
        }
    }
}

struct Hashing<'a>(&'a mut Md5);

impl io::Write for Hashing<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.update(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One block, staged or committed.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// Base64, as sent; empty for the bytes of a single Put Blob.
    pub(super) id: String,
    pub(super) segment: Arc<Segment>,
    /// Whether the caller was told that it is here.
    pub(super) acknowledged: bool,
}

/// What readers see of a blob.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) blocks: Vec<Block>,
    pub(super) md5: Option<String>,
    pub(super) mime: String,
    pub(super) etag: String,
    pub(super) modified: Timestamp,
    pub(super) metadata: Vec<(String, String)>,
}

impl Content {
    pub(super) fn new(blocks: Vec<Block>, md5: Option<String>, content_type: &str) -> Self {
        Self {
            blocks,
            md5,
            mime: content_type.to_owned(),
            etag: format!("\"0x8DE{:012X}\"", serial()),
            modified: crate::clock::now(),
            metadata: Vec::new(),
        }
    }

    /// A whole blob in one segment.
    pub(super) fn single(segment: Arc<Segment>, content_type: &str) -> Self {
        let md5 = Some(segment.md5.clone());
        Self::new(vec![Block { id: String::new(), segment, acknowledged: true }], md5, content_type)
    }

    pub(super) fn size(&self) -> u64 {
        self.blocks.iter().map(|block| block.segment.size).sum()
    }

    /// The bytes from `start` on, `length` of them.
    pub(super) fn stream(&self, start: u64, length: u64) -> Body {
        let mut parts = Vec::new();
        let (mut skip, mut left) = (start, length);
        for block in &self.blocks {
            let size = block.segment.size;
            if skip >= size {
                skip -= size;
                continue;
            }
            let take = (size - skip).min(left);
            if take > 0 {
                parts.push((Arc::clone(&block.segment), skip, take));
            }
            skip = 0;
            left -= take;
        }
        parts.reverse();
        Body::from_stream(futures_util::stream::try_unfold((parts, None), read_on))
    }

    /// Copies the whole blob into one file and says its SHA-256. Blocking.
    pub(super) fn gather(&self, target: &Path) -> io::Result<String> {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut out = io::BufWriter::with_capacity(PIECE, File::create(target)?);
        let mut piece = vec![0; PIECE];
        for block in &self.blocks {
            let mut file = File::open(&block.segment.path)?;
            loop {
                let count = io::Read::read(&mut file, &mut piece)?;
                let Some(bytes) = piece.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
                context.update(bytes);
                io::Write::write_all(&mut out, bytes)?;
            }
        }
        io::Write::flush(&mut out)?;
        Ok(hex(context.finish().as_ref()))
    }
}

type Parts = Vec<(Arc<Segment>, u64, u64)>;
type Open = Option<(tokio::fs::File, u64, Arc<Segment>)>;

/// Reads the next piece, opening the next part where one ends.
async fn read_on((mut parts, open): (Parts, Open)) -> io::Result<Option<(Bytes, (Parts, Open))>> {
    let (mut file, left, segment) = if let Some(open) = open {
        open
    } else {
        let Some((segment, skip, take)) = parts.pop() else { return Ok(None) };
        let mut file = tokio::fs::File::open(&segment.path).await?;
        file.seek(io::SeekFrom::Start(skip)).await?;
        (file, take, segment)
    };
    let mut piece = bytes::BytesMut::zeroed(usize::try_from(left).unwrap_or(PIECE).min(PIECE));
    let count = file.read(&mut piece).await?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    piece.truncate(count);
    let left = left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
    let open = (left > 0).then_some((file, left, segment));
    Ok(Some((piece.freeze(), (parts, open))))
}

/// A blob of the simulated storage account.
#[derive(Debug)]
pub(super) struct Blob {
    pub(super) container: &'static str,
    /// Whose upload slot or result it is.
    pub(super) submission_id: Option<u64>,
    pub(super) file_name: String,
    pub(super) content: Option<Content>,
    /// Uncommitted blocks, in the order of their ids.
    pub(super) staged: BTreeMap<String, Block>,
    /// Nobody may write any more.
    pub(super) is_frozen: bool,
    /// Every SAS issued up to this number has expired.
    pub(super) revoked: u64,
    /// The SAS that every read gets when the sandbox hands out fixed ones.
    pub(super) fixed: Option<super::sas::Sas>,
}

impl Blob {
    pub(super) fn slot(submission_id: u64, file_name: String) -> Self {
        Self {
            container: "ingestion",
            submission_id: Some(submission_id),
            file_name,
            content: None,
            staged: BTreeMap::new(),
            is_frozen: false,
            revoked: 0,
            fixed: None,
        }
    }

    pub(super) fn result(container: &'static str, submission_id: u64, file_name: String, content: Content) -> Self {
        Self { container, is_frozen: true, content: Some(content), ..Self::slot(submission_id, file_name) }
    }
}

/// A body as it came in.
pub(super) struct Received {
    pub(super) segment: Arc<Segment>,
    /// Base64, only when asked for.
    pub(super) crc64: Option<String>,
}

/// Why a body was not taken.
pub(super) enum Unreceived {
    /// The caller went away, or sent less than announced.
    Aborted,
    /// The disk refused.
    Disk(io::Error),
}

/// How to take a body.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Receive {
    pub(super) with_crc64: bool,
    pub(super) flip_bit: bool,
}

/// Streams a body to disk.
pub(super) async fn receive(
    folder: &Arc<Folder>,
    body: Body,
    announced: u64,
    how: Receive,
) -> Result<Received, Unreceived> {
    let path = folder.fresh("block");
    let result = receive_into(&path, body, announced, how).await;
    if result.is_err() {
        // What is left of it must not fill the disk; that it cannot be removed is told when the folder goes.
        tokio::fs::remove_file(&path).await.ok();
    }
    let (size, md5, crc64) = result?;
    Ok(Received { segment: Segment::adopt(folder, path, size, md5), crc64 })
}

async fn receive_into(
    path: &Path,
    body: Body,
    announced: u64,
    how: Receive,
) -> Result<(u64, String, Option<String>), Unreceived> {
    let file = tokio::fs::File::create(path).await.map_err(Unreceived::Disk)?;
    let mut file = tokio::io::BufWriter::with_capacity(PIECE, file);
    let mut stream = body.into_data_stream();
    let (mut md5, mut crc, mut size, mut flip) = (Md5::new(), Crc64::new(), 0_u64, how.flip_bit);
    while let Some(piece) = stream.next().await {
        let mut piece = piece.map_err(|_| Unreceived::Aborted)?;
        if flip && !piece.is_empty() {
            piece = flipped(&piece);
            flip = false;
        }
        size = size.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        md5.update(&piece);
        if how.with_crc64 {
            crc.update(&piece);
        }
        file.write_all(&piece).await.map_err(Unreceived::Disk)?;
    }
    file.flush().await.map_err(Unreceived::Disk)?;
    if size != announced {
        return Err(Unreceived::Aborted);
    }
    Ok((size, STANDARD.encode(md5.finalize()), how.with_crc64.then(|| crc.finish())))
}

/// The same bytes with the lowest bit of the first one turned.
pub(super) fn flipped(bytes: &Bytes) -> Bytes {
    let mut copy = bytes.to_vec();
    if let Some(first) = copy.first_mut() {
        *first ^= 1;
    }
    Bytes::from(copy)
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// A new blob id.
pub(super) fn blob_id() -> Uuid {
    crate::clock::uuid_v4()
}

/// The CRC-64 of the blob service: the "NVME" variant, reflected, all ones before and after.
pub(super) struct Crc64(u64);

impl Crc64 {
    const TABLE: [u64; 256] = Self::table();

    #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which would refuse a wrong index")]
    const fn table() -> [u64; 256] {
        // The reflected form of 0xad93d23594c93659.
        let polynomial = 0xad93_d235_94c9_3659_u64.reverse_bits();
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u64;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { (value >> 1) ^ polynomial } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    }

    pub(super) fn new() -> Self {
        Self(u64::MAX)
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let [lowest, ..] = self.0.to_le_bytes();
            let entry = Self::TABLE.get(usize::from(lowest ^ byte)).copied().unwrap_or_default();
            self.0 = (self.0 >> 8) ^ entry;
        }
    }

    /// Base64 of the little-endian bytes.
    pub(super) fn finish(self) -> String {
        STANDARD.encode((!self.0).to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksums_of_the_contract_come_out() {
        let text = include_str!("../../tests/contract/blob-upload.md");
        let start = text.find("```json example=ChecksumVectors\n").unwrap();
        let block = text[start..].split_once('\n').unwrap().1.split_once("```").unwrap().0;
        let vectors: Vec<serde_json::Value> = serde_json::from_str(block).unwrap();
        assert_eq!(vectors.len(), 3);
        for vector in vectors {
            let bytes = vector["text"].as_str().unwrap().as_bytes();
            let mut crc = Crc64::new();
            crc.update(bytes);
            assert_eq!(crc.finish(), vector["crc64"].as_str().unwrap());
            assert_eq!(STANDARD.encode(Md5::digest(bytes)), vector["md5"].as_str().unwrap());
        }
    }

    #[tokio::test]
    async fn a_range_across_blocks_reads_the_right_bytes_and_files_go_with_their_last_reader() {
        let folder = Arc::new(Folder::open(None).unwrap());
        let path = folder.path().to_owned();
        let blocks = ["hello ", "wide ", "world"].map(|text| Block {
            id: String::new(),
            segment: Segment::write(&folder, text.as_bytes()).unwrap(),
            acknowledged: true,
        });
        let content = Content::new(blocks.to_vec(), None, "text/plain");
        assert_eq!(content.size(), 16);
        for (start, length) in [(0, 16), (4, 5), (6, 5), (11, 5), (15, 1), (3, 0)] {
            let body = axum::body::to_bytes(content.stream(start, length), 100).await.unwrap();
            let start = usize::try_from(start).unwrap();
            let end = start + usize::try_from(length).unwrap();
            assert_eq!(&body[..], &b"hello wide world"[start..end]);
        }
        drop((content, blocks));
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
        drop(folder);
        assert!(!path.exists());
    }
}

//! Driver packages: cabinets, `.hlkx` archives, INF files, the preflight over them, and what a signed one must hold.
//!
//! Everything here is blocking, reads with flat memory, and survives any bytes: counts and offsets are checked before a
//! library sees them, entries and inflated sizes are capped, and a library that panics on damage is caught. The rules
//! are those of contract/hardware-api.md, section 9.

pub mod cabinet;
pub mod hlkx;
pub mod inf;

pub mod preflight;
pub mod verify;

mod cabinet_layout;
mod cabinet_view;

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use crate::{
    domain::failure::{Cause, Failure, Kind},
    transfer::pace::Trouble,
};

/// Files in one package at most.
pub const MAX_ENTRIES: usize = 10_000;
/// Bytes of all files of one package, inflated, at most.
pub const MAX_INFLATED: u64 = 8 << 30;
/// Bytes of one INF file at most.
pub const MAX_INF: u64 = 4 << 20;

/// Why a package cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk failed, or the file is not there.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is not of this kind, or damaged.
    #[error("{0}")]
    Damaged(String),
    /// It is larger than anything we unpack.
    #[error("{0}")]
    TooLarge(String),
    /// It is a Zip64 archive.
    #[error("it is a Zip64 archive")]
    Zip64,
}

fn damaged(text: impl Into<String>) -> Error {
    Error::Damaged(text.into())
}

/// Runs a library over bytes that nobody vouches for; a panic is damage, and a read that failed is none, whatever the
/// library makes of it.
fn guarded<T>(trouble: &Trouble, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let done =
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(damaged("its data is damaged beyond reading")));
    match (done, trouble.seen()) {
        (Err(_), Some(error)) => Err(Error::Io(error)),
        (done, _) => done,
    }
}

/// What an I/O error while a package is read means: worth another try later.
fn disk(path: &Path, error: &io::Error) -> Failure {
    Failure::Transient(Cause::new(Kind::LocalIo, format!("cannot read {}: {error}", path.display())))
}

/// Does this path name an INF file?
fn is_inf(path: &str) -> bool {
    has_extension(path, "inf")
}

/// Does this path end so, whatever the case?
fn has_extension(path: &str, extension: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.rsplit_once('.').is_some_and(|(_, found)| found.eq_ignore_ascii_case(extension))
}

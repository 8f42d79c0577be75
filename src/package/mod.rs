//! Driver packages.

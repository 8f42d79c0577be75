//! Texts put together piece by piece.

use std::fmt::{Arguments, Write as _};

/// Adds pieces to a text.
pub(super) trait Put {
    /// Adds a formatted piece.
    fn put(&mut self, piece: Arguments<'_>);
}

impl Put for String {
    fn put(&mut self, piece: Arguments<'_>) {
        // writing into a String cannot fail
        self.write_fmt(piece).unwrap_or_default();
    }
}

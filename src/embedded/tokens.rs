//! Sealed tokens for all processes on the file, and the lease to renew one. Opening and sealing is done elsewhere.

use std::time::Duration;

use rusqlite::OptionalExtension;

use super::Embedded;
use crate::{domain::time::Moment, engine::ports::Unavailable};

impl Embedded {
    /// The sealed token under this hash, unless it has expired.
    ///
    /// # Errors
    /// [`Unavailable`]: the process serves itself.
    pub async fn load_token(&self, key_hash: &[u8; 32]) -> Result<Option<Vec<u8>>, Unavailable> {
        let key = *key_hash;
        let sealed = self.look(move |connection, shared| {
            let now = shared.now(connection)?;
            Ok(connection
                .prepare_cached("SELECT sealed FROM tokens WHERE key = ?1 AND expires > ?2")?
                .query_row((key, now.as_millis()), |row| row.get(0))
                .optional()?)
        });
        Ok(sealed.await?)
    }

    /// Keeps a sealed token until it expires.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn store_token(&self, key_hash: &[u8; 32], sealed: Vec<u8>, expires: Moment) -> Result<(), Unavailable> {
        let key = *key_hash;
        let stored = self.write(move |book| {
            book.tx
                .prepare_cached(
                    "INSERT INTO tokens (key, sealed, expires) VALUES (?1, ?2, ?3)
                     ON CONFLICT (key) DO UPDATE SET sealed = ?2, expires = ?3",
                )?
                .execute((key, sealed, expires.as_millis()))?;
            Ok(())
        });
        Ok(stored.await?)
    }

    /// Takes, or prolongs, the right to renew the token under this hash; false when another has it.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn lease_token(&self, key_hash: &[u8; 32], owner: u128, span: Duration) -> Result<bool, Unavailable> {
        let (key, owner) = (*key_hash, owner.to_be_bytes());
        let leased = self.write(move |book| {
            let changed = book
                .tx
                .prepare_cached(
                    "INSERT INTO token_leases (key, owner, until) VALUES (?1, ?2, ?3)
                     ON CONFLICT (key) DO UPDATE SET owner = ?2, until = ?3 WHERE owner = ?2 OR until <= ?4",
                )?
                .execute((key, owner, book.now.after(span).as_millis(), book.now.as_millis()))?;
            Ok(changed > 0)
        });
        Ok(leased.await?)
    }

    /// Gives the right to renew back; nothing when another has it.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn release_token(&self, key_hash: &[u8; 32], owner: u128) -> Result<(), Unavailable> {
        let (key, owner) = (*key_hash, owner.to_be_bytes());
        let released = self.write(move |book| {
            book.tx.prepare_cached("DELETE FROM token_leases WHERE key = ?1 AND owner = ?2")?.execute((key, owner))?;
            Ok(())
        });
        Ok(released.await?)
    }
}

//! The keys that seal what is stored, and the sealing of signed queries in sources.

use std::{fs, path::Path};

use secrecy::ExposeSecret as _;
use url::Url;

use crate::{
    config::{Loaded, SecretError, SecretReference},
    seal::{self, Keyring},
};

/// The key file of a home that is told no keys.
const KEY_FILE: &str = "key";

/// What stands in a query instead of what was sealed.
const SEALED: &str = "longshore-sealed=";

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A reference gives no key.
    #[error(transparent)]
    Reference(#[from] SecretError),
    /// What a reference gives is no key.
    #[error("security.keys[{index}]: {reference} must hold exactly 32 bytes, raw or in base64")]
    NotAKey {
        /// Its place in the list.
        index: usize,
        /// The reference.
        reference: SecretReference,
    },
    /// The home's own key cannot be made or read.
    #[error(transparent)]
    Own(#[from] seal::Error),
    /// A file cannot be read.
    #[error("security.keys[{index}]: {reference} cannot be read: {source}")]
    Unreadable {
        /// Its place in the list.
        index: usize,
        /// The reference.
        reference: SecretReference,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The keys of the configuration, else the home's own, which is made when it is missing.
///
/// # Errors
/// [`KeyError`] names the reference or file.
pub fn keyring(loaded: &Loaded) -> Result<Keyring, KeyError> {
    let references = &loaded.settings.security.keys;
    if references.is_empty() {
        return own(loaded.data_dir());
    }
    let mut keys = Vec::new();
    for (index, reference) in references.iter().enumerate() {
        let key = match reference {
            // A raw key is no text, so a file is read here and not by the reference.
            SecretReference::File(path) => {
                let content = zeroize::Zeroizing::new(fs::read(path).map_err(|source| KeyError::Unreadable {
                    index,
                    reference: reference.clone(),
                    source,
                })?);
                seal::key_of(&content)
            }
            SecretReference::Environment(_) => {
                seal::key_of(reference.resolve(&format!("security.keys[{index}]"))?.expose_secret().as_bytes())
            }
        };
        keys.push(key.ok_or_else(|| KeyError::NotAKey { index, reference: reference.clone() })?);
    }
    Ok(Keyring::new(keys)?)
}

fn own(data_dir: &Path) -> Result<Keyring, KeyError> {
    let path = data_dir.join(KEY_FILE);
    if !path.exists() {
        match Keyring::generate_file(&path) {
            Ok(()) => {}
            // Of two processes that start at once, one makes the key; both read it.
            Err(_) if path.exists() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Keyring::from_files([path])?)
}

/// The source with its query sealed, as it is stored; a source without a query stays as it is.
///
/// # Errors
/// [`seal::Error`] when the cipher fails.
pub fn seal_source(keys: &Keyring, source: &str) -> Result<String, seal::Error> {
    let Some((place, query)) = source.split_once('?') else { return Ok(source.to_owned()) };
    if query.is_empty() || query.starts_with(SEALED) || !is_remote(place) {
        return Ok(source.to_owned());
    }
    Ok(format!("{place}?{SEALED}{}", keys.seal(query.as_bytes(), associated(place).as_bytes())?))
}

/// The source as its producer wrote it.
///
/// # Errors
/// [`seal::Error`] when it was sealed with a key that is gone, or for another place.
pub fn open_source(keys: &Keyring, source: &str) -> Result<String, seal::Error> {
    let Some((place, sealed)) =
        source.split_once('?').and_then(|(place, query)| query.strip_prefix(SEALED).map(|sealed| (place, sealed)))
    else {
        return Ok(source.to_owned());
    };
    let query = keys.open(sealed, associated(place).as_bytes())?;
    let query = std::str::from_utf8(&query).map_err(|_| seal::Error::Damaged)?;
    Ok(format!("{place}?{query}"))
}

fn is_remote(place: &str) -> bool {
    Url::parse(place).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
}

fn associated(place: &str) -> String {
    format!("source {place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keyring {
        Keyring::new([zeroize::Zeroizing::new([7; seal::KEY_BYTES])]).unwrap()
    }

    #[test]
    fn the_query_of_a_source_is_sealed_and_opens_for_its_own_place_only() {
        let keys = keys();
        let source = "https://builds.blob.core.windows.net/a/nic.cab?sv=2024&sig=abc%2Bdef%3D";
        let sealed = seal_source(&keys, source).unwrap();
        assert!(sealed.starts_with("https://builds.blob.core.windows.net/a/nic.cab?longshore-sealed="));
        assert!(!sealed.contains("sig=") && !sealed.contains("abc"), "{sealed}");
        assert_eq!(open_source(&keys, &sealed).unwrap(), source);
        assert_eq!(seal_source(&keys, &sealed).unwrap(), sealed, "sealed once");
        assert!(open_source(&keys, &sealed.replace("nic.cab", "other.cab")).is_err());
    }

    #[test]
    fn what_holds_no_query_stays_as_it_is() {
        for source in ["file:///srv/builds/nic.cab", "https://h/x", "file:///srv/a?b"] {
            assert_eq!(seal_source(&keys(), source).unwrap(), source);
            assert_eq!(open_source(&keys(), source).unwrap(), source);
        }
    }
}

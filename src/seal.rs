//! Sealing of small secrets (tokens, signed URLs) before they are stored.
//!
//! AES-256-GCM with a random nonce. The header names the key, so keys can be rotated: the first one seals, all of them
//! open. Header and the caller's associated data are authenticated: a sealed text opens only in the place it was made
//! for. Text form: base64url without padding of version (1 byte), key id (4), nonce (12), ciphertext, tag (16).

use std::{
    fmt, fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::{
    Engine as _,
    engine::{
        DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig,
        general_purpose::{STANDARD, URL_SAFE_NO_PAD},
    },
};
use zeroize::Zeroizing;

use crate::{clock, domain::ids::Sha256};

const VERSION: u8 = 1;
/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
const HEADER_BYTES: usize = 5;

/// Why a key cannot be used or a sealed text cannot be opened. Never says anything about the content.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No key is given at all.
    #[error("no key to seal with is configured")]
    NoKey,
    /// The file cannot be read or written.
    #[error("key file {path} cannot be {action}")]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file does not hold a key.
    #[error("key file {path} must hold exactly 32 bytes, raw or in base64")]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// The text was sealed with a key that is not in the ring.
    #[error("sealed with key {key_id}, which is not configured")]
    UnknownKey {
        /// The key's id.
        key_id: KeyId,
    },
    /// The text is damaged, belongs to another place, or was never sealed here.
    #[error("the sealed text is damaged or belongs elsewhere")]
    Damaged,
    /// The sealing itself failed.
    #[error("sealing failed")]
    Seal,
}

/// The first 8 hexadecimal digits of the SHA-256 of a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyId([u8; 4]);

impl KeyId {
    fn of(key: &[u8; KEY_BYTES]) -> Self {
        let mut id = [0; 4];
        for (to, from) in id.iter_mut().zip(Sha256::of(key).as_bytes()) {
            *to = *from;
        }
        Self(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

struct Key {
    id: KeyId,
    cipher: LessSafeKey,
}

/// The keys: the current one, which seals, and older ones, which still open.
pub struct Keyring {
    current: Key,
    older: Vec<Key>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("keys", &self.key_ids()).finish()
    }
}

impl Keyring {
    /// A ring of these keys; the first one is the current one.
    ///
    /// # Errors
    /// [`Error::NoKey`] when there is none.
    pub fn new(keys: impl IntoIterator<Item = Zeroizing<[u8; KEY_BYTES]>>) -> Result<Self, Error> {
        let mut keys = keys.into_iter().map(|bytes| {
            let key = UnboundKey::new(&AES_256_GCM, bytes.as_slice()).map_err(|_| Error::Seal)?;
            Ok(Key { id: KeyId::of(&bytes), cipher: LessSafeKey::new(key) })
        });
        let current = keys.next().ok_or(Error::NoKey)??;
        Ok(Self { current, older: keys.collect::<Result<_, Error>>()? })
    }

    /// A ring of the keys in these files, 32 bytes each, raw or in base64; the first one is the current one.
    ///
    /// # Errors
    /// [`Error`] names the file that cannot be read or holds no key.
    pub fn from_files<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Result<Self, Error> {
        let keys = paths.into_iter().map(|path| read_file(path.as_ref())).collect::<Result<Vec<_>, _>>()?;
        Self::new(keys)
    }

    /// Makes a new key file that only its owner can read. All or nothing: it is never seen half-written.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be written, also when it exists already.
    pub fn generate_file(path: &Path) -> Result<(), Error> {
        let key = Zeroizing::new(clock::random_bytes::<KEY_BYTES>());
        let text = Zeroizing::new(STANDARD.encode(key.as_slice()) + "\n");
        let failed = |source| Error::File { path: path.to_owned(), action: "made", source };
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", clock::uuid_v4().simple()));
        let unfinished = path.with_file_name(name);
        // A hard link fails when the name is taken: of two processes that start at once, one makes the key.
        let made = write_private(&unfinished, text.as_bytes()).and_then(|()| fs::hard_link(&unfinished, path));
        let removed = fs::remove_file(&unfinished);
        made.and(removed).map_err(failed)
    }

    /// The ids of the keys, the current one first.
    #[must_use]
    pub fn key_ids(&self) -> Vec<KeyId> {
        std::iter::once(&self.current).chain(&self.older).map(|key| key.id).collect()
    }

    /// Seals `plain` for the place that `associated` names.
    ///
    /// # Errors
    /// [`Error::Seal`] when the cipher fails, which it does for sizes beyond its limit only.
    pub fn seal(&self, plain: &[u8], associated: &[u8]) -> Result<String, Error> {
        let nonce = clock::random_bytes::<NONCE_LEN>();
        let header = header(self.current.id);
        let mut body = Zeroizing::new(plain.to_vec());
        let aad = Aad::from([&header[..], associated].concat());
        self.current
            .cipher
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut *body)
            .map_err(|_| Error::Seal)?;
        Ok(URL_SAFE_NO_PAD.encode([&header[..], &nonce[..], body.as_slice()].concat()))
    }

    /// Opens what [`Keyring::seal`] made for the same place.
    ///
    /// # Errors
    /// [`Error::UnknownKey`] when its key is not in the ring, [`Error::Damaged`] for everything else.
    pub fn open(&self, sealed: &str, associated: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let bytes = URL_SAFE_NO_PAD.decode(sealed.as_bytes()).map_err(|_| Error::Damaged)?;
        let (header, rest) = bytes.split_at_checked(HEADER_BYTES).ok_or(Error::Damaged)?;
        let (nonce, body) = rest.split_at_checked(NONCE_LEN).ok_or(Error::Damaged)?;
        let &[VERSION, a, b, c, d] = header else { return Err(Error::Damaged) };
        let key_id = KeyId([a, b, c, d]);
        let mut is_known = false;
        for key in std::iter::once(&self.current).chain(&self.older).filter(|key| key.id == key_id) {
            is_known = true;
            let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Error::Damaged)?;
            let aad = Aad::from([header, associated].concat());
            let mut plain = Zeroizing::new(body.to_vec());
            if let Ok(opened) = key.cipher.open_in_place(nonce, aad, &mut plain) {
                let length = opened.len();
                plain.truncate(length);
                return Ok(plain);
            }
        }
        Err(if is_known { Error::Damaged } else { Error::UnknownKey { key_id } })
    }
}

fn header(id: KeyId) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = id.0;
    [VERSION, a, b, c, d]
}

fn read_file(path: &Path) -> Result<Zeroizing<[u8; KEY_BYTES]>, Error> {
    let failed = |source| Error::File { path: path.to_owned(), action: "read", source };
    let content = Zeroizing::new(fs::read(path).map_err(failed)?);
    key_of(&content).ok_or_else(|| Error::NotAKey { path: path.to_owned() })
}

/// The key in this content: exactly 32 bytes, raw or in base64.
#[must_use]
pub fn key_of(content: &[u8]) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    if let Ok(raw) = <[u8; KEY_BYTES]>::try_from(content) {
        return Some(Zeroizing::new(raw));
    }
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    [base64::alphabet::STANDARD, base64::alphabet::URL_SAFE].iter().find_map(|alphabet| {
        let decoded = GeneralPurpose::new(alphabet, lenient).decode(content.trim_ascii()).ok().map(Zeroizing::new)?;
        <[u8; KEY_BYTES]>::try_from(decoded.as_slice()).ok().map(Zeroizing::new)
    })
}

fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ring(seeds: &[u8]) -> Keyring {
        Keyring::new(seeds.iter().map(|seed| Zeroizing::new([*seed; 32]))).unwrap()
    }

    #[test]
    fn an_older_key_still_opens_and_the_current_one_seals() {
        let before = ring(&[1]);
        let sealed = before.seal(b"token", b"place").unwrap();
        let after = ring(&[2, 1]);
        assert_eq!(after.open(&sealed, b"place").unwrap().as_slice(), b"token");
        let again = after.seal(b"token", b"place").unwrap();
        assert!(matches!(before.open(&again, b"place"), Err(Error::UnknownKey { .. })));
        assert!(matches!(ring(&[3]).open(&sealed, b"place"), Err(Error::UnknownKey { .. })));
    }

    #[test]
    fn the_key_id_is_the_start_of_the_keys_hash() {
        // SHA-256 of 32 zero bytes begins with 66687aad.
        assert_eq!(ring(&[0]).key_ids()[0].to_string(), "66687aad");
        assert_eq!(format!("{:?}", ring(&[0])), "Keyring { keys: [66687aad] }");
    }

    #[test]
    fn another_place_does_not_open() {
        let ring = ring(&[1]);
        let sealed = ring.seal(b"token", b"here").unwrap();
        assert!(matches!(ring.open(&sealed, b"there"), Err(Error::Damaged)));
    }

    #[test]
    fn every_changed_byte_is_found_and_no_two_seals_are_alike() {
        let ring = ring(&[1]);
        let sealed = ring.seal(b"token", b"").unwrap();
        assert_ne!(sealed, ring.seal(b"token", b"").unwrap());
        let bytes = URL_SAFE_NO_PAD.decode(&sealed).unwrap();
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            assert!(ring.open(&URL_SAFE_NO_PAD.encode(&changed), b"").is_err(), "byte {index}");
            assert!(ring.open(&URL_SAFE_NO_PAD.encode(&bytes[..index]), b"").is_err(), "cut at {index}");
        }
    }

    #[test]
    fn a_generated_file_is_private_readable_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        Keyring::generate_file(&path).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let ring = Keyring::from_files([&path]).unwrap();
        let sealed = ring.seal(b"x", b"").unwrap();
        assert!(matches!(Keyring::generate_file(&path), Err(Error::File { .. })));
        assert_eq!(Keyring::from_files([&path]).unwrap().open(&sealed, b"").unwrap().as_slice(), b"x");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no unfinished file is left");
    }

    #[test]
    fn keys_are_read_raw_and_in_both_alphabets() {
        let folder = tempfile::tempdir().unwrap();
        let key = [0xfb_u8; 32];
        let forms: [Vec<u8>; 4] = [
            key.to_vec(),
            STANDARD.encode(key).into_bytes(),
            (URL_SAFE_NO_PAD.encode(key) + "\r\n").into_bytes(),
            STANDARD.encode(key).trim_end_matches('=').into(),
        ];
        for (n, form) in forms.iter().enumerate() {
            let path = folder.path().join(n.to_string());
            fs::write(&path, form).unwrap();
            assert_eq!(Keyring::from_files([&path]).unwrap().key_ids(), ring(&[0xfb]).key_ids(), "form {n}");
        }
        let short = folder.path().join("short");
        fs::write(&short, "c2hvcnQ=").unwrap();
        assert!(Keyring::from_files([&short]).unwrap_err().to_string().contains("exactly 32 bytes"));
        assert!(matches!(Keyring::from_files(Vec::<PathBuf>::new()), Err(Error::NoKey)));
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_any_text_is_survived(
            plain in proptest::collection::vec(any::<u8>(), 0..300), place in ".{0,20}", noise in ".{0,80}",
        ) {
            let ring = ring(&[9]);
            let sealed = ring.seal(&plain, place.as_bytes()).unwrap();
            prop_assert_eq!(ring.open(&sealed, place.as_bytes()).unwrap().to_vec(), plain);
            prop_assert!(ring.open(&noise, place.as_bytes()).is_err());
        }
    }
}

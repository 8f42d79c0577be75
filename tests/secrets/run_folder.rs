//! One folder per run: whatever a test writes lies below it, and what a test calls a secret is registered there.
//!
//! `LONGSHORE_TEST_DIR` names the folder (`make` sets it); without it, it lies in Cargo's own folder for tests. A test
//! target joins by `#[path = "../secrets/run_folder.rs"] mod run_folder;`, takes [`folder`] in place of a temporary one,
//! and calls [`register_secret`] for each secret it makes. `make test` ends by searching the folder, see `search.rs`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use longshore::clock;

/// Where secrets are registered; the search leaves it out.
pub(crate) const REGISTER: &str = "registered-secrets";

/// Files that hold a secret by design, one path a line, in [`REGISTER`].
pub(crate) const BY_DESIGN: &str = "by-design";

/// The folder of this run.
pub(crate) fn root() -> PathBuf {
    std::env::var_os("LONGSHORE_TEST_DIR")
        .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("test-run"), PathBuf::from)
}

/// A fresh folder of one test below the run's folder. It stays, for the search at the end.
#[allow(dead_code, reason = "the search alone needs no folder of its own")]
pub(crate) fn folder(test: &str) -> io::Result<PathBuf> {
    let folder = root().join(test);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    folder.canonicalize()
}

/// Remembers a secret of at least 16 bytes: no file below the run's folder may hold any 16 bytes in a row of it.
#[allow(dead_code, reason = "the search alone registers nothing")]
pub(crate) fn register_secret(bytes: &[u8]) -> io::Result<()> {
    let register = root().join(REGISTER);
    fs::create_dir_all(&register)?;
    fs::write(register.join(format!("{}.secret", clock::uuid_v4().simple())), bytes)
}

/// Remembers the key with which a home seals, if it has made one, and leaves its file out.
#[allow(dead_code, reason = "not every target runs homes of its own")]
pub(crate) fn register_home(home: &Path) -> io::Result<()> {
    let path = home.join("key");
    match fs::read(&path) {
        Ok(text) => {
            by_design(&path)?;
            register_secret(&STANDARD.decode(text.trim_ascii()).unwrap_or(text))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// A fresh folder of the test that runs on this thread: `<target>/<module>-<test>`, for a second one with a number behind.
#[allow(dead_code, reason = "not every target has one test per thread")]
pub(crate) fn folder_of_this_test(target: &str) -> io::Result<PathBuf> {
    thread_local!(static MADE: std::cell::Cell<u32> = const { std::cell::Cell::new(0) });
    let number = MADE.replace(MADE.get() + 1);
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("main").replace("::", "-");
    folder(&if number == 0 { format!("{target}/{test}") } else { format!("{target}/{test}-{}", number + 1) })
}

/// Leaves out a file, or a whole folder, that holds a secret by design: a key file, a `file:` reference, the sandbox's own.
#[allow(dead_code, reason = "the search alone registers nothing")]
pub(crate) fn by_design(path: &Path) -> io::Result<()> {
    use io::Write as _;
    let register = root().join(REGISTER);
    fs::create_dir_all(&register)?;
    let mut list = fs::File::options().append(true).create(true).open(register.join(BY_DESIGN))?;
    list.write_all(format!("{}\n", path.display()).as_bytes())
}

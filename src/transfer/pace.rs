//! Work on files that cannot pin its caller: it goes on while it moves, and is left behind when it stands still.
//!
//! A read of a hung network share never returns, and no thread can be stopped from outside. So nobody waits for longer than
//! a limit without a sign of life; the thread that is left behind stops at its next piece. Threads have a bound, those that
//! are left behind count, and the rest of the blocking pool stays free for what else needs it: names, logs, other files.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read, Seek, SeekFrom},
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit, oneshot},
    time::timeout,
};

use super::{permanent, transient};
use crate::domain::failure::{Failure, Kind};

/// Signs of life of one piece of work, and the word that nobody waits for it any more. Clones are of the same work.
#[derive(Debug, Clone, Default)]
pub struct Pace(Arc<Signs>);

#[derive(Debug, Default)]
struct Signs {
    beats: AtomicU64,
    is_left: AtomicBool,
    /// So many signs of life and no more.
    #[cfg(test)]
    most: OnceLock<u64>,
}

impl Pace {
    /// A sign of life.
    ///
    /// # Errors
    /// When nobody waits any more: the work stops here.
    pub fn beat(&self) -> io::Result<()> {
        self.0.beats.fetch_add(1, Ordering::Relaxed);
        #[cfg(test)]
        if self.0.most.get().is_some_and(|most| self.0.beats.load(Ordering::Relaxed) > *most) {
            self.0.is_left.store(true, Ordering::Relaxed);
        }
        if self.0.is_left.load(Ordering::Relaxed) {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        Ok(())
    }

    /// Opens a regular file whose reads are signs of life; a pipe or a device is never opened, for that could wait for ever.
    ///
    /// # Errors
    /// As the system says; [`ErrorKind::InvalidInput`] for what is no regular file.
    pub fn open(&self, path: &Path) -> io::Result<PacedFile> {
        self.beat()?;
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a file"));
        }
        Ok(PacedFile { file: File::open(path)?, pace: self.clone(), trouble: Trouble::default() })
    }

    /// Of work that nobody waits for any more after so many signs of life.
    #[cfg(test)]
    pub(crate) fn left_after(beats: u64) -> Self {
        let pace = Self::default();
        pace.0.most.set(beats).unwrap();
        pace
    }
}

/// A file whose reads are signs of life.
#[derive(Debug)]
pub struct PacedFile {
    file: File,
    pace: Pace,
    trouble: Trouble,
}

/// What the system said when a file could not be read. A library that reads it may make damage of that; this does not.
#[derive(Debug, Clone, Default)]
pub struct Trouble(Arc<OnceLock<(ErrorKind, String)>>);

impl Trouble {
    /// The first error of a read, if there was one.
    #[must_use]
    pub fn seen(&self) -> Option<io::Error> {
        self.0.get().map(|(kind, text)| io::Error::new(*kind, text.clone()))
    }

    fn heard<T>(&self, done: io::Result<T>) -> io::Result<T> {
        // A read is repeated after the one kind; the other is that of an offset which the file's own tables hold.
        if let Err(error) = &done
            && !matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::InvalidInput)
        {
            self.0.get_or_init(|| (error.kind(), error.to_string()));
        }
        done
    }
}

impl PacedFile {
    /// What goes wrong with its reads, to be asked when a library has taken the file.
    #[must_use]
    pub fn trouble(&self) -> Trouble {
        self.trouble.clone()
    }

    /// The file itself.
    #[must_use]
    pub const fn inner(&self) -> &File {
        &self.file
    }
}

impl Read for PacedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let done = self.pace.beat().and_then(|()| self.file.read(buffer));
        self.trouble.heard(done)
    }
}

impl Seek for PacedFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let done = self.file.seek(to);
        self.trouble.heard(done)
    }
}

/// Leaves the work behind when the one who waits is gone.
struct Left(Pace);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.0.is_left.store(true, Ordering::Relaxed);
    }
}

/// So many limits are the whole time for one piece of work.
const WINDOWS: u32 = 30;

/// Threads of this process that work on files, those left behind among them: half of tokio's blocking pool.
const MAX_THREADS: usize = 256;
static THREADS: Semaphore = Semaphore::const_new(MAX_THREADS);

/// Runs work on `path` on the blocking pool, for as long as it shows a sign of life within each `limit`, thirty times. It
/// may wait for a thread for one more.
///
/// # Errors
/// What the work says; transient, kind `LocalIo`, naming the path, when it stands still or found no thread; permanent, kind
/// `Internal`, when it panics.
///
/// # Cancel safety
/// Dropped, the work stops at its next sign of life.
pub async fn limited<T: Send + 'static>(
    limit: Duration,
    path: &Path,
    work: impl FnOnce(&Pace) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    limited_to(&THREADS, limit, path, work).await
}

async fn limited_to<T: Send + 'static>(
    threads: &'static Semaphore,
    limit: Duration,
    path: &Path,
    work: impl FnOnce(&Pace) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let pace = Pace::default();
    let left = Left(pace.clone());
    let Ok(begun) = timeout(limit, begin(threads, pace, work)).await else {
        let text = format!(
            "no thread was free for {} within {limit:?}: up to {MAX_THREADS} work on files, and those that a hung disk or \
             network share holds come back only with it",
            path.display()
        );
        return Err(transient(Kind::LocalIo, text));
    };
    let mut thread = begun;
    let mut seen = 0;
    for _ in 0..WINDOWS {
        match timeout(limit, &mut thread).await {
            Ok(Ok(done)) => return done,
            Ok(Err(broken)) => {
                return Err(permanent(Kind::Internal, format!("work on {} broke off: {broken}", path.display())));
            }
            Err(_) => {}
        }
        let beats = left.0.0.beats.load(Ordering::Relaxed);
        if beats == seen {
            return Err(stands_still(path, limit));
        }
        seen = beats;
    }
    let text = format!("work on {} has not ended in {:?}", path.display(), limit.saturating_mul(WINDOWS));
    Err(transient(Kind::LocalIo, text))
}

/// Starts work on a thread; returns when it has started.
async fn begin<T: Send + 'static>(
    threads: &'static Semaphore,
    pace: Pace,
    work: impl FnOnce(&Pace) -> Result<T, Failure> + Send + 'static,
) -> tokio::task::JoinHandle<Result<T, Failure>> {
    // Nobody closes it; work without a permit would be work without a bound, and is refused on the thread.
    let permit = threads.acquire().await.ok();
    let (start, started) = oneshot::channel();
    let thread = tokio::task::spawn_blocking(move || {
        // Held by the thread and not by the one who waits: what is left behind goes on holding it.
        let _held: SemaphorePermit<'static> =
            permit.ok_or_else(|| permanent(Kind::Internal, "nobody counts the threads that work on files"))?;
        let is_awaited = start.send(()).is_ok();
        if !is_awaited {
            return Err(transient(Kind::LocalIo, "nobody waits for it any more"));
        }
        work(&pace)
    });
    // Dropped unsent when the thread could not start: what it says then comes from its handle.
    let _told: Result<(), oneshot::error::RecvError> = started.await;
    thread
}

/// Waits for one operation on `path` of the asynchronous kind.
pub(super) async fn within<T>(
    limit: Duration,
    path: &Path,
    what: &str,
    operation: impl Future<Output = io::Result<T>>,
) -> Result<T, Failure> {
    match timeout(limit, operation).await {
        Ok(done) => done.map_err(|error| super::disk(what, path, &error)),
        Err(_) => Err(stands_still(path, limit)),
    }
}

fn stands_still(path: &Path, limit: Duration) -> Failure {
    let text = format!("{} has not answered for {limit:?}: its disk or network share hangs", path.display());
    transient(Kind::LocalIo, text)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::task::JoinSet;

    use super::*;

    const SHORT: Duration = Duration::from_millis(5);

    /// Somebody who waits beside the test.
    struct Waiting<T>(JoinSet<T>);

    impl<T: Send + 'static> Waiting<T> {
        fn for_end_of(work: impl Future<Output = T> + Send + 'static) -> Self {
            let mut waiting = JoinSet::new();
            waiting.spawn(work);
            Self(waiting)
        }

        async fn ended(mut self) -> T {
            self.0.join_next().await.unwrap().unwrap()
        }
    }

    /// A limit passes, and whoever waits for it sees so. The clock of these tests stands still but for this: the machine's own
    /// pace decides nothing.
    async fn pass() {
        tokio::task::yield_now().await;
        tokio::time::advance(SHORT).await;
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_stands_still_is_left_behind_and_stops_at_its_next_piece() {
        let (go_on, wait) = mpsc::channel::<()>();
        let (tell, told) = oneshot::channel();
        let (begun, begins) = oneshot::channel();
        let mut work = Waiting::for_end_of(limited(SHORT, Path::new("/share/nic.cab"), move |pace| {
            pace.beat().unwrap();
            begun.send(()).unwrap();
            wait.recv().unwrap();
            tell.send(pace.beat().is_err()).unwrap();
            Ok(())
        }));
        begins.await.unwrap();
        pass().await;
        assert!(work.0.try_join_next().is_none(), "it gave a sign of life in the first limit");
        pass().await;
        let failure = work.ended().await.unwrap_err();
        assert!(matches!(&failure, Failure::Transient(cause) if cause.kind == Kind::LocalIo), "{failure:?}");
        assert!(failure.to_string().contains("/share/nic.cab has not answered"), "{failure}");
        go_on.send(()).unwrap();
        assert!(told.await.unwrap(), "it was told to stop");
    }

    /// Work that shows a sign of life whenever it is told to, and ends when nobody tells it any more.
    struct Told {
        order: mpsc::Sender<()>,
        beaten: tokio::sync::mpsc::UnboundedReceiver<()>,
        waiting: Waiting<Result<u8, Failure>>,
    }

    impl Told {
        fn begin() -> Self {
            let (order, orders) = mpsc::channel::<()>();
            let (tell, beaten) = tokio::sync::mpsc::unbounded_channel();
            let work = move |pace: &Pace| {
                for () in orders {
                    if pace.beat().is_err() || tell.send(()).is_err() {
                        break;
                    }
                }
                Ok(7)
            };
            let waiting = Waiting::for_end_of(async move { limited(SHORT, Path::new("x"), work).await });
            Self { order, beaten, waiting }
        }

        /// A sign of life in each of so many limits, or until nobody waits any more.
        async fn beats(&mut self, limits: u32) {
            for _ in 0..limits {
                if self.order.send(()).is_err() || self.beaten.recv().await.is_none() {
                    return;
                }
                pass().await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_moves_may_take_many_times_the_limit() {
        let mut told = Told::begin();
        told.beats(WINDOWS - 5).await;
        drop(told.order);
        assert_eq!(told.waiting.ended().await, Ok(7));

        let mut told = Told::begin();
        told.beats(WINDOWS + 5).await;
        drop(told.order);
        let failure = told.waiting.ended().await.unwrap_err();
        assert!(failure.to_string().contains("has not ended in 150ms"), "{failure}");
    }

    #[tokio::test(start_paused = true)]
    async fn threads_that_are_left_behind_count_until_they_come_back() {
        static ONE: Semaphore = Semaphore::const_new(1);
        let (go_on, wait) = mpsc::channel::<()>();
        let (begun, begins) = oneshot::channel();
        let hung = Waiting::for_end_of(limited_to(&ONE, SHORT, Path::new("/share/nic.cab"), move |_| {
            begun.send(()).unwrap();
            wait.recv().unwrap();
            Ok(())
        }));
        begins.await.unwrap();
        pass().await;
        assert!(hung.ended().await.unwrap_err().to_string().contains("hangs"));
        let refused = Waiting::for_end_of(limited_to(&ONE, SHORT, Path::new("/local/wifi.cab"), |_| Ok(())));
        pass().await;
        let refused = refused.ended().await.unwrap_err();
        assert!(matches!(&refused, Failure::Transient(cause) if cause.kind == Kind::LocalIo), "{refused:?}");
        let text = refused.to_string();
        assert!(text.contains("no thread was free for /local/wifi.cab") && !text.contains("not answered"), "{text}");
        go_on.send(()).unwrap();
        let long = Duration::from_secs(60);
        assert_eq!(limited_to(&ONE, long, Path::new("x"), |_| Ok(7)).await, Ok(7), "the thread came back");
    }

    #[test]
    fn work_that_waits_for_a_thread_has_not_begun_and_never_does_when_nobody_waits() {
        // A pool of one thread, which somebody else has: as when all of tokio's are taken.
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let (go_on, wait) = mpsc::channel::<()>();
            let taken = tokio::task::spawn_blocking(move || wait.recv().unwrap());
            let (tell, told) = oneshot::channel::<()>();
            let queued = limited(SHORT, Path::new("/local/wifi.cab"), move |_| {
                tell.send(()).unwrap();
                Ok(())
            });
            let text = queued.await.unwrap_err().to_string();
            assert!(text.contains("no thread was free") && !text.contains("not answered"), "{text}");
            go_on.send(()).unwrap();
            taken.await.unwrap();
            told.await.unwrap_err();
        });
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_stops() {
        let (tell, told) = tokio::sync::oneshot::channel();
        let (begun, begins) = tokio::sync::oneshot::channel();
        let work = limited(Duration::from_secs(60), Path::new("x"), move |pace| {
            begun.send(()).unwrap();
            while pace.beat().is_ok() {}
            tell.send(()).unwrap();
            Ok(())
        });
        tokio::select! {
            biased;
            _ = work => panic!("it has no end of its own"),
            _ = begins => {}
        }
        told.await.unwrap();
    }

    #[cfg(unix)]
    #[tokio::test(start_paused = true)]
    async fn a_pipe_is_refused_and_one_that_is_opened_all_the_same_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("nic.cab");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        assert_eq!(Pace::default().open(&pipe).unwrap_err().kind(), ErrorKind::InvalidInput);
        let (path, waited) = (pipe.clone(), pipe.clone());
        let (begun, begins) = oneshot::channel();
        let opened = Waiting::for_end_of(async move {
            let open = move |_: &Pace| {
                begun.send(()).unwrap();
                File::open(&path).map_err(|error| super::super::disk("", &path, &error))
            };
            limited(SHORT, &waited, open).await.map(|_| ())
        });
        begins.await.unwrap();
        pass().await;
        let failure = opened.ended().await.unwrap_err();
        assert!(failure.to_string().contains("nic.cab"), "{failure}");
        // Lets the thread go: the runtime would wait for it.
        drop(File::options().write(true).open(&pipe).unwrap());
    }
}

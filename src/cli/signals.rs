//! Ctrl-C and SIGTERM: the first asks for an orderly stop, the second for an immediate one.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What a person, or the system, asked for.
#[derive(Debug)]
pub(super) struct Signals {
    /// Finish what is under way.
    pub(super) stop: CancellationToken,
    /// End at once.
    pub(super) now: CancellationToken,
    _listener: JoinSet<()>,
}

impl Signals {
    /// Listens from now on. Where the system lets nobody listen, the process simply ends at a signal.
    ///
    /// Everything is registered before this returns and stays so: a second signal right behind the first is not lost.
    pub(super) fn listen() -> Self {
        let (stop, now) = (CancellationToken::new(), CancellationToken::new());
        let mut listener = JoinSet::new();
        if let Ok(mut heard) = Heard::register() {
            let (first, second) = (stop.clone(), now.clone());
            listener.spawn(async move {
                heard.next().await;
                first.cancel();
                heard.next().await;
                second.cancel();
            });
        }
        Self { stop, now, _listener: listener }
    }
}

/// What is listened to.
#[cfg(unix)]
struct Heard {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Heard {
    fn register() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// # Cancel safety
    /// Cancel safe.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What is listened to.
#[cfg(windows)]
struct Heard(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Heard {
    fn register() -> std::io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    async fn next(&mut self) {
        self.0.recv().await;
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_right_behind_the_first_is_the_second() {
        let signals = Signals::listen();
        // Nothing of the listener has run yet when both are there.
        for name in ["-INT", "-TERM"] {
            let id = std::process::id().to_string();
            assert!(std::process::Command::new("kill").args([name, &id]).status().unwrap().success());
        }
        let within = std::time::Duration::from_secs(20);
        assert!(tokio::time::timeout(within, signals.stop.cancelled()).await.is_ok());
        assert!(tokio::time::timeout(within, signals.now.cancelled()).await.is_ok());
    }
}

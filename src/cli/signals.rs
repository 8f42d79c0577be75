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
    pub(super) fn listen() -> Self {
        let (stop, now) = (CancellationToken::new(), CancellationToken::new());
        let mut listener = JoinSet::new();
        let (first, second) = (stop.clone(), now.clone());
        listener.spawn(async move {
            if signal().await.is_err() {
                return;
            }
            first.cancel();
            if signal().await.is_ok() {
                second.cancel();
            }
        });
        Self { stop, now, _listener: listener }
    }
}

#[cfg(unix)]
async fn signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn signal() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}

//! What a process of this program is when it is no bench: somebody who is measured.

use std::{
    future::Future,
    io::{BufRead as _, Write as _},
};

use anyhow::{Result, bail};
use tokio::sync::mpsc;

use crate::{clients, plain, tokens};

/// Plays the role until it is over, or until nobody holds the other end.
pub(crate) async fn play(role: &str, told: &str) -> Result<()> {
    match role {
        "plain" => plain::play(serde_json::from_str(told)?).await,
        "clients" => clients::play(serde_json::from_str(told)?).await,
        "tokens" => tokens::play(serde_json::from_str(told)?).await,
        other => bail!("there is no role {other:?}"),
    }
}

/// What the process is told.
pub(crate) struct Told(mpsc::Receiver<String>);

impl Told {
    pub(crate) fn new() -> Self {
        let (lines, told) = mpsc::channel(16);
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if lines.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Self(told)
    }

    /// The next line; none when nobody will tell anything more.
    pub(crate) async fn line(&mut self) -> Option<String> {
        self.0.recv().await
    }

    /// Works until nobody holds the other end any more.
    pub(crate) async fn until_alone<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<()> {
        let alone = async { while self.line().await.is_some() {} };
        tokio::select! {
            ended = work => ended.map(|_| ()),
            () = alone => Ok(()),
        }
    }
}

/// Tells whoever holds the other end.
pub(crate) fn tell(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

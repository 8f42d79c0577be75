//! A link to a broker that is slow, or that carries nothing any more.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};

/// Carries bytes both ways, each a while after it came, until it is cut.
pub(crate) struct Slow {
    pub(crate) port: u16,
    gate: watch::Sender<bool>,
    _carrying: JoinSet<()>,
}

impl Slow {
    pub(crate) async fn to(port: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (gate, carried) = watch::channel(true);
        let mut carrying = JoinSet::new();
        carrying.spawn(async move {
            let mut links = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                links.spawn(carry(near_in, far_out, delay, carried.clone()));
                links.spawn(carry(far_in, near_out, delay, carried.clone()));
            }
        });
        Self { port: own, gate, _carrying: carrying }
    }

    /// Nothing comes through from now on, and nobody is told.
    pub(crate) fn freeze(&self) {
        self.gate.send_replace(false);
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration, mut gate: watch::Receiver<bool>) {
    let (came, mut goes) = mpsc::channel::<(Instant, Vec<u8>)>(10_000);
    let read = async {
        let mut bytes = vec![0; 65_536];
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            if came.send((Instant::now() + delay, bytes[..count].to_vec())).await.is_err() {
                return;
            }
        }
        drop(came);
    };
    let write = async {
        while let Some((due, bytes)) = goes.recv().await {
            tokio::time::sleep_until(due).await;
            if gate.wait_for(|gate| *gate).await.is_err() || to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    futures_util::future::join(read, write).await;
}

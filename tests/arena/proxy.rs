//! A TCP proxy before the broker: it cuts connections, stands still, and swallows what the broker says.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// What becomes of a connection's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// They go through.
    Open,
    /// What the broker says is swallowed; what the client says arrives.
    Deaf,
    /// Neither side hears the other, and neither is told: half open.
    Silent,
    /// What the client sends is not taken from it any more, until its buffers are full; what the broker says arrives.
    Stuck,
    /// Both sides are closed.
    Cut,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Broker,
}

type Ways = Arc<Mutex<Vec<watch::Sender<Way>>>>;

/// The proxy. Everything ends with it.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    ways: Ways,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free port, before the broker on this one.
    pub(super) async fn start(broker: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let ways = Ways::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, SocketAddr::from((Ipv4Addr::LOCALHOST, broker)), Arc::clone(&ways)));
        Ok(Self { port, ways, _tasks: tasks })
    }

    /// Connections that are there now; later ones are open.
    fn set(&self, way: Way) -> usize {
        let mut ways = lock(&self.ways);
        ways.retain(|one| !one.is_closed());
        for one in ways.iter() {
            one.send_replace(way);
        }
        ways.len()
    }

    /// Closes every connection: both sides see it at once.
    pub(crate) fn cut(&self) -> usize {
        self.set(Way::Cut)
    }

    /// From now on nobody hears the broker: what it confirms and gives out is lost on the way. Only a cut follows it.
    pub(crate) fn deafen(&self) -> usize {
        self.set(Way::Deaf)
    }

    /// Neither side hears the other any more, and neither is told.
    pub(crate) fn silence(&self) -> usize {
        self.set(Way::Silent)
    }

    /// Takes nothing from the clients any more.
    pub(crate) fn stick(&self) -> usize {
        self.set(Way::Stuck)
    }

    /// Goes on where [`Self::stick`] stopped.
    pub(crate) fn unstick(&self) -> usize {
        self.set(Way::Open)
    }
}

fn lock(ways: &Ways) -> MutexGuard<'_, Vec<watch::Sender<Way>>> {
    ways.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, broker: SocketAddr, ways: Ways) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        while connections.try_join_next().is_some() {}
        let (sender, way) = watch::channel(Way::Open);
        lock(&ways).push(sender);
        connections.spawn(async move {
            // A broker that is not there looks to the client like one that hangs up.
            if let Ok(server) = TcpStream::connect(broker).await {
                carry(client, server, way).await;
            }
        });
    }
}

async fn carry(client: TcpStream, server: TcpStream, way: watch::Receiver<Way>) {
    for socket in [&client, &server] {
        // Without it small frames wait for each other.
        socket.set_nodelay(true).ok();
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    // The end of one direction is the end of both.
    tokio::select! {
        () = pass(from_client, to_server, Side::Client, way.clone()) => {}
        () = pass(from_server, to_client, Side::Broker, way) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, side: Side, mut way: watch::Receiver<Way>) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let now = *way.borrow_and_update();
        let takes = !(now == Way::Stuck && side == Side::Client);
        let read = tokio::select! {
            biased;
            changed = way.changed() => match changed {
                Ok(()) if *way.borrow() == Way::Cut => return,
                Ok(()) => continue,
                Err(_) => return,
            },
            read = from.read(&mut buffer), if takes => read,
        };
        let count = read.unwrap_or(0);
        if count == 0 {
            // Half open: whoever goes is not missed until the cut.
            if now == Way::Silent {
                drop(way.wait_for(|way| *way == Way::Cut).await);
            }
            return;
        }
        let is_heard = match now {
            Way::Open | Way::Stuck => true,
            Way::Deaf => side == Side::Client,
            Way::Silent | Way::Cut => false,
        };
        let Some(bytes) = buffer.get(..count).filter(|_| is_heard) else { continue };
        let written = tokio::select! {
            biased;
            written = to.write_all(bytes) => written.is_ok(),
            _ = way.wait_for(|way| *way == Way::Cut) => false,
        };
        if !written {
            return;
        }
    }
}

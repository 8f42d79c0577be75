//! `GET /livez`, `/readyz` and `/metrics`: for probes and scrapers, on an address of the operator's choice.

use std::{io, net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{health::Health, metrics::Metrics};

/// How long open connections may keep the server from ending.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// The content type of the text format; scrapers refuse an unknown one.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4";

/// The server, bound but not yet answering.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    state: Served,
}

#[derive(Debug, Clone)]
struct Served {
    health: Health,
    metrics: Metrics,
}

impl Server {
    /// Binds to the address; port 0 lets the system pick one.
    ///
    /// # Errors
    /// The address is taken, or not ours.
    pub async fn bind(address: SocketAddr, health: Health, metrics: Metrics) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, state: Served { health, metrics } })
    }

    /// Where it answers.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` is cancelled, then ends open connections within two seconds.
    ///
    /// # Errors
    /// The system's, when the listener itself fails.
    pub async fn run(self, stop: CancellationToken) -> io::Result<()> {
        let routes = Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self.state);
        let serving = axum::serve(self.listener, routes).with_graceful_shutdown(stop.clone().cancelled_owned());
        let overdue = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_ANSWERS).await;
        };
        tokio::select! {
            biased;
            ended = serving => ended,
            () = overdue => Ok(()),
        }
    }
}

async fn livez(State(served): State<Served>) -> Response {
    probed(served.health.live(), "alive\n")
}

async fn readyz(State(served): State<Served>) -> Response {
    probed(served.health.ready(), "ready\n")
}

fn probed(answer: Result<(), String>, well: &'static str) -> Response {
    match answer {
        Ok(()) => well.into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn metrics(State(served): State<Served>) -> Response {
    served.metrics.text().map_or_else(
        |error| {
            tracing::error!(%error, "metrics cannot be encoded");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        },
        |text| ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
    )
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        task::JoinSet,
        time::timeout,
    };

    use super::*;
    use crate::telemetry::HomeSays;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_and_scrapers_are_answered_until_the_server_is_stopped() {
        let health = Health::default();
        let metrics = Metrics::new().unwrap();
        let server = Server::bind(([127, 0, 0, 1], 0).into(), health.clone(), metrics.clone()).await.unwrap();
        let address = server.address();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(server.run(stop.clone()));

        assert!(ask(address, "/livez").await.starts_with("HTTP/1.1 200 "));
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 503 "));
        health.set_taking(true);
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200 "));
        health.home(HomeSays::Ended("the writer has ended".to_owned()));
        assert!(ask(address, "/livez").await.starts_with("HTTP/1.1 503 "));
        assert!(ask(address, "/readyz").await.contains("the writer has ended"));
        metrics.ticket_parked();
        let answer = ask(address, "/metrics").await;
        assert!(answer.contains("content-type: text/plain; version=0.0.4\r\n"), "{answer}");
        assert!(answer.contains("longshore_tickets_parked_total 1\n"), "{answer}");
        assert!(ask(address, "/other").await.starts_with("HTTP/1.1 404 "));

        // a connection that says nothing does not keep it
        let _idle = TcpStream::connect(address).await.unwrap();
        stop.cancel();
        timeout(Duration::from_secs(10), tasks.join_next()).await.unwrap().unwrap().unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}

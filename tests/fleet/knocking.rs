//! A broker that is away is asked again and again, never so seldom that it is back for long before anybody comes.

use std::time::Duration;

use longshore::{
    clock,
    rabbitmq::{Options, Rabbit},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// So many in vain: a ladder that goes on to double, up to five seconds, would have taken half a minute for them.
const KNOCKS: u32 = 12;

#[tokio::test]
async fn a_broker_that_is_away_is_asked_again_at_least_every_second() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://guest:guest@{}/%2f", listener.local_addr().unwrap());
    let rabbit = Rabbit::new(Options { urls: vec![url.into()], ..Options::default() });
    let (stop, begun) = (CancellationToken::new(), clock::monotonic());
    let door = async {
        for _ in 0..KNOCKS {
            // Somebody is at the door, and it is shut again.
            drop(listener.accept().await.unwrap());
        }
        stop.cancel();
    };
    tokio::join!(rabbit.supervise(&stop), door);
    assert!(begun.elapsed() < Duration::from_secs(20), "{KNOCKS} tries took {:?}", begun.elapsed());
}

//! What a user may do at the broker, asked without doing it, and which broker it is.
//!
//! A passive declare tells no right: up to RabbitMQ 4.2 it needs none. So each right is asked for with a request that the
//! broker cannot carry out: it looks at the right first (403), and only then at what is wrong with the request (406).
//! Nothing is published, consumed, or made.

use std::time::Duration;

use lapin::{
    BasicProperties, Connection, ExchangeKind,
    options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions},
    types::{AMQPValue, FieldTable},
    uri::{AMQPScheme, AMQPUri},
};
use secrecy::ExposeSecret as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    Rabbit,
    topology::{self, Found},
};

/// More than any broker says of itself.
const MOST: usize = 64 << 10;

/// What a client says first.
const HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";

/// A request that is refused for what is wrong with it was allowed.
fn allowed<T>(told: Result<T, Found>) -> Found {
    match told {
        Ok(_) | Err(Found::Differs(_) | Found::Well) => Found::Well,
        Err(found @ (Found::Missing | Found::Forbidden)) => found,
    }
}

/// May the user publish there? `Well` when it may. Asked with a message whose life no broker can read.
///
/// # Errors
/// The connection is gone.
pub(super) async fn may_write(connection: &Connection, exchange: &str) -> Result<Found, lapin::Error> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let properties = BasicProperties::default().with_expiration("none".into());
    let published = async {
        let (exchange, key) = (exchange.into(), "longshore-asks".into());
        channel.basic_publish(exchange, key, BasicPublishOptions::default(), &[], properties).await?.await
    };
    let told = topology::sorted(published.await)?;
    topology::close(&channel).await;
    Ok(allowed(told))
}

/// May the user consume the queue? `Well` when it may. Asked with a priority that is no number.
///
/// # Errors
/// The connection is gone.
pub(super) async fn may_read(connection: &Connection, queue: &str) -> Result<Found, lapin::Error> {
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-priority".into(), AMQPValue::LongString("none".into()));
    let consumed = channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), arguments).await;
    let told = topology::sorted(consumed)?;
    topology::close(&channel).await;
    Ok(allowed(told))
}

/// May the user configure the exchange, a topic exchange that is there? `Well` when it may. It is declared as it is.
///
/// # Errors
/// The connection is gone.
pub(super) async fn may_configure(connection: &Connection, exchange: &str) -> Result<Found, lapin::Error> {
    let channel = connection.create_channel().await?;
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let declared = channel.exchange_declare(exchange.into(), ExchangeKind::Topic, options, FieldTable::default()).await;
    let told = topology::sorted(declared)?;
    topology::close(&channel).await;
    Ok(allowed(told))
}

impl Rabbit {
    /// The broker's version, as the first of the addresses greets with it before anybody signs in. None when it does not
    /// greet so, and over TLS, where it is not asked.
    pub async fn version(&self) -> Option<String> {
        let uri: AMQPUri = self.inner.options.urls.first()?.expose_secret().parse().ok()?;
        if uri.scheme != AMQPScheme::AMQP {
            return None;
        }
        let greeted = greeting(&uri.authority.host, uri.authority.port);
        let patience = self.inner.options.connect_timeout;
        let greeting = tokio::time::timeout(patience, greeted).await.ok()?.ok()?;
        version_in(&greeting)
    }
}

/// The first frame that the broker sends.
async fn greeting(host: &str, port: u16) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((host, port)).await?;
    stream.write_all(&HEADER).await?;
    let mut head = [0; 7];
    stream.read_exact(&mut head).await?;
    let [_, _, _, size @ ..] = head;
    let mut frame = vec![0; usize::try_from(u32::from_be_bytes(size)).unwrap_or(MOST).min(MOST)];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

/// The server's property `version`, a text: its name with one byte of length, `S`, four bytes of length, the text.
fn version_in(frame: &[u8]) -> Option<String> {
    const NAME: &[u8] = b"\x07versionS";
    let at = frame.windows(NAME.len()).position(|window| window == NAME)?;
    let (size, rest) = frame.get(at + NAME.len()..)?.split_first_chunk::<4>()?;
    let text = rest.get(..usize::try_from(u32::from_be_bytes(*size)).ok()?)?;
    let text = std::str::from_utf8(text).ok()?;
    let is_version = |text: &str| !text.is_empty() && text.len() < 40 && text.starts_with(|c: char| c.is_ascii_digit());
    is_version(text).then(|| text.to_owned())
}

/// How long one question of a right may take: an alarm stops every publisher.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_whole_or_not_at_all() {
        let frame =
            |text: &[u8], size: u8| [b"\x07productS\0\0\0\x08RabbitMQ\x07versionS\0\0\0", &[size][..], text].concat();
        assert_eq!(version_in(&frame(b"3.10.8rest", 6)).as_deref(), Some("3.10.8"));
        for odd in
            [frame(b"3.10", 6), frame(b"\xff\xfe", 2), frame(b"", 0), frame(b"beta", 4), b"\x07versionS\0".to_vec()]
        {
            assert_eq!(version_in(&odd), None);
        }
    }

    #[test]
    fn what_is_refused_for_its_own_sake_was_allowed() {
        let differs = Found::Differs("PRECONDITION_FAILED".to_owned());
        assert_eq!(allowed::<()>(Err(differs)), Found::Well);
        assert_eq!(allowed::<()>(Err(Found::Forbidden)), Found::Forbidden);
        assert_eq!(allowed::<()>(Err(Found::Missing)), Found::Missing);
    }
}

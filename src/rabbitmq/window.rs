//! The window of who looks into the dead letters: what lies there is taken page by page, until there is no more, or it is
//! too much: 10,000 letters, or 64 MiB of bodies.
//!
//! A prefetch counts messages and not bytes, so the broker would send gigabytes at once where somebody's messages are large.
//! Pages begin with one letter and grow with what is seen. Each has a consumer of its own, begun before the one before it is
//! cancelled: nobody else comes in between, and what was taken stays ours.

use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::{
    Channel, Consumer,
    message::Delivery,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::FieldTable,
};

use super::{
    Rabbit, arrived,
    letters::{Held, Letters, Route},
    message::{self, FORM},
    names::{Lane, Names},
    session::{down, told},
};
use crate::{
    domain::{
        dead_letter::DeadLetter,
        event::{Class, End},
        ids::{JobKey, Sha256},
        job,
        step::Kind,
        time::Moment,
    },
    engine::ports::Unavailable,
};

/// So many are looked at once at most: what lies behind them stays where it is.
const MOST: usize = 10_000;
/// So many bytes of bodies.
const MOST_BYTES: usize = 64 << 20;
/// So many are asked for at once.
const LONGEST_PAGE: usize = 2_000;

/// How long the next letter may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why nothing can be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else looks.
    #[error("somebody else is looking at {0}: only one at a time can")]
    Taken(String),
    /// The broker's user may not.
    #[error("the broker's user may not read {0}")]
    Forbidden(String),
    /// It is not there.
    #[error("there is no queue {0}")]
    Missing(String),
    /// The broker.
    #[error(transparent)]
    Down(#[from] Unavailable),
}

/// Where to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shelf {
    /// What was set aside.
    SetAside,
    /// What had no route.
    Unrouted,
}

/// How many letters the next page has: four times the one before, as many as still fit if all are as large as the largest so
/// far, and never more than are there; none when it is enough.
fn next_page(before: usize, taken: &Taken, there: usize) -> Option<u16> {
    let left = MOST.min(there).saturating_sub(taken.letters);
    let room = MOST_BYTES.checked_sub(taken.bytes).filter(|room| *room > 0)?;
    let fit = room / taken.largest.max(1);
    // One always fits: whoever looks must be able to throw away the largest.
    let page = before.saturating_mul(4).clamp(1, LONGEST_PAGE).min(fit.max(1)).min(left);
    u16::try_from(page).ok().filter(|page| *page > 0)
}

/// What has been taken so far.
#[derive(Debug, Default)]
struct Taken {
    letters: usize,
    bytes: usize,
    largest: usize,
}

impl Taken {
    fn note(&mut self, bytes: usize) {
        self.letters += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.largest = self.largest.max(bytes);
    }
}

impl Rabbit {
    /// Takes what lies on a shelf, the oldest first, as much of it as the window holds.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn letters(&self, from: Shelf) -> Result<Letters, Error> {
        let queue = match from {
            Shelf::SetAside => self.names().set_aside(),
            Shelf::Unrouted => self.names().unrouted(),
        };
        let connection = self.connection().await?;
        let failed = |error: lapin::Error| refusal(&error, &queue).unwrap_or_else(|| down(told(&error)).into());
        let channel = connection.create_channel().await.map_err(failed)?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let looked = channel.queue_declare(queue.as_str().into(), passive, FieldTable::default()).await;
        let looked = looked.map_err(failed)?;
        if looked.consumer_count() > 0 {
            return Err(Error::Taken(queue));
        }
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(failed)?;
        let there = usize::try_from(looked.message_count()).unwrap_or(usize::MAX);
        let (mut found, mut taken, mut page) = (Vec::new(), Taken::default(), 0);
        let mut consumer: Option<Consumer> = None;
        'pages: while let Some(size) = next_page(page, &taken, there) {
            let mut next = consume(&channel, &queue, (found.len(), size)).await.map_err(failed)?;
            if let Some(before) = consumer.take() {
                channel.basic_cancel(before.tag(), BasicCancelOptions::default()).await.map_err(failed)?;
            }
            for _ in 0..size {
                match tokio::time::timeout(PATIENCE, next.next()).await {
                    Ok(Some(Ok(delivery))) => {
                        taken.note(delivery.data.len());
                        found.push(held(delivery, from, self.names()));
                    }
                    Ok(Some(Err(error))) => return Err(failed(error)),
                    // Another was quicker between our look and our asking.
                    Ok(None) | Err(_) => break 'pages,
                }
            }
            page = usize::from(size);
            consumer = Some(next);
        }
        let has_more = there > found.len();
        Ok(Letters { connection, channel, found, bytes: taken.bytes, has_more, _consumer: consumer })
    }
}

/// Begins a page. When the connection ends the broker takes the pages back in the order of their consumers' tags (seen on
/// 3.10.8), so the tags are in that order, too; the letters of a page stay in theirs.
async fn consume(channel: &Channel, queue: &str, (number, most): (usize, u16)) -> Result<Consumer, lapin::Error> {
    channel.basic_qos(most, BasicQosOptions::default()).await?;
    let (tag, options) = (format!("page-{number:05}"), BasicConsumeOptions::default());
    channel.basic_consume(queue.into(), tag.as_str().into(), options, FieldTable::default()).await
}

/// Codes are matched, never words: those differ by version.
fn refusal(error: &lapin::Error, queue: &str) -> Option<Error> {
    let lapin::ErrorKind::ProtocolError(refusal) = error.kind() else { return None };
    match refusal.get_id() {
        403 => Some(Error::Forbidden(queue.to_owned())),
        404 => Some(Error::Missing(queue.to_owned())),
        _ => None,
    }
}

fn held(delivery: Delivery, shelf: Shelf, names: &Names) -> Held {
    let (exchange, key) = (delivery.exchange.to_string(), delivery.routing_key.to_string());
    // An alternate exchange leaves a message the exchange and the key that it was published with. What was set aside and had
    // no route came through `dead`, where no producer can write; anything else may be anybody's, and no header of it is
    // believed.
    let is_ours = shelf == Shelf::SetAside || (exchange == names.dead() && key == "set-aside");
    let header = |name: &str| message::header(&delivery, name).filter(|_| is_ours);
    let kind = header("longshore-kind").and_then(|kind| kind.parse().ok());
    let lane = header("longshore-lane").and_then(|name| Lane::ALL.into_iter().find(|lane| lane.name() == name));
    let user = if is_ours { header(message::PRODUCER) } else { message::producer(&delivery) };
    let route = if is_ours {
        Route::Lane(kind.unwrap_or(Kind::Submission), lane.unwrap_or(Lane::Return))
    } else {
        // The broker's own history says where it lay; only the broker writes with this key.
        let died_in = || names.lane_of(&message::death(&delivery)?.0);
        let broker_says = (exchange == names.dead() && key == "broker").then(died_in).flatten();
        broker_says
            .map_or_else(|| Route::of(names, exchange.clone(), key.clone()), |(kind, lane)| Route::Lane(kind, lane))
    };
    let at = header("longshore-fail-last").and_then(|at| at.parse::<jiff::Timestamp>().ok()).map(Moment::from);
    let at = at.or_else(|| message::published_at(&delivery)).unwrap_or_default();
    let told_cut = header(message::CUT).and_then(|length| length.parse().ok());
    let (form, class, fingerprint) =
        (header(FORM), header("longshore-fail-class"), header("longshore-fail-fingerprint"));
    let (job, told) = (header("longshore-job"), header("longshore-fail-message"));
    let trace = message::trace(&delivery);
    let (body, cut) = arrived::text(delivery.data, job::MOST_BYTES);
    let cut = told_cut.or(cut);
    let end: Option<End> = form.filter(|form| form == "end").and_then(|_| serde_json::from_str(&body).ok());
    let id = number(&body);
    let letter = match end {
        Some(end) => DeadLetter {
            id,
            job: Some(end.ticket.key()),
            at,
            class: end.class(),
            fingerprint: end.fingerprint(),
            message: end.message(),
            end: Some(end),
            body: None,
        },
        None => DeadLetter {
            id,
            job: job.and_then(|job| JobKey::parse(&job)),
            at,
            class: class.and_then(|class| serde_json::from_value(class.into()).ok()).unwrap_or(Class::Undecodable),
            fingerprint: fingerprint.unwrap_or_else(|| "unrouted".to_owned()),
            message: told.unwrap_or_else(|| format!("no queue is bound for {key:?} at {exchange}")),
            end: None,
            body: Some(body),
        },
    };
    Held { letter, route, user, cut, trace, acker: Some(delivery.acker) }
}

/// A number that stays the same however often the letter is looked at: forty-eight bits of its content's hash.
fn number(body: &str) -> u64 {
    Sha256::of(body.as_bytes()).as_bytes().iter().take(6).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rabbitmq::message::{Headers, properties};

    #[test]
    fn a_letter_keeps_its_number_and_another_has_another() {
        assert_eq!(number("{}"), number("{}"));
        assert_ne!(number("{}"), number("[]"));
        assert!(number("x") < 1 << 48);
    }

    /// Takes letters of these sizes page by page: how many pages, and what was taken.
    fn look(sizes: &[usize]) -> (usize, Taken) {
        let (mut taken, mut page, mut pages) = (Taken::default(), 0, 0);
        while let Some(size) = next_page(page, &taken, sizes.len()) {
            let begun = taken.letters;
            sizes.iter().skip(begun).take(usize::from(size)).for_each(|bytes| taken.note(*bytes));
            (page, pages) = (usize::from(size), pages + 1);
            assert!(pages < 100 && taken.letters > begun);
        }
        (pages, taken)
    }

    #[test]
    fn what_is_looked_at_is_bounded_by_number_and_by_bytes() {
        assert_eq!(look(&[]).1.letters, 0);
        assert_eq!(look(&[1 << 30]).1.letters, 1, "the largest can be thrown away, too");
        let (pages, small) = look(&vec![2_000; 20_000]);
        assert_eq!(small.letters, MOST);
        assert!(pages < 16, "{pages}");
        let (_, large) = look(&vec![1 << 20; 20_000]);
        assert_eq!(large.bytes, MOST_BYTES);
        let (_, huge) = look(&vec![128 << 20; 20_000]);
        assert_eq!(huge.letters, 1);
    }

    #[test]
    fn headers_of_what_had_no_route_are_believed_where_no_producer_can_write() {
        let names = Names::new("test");
        let letter = |exchange: &str, key: &str| {
            let headers = Headers::default()
                .with(FORM, "message")
                .with("longshore-kind", "upload")
                .with("longshore-lane", "bulk")
                .with("longshore-fail-class", "forbidden")
                .with(message::PRODUCER, "ann");
            let mut delivery = Delivery::mock(1, exchange.into(), key.into(), false, b"{}".to_vec());
            delivery.properties = properties("longshore.dead-letter", headers).with_user_id("mallory".into());
            held(delivery, Shelf::Unrouted, &names)
        };
        let ours = letter("test.dead.v1", "set-aside");
        assert_eq!((ours.letter.class, ours.user.as_deref()), (Class::Forbidden, Some("ann")));
        assert_eq!(ours.route, Route::Lane(Kind::Upload, Lane::Bulk));
        let theirs = letter("test.jobs.v1", "uploads");
        assert_eq!((theirs.letter.class, theirs.user.as_deref()), (Class::Undecodable, Some("mallory")));
        assert_eq!(theirs.route, Route::of(&names, "test.jobs.v1".to_owned(), "uploads".to_owned()));
        assert!(theirs.route.is_producers() && ours.route.is_producers());
        assert!(!letter("test.out.v1", "upload").route.is_producers());
    }
}

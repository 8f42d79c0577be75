//! The dead letters of whatever home there is, for a person who looks and decides.

use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use serde::Deserialize;

use super::{Fleet, settings};
use crate::{
    clock,
    domain::{
        dead_letter::{DeadLetter, DeadLetters},
        event::EndName,
        ids::{AccountName, JobKey},
        ticket::Ticket,
    },
    embedded::{self, Embedded, Replayed, State},
    engine::ports::{Memory as _, Unavailable},
    rabbitmq::{Letters, LettersError, Shelf},
};

/// Why a drawer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The home's file.
    #[error(transparent)]
    Home(#[from] embedded::Error),
    /// The broker's queue.
    #[error(transparent)]
    Letters(#[from] LettersError),
    /// Broker or memory.
    #[error(transparent)]
    Down(#[from] Unavailable),
}

/// So many jobs are asked about at once.
const LOOKS: usize = 32;

/// What of a message is read to know whose account it names.
#[derive(Deserialize)]
struct Named {
    account: Option<AccountName>,
}

/// Dead letters in somebody's hands.
#[derive(Debug)]
pub enum Drawer<'a> {
    /// Those of the file.
    File(&'a Embedded),
    /// Those of the broker: nobody else can look meanwhile.
    Fleet {
        /// The fleet.
        fleet: &'a Fleet,
        /// What lies there.
        letters: Box<Letters>,
    },
}

impl<'a> Drawer<'a> {
    /// Opens a fleet's drawer.
    ///
    /// # Errors
    /// [`Error::Letters`]: somebody else is looking, or our user may not.
    pub async fn of_fleet(fleet: &'a Fleet, shelf: Shelf) -> Result<Self, Error> {
        Ok(Self::Fleet { fleet, letters: Box::new(fleet.broker().letters(shelf).await?) })
    }

    /// The letters that pass the filter, newest first.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn list(&self, filter: DeadLetters) -> Result<Vec<DeadLetter>, Error> {
        Ok(match self {
            Self::File(home) => home.dead_letters(filter).await?,
            Self::Fleet { letters, .. } => {
                let limit = usize::try_from(filter.limit).unwrap_or(usize::MAX);
                let mut found: Vec<DeadLetter> =
                    letters.all().filter(|letter| filter.passes(letter)).cloned().collect();
                found.reverse();
                found.truncate(if limit == 0 { 100 } else { limit });
                found
            }
        })
    }

    /// The letter with this number.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn numbered(&self, id: u64) -> Result<Option<DeadLetter>, Error> {
        Ok(match self {
            Self::File(home) => home.dead_letter(id).await?,
            Self::Fleet { letters, .. } => letters.all().find(|letter| letter.id == id).cloned(),
        })
    }

    /// Are there more than could be looked at?
    #[must_use]
    pub fn has_more(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::Fleet { letters, .. } => letters.has_more,
        }
    }

    /// How much of a fleet's drawer was looked at: letters, and bytes of their bodies.
    #[must_use]
    pub fn looked_at(&self) -> (usize, usize) {
        match self {
            Self::File(_) => (0, 0),
            Self::Fleet { letters, .. } => (letters.all().count(), letters.bytes),
        }
    }

    /// Those of these letters whose job has been run again since: they say nothing that is still so. Where the memory does
    /// not know or not answer, a letter counts as it stands.
    pub async fn stale(&self, letters: &[DeadLetter]) -> BTreeSet<u64> {
        let Self::Fleet { fleet, .. } = self else { return BTreeSet::new() };
        let asked = letters.iter().filter_map(|letter| {
            let (id, ticket) = (letter.id, &letter.end.as_ref()?.ticket);
            Some((id, ticket.key(), ticket.place.generation))
        });
        let asked: Vec<(u64, JobKey, u32)> = asked.collect();
        let looks = asked.into_iter().map(|(id, job, generation)| async move {
            let loaded = fleet.memory().load(&job).await.ok()?;
            (loaded.known()?.place.generation > generation).then_some(id)
        });
        futures_util::stream::iter(looks).buffer_unordered(LOOKS).filter_map(std::future::ready).collect().await
    }

    /// Why we may not vouch for a producer's message; none when we may, or when nobody has to.
    ///
    /// What its own producer was allowed to hand in, every user of a fleet's own may hand in again; and what we handed in
    /// ourselves. For anybody else's only
    /// those vouch who are listed for its account, or are operators by name.
    #[must_use]
    pub fn may_not_vouch(&self, letter: &DeadLetter) -> Option<String> {
        let Self::Fleet { fleet, letters } = self else { return None };
        if !letters.is_producers(letter.id) {
            return None;
        }
        let named = |body: &str| serde_json::from_str::<Named>(body).ok()?.account;
        let account = named(letter.body.as_deref()?)?;
        if letters.user(letter.id).is_some_and(|user| fleet.user().as_deref() == Some(user)) {
            return None;
        }
        let producers = settings::engine(&fleet.loaded.settings).admission.producers;
        let theirs = producers.refuse(&account, letters.user(letter.id))?;
        let ours = producers.refuse(&account, fleet.user().as_deref())?;
        Some(format!("{theirs}. To vouch for it: {ours}"))
    }

    /// The letters in this drawer that a ticket speaks for, being of its job and earlier: they are thrown away.
    ///
    /// # Errors
    /// [`Error`]: some of them may lie there still, and are recognised as stale.
    pub async fn settle_others(&mut self, ticket: &Ticket) -> Result<usize, Error> {
        Ok(match self {
            Self::File(_) => 0,
            Self::Fleet { letters, .. } => letters.settle_others(ticket).await?,
        })
    }

    /// Throws a letter away for good.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn discard(&mut self, id: u64) -> Result<bool, Error> {
        Ok(match self {
            Self::File(home) => home.discard(id).await?,
            Self::Fleet { letters, .. } => letters.discard(id).await?,
        })
    }

    /// Runs a letter again: its job one generation later, as `edit` leaves it, or the message as it was.
    ///
    /// # Errors
    /// [`Error`]: the job may go on, and the letter lie there still; replayed once more it is the same generation.
    pub async fn replay(
        &mut self,
        letter: &DeadLetter,
        edit: impl FnOnce(&mut Ticket) + Send + 'static,
    ) -> Result<Replayed, Error> {
        let (fleet, letters) = match self {
            Self::File(home) => return Ok(home.replay_letter(letter.id, edit).await?),
            Self::Fleet { fleet, letters } => (fleet, letters),
        };
        let Some(end) = &letter.end else {
            let is_sent = letters.send_again(letter.id, fleet.broker()).await?;
            return Ok(if is_sent { Replayed::Message } else { Replayed::Unknown });
        };
        // What memory knows decides whether there is anything to run again, and which generation is the next.
        let loaded = fleet.memory().load(&end.ticket.key()).await?;
        let known = loaded.known();
        let generation = known.map_or(0, |record| record.place.generation);
        if let Some(record) = known.filter(|_| generation >= end.ticket.place.generation) {
            match &record.end {
                Some(end) if end.name == EndName::Completed => return Ok(Replayed::Completed),
                Some(_) => {}
                None => return Ok(Replayed::NotEnded(State::Running)),
            }
        }
        let mut ticket = end.ticket.as_ref().clone().retried(generation, clock::moment());
        edit(&mut ticket);
        let is_sent = letters.go_on(letter.id, &ticket, fleet.broker()).await?;
        Ok(if is_sent { Replayed::Ticket(Box::new(ticket)) } else { Replayed::Unknown })
    }

    /// Lets go of what was not acted on.
    pub async fn close(self) {
        match self {
            Self::File(_) => {}
            Self::Fleet { letters, .. } => letters.close().await,
        }
    }
}

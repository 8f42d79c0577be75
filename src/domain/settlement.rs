//! How a step's end is written down: one value in, the writes in their order out.
//!
//! Where broker and memory are apart, `engine::settle` performs these writes one by one, each confirmed; the embedded home
//! performs them as one transaction. Both ask [`resolve`] what they are.

use super::{
    claim::{self, Claimant, Denied, Finished, Loaded, Outcome},
    event::{End, Event},
    plan::JobRecord,
    ticket::{StepResult, Ticket},
};

/// What a handler wants written at the end of its turn with a delivery.
#[derive(Debug, Clone, PartialEq)]
pub struct Settlement {
    /// The ticket as it was received: what goes back, marked, when the claim is lost.
    pub received: Option<Box<Ticket>>,
    /// The claim that speaks; none when the delivery was never claimed.
    pub claimant: Option<Claimant>,
    /// What to write into the record.
    pub entry: Entry,
    /// What to announce, in order. An end announces itself.
    pub events: Vec<Event>,
    /// What goes to the broker before the delivery is settled.
    pub next: Next,
}

/// What to write into the record.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// Nothing.
    Nothing,
    /// What a call or a look has shown.
    Outcome(Outcome<StepResult>),
    /// Nothing but that the claim is over: the same place was parked.
    LetGo,
    /// Nothing now; afterwards the claim is let go if it still holds and memory answers.
    LetGoIfHeld,
    /// The handler panicked: the claim counts as lost.
    Panicked,
    /// The end of this generation, with what finished its last step.
    End {
        /// The end.
        end: Box<End>,
        /// What finished the step; none when the job ends without it.
        result: Option<Box<Finished<StepResult>>>,
    },
    /// The end stands already: announce it again.
    EndAgain {
        /// The recorded end.
        end: Box<End>,
        /// Set its ticket aside again.
        set_aside: bool,
    },
}

/// What goes to the broker before the delivery is settled.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Nothing: the ticket was stale, or the job has ended.
    Nothing,
    /// A ticket of a later place, or the same place parked; its `due` says when.
    Ticket(Box<Ticket>),
    /// A message that is handed on byte for byte: a ticket of tomorrow, a wish on its way.
    Raw {
        /// The text.
        body: String,
        /// Not to be touched before.
        due: super::time::Moment,
    },
    /// To the dead letters without a job's end: a message that never became a job.
    SetAside(Box<SetAside>),
}

/// A message in the dead letters.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SetAside {
    /// The job, when the message told.
    pub job: Option<super::ids::JobKey>,
    /// The class of reason.
    pub class: super::event::Class,
    /// What it is counted by: class, step and normalised error.
    pub fingerprint: String,
    /// One plain sentence.
    pub message: String,
    /// The trace that the message belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<super::trace::Trace>,
    /// The message as it came.
    pub body: String,
}

/// The writes of a settlement, in their order: record, events, next, settle the delivery, let go.
#[derive(Debug, Clone, PartialEq)]
pub struct Writes {
    /// The record to write first.
    pub record: Option<JobRecord>,
    /// To announce.
    pub events: Vec<Event>,
    /// The dead letter of an end.
    pub set_aside: Option<Box<End>>,
    /// To the broker.
    pub next: Next,
    /// After the delivery was settled: write this record, which lets go.
    pub release: Option<JobRecord>,
    /// The claim was lost: nothing was announced, and the own ticket went back, marked.
    pub is_lost: bool,
}

/// Works out the writes of a settlement on what memory holds now.
#[must_use]
pub fn resolve(loaded: &Loaded<StepResult, End>, settlement: &Settlement) -> Writes {
    match try_resolve(loaded, settlement) {
        Ok(writes) => writes,
        Err(Denied::NotHolder | Denied::InDoubt) => lost(settlement),
    }
}

/// A worker that is no longer the holder publishes nothing but its own ticket, marked suspect.
fn lost(settlement: &Settlement) -> Writes {
    let next =
        settlement.received.clone().map_or(Next::Nothing, |ticket| Next::Ticket(Box::new(ticket.suspected(true))));
    Writes { record: None, events: Vec::new(), set_aside: None, next, release: None, is_lost: true }
}

fn try_resolve(loaded: &Loaded<StepResult, End>, settlement: &Settlement) -> Result<Writes, Denied> {
    let mut writes = Writes {
        record: None,
        events: settlement.events.clone(),
        set_aside: None,
        next: settlement.next.clone(),
        release: None,
        is_lost: false,
    };
    let holder = settlement.claimant.ok_or(Denied::NotHolder);
    match &settlement.entry {
        Entry::Nothing => {}
        Entry::Outcome(outcome) => writes.record = Some(claim::record(loaded, holder?, outcome.clone())?),
        // Letting go is the last write: the place must be in the broker first.
        Entry::LetGo => writes.release = Some(claim::let_go(loaded, holder?)?),
        Entry::LetGoIfHeld => writes.release = holder.and_then(|holder| claim::let_go(loaded, holder)).ok(),
        Entry::Panicked => writes.release = Some(claim::panicked(loaded, holder?)?),
        Entry::End { end, result } => {
            let mut loaded = loaded.clone();
            if let Some(result) = result {
                loaded.record = Some(claim::record(&loaded, holder?, Outcome::Finished((**result).clone()))?);
            }
            let (record, first) = claim::end(&loaded, holder?, (**end).clone())?;
            writes.record = Some(record);
            announce(&mut writes, first, true);
        }
        Entry::EndAgain { end, set_aside } => announce(&mut writes, (**end).clone(), *set_aside),
    }
    Ok(writes)
}

fn announce(writes: &mut Writes, end: End, set_aside: bool) {
    writes.events.push(end.event());
    writes.set_aside = (set_aside && end.is_set_aside()).then(|| Box::new(end));
}

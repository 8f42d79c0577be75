//! Reads what was received: a job at its first place, or a ticket that a worker handed on. Never the one for the other.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ports::{Origin, Received};
use crate::domain::{
    ids::{JobId, JobKey},
    job::{Job, Work},
    json,
    step::{Place, Step},
    ticket::{Ticket, VERSION},
    time::Moment,
};

/// What a message is.
#[derive(Debug)]
pub enum Message {
    /// A job's ticket whose step we know.
    Ticket(Box<Taken>),
    /// A wish on its way into a record.
    Control(ControlTicket),
    /// A ticket of tomorrow: handed on byte for byte.
    Newer,
    /// Not to be read.
    Unreadable {
        /// The job, when the message tells.
        job: Option<JobKey>,
        /// What is wrong with it.
        problem: String,
    },
}

/// A ticket and what it asks for.
#[derive(Debug, Clone)]
pub struct Taken {
    /// The ticket.
    pub ticket: Ticket,
    /// Its work, decoded.
    pub work: Work,
    /// Its step.
    pub step: Step,
}

/// A wish that travels by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlTicket {
    /// Marks the form; a job's ticket has no such member.
    pub control: Control,
    /// Whose wish.
    pub job: JobKey,
    /// Which generation; none for the first it meets.
    pub generation: Option<u32>,
    /// When it gives up.
    pub until: Moment,
}

/// What is wished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    /// Cancel the job.
    Cancel,
}

/// Reads a message. `now` is the acceptance of a producer's job that carries no time.
pub fn read<D>(received: &Received<D>, now: Moment) -> Message {
    match received.origin {
        Origin::Producer => read_job(received, now),
        Origin::Accepted => match read_ticket(&received.body) {
            Message::Ticket(taken) if taken.ticket.place != Place::FIRST => Message::Unreadable {
                job: Some(taken.ticket.key()),
                problem: format!("a new job stands at {}, not at its first place", taken.ticket.place),
            },
            message @ (Message::Ticket(_) | Message::Control(_) | Message::Newer | Message::Unreadable { .. }) => {
                message
            }
        },
        Origin::Return => read_ticket(&received.body),
    }
}

fn read_job<D>(received: &Received<D>, now: Moment) -> Message {
    let id = || received.message_id.as_deref().and_then(|id| JobId::parse(id).ok());
    match Job::decode(received.body.as_bytes(), id) {
        Ok(job) => {
            let hash = job.content_hash();
            let accepted_at = received.published_at.unwrap_or(now).min(now);
            let trace = received.trace.clone();
            taken(Ticket { trace, ..Ticket::new(job, hash, received.producer.clone(), accepted_at) })
        }
        Err(mistake) => Message::Unreadable { job: None, problem: mistake.to_string() },
    }
}

fn read_ticket(body: &str) -> Message {
    let unreadable = |problem: String| Message::Unreadable { job: None, problem };
    let value: Value = match serde_json::from_str(body) {
        Ok(value) => value,
        Err(error) => return unreadable(format!("not JSON: {error}")),
    };
    if value.get("control").is_some() {
        return match json::decode("", value) {
            Ok(control) => Message::Control(control),
            Err(mistake) => unreadable(mistake.to_string()),
        };
    }
    if value.get("version").and_then(Value::as_u64).is_some_and(|version| version > u64::from(VERSION)) {
        return Message::Newer;
    }
    match json::decode::<Ticket>("", value) {
        Ok(ticket) => taken(ticket),
        Err(mistake) => unreadable(mistake.to_string()),
    }
}

fn taken(ticket: Ticket) -> Message {
    let Some(step) = ticket.step() else { return Message::Newer };
    match ticket.job.work() {
        Ok(work) => Message::Ticket(Box::new(Taken { ticket, work, step })),
        Err(mistake) => Message::Unreadable { job: Some(ticket.key()), problem: mistake.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = r#"{"id":"a","kind":"status-poll","account":"contoso",
        "spec":{"product":{"id":"1"},"submission":{"id":"2"}}}"#;

    fn received(origin: Origin, body: &str) -> Received<()> {
        let body = body.to_owned();
        Received {
            delivery: (),
            origin,
            body,
            is_redelivered: false,
            is_spent: false,
            producer: None,
            message_id: None,
            published_at: None,
            trace: None,
        }
    }

    #[test]
    fn a_producer_cannot_forge_progress_and_a_job_on_a_return_lane_is_no_ticket() {
        let Message::Ticket(taken) = read(&received(Origin::Producer, JOB), Moment::from_millis(5)) else { panic!() };
        assert_eq!(taken.ticket.place, Place::FIRST);
        let ticket = serde_json::to_string(&taken.ticket.clone().at_step(Step::Poll)).unwrap();
        assert!(matches!(read(&received(Origin::Producer, &ticket), Moment::default()), Message::Unreadable { .. }));
        assert!(matches!(read(&received(Origin::Accepted, &ticket), Moment::default()), Message::Unreadable { .. }));
        assert!(matches!(read(&received(Origin::Return, JOB), Moment::default()), Message::Unreadable { .. }));
        assert!(matches!(read(&received(Origin::Return, &ticket), Moment::default()), Message::Ticket(_)));
    }

    #[test]
    fn a_ticket_of_tomorrow_is_kept_and_its_unknown_members_are_handed_on() {
        let Message::Ticket(taken) = read(&received(Origin::Producer, JOB), Moment::default()) else { panic!() };
        let mut value = serde_json::to_value(&taken.ticket).unwrap();
        value["of_tomorrow"] = Value::from(7);
        let Message::Ticket(again) = read(&received(Origin::Return, &value.to_string()), Moment::default()) else {
            panic!()
        };
        assert_eq!(serde_json::to_value(&again.ticket).unwrap(), value);
        value["version"] = Value::from(2);
        assert!(matches!(read(&received(Origin::Return, &value.to_string()), Moment::default()), Message::Newer));
    }
}

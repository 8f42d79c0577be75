//! `longshore doctor --try-write`: may the account write? Asked with a write that can change nothing.
//!
//! The write is the commit of a submission that does not exist. Who lacks the role "Driver Submitter" is answered 403, who
//! has it 404 (contract/hardware-api.md, sections 2.3 and 15.2). In which order the service looks at role and number is not
//! documented. So a 404 makes the role probable and no more: a service that looks for the submission first gives it to
//! anybody. And the same number is read first: when already the read is refused, the 403 of the write proves nothing.

use super::{context::Reached, doctor, exit::Exit, finding::Finding};
use crate::{
    app::desk::DeskError,
    domain::{
        failure::{Failure, Kind},
        ids::{AccountName, ProductId, SubmissionId},
        service::{Answer, Request},
    },
};

/// Real numbers have 16 digits and more.
const NOBODYS: u64 = 1;

/// Tries it, with two calls.
pub(super) async fn run(home: &Reached, name: &AccountName) -> Finding {
    let mut desk = match home.desk(name.clone()) {
        Ok(desk) => desk,
        Err(error) => return failed(name, &error),
    };
    let (product, submission) = (ProductId::new(NOBODYS), SubmissionId::new(NOBODYS));
    let read = desk.call(&Request::GetSubmission { product, submission }).await;
    let written = desk.call(&Request::Commit { product, submission }).await;
    match (Heard::of(&read), Heard::of(&written)) {
        (_, Heard::Unknown) => Finding::open(
            "roles",
            format!(
                "{name}: may probably create and commit (the service answered 404, not 403, to a commit of what does not exist)"
            ),
        ),
        (Heard::Unknown, Heard::Forbidden) => Finding::bad(
            "roles",
            Exit::NotAllowed,
            format!("{name}: may read but neither create nor commit"),
            doctor::give_role(home.parts(), name),
        ),
        (_, Heard::Forbidden) => Finding::open(
            "roles",
            format!("{name}: may create (cannot be told: what does not exist is refused to reads, too)"),
        ),
        (_, Heard::Else) => match written {
            Err(error) => failed(name, &error),
            Ok(_) => {
                Finding::open("roles", format!("{name}: may create (cannot be told: the service took the commit)"))
            }
        },
    }
}

/// What an answer tells.
enum Heard {
    Unknown,
    Forbidden,
    Else,
}

impl Heard {
    fn of(answer: &Result<Answer, DeskError>) -> Self {
        match answer {
            Err(DeskError::Call(Failure::Permanent(cause))) if cause.kind == Kind::NotFound => Self::Unknown,
            Err(DeskError::Call(Failure::Permanent(cause))) if cause.kind == Kind::Forbidden => Self::Forbidden,
            Ok(_) | Err(_) => Self::Else,
        }
    }
}

fn failed(name: &AccountName, error: &DeskError) -> Finding {
    doctor::unanswered(&format!("{name}: may create"), error, "longshore doctor --try-write")
}

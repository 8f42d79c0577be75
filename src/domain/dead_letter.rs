//! What is set aside for a person: tickets of jobs that ended other than completed, and messages that never were jobs.

use super::{
    event::{Class, End},
    ids::{AccountName, JobKey},
    ticket::Note,
    time::Moment,
};

/// One dead letter.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// Its number.
    pub id: u64,
    /// The job, when the message told.
    pub job: Option<JobKey>,
    /// When it was set aside.
    pub at: Moment,
    /// The class of reason.
    pub class: Class,
    /// What it is counted by.
    pub fingerprint: String,
    /// One plain sentence.
    pub message: String,
    /// How the job ended, ticket included; none for a message that never became a job.
    pub end: Option<End>,
    /// The message as it came, when it never became a job.
    pub body: Option<String>,
}

/// Which dead letters to list.
#[derive(Debug, Clone, Default)]
pub struct DeadLetters {
    /// Only of this class.
    pub class: Option<Class>,
    /// Only of this account.
    pub account: Option<AccountName>,
    /// Only of this job.
    pub job: Option<JobKey>,
    /// Only with a number below this one, of an earlier page.
    pub before: Option<u64>,
    /// At most so many; 0 for 100.
    pub limit: u32,
}

impl DeadLetters {
    /// Does this letter pass? Pages and limits are the home's.
    #[must_use]
    pub fn passes(&self, letter: &DeadLetter) -> bool {
        let is_of = |account: &AccountName| letter.job.as_ref().is_some_and(|job| job.account == *account);
        self.class.is_none_or(|class| class == letter.class)
            && self.account.as_ref().is_none_or(is_of)
            && self.job.as_ref().is_none_or(|job| letter.job.as_ref() == Some(job))
    }
}

impl End {
    /// The class of its reason.
    #[must_use]
    pub fn class(&self) -> Class {
        self.reason.as_ref().map_or(Class::Internal, |reason| reason.class)
    }

    /// Class, step and the error's own code: what equal dead letters have in common.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let (class, reason) = (self.class(), self.reason.as_ref());
        let step = reason.and_then(|reason| reason.step).or(self.ticket.step()).map_or("none", |step| step.name());
        let cause = reason.and_then(|reason| reason.cause.as_ref());
        let code = cause.and_then(|cause| cause.api_code.clone());
        let kind = || cause.and_then(|cause| serde_json::to_value(cause.kind).ok()?.as_str().map(str::to_owned));
        match code.or_else(kind) {
            Some(code) => format!("{class}/{step}/{code}"),
            None => format!("{class}/{step}"),
        }
    }

    /// Since when the step that it ended at has failed, as far as its history remembers.
    #[must_use]
    pub fn failing_since(&self) -> Moment {
        let at = self.ticket.place;
        let is_here = |note: &&Note| (note.place.generation, note.place.step) == (at.generation, at.step);
        self.ticket.history.iter().find(is_here).map_or(self.at, |note| note.at)
    }

    /// Why it ended, in one sentence.
    #[must_use]
    pub fn message(&self) -> String {
        self.reason.as_ref().map_or_else(|| self.name.to_string(), |reason| reason.message.clone())
    }
}

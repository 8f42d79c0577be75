//! Admission: who may hand in a job for whom, how large it may be, and what a new job is given before anything keeps it.
//!
//! Asked at the first place only. What stands further on has been admitted: its ticket was made by a worker, and producers
//! cannot write where tickets travel.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    intake::{Message, Taken},
    ports::{Origin, Packages, Received, Unavailable},
};
use crate::domain::{event::Class, ids::AccountName, job, step::Place};

/// What is asked of a new job.
#[derive(Debug, Clone)]
pub struct Admission {
    /// Who may name which account.
    pub producers: Producers,
    /// Must a file that a job names come with its SHA-256? Where producer and worker are different machines, it must.
    pub needs_hash: bool,
    /// The largest message, in bytes.
    pub max_size: usize,
    /// The time of a job that names no deadline.
    pub deadline: Duration,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            producers: Producers::Anybody,
            needs_hash: false,
            max_size: job::MOST_BYTES,
            deadline: job::DEFAULT_DEADLINE,
        }
    }
}

/// Who may name which account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Producers {
    /// Whoever reaches the home: its file has the user's own rights.
    #[default]
    Anybody,
    /// Users whose names the broker has verified.
    Listed {
        /// These may name every account.
        operators: BTreeSet<String>,
        /// These the account; `*`: anybody, named or not.
        of: BTreeMap<AccountName, BTreeSet<String>>,
    },
}

impl Producers {
    /// Why this producer may not name the account; none when it may, or when nobody here knows the account yet.
    #[must_use]
    pub fn refuse(&self, account: &AccountName, producer: Option<&str>) -> Option<String> {
        let Self::Listed { operators, of } = self else { return None };
        let own = of.get(account)?;
        let may = own.contains("*") || producer.is_some_and(|name| operators.contains(name) || own.contains(name));
        if may {
            return None;
        }
        Some(match producer {
            Some(name) => format!(
                "the broker's user {name:?} may not name account {account}: add it to accounts.{account}.producers, or to \
                 security.operators"
            ),
            None => format!(
                "the message carries no user-id, so nobody knows who handed it in: set it to the name of the connection's \
                 user, which the broker verifies, or set accounts.{account}.producers to [\"*\"]"
            ),
        })
    }
}

impl Admission {
    /// Why this message is too large to be read; none when it is not.
    #[must_use]
    pub fn measure<D>(&self, received: &Received<D>) -> Option<Message> {
        let length = received.body.len();
        if received.origin != Origin::Producer || length <= self.max_size {
            return None;
        }
        let most = self.max_size;
        let problem =
            format!("the job has {length} bytes, at most {most} are accepted: name large things by reference");
        Some(Message::Unreadable { job: None, problem })
    }

    /// Why the job may not be; none when it may.
    #[must_use]
    pub fn refuse(&self, taken: &Taken) -> Option<(Class, String)> {
        let ticket = &taken.ticket;
        if ticket.place != Place::FIRST {
            return None;
        }
        if let Some(problem) = self.producers.refuse(&ticket.job.account, ticket.producer.as_deref()) {
            return Some((Class::NotAllowed, problem));
        }
        let package = taken.work.package.as_ref().filter(|_| self.needs_hash)?;
        (package.sha256.is_none() && package.source.starts_with("file:")).then(|| {
            let problem = "spec.package.sha256: missing; in a fleet a file: source is named with its SHA-256, since the file \
                           that its worker sees may be another one";
            (Class::Source, problem.to_owned())
        })
    }

    /// Gives a producer's job what the command line gives those it stores: a deadline, and a seal on what is secret in it.
    ///
    /// # Errors
    /// [`Unavailable`] when it cannot be sealed: then it must not be kept.
    pub fn complete(&self, taken: &mut Taken, packages: &impl Packages) -> Result<(), Unavailable> {
        if taken.ticket.job.deadline.is_none() {
            taken.ticket.deadline = taken.ticket.accepted_at.after(self.deadline);
        }
        packages.seal(&mut taken.ticket.job)?;
        if let Ok(work) = taken.ticket.job.work() {
            taken.work = work;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> AccountName {
        AccountName::parse(name).unwrap()
    }

    fn listed() -> Producers {
        let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        Producers::Listed {
            operators: of(&["console"]),
            of: BTreeMap::from([
                (account("contoso"), of(&["build"])),
                (account("open"), of(&["*"])),
                (account("closed"), of(&[])),
            ]),
        }
    }

    #[test]
    fn a_producer_names_the_accounts_it_is_listed_for_and_an_operator_names_all() {
        for (name, producer, may) in [
            ("contoso", Some("build"), true),
            ("contoso", Some("console"), true),
            ("contoso", Some("release"), false),
            ("contoso", Some("*"), false),
            ("contoso", None, false),
            ("closed", Some("build"), false),
            ("closed", Some("console"), true),
            ("open", Some("release"), true),
            ("open", None, true),
            // Nobody here knows it: it waits, and is asked about again.
            ("tomorrow", None, true),
        ] {
            assert_eq!(listed().refuse(&account(name), producer).is_none(), may, "{name} {producer:?}");
            assert_eq!(Producers::Anybody.refuse(&account(name), producer), None);
        }
        let words = listed().refuse(&account("contoso"), None).unwrap();
        assert!(words.contains("user-id") && words.contains("accounts.contoso.producers"), "{words}");
    }
}

//! How a command ends without a result: a problem in the user's words, and the exit code that scripts see.

use super::{
    exit::Exit,
    output::{Closed, Problem},
};
use crate::{
    app::{self, desk::DeskError, drawer, views},
    clock, config,
    domain::{
        failure::{Cause, Failure, Kind},
        ids::CorrelationId,
    },
    embedded,
    engine::ports::{SignIn, Unavailable},
    rabbitmq::LettersError,
};

/// The end of a command that got so far.
pub(super) type Outcome = Result<Exit, Stop>;

/// Why a command ends early.
#[derive(Debug)]
pub(super) struct Stop {
    /// The code.
    pub(super) exit: Exit,
    /// What to say; none when nobody listens any more.
    pub(super) problem: Option<Box<Problem>>,
}

impl Stop {
    pub(super) fn new(exit: Exit, problem: Problem) -> Self {
        Self { exit, problem: Some(Box::new(problem)) }
    }

    /// Something wrong in what the user gave.
    pub(super) fn input(problem: Problem) -> Self {
        Self::new(Exit::Input, problem)
    }

    /// Our own files fail.
    pub(super) fn local(summary: impl Into<String>) -> Self {
        let next = "check room, owner and permissions of what is named, then try again";
        Self::new(Exit::LocalIo, Problem::new(summary).next(next))
    }

    /// A mistake of this program.
    pub(super) fn internal(summary: impl Into<String>) -> Self {
        let next = "report this with what you typed; jobs that were accepted are safe in the home's file";
        Self::new(Exit::Internal, Problem::new(summary).next(next))
    }
}

impl From<Closed> for Stop {
    fn from(closed: Closed) -> Self {
        let (exit, is_told) = closed.exit();
        let problem = is_told.then(|| Box::new(Problem::new(closed.to_string()).next("send the output elsewhere")));
        Self { exit, problem }
    }
}

impl From<config::Mistakes> for Stop {
    fn from(mistakes: config::Mistakes) -> Self {
        Self::input(Problem::from(&mistakes))
    }
}

impl From<embedded::Error> for Stop {
    fn from(error: embedded::Error) -> Self {
        let problem = Problem::new("the home's file cannot be used").what(error.to_string());
        Self::new(Exit::LocalIo, problem.next("longshore doctor"))
    }
}

impl From<app::Error> for Stop {
    fn from(error: app::Error) -> Self {
        match error {
            app::Error::Home(error) => error.into(),
            app::Error::Keys(error) => {
                let problem = Problem::new("a sealing key cannot be used").what(error.to_string());
                let next = "make one with: openssl rand -base64 32 > key; then name it in [security] keys";
                Self::input(problem.next(next))
            }
            app::Error::Http(error) => {
                let mut problem = Problem::new("no connection can be set up").what(error.to_string());
                if let Some(source) = std::error::Error::source(&error) {
                    problem = problem.what(source.to_string());
                }
                Self::input(problem.next("mend [http] in the configuration, or HTTPS_PROXY and NO_PROXY"))
            }
            app::Error::Sources(failure) => failure.into(),
            error @ (app::Error::NotEmbedded | app::Error::NotFleet) => {
                let problem = Problem::new("the configuration names another home").what(error.to_string());
                Self::input(problem.next("longshore config show"))
            }
            error @ (app::Error::Servers(_)
            | app::Error::Redis(_)
            | app::Error::Management(_)
            | app::Error::Reference(_)
            | app::Error::Certificate { .. }
            | app::Error::User(_)) => {
                let problem = Problem::new("the fleet's servers cannot be reached so").what(error.to_string());
                Self::input(problem.next("mend [home], [rabbitmq] or [redis]; see docs/FLEET.md"))
            }
            app::Error::Metrics(why) => Self::internal(why),
        }
    }
}

impl From<views::Error> for Stop {
    fn from(error: views::Error) -> Self {
        match error {
            views::Error::Home(error) => error.into(),
            views::Error::Down(down) => down.into(),
        }
    }
}

impl From<drawer::Error> for Stop {
    fn from(error: drawer::Error) -> Self {
        let told = error.to_string();
        let problem = Problem::new("the dead letters cannot be looked at").what(told);
        match error {
            drawer::Error::Home(error) => error.into(),
            drawer::Error::Down(down) | drawer::Error::Letters(LettersError::Down(down)) => down.into(),
            drawer::Error::Letters(LettersError::Taken(_)) => {
                Self::new(Exit::WrongState, problem.next("try again when the other command has ended"))
            }
            drawer::Error::Letters(LettersError::Forbidden(_)) => {
                Self::new(Exit::NotAllowed, problem.next("grant the user read on it; see docs/FLEET.md"))
            }
            drawer::Error::Letters(LettersError::Missing(_)) => {
                Self::new(Exit::NotFound, problem.next("longshore topology declare"))
            }
        }
    }
}

impl From<Unavailable> for Stop {
    fn from(down: Unavailable) -> Self {
        let problem = Problem::new(format!("the {} cannot be used", down.what)).what(down.why);
        Self::new(Exit::Unavailable, problem.next("look at it, and at [home] in the configuration; then try again"))
    }
}

impl From<SignIn> for Stop {
    fn from(error: SignIn) -> Self {
        match error {
            SignIn::Refused { message, next, .. } => {
                Self::new(Exit::SignIn, Problem::new("sign-in is refused").what(message).next(next))
            }
            SignIn::Throttled { message, again } => {
                let problem = Problem::new("the token endpoint asks for a pause").what(message);
                let next = format!("try again in {}", super::output::duration(again));
                Self::new(Exit::RateLimited, problem.next(next))
            }
            SignIn::Later { message, again } => {
                let problem = Problem::new("there is no token for the moment").what(message);
                let next = format!("try again in {}", super::output::duration(again));
                Self::new(Exit::Unavailable, problem.next(next))
            }
        }
    }
}

impl From<DeskError> for Stop {
    fn from(error: DeskError) -> Self {
        match error {
            DeskError::SignIn(error) => error.into(),
            DeskError::Call(failure) => failure.into(),
            DeskError::RateUsedUp { .. } => {
                let problem = Problem::new("the account's rate is used up").what(error.to_string());
                Self::new(Exit::RateLimited, problem.next("try again later; longshore doctor says what the rate means"))
            }
            DeskError::Home(error) => error.into(),
        }
    }
}

impl Stop {
    /// A read for a person that failed, with what names it to Microsoft's support.
    pub(super) fn of_read(error: DeskError, correlation: CorrelationId) -> Self {
        let is_call = matches!(error, DeskError::Call(_));
        let mut stop = Self::from(error);
        if is_call && let Some(problem) = &mut stop.problem {
            let more = problem.trace.take().map(|more| format!(", {more}")).unwrap_or_default();
            problem.trace =
                Some(format!("correlation id {}{more}, {}", correlation.0, clock::now().strftime("%F %T UTC")));
        }
        stop
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        let cause = failure.cause();
        let exit = exit_of(&failure, cause);
        let mut problem = Problem::new(summary(exit)).what(cause.message.clone());
        if let Some(next) = next(exit) {
            problem = problem.next(next);
        }
        if let Some(id) = &cause.service_request_id {
            problem = problem.trace(format!("service request id {id}"));
        }
        Self::new(exit, problem)
    }
}

fn exit_of(failure: &Failure, cause: &Cause) -> Exit {
    if matches!(failure, Failure::Throttled(_)) {
        return Exit::RateLimited;
    }
    match cause.kind {
        Kind::Throttled => Exit::RateLimited,
        Kind::Unauthorized => Exit::SignIn,
        Kind::Forbidden => Exit::NotAllowed,
        Kind::NotFound => Exit::NotFound,
        Kind::ServerError | Kind::Timeout | Kind::Disconnected | Kind::NotSent | Kind::RetryLater | Kind::BadAnswer => {
            Exit::Unavailable
        }
        Kind::AlreadyDone | Kind::Rejected | Kind::Changed => Exit::Rejected,
        Kind::SasExpired | Kind::Transfer => Exit::Transfer,
        Kind::Source | Kind::Sink | Kind::Preflight => Exit::Input,
        Kind::Verification => Exit::NotVerified,
        Kind::LocalIo => Exit::LocalIo,
        Kind::Internal => Exit::Internal,
    }
}

const fn summary(exit: Exit) -> &'static str {
    match exit {
        Exit::RateLimited => "Partner Center asks for a pause",
        Exit::SignIn => "Partner Center does not take the token",
        Exit::NotAllowed => "Partner Center does not allow this",
        Exit::NotFound => "Partner Center knows no such thing",
        Exit::Unavailable => "Partner Center gives no usable answer",
        Exit::Rejected => "Partner Center refused the request",
        Exit::Transfer => "the transfer failed",
        Exit::Input => "this cannot be accepted",
        Exit::NotVerified => "the signed package is not what was submitted",
        Exit::LocalIo => "a file of this machine fails",
        Exit::Done
        | Exit::SomeFailed
        | Exit::WrongState
        | Exit::WorkflowFailed
        | Exit::TimedOut
        | Exit::Cancelled
        | Exit::Internal => "this is a mistake of longshore",
    }
}

const fn next(exit: Exit) -> Option<&'static str> {
    match exit {
        Exit::RateLimited => Some("wait a few minutes; longshore doctor says what the account's rate means"),
        Exit::SignIn => Some("longshore auth test"),
        Exit::NotAllowed => Some("give the application its role in Partner Center (Users, Azure AD applications)"),
        Exit::NotFound => Some("check the ids with: longshore product list"),
        Exit::Unavailable | Exit::Transfer => Some("check network and proxy with: longshore doctor; then try again"),
        Exit::LocalIo => Some("check room, owner and permissions of the file, then try again"),
        Exit::Input => Some("mend what is named, then try again"),
        Exit::Done
        | Exit::SomeFailed
        | Exit::WrongState
        | Exit::Rejected
        | Exit::WorkflowFailed
        | Exit::TimedOut
        | Exit::NotVerified
        | Exit::Cancelled
        | Exit::Internal => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_throttle_of_the_token_endpoint_ends_as_every_throttle() {
        let again = Duration::from_secs(30);
        let throttled = SignIn::Throttled { message: "sign-in throttled for 30 s".to_owned(), again };
        assert_eq!(Stop::from(DeskError::SignIn(throttled)).exit, Exit::RateLimited);
        let down = SignIn::Later { message: "503".to_owned(), again };
        assert_eq!(Stop::from(DeskError::SignIn(down)).exit, Exit::Unavailable);
    }
}

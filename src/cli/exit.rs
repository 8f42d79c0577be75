//! Exit codes, stable: scripts branch on them.

use std::process::ExitCode;

/// How a command ended, by its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Some items failed.
    SomeFailed = 1,
    /// Everything wrong in what the user gave: usage, input, packages, preflight's refusals.
    Input = 2,
    /// Sign-in was refused.
    SignIn = 3,
    /// Not allowed, a 403 of the service included.
    NotAllowed = 4,
    /// Not found.
    NotFound = 5,
    /// In the wrong state for this.
    WrongState = 6,
    /// Rate limited past the deadline.
    RateLimited = 7,
    /// Rejected by the service.
    Rejected = 8,
    /// The workflow failed.
    WorkflowFailed = 9,
    /// A transfer failed.
    Transfer = 10,
    /// Our own files failed.
    LocalIo = 11,
    /// Timed out, still running.
    TimedOut = 12,
    /// The service was unavailable past the deadline.
    Unavailable = 13,
    /// The result did not verify.
    NotVerified = 14,
    /// Cancelled.
    Cancelled = 20,
    /// A mistake of this program.
    Internal = 70,
}

impl Exit {
    /// Every code.
    pub const ALL: [Self; 17] = [
        Self::Done,
        Self::SomeFailed,
        Self::Input,
        Self::SignIn,
        Self::NotAllowed,
        Self::NotFound,
        Self::WrongState,
        Self::RateLimited,
        Self::Rejected,
        Self::WorkflowFailed,
        Self::Transfer,
        Self::LocalIo,
        Self::TimedOut,
        Self::Unavailable,
        Self::NotVerified,
        Self::Cancelled,
        Self::Internal,
    ];

    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What it says, in words.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::SomeFailed => "some items failed",
            Self::Input => "usage or input",
            Self::SignIn => "sign-in refused",
            Self::NotAllowed => "not allowed",
            Self::NotFound => "not found",
            Self::WrongState => "wrong state",
            Self::RateLimited => "rate limited past the deadline",
            Self::Rejected => "rejected by the service",
            Self::WorkflowFailed => "workflow failed",
            Self::Transfer => "transfer failed",
            Self::LocalIo => "local files failed",
            Self::TimedOut => "timed out, still running",
            Self::Unavailable => "service unavailable past the deadline",
            Self::NotVerified => "result did not verify",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal error",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_that_scripts_know() {
        let list: Vec<String> = Exit::ALL.iter().map(|exit| format!("{} {}", exit.code(), exit.meaning())).collect();
        insta::assert_snapshot!(list.join("\n"));
    }
}

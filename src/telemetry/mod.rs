//! What is told about the running program: log lines on stderr, metrics and health over HTTP.
//!
//! Nothing secret passes: whatever looks like a signature, a token or a password is replaced at the sink, as the last
//! guard behind types that do not show their secrets. Labels of metrics are closed sets, never an id.

mod fleet;
mod health;
mod log;
mod metrics;
mod redact;
mod server;

pub use self::{
    fleet::{BrokerSession, Decider, FleetMetrics, GateCause, Lookup, MemoryCall, Publish},
    health::{Health, HomeSays},
    log::{Line, Lines, Looks, StartError, start, visible},
    metrics::{CallClass, ClaimOutcome, Direction, LookOutcome, Metrics, TokenOutcome, WaitCause},
    redact::redact,
    server::Server,
};

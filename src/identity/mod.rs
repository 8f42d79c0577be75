//! Who speaks to Microsoft: credentials, the token endpoint, and the cache that makes tokens few.
//!
//! Promises: a token is asked for once per life and fleet where a store is shared; a refusal is not repeated for a
//! minute; a throttle is honoured for its whole length; no secret and no token is ever shown. Tokens are opaque.
//! Source of every fact: contract/identity.md.

mod advice;
pub mod cache;
pub mod credential;
pub mod endpoint;
mod response;
mod settings;
mod shelf;

pub use self::{
    cache::{Cache, Clock, ProcessOnly, SignIn, StoreFailed, SystemClock, TokenStore},
    credential::{Algorithm, Certificate, Credential},
    endpoint::{EndpointVersion, Identity, Refusal, Remembered, SignInError, Token, TokenEndpoint, TokenVersion},
    settings::Settings,
};

/// Reads these bytes as every answer of the token endpoint: what a fuzzer holds the decoders to.
#[cfg(fuzzing)]
pub fn read_anything(body: &[u8]) {
    response::read_anything(body);
}

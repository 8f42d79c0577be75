//! Longshore carries an organisation's traffic with Microsoft Partner Center: each job to its end, exactly once in
//! effect, within the account's rate limit.
//!
//! ```text
//! broker ─► intake ─► claim ─► plan ─► quota ─► identity ─► begin ─► partner_center ─► record ─► events ─► broker
//!           decode    (pure)  (pure)   permit    token      (pure)      call           (pure)   publish   next ticket
//!              └───────────────────── settle the delivery last, with proof; then let go ◄──────────────────┘
//! ```
//!
//! Arrows point inward: adapters know [`domain`], `domain` knows nobody, and only [`app`] knows them all.

pub mod domain;
pub mod engine;

pub mod embedded;
pub mod fleet;
pub mod rabbitmq;
pub mod redis;

pub mod identity;
pub mod partner_center;

pub mod http;
pub mod seal;

pub mod package;
pub mod transfer;

pub mod sandbox;

pub mod config;
pub mod telemetry;

pub mod app;
pub mod cli;

pub mod clock;

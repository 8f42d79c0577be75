//! The engine: receives tickets, carries out their steps through [`ports`], and settles each delivery last, with proof.
//!
//! [`worker`] is the story on one screen; `claimed` holds what a handler may do while its claim stands, `call` what
//! stands between it and the service, `gates` what this process knows of its pauses, `look` how a doubt is resolved, `steps` what each step does, `conclude` what
//! is written at its end, and [`settle`] the order of those writes where broker and memory are apart.

pub mod admission;
pub mod crash;
pub mod ports;
pub mod settings;

mod call;
mod claimed;
mod conclude;
pub mod drain;
mod gates;
pub mod intake;
pub mod lesson;
mod look;
pub mod settle;
mod steps;
pub mod tally;
pub mod worker;

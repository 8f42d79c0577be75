//! The engine: receives tickets, carries out their steps through [`ports`], and settles each delivery last, with proof.

pub mod ports;

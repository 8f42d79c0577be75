//! The scripts, with what they share put before them.

use redis::Script;

const BIRTH: &str = include_str!("lua/birth.lua");

/// Every script, hashed once.
#[derive(Debug)]
pub(super) struct Scripts {
    pub load: Script,
    pub swap: Script,
    pub born_clean: Script,
    pub turn: Script,
    pub own: Script,
    pub waits: Script,
    pub listing: Script,
    pub listed: Script,
    pub quota: Script,
    pub lease: Script,
    pub shown: Script,
    pub list: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let on_birth = |body: &str| Script::new(&format!("{BIRTH}\n{body}"));
        Self {
            load: on_birth(include_str!("lua/load.lua")),
            swap: on_birth(include_str!("lua/swap.lua")),
            born_clean: on_birth(include_str!("lua/born_clean.lua")),
            turn: on_birth(include_str!("lua/turn.lua")),
            waits: on_birth(include_str!("lua/waits.lua")),
            own: Script::new(include_str!("lua/own.lua")),
            listing: on_birth(include_str!("lua/listing.lua")),
            listed: on_birth(include_str!("lua/listed.lua")),
            quota: Script::new(include_str!("lua/quota.lua")),
            shown: on_birth(include_str!("lua/shown.lua")),
            list: on_birth(include_str!("lua/list.lua")),
            lease: Script::new(include_str!("lua/lease.lua")),
        }
    }
}

//! The ticket decoder: any bytes are a ticket or none; a ticket that is handed on reads as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore::domain::ticket::Ticket;

fuzz_target!(|body: &[u8]| {
    if let Ok(ticket) = serde_json::from_slice::<Ticket>(body) {
        let text = serde_json::to_vec(&ticket).expect("a ticket can be written");
        assert_eq!(serde_json::from_slice::<Ticket>(&text).expect("what we write we read"), ticket);
    }
});

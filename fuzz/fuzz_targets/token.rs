//! Answers of the token endpoint.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| longshore::identity::read_anything(body));

//! Answers and refusals of the hardware API.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| longshore::partner_center::hardware::read_anything(body));

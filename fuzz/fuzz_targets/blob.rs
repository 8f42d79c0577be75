//! Block lists and errors of blob storage.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore::transfer::block_list;

fuzz_target!(|xml: &str| {
    let _list = block_list::read(xml);
    let _code = block_list::error_code(xml);
});

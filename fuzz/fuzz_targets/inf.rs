//! INF files in every encoding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore::package::inf::Inf;

fuzz_target!(|bytes: &[u8]| {
    let inf = Inf::read(bytes);
    let _all = (inf.architectures(), inf.class(), inf.provider(), inf.driver_version(), inf.catalog_file());
});

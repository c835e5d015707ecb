//! libFuzzer calls `forebay::fuzz::scan`; `scripts/fuzz.sh scan` runs it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| forebay::fuzz::scan::run(data));

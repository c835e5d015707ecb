//! libFuzzer calls `forebay::fuzz::batch`; `scripts/fuzz.sh batch` runs it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| forebay::fuzz::batch::run(data));

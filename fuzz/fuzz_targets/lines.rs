//! libFuzzer calls `forebay::fuzz::lines`; `scripts/fuzz.sh lines` runs it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| forebay::fuzz::lines::run(data));

//! libFuzzer calls `forebay::fuzz::ring`; `scripts/fuzz.sh ring` runs it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| forebay::fuzz::ring::run(data));

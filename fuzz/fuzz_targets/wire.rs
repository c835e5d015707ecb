//! libFuzzer calls `forebay::fuzz::wire`; `scripts/fuzz.sh wire` runs it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| forebay::fuzz::wire::run(data));

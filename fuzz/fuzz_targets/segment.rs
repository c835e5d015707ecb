//! libFuzzer calls `forebay::fuzz::segment`; `scripts/fuzz.sh segment` runs it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| forebay::fuzz::segment::run(data));

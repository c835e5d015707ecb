//! libFuzzer calls `forebay::fuzz::manifest`; `scripts/fuzz.sh manifest` runs it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| forebay::fuzz::manifest::run(data));

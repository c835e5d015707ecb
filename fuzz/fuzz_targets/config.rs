//! libFuzzer calls `forebay::fuzz::config`; `scripts/fuzz.sh config` runs it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| forebay::fuzz::config::run(data));

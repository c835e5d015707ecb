#!/usr/bin/env bash
# Runs the tests of the files with `unsafe` under AddressSanitizer, with the compiler's own runtime and on any
# toolchain: buffers, the intake ring over mapped files and over the heap, io_uring, and whole engines on both.
# The standard library is not instrumented. Arguments go to the tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
# Sanitizers are an unstable flag: this makes a stable compiler take it.
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address"
# Buffers of threads that live as long as the process are no leaks worth a failure.
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=0:detect_stack_use_after_return=1}"
cargo="cargo test --locked --no-default-features --features sim --target $host --target-dir target/sanitize"
$cargo --lib -- io::buf:: io::uring:: io::pwrite:: shard::claim:: shard::intake:: shard::ring "$@"
$cargo --test disks --test engine -- "$@"

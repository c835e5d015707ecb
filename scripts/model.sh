#!/bin/sh
# Runs the intake ring and the waiters under the model checker: random interleavings of writers,
# shard and sleepers, and every planted bug. The checker needs its own build of the crate.
set -eu
cd "$(dirname "$0")/.."
RUSTFLAGS="--cfg forebay_model" exec cargo test --no-default-features --lib --target-dir target/model "$@" -- shard::model

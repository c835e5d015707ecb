#!/usr/bin/env bash
# Runs the tests of the files with `unsafe` under miri: aligned buffers, and the intake ring over a region on
# the heap (miri maps no files and has no io_uring; `scripts/sanitize.sh` runs those parts). Needs a nightly
# toolchain with the component miri.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! cargo +nightly miri --version >/dev/null 2>&1; then
    echo "NOTHING WAS CHECKED: there is no miri here. To get it:" >&2
    echo "    rustup toolchain install nightly --component miri,rust-src" >&2
    exit 1
fi
# Clocks and threads' names are the machine's; the crate's own waiting is tested too.
MIRIFLAGS="${MIRIFLAGS:-} -Zmiri-disable-isolation" exec cargo +nightly miri test --locked --no-default-features --lib \
    --target-dir target/miri -- io::buf:: shard::claim:: shard::intake:: shard::ring:: "$@"

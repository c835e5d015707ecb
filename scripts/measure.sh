#!/usr/bin/env bash
# The measurements behind the README's figures: what each setting costs, against a plain file, in one
# interleaved run per block size. Writes the runs as JSON lines; see results/README.md.
#
#   scripts/measure.sh OUT.jsonl [FOLDER-ON-THE-DISK-TO-MEASURE]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: scripts/measure.sh OUT.jsonl [FOLDER]}
folder=${2:-target/measure}
mkdir -p "$folder"
FOREBAY_COMMIT=$(git rev-parse --short HEAD)
export FOREBAY_COMMIT
cargo build --release --bin load-test
: > "$out"
run() {
    echo "load-test $*" >&2
    target/release/load-test --dir "$folder/store" --json - --warmup 1 "$@" >> "$out"
}
# Long enough that levels (1) and (2, 3000) move at least 20 times the rings' bytes.
run --block-bytes 128 --seconds 8 --repeat 3 --baseline
run --block-bytes 4096 --seconds 3 --repeat 3 --baseline
run --block-bytes 65536 --seconds 3 --repeat 3 --baseline
# The drops are smaller than what one run differs from the next: more repeats, and nothing in between.
run --block-bytes 128 --seconds 6 --repeat 8
run --block-bytes 4096 --seconds 3 --repeat 8
run --block-bytes 65536 --seconds 3 --repeat 8
run --block-bytes 4096 --writers 1 --seconds 2 --repeat 3 --wal-level 2 --wal-fsync-period 0 --baseline
run --block-bytes 4096 --seconds 3 --repeat 3 --wal-level 2 --wal-fsync-period 100

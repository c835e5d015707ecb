#!/usr/bin/env bash
# The measurements of the whole path, up to data files: rows a second, how evenly, memory, what a store
# costs the acknowledgement, sizes against pyarrow and DuckDB's time. Appends JSON lines to OUT; see
# results/README.md. FOREBAY_PYTHON names a Python with the packages of scripts/requirements.txt.
#
#   scripts/measure-store.sh OUT.jsonl [FOLDER-ON-THE-DISK-TO-MEASURE]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: scripts/measure-store.sh OUT.jsonl [FOLDER]}
folder=${2:-target/measure}
python=${FOREBAY_PYTHON:-python3}
mkdir -p "$folder"
FOREBAY_COMMIT=$(git rev-parse --short HEAD)
export FOREBAY_COMMIT
cargo build --release --bin load-test --bin forebay
: > "$out"
run() {
    echo "load-test $*" >&2
    target/release/load-test --dir "$folder/store" --json - --wal-level 2 --wal-fsync-period 0 --rows-per-block 1000 "$@" \
        | tee -a "$out" | cut -c 1-200 >&2
    sleep 5
}
# As fast as it goes: a minute, and the rest at the close.
for _ in 1 2 3; do
    run --store parquet --seconds 60 --repeat 1
done
# The same rate with and without data files, in turn.
for _ in 1 2 3; do
    run --store none --rate 400/s --seconds 20 --repeat 1
    run --store parquet --rate 400/s --seconds 20 --repeat 1
done
# Files of a run, as flushes left them and merged.
run --store parquet --seconds 20 --repeat 1 --keep
store=$folder/store
data=$store/data/load-test/meters
"$python" scripts/compare-files.py "$data" --by location --avg current | tee -a "$out" >&2
target/release/forebay merge --dir "$store" --json >&2
"$python" scripts/compare-files.py "$data" --by location --avg current | tee -a "$out" >&2
rm -rf "$store"

#!/usr/bin/env bash
# Fuzzes with libFuzzer, on stable Rust: scripts/fuzz.sh [TARGET...] [--seconds N]
# Without names every target runs, each for N seconds (default 60). Needs a C++ compiler beside Rust.
# What is found interesting stays in target/fuzz/corpus. Exit 1: something was found; the lines below
# "finding" repeat it, the second without libFuzzer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=60
targets=()
while [[ $# -gt 0 ]]; do
    case $1 in
        --seconds) seconds=${2:?--seconds needs a number}; shift ;;
        -*) echo "$0: no option '$1'; usage: $0 [TARGET...] [--seconds N]" >&2; exit 2 ;;
        *) targets+=("$1") ;;
    esac
    shift
done
all=()
for program in fuzz/fuzz_targets/*.rs; do
    all+=("$(basename "$program" .rs)")
done
[[ ${#targets[@]} -gt 0 ]] || targets=("${all[@]}")
for target in "${targets[@]}"; do
    [[ -e fuzz/fuzz_targets/$target.rs ]] || { echo "$0: no target '$target'; there are: ${all[*]}" >&2; exit 2; }
done

# Coverage as libFuzzer reads it: what cargo-fuzz sets, without its need for a nightly compiler. An explicit
# target keeps the flags away from build scripts.
host=$(rustc -vV | sed -n 's/^host: //p')
flags="--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1"
for flag in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=" -Cllvm-args=-sanitizer-coverage-$flag"
done
built=target/fuzz
RUSTFLAGS="$flags" cargo build --locked --quiet --release --manifest-path fuzz/Cargo.toml --target "$host" \
    --target-dir "$built"

mkdir -p "$built/findings"
findings=0
printf '%-10s %12s %9s %8s %9s  %s\n' target executions exec/s corpus coverage findings
for target in "${targets[@]}"; do
    program=$built/$host/release/$target
    corpus=$built/corpus/$target
    log=$built/$target.log
    mkdir -p "$corpus"
    folders=("$corpus")
    if [[ -d fuzz/corpus/$target ]]; then
        folders+=("fuzz/corpus/$target")
    fi
    status=0
    "$program" -max_total_time="$seconds" -max_len=4096 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$built/findings/$target-" "${folders[@]}" >"$log" 2>&1 || status=$?
    stat() { sed -n "s/^stat::$1: *//p" "$log"; }
    coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
    printf '%-10s %12s %9s %8s %9s  %s\n' "$target" "$(stat number_of_executed_units)" \
        "$(stat average_exec_per_sec)" "$(find "$corpus" -type f | wc -l)" "${coverage:--}" $((status != 0))
    if [[ $status -ne 0 ]]; then
        findings=1
        file=$(sed -n 's/.*Test unit written to //p' "$log" | tail -1)
        grep -m 1 -A 1 'panicked at\|ERROR: libFuzzer' "$log" | sed 's/^/    /' || true
        echo "    finding, exit code $status; all of its output: $log"
        echo "    $program $file"
        echo "    FOREBAY_FUZZ_ONLY=$target:$file cargo test --features sim --test fuzz_smoke $target"
    fi
done
exit $findings

#!/usr/bin/env bash
# Forebay against its peers, in one run on one disk: the packages of benches/peers, and what Debian has (RocksDB,
# Redis, PostgreSQL, fio), in turn, repeat by repeat. Appends JSON lines to OUT, and prints tables of medians and
# ratios. benches/peers/README.md says what is asked of each. Nothing is installed without --install; what is
# missing is skipped, which OUT then says too.
#
#   scripts/peers.sh OUT.jsonl [--dir FOLDER-ON-THE-DISK-TO-MEASURE] [--install] [--repeat N] [--writers N]
#       [--block-bytes N,N] [--sync none,each] [--seconds S] [--warmup S] [--engines A,B] [--systems A,B]
set -euo pipefail
cd "$(dirname "$0")/.."
usage() {
    sed -n '2,/^set/{s/^# \{0,1\}//p}' "$0" >&2
    exit 2
}
packages=(rocksdb-tools redis-server redis-tools postgresql-15 fio)

[[ $# -gt 0 && $1 != -* ]] || usage
out=$1
shift
folder=target/peers repeat=3 install=no
both=() engines=() systems=()
while [[ $# -gt 0 ]]; do
    case $1 in
    --install) install=yes; shift; continue ;;
    --dir | --repeat | --writers | --block-bytes | --sync | --seconds | --warmup | --engines | --systems)
        [[ $# -ge 2 ]] || usage ;;&
    --dir) folder=$2 ;;
    --repeat) repeat=$2 ;;
    --writers | --block-bytes | --sync | --seconds | --warmup) both+=("$1" "$2") ;;
    --engines) engines=("$1" "$2") ;;
    --systems) systems=("$1" "$2") ;;
    *) usage ;;
    esac
    shift 2
done

if [[ $install == yes ]]; then
    as_root=()
    [[ $EUID -eq 0 ]] || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq
    # Their own services would share the machine with the figures: Debian asks this file before it starts one.
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod +x "$policy"
        trap '"${as_root[@]}" rm -f "$policy"' EXIT
    fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-upgrade --no-install-recommends "${packages[@]}"
    [[ -z $(trap -p EXIT) ]] || { "${as_root[@]}" rm -f "$policy"; trap - EXIT; }
fi

FOREBAY_COMMIT=$(git rev-parse --short HEAD)
export FOREBAY_COMMIT
cargo build --release --locked --manifest-path benches/peers/Cargo.toml
peers=benches/peers/target/release/peers
mkdir -p "$(dirname "$out")"
if [[ ! -e $folder ]]; then
    mkdir -p "$folder"
    trap 'rmdir "$folder"' EXIT
fi
env=$("$peers" --env --dir "$folder")
seed=$(date +%s%N)
status=0
for ((round = 1; round <= repeat; round++)); do
    common=(--repeat 1 --first-repeat "$round" --seed "$((seed + round))" --dir "$folder" --json "$out" "${both[@]}")
    # A run that fails has a line that says so; the others go on.
    in_process=("$peers" "${common[@]}" "${engines[@]}")
    others=(python3 benches/peers/systems.py --env "$env" "${common[@]}" "${systems[@]}")
    if ((round % 2)); then
        "${in_process[@]}" || status=1
        "${others[@]}" || status=1
    else
        "${others[@]}" || status=1
        "${in_process[@]}" || status=1
    fi
done
python3 benches/peers/summary.py "$out"
exit "$status"

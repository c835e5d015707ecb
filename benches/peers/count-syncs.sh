#!/usr/bin/env bash
# Proves that in sync mode `each` every acknowledgement waited for a sync: one writer, so that none can be shared,
# and strace, which counts the calls that sync. Fails where there are fewer than blocks. Forebay writes with
# threads here: strace sees nothing of what io_uring does.
#
#   benches/peers/count-syncs.sh FOLDER-ON-A-DISK [ENGINE...]
set -euo pipefail
folder=$(realpath "${1:?usage: benches/peers/count-syncs.sh FOLDER [ENGINE...]}")
shift
cd "$(dirname "$0")"
peers=target/release/peers
[[ -x $peers ]] || cargo build --release --locked
if [[ $# -eq 0 ]]; then
    set -- forebay file file-group okaywal raft-engine raft-engine-plain walrus walrus-mmap walrus-group fjall fjall-group
fi
blocks=200
scratch=$(mktemp -d "$folder/syncs-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
status=0
printf '%-18s %7s %7s %10s %6s %10s\n' engine blocks fsync fdatasync msync dsync-write
for engine; do
    mkdir "$scratch/run"
    # It kills itself as the last block is acknowledged, which the shell would remark on.
    { WALRUS_DATA_DIR=$scratch/run WALRUS_QUIET=1 strace -f -qq -o "$scratch/trace" \
        -e trace=fsync,fdatasync,msync,pwritev2 \
        "$peers" --child write --engines "$engine" --sync each --block-bytes 128 --writers 1 --blocks "$blocks" \
        --visible --dir "$scratch/run" >"$scratch/acked"; } 2>"$scratch/stderr" || [[ $? -eq 137 ]]
    if ! grep -q "\"acked_blocks\":$blocks" "$scratch/acked"; then
        echo "$engine: not all blocks were acknowledged: $(<"$scratch/stderr")" >&2
        exit 1
    fi
    count() { grep -cE "$1" "$scratch/trace" || true; }
    fsync=$(count ' fsync\(') fdatasync=$(count ' fdatasync\(') msync=$(count ' msync\(') dsync=$(count 'pwritev2\(.*RWF_DSYNC')
    printf '%-18s %7d %7d %10d %6d %10d\n' "$engine" "$blocks" "$fsync" "$fdatasync" "$msync" "$dsync"
    # Opening syncs too: the sum would prove less.
    if ((fsync < blocks && fdatasync < blocks && msync < blocks && dsync < blocks)); then
        echo "$engine: fewer syncs of each kind than blocks" >&2
        status=1
    fi
    rm -rf "$scratch/run" "$scratch/trace"
done
exit "$status"

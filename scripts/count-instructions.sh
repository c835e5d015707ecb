#!/usr/bin/env bash
# Instructions of each part of the CPU's work (benches/cpu.rs), by callgrind: the same on a busy machine as on an
# idle one. Prints the commit and the tools, then one JSON line a part: instructions for a block, a row, or a
# byte of log.
#
#   scripts/count-instructions.sh [PART...]
#
# callgrind does not know AVX-512: checksums run as on a CPU without it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! command -v valgrind >/dev/null; then
    echo "$0: needs valgrind (Debian: apt-get install valgrind)" >&2
    exit 1
fi
bench=$(cargo bench --locked --bench cpu --no-run --message-format=json-render-diagnostics |
    python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == "cpu":
        print(message["executable"])')
# What is asked for, or all: the program names them where it does not know one.
parts=("$@")
if [[ ${#parts[@]} -eq 0 ]]; then
    read -ra parts <<<"$(FOREBAY_TIMES=0 "$bench" - 2>&1 | sed -n "s/.*there are: //p")"
fi
printf '{"schema": "forebay.instructions/1", "commit": "%s", "rustc": "%s", "valgrind": "%s"}\n' \
    "$(git rev-parse --short HEAD)" "$(rustc --version)" "$(valgrind --version)"
few=20
many=120
count() {
    local out
    if ! out=$(FOREBAY_TIMES=$1 valgrind --tool=callgrind --callgrind-out-file=/dev/null "$bench" "$2" 2>&1); then
        echo "$0: $2 ended early under valgrind:" >&2
        echo "$out" >&2
        return 1
    fi
    sed -n 's/.*Collected : \([0-9]*\).*/\1/p' <<<"$out"
}
for part in "${parts[@]}"; do
    of_a_turn=$(FOREBAY_TIMES=0 "$bench" "$part" | sed -n 's/ a turn//p')
    counted_few=$(count $few "$part")
    counted_many=$(count $many "$part")
    python3 - "$part" "$of_a_turn" "$counted_few" "$counted_many" $((many - few)) <<'PYTHON'
import json, sys
part, of_a_turn, few, many, turns = sys.argv[1:]
each = (int(many) - int(few)) / int(turns) / int(of_a_turn)
of = {"scan": "byte", "check_lines": "row"}.get(part.partition("/")[0], "block")
print(json.dumps({"part": part, f"instructions_per_{of}": round(each, 3)}))
PYTHON
done

#!/usr/bin/env bash
# What fsync costs on this disk: each setting against level 1 and the plain file, in interleaved rounds,
# with intervals, histograms and plots in one folder below results/.
#
#   scripts/compare-fsync.sh [--preset quick|full] [--dir FOLDER] [--max-drop PERCENT] ...   see --help
#   scripts/compare-fsync.sh --redraw results/FOLDER     summary and plots again, from its runs.jsonl
set -euo pipefail
exec python3 -B "$(dirname "${BASH_SOURCE[0]}")/compare-fsync.py" "$@"

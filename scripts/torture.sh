#!/usr/bin/env bash
# The release run: every fault with its full count, and one record of it. Hours on two cores.
#
#   scripts/torture.sh [PART...] [--scale F] [--jobs N] [--out FILE]   see --help
#   scripts/torture.sh --table [FILE]     counts of a record into the table of docs/durability.md
#
# Needs root, FUSE and loop devices (tests/rig); what cannot run is a failure, not a skip.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Where programs that make and mount file systems are.
export PATH="$PATH:/usr/sbin:/sbin"
exec python3 scripts/torture.py "$@"

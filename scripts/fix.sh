#!/usr/bin/env bash
# Mends formatting.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo fmt --all

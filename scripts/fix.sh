#!/usr/bin/env bash
# Mends formatting.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo fmt --all
cargo fmt --manifest-path fuzz/Cargo.toml
cargo fmt --manifest-path benches/peers/Cargo.toml

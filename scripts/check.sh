#!/usr/bin/env bash
# Checks everything and changes no file of the tree (build results go to target/). With arguments:
# only these steps, such as `scripts/check.sh format clippy`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

format() {
    cargo fmt --all --check
    # Packages of their own: for libFuzzer, and with what Forebay is compared with.
    cargo fmt --manifest-path fuzz/Cargo.toml --check
    cargo fmt --manifest-path benches/peers/Cargo.toml --check
}
# The log alone is a build of its own.
clippy() {
    cargo clippy --locked --all-targets --all-features -- -D warnings
    cargo clippy --locked --lib --bins --no-default-features -- -D warnings
}
docs() { RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --all-features; }
# Doctests too. Naming targets would build the examples as tests, and `tests/examples.rs` runs them.
tests() { cargo test --locked --all-features; }
# Each bench has a small mode, so that it cannot rot.
benches() { cargo test --locked --all-features --bench '*'; }
# Interleavings of the intake ring, explored by a model checker.
model() { if [[ -x scripts/model.sh ]]; then scripts/model.sh; else echo "no scripts/model.sh"; fi; }

steps=(format clippy docs tests benches model)
if [[ $# -gt 0 ]]; then
    steps=("$@")
fi
times=()
for step in "${steps[@]}"; do
    if [[ "$(type -t "$step")" != function ]]; then
        echo "$0: no step '$step'; there are: format clippy docs tests benches model" >&2
        exit 2
    fi
    echo "== $step"
    began=$SECONDS
    # Not in a condition: there `set -e` would not hold.
    "$step"
    times+=("$(printf '%5d s  %s' $((SECONDS - began)) "$step")")
done
echo "== all passed"
printf '%s\n' "${times[@]}"

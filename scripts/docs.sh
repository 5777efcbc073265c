#!/usr/bin/env bash
# API documentation (target/doc), man pages and shell completions (target/man, target/completions).
set -euo pipefail
cd "$(dirname "$0")/.."
cargo doc --workspace --no-deps
cargo build --quiet --bin haikuq
haikuq=${CARGO_TARGET_DIR:-target}/debug/haikuq
mkdir -p target/completions
"$haikuq" completions --man target/man
for shell in bash zsh fish; do "$haikuq" completions "$shell" >"target/completions/haikuq.$shell"; done

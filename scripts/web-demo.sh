#!/usr/bin/env bash
# The embedded model in the chat app: converts it, serves app and package on localhost and opens the page.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${HAIKUQ_DEMO_DIR:-target/demo}
cargo build --release --quiet --bin haikuq
haikuq=${CARGO_TARGET_DIR:-target}/release/haikuq
mkdir -p "$out"
"$haikuq" convert golden/haiku-7m --recipe q4 --calibration golden/haiku-7m/calibration.jsonl --out "$out/haiku-7m-q4" --force
exec "$haikuq" serve "$out/haiku-7m-q4" --site web/site "$@"

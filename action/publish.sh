#!/usr/bin/env bash
# OUT/package to REPO at REVISION, with the report in its card.
source "$(dirname "$0")/common.sh"
need REPO "the model on the hub to publish to"
options=(--revision "${REVISION:-main}")
if [ -n "${LICENSE:-}" ]; then options+=(--license "$LICENSE"); fi
if [ -n "${BASE_MODEL:-}" ]; then options+=(--base-model "$BASE_MODEL"); fi
if [ -e "$OUT/report/report.json" ]; then options+=(--report "$OUT/report"); fi
"$HAIKUQ" publish "$OUT/package" "$REPO" "${options[@]}" --json >"$OUT/publish.json"
commit=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["commit"])' "$OUT/publish.json")
output commit "$commit"

#!/usr/bin/env bash
# OUT/sbom.cdx.json and OUT/statement.json of OUT/package, and of the statement what a signer asks for: subject and predicate.
source "$(dirname "$0")/common.sh"
options=()
if [ -n "${LICENSE:-}" ]; then options+=(--license "$LICENSE"); fi
if [ -n "${BASE_MODEL:-}" ]; then options+=(--base-model "$BASE_MODEL"); fi
if [ -e "$OUT/report/report.json" ]; then options+=(--report "$OUT/report"); fi
"$HAIKUQ" export "$OUT/package" --format sbom --out "$OUT/sbom.cdx.json" ${options[@]+"${options[@]}"}
"$HAIKUQ" export "$OUT/package" --format statement --out "$OUT/statement.json"
part='import json, sys
statement = json.load(open(sys.argv[1]))
json.dump(statement["predicate"], open(sys.argv[2], "w"))
subject = statement["subject"][0]
print(subject["name"], subject["digest"]["sha256"], statement["predicateType"])'
read -r name digest type < <(python3 -c "$part" "$OUT/statement.json" "$OUT/predicate.json")
output sbom "$OUT/sbom.cdx.json"
output statement "$OUT/statement.json"
output predicate "$OUT/predicate.json"
output predicate-type "$type"
output subject-name "$name"
output subject-digest "sha256:$digest"

#!/usr/bin/env bash
# OUT/package with the one that REPO has at REVISION: OUT/difference.txt. Without REPO, or before its first package, it says so.
source "$(dirname "$0")/common.sh"
endpoint=${HF_ENDPOINT:-https://huggingface.co}
old=$OUT/published
if [ -z "${REPO:-}" ]; then
    echo "No repository to compare with." >"$OUT/difference.txt"
    exit 0
fi

# The token goes in through standard input, where no list of processes shows it. curl sends it to the first host alone.
get() {
    local config=""
    if [ -n "${HF_TOKEN:-}" ]; then config="header = \"Authorization: Bearer $HF_TOKEN\""; fi
    curl --config - --silent --show-error --location --retry 3 --output "$2" --write-out '%{http_code}' \
        "$endpoint/$REPO/resolve/${REVISION:-main}/$1" <<<"$config"
}

rm -rf "$old"
mkdir -p "$old"
status=$(get haikuq.json "$old/haikuq.json")
case $status in
    200) ;;
    # The hub tells strangers 401 of what is not there.
    401 | 404)
        rm -rf "$old"
        echo "$REPO has no package yet at ${REVISION:-main}." >"$OUT/difference.txt"
        exit 0
        ;;
    *)
        echo "$endpoint answers $status for haikuq.json of $REPO" >&2
        exit 1
        ;;
esac
# The manifest is checked before its names are used as paths.
"$HAIKUQ" inspect "$old" --json >"$OUT/published.json"
names='import json, sys
manifest = json.load(open(sys.argv[1]))
for file in manifest["shards"] + manifest["files"]: print(file["name"])'
while read -r name; do
    status=$(get "$name" "$old/$name")
    if [ "$status" != 200 ]; then
        echo "$endpoint answers $status for $name of $REPO" >&2
        exit 1
    fi
done < <(python3 -c "$names" "$OUT/published.json")
"$HAIKUQ" verify "$old"
"$HAIKUQ" diff "$old" "$OUT/package" >"$OUT/difference.txt"
"$HAIKUQ" diff "$old" "$OUT/package" --json >"$OUT/difference.json"

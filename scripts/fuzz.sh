#!/usr/bin/env bash
# Fuzzes every reader of strangers' files and requests, FUZZ_SECONDS each (60), and prints a table. With arguments only those
# targets. Fails if an input breaks a bound; it then lies in fuzz/findings. See fuzz/README.md.
#
# FUZZ_INPUTS ends a target after so many inputs, FUZZ_SEED makes other ones, FUZZ_JOBS targets run at a time (1).
set -euo pipefail
cd "$(dirname "$0")/../fuzz"
targets=("$@")
if [ $# = 0 ]; then
    for file in fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi
cargo build --release --bins
programs=${CARGO_TARGET_DIR:-target}/release
options=(--seconds "${FUZZ_SECONDS:-60}" --seed "${FUZZ_SEED:-1}")
[ -z "${FUZZ_INPUTS:-}" ] || options+=(--inputs "$FUZZ_INPUTS")
cat <<'TABLE'
| target | inputs | seconds | accepted | kept | largest time (ms) | largest memory (MB) | caught | findings |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
TABLE
printf '%s\n' "${targets[@]}" | xargs -P "${FUZZ_JOBS:-1}" -I{} env "$programs/{}" "${options[@]}"

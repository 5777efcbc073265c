#!/usr/bin/env bash
# Runs all tests with cargo nextest. Fails if no GPU adapter, not even a software one, is found.
set -euo pipefail
cd "$(dirname "$0")/.."
# Mesa complains on stderr where there is no such folder (containers, cron).
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp}
export HAIKUQ_PYTHON=${HAIKUQ_PYTHON:-$PWD/.tools/python/bin/python}
cargo nextest run --workspace "$@"

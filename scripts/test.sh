#!/usr/bin/env bash
# Runs all tests with cargo nextest. Fails if no GPU adapter, not even a software one, is found.
set -euo pipefail
cd "$(dirname "$0")/.."
export HAIKUQ_PYTHON=${HAIKUQ_PYTHON:-$PWD/.tools/python/bin/python}
cargo nextest run --workspace "$@"

#!/usr/bin/env bash
# Makes .tools/python, a virtual environment with numpy and safetensors for the independent package reader.
# HAIKUQ_PYTHON names another interpreter that has both; then nothing is made.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
venv=$root/.tools/python
python=${HAIKUQ_PYTHON:-$venv/bin/python}
if "$python" -c 'import numpy, safetensors' 2>/dev/null; then exit 0; fi
if [ -n "${HAIKUQ_PYTHON:-}" ]; then
    echo "setup: $HAIKUQ_PYTHON (HAIKUQ_PYTHON) lacks numpy or safetensors" >&2
    exit 1
fi
echo "setup: making $venv" >&2
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check numpy safetensors

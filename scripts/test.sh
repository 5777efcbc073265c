#!/usr/bin/env bash
# Runs all tests: cargo nextest, then the browser's. Fails if no GPU adapter, not even a software one, is found.
# With arguments (for cargo nextest) only those tests.
set -euo pipefail
cd "$(dirname "$0")/.."
# Mesa complains on stderr where there is no such folder (containers, cron).
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp}
export HAIKUQ_PYTHON=${HAIKUQ_PYTHON:-$PWD/.tools/python/bin/python}
# Debian's Chromium carries SwiftShader; elsewhere (Ubuntu's is a snap without it) the default adapter has to do.
if [ ! -e /usr/lib/chromium/vk_swiftshader_icd.json ] && ! grep -qs '^ID=debian' /etc/os-release; then
    echo "test: no SwiftShader on this system; testing on the default adapter alone" >&2
    export HAIKUQ_SKIP_SWIFTSHADER=1
fi
cargo nextest run "$@"
if [ $# = 0 ]; then
    scripts/web.sh
    HAIKUQ_BIN=${HAIKUQ_BIN:-$(cd "${CARGO_TARGET_DIR:-target}" && pwd)/debug/haikuq} scripts/test-web.sh
fi

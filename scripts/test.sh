#!/usr/bin/env bash
# Runs all tests: cargo nextest, then the browser's. Fails if no GPU adapter, not even a software one, is found.
# With arguments (for cargo nextest) only those tests.
#
# Every test fails where what it needs is missing. This script leaves out what this system cannot have, by the tests' names: nextest
# counts it as skipped, and the last lines say what was not tested.
set -euo pipefail
cd "$(dirname "$0")/.."
# Mesa complains on stderr where there is no such folder (containers, cron).
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp}
export HAIKUQ_PYTHON=${HAIKUQ_PYTHON:-$PWD/.tools/python/bin/python}

skips=()
untested=()
trap 'for what in ${untested[@]+"${untested[@]}"}; do echo "test: NOT TESTED: $what" >&2; done' EXIT
leave_out() {
    skips+=(--skip "$1")
    untested+=("$2")
}
# Debian's Chromium carries SwiftShader; elsewhere (Ubuntu's is a snap without it) the default adapter has to do.
if [ ! -e /usr/lib/chromium/vk_swiftshader_icd.json ] && ! grep -qs '^ID=debian' /etc/os-release; then
    leave_out swiftshader "a second software GPU (SwiftShader, of Debian's chromium): this system has none"
fi
mounts() { unshare "$@" mount -t tmpfs tmpfs /tmp 2>/dev/null; }
if ! mounts --mount && ! mounts --user --map-root-user --mount; then
    leave_out small_disk "a disk that is full: mounting a small one takes Linux, and root or user namespaces"
fi

cargo nextest run "$@" ${skips[@]:+-- "${skips[@]}"}
if [ $# = 0 ]; then
    cargo test --doc --quiet
    scripts/web.sh
    target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
    HAIKUQ_BIN=${HAIKUQ_BIN:-$target/debug/haikuq} HAIKUQ_TEST_PACKAGES=$target/tmp scripts/test-web.sh
fi

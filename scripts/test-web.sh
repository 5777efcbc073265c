#!/usr/bin/env bash
# Runs the tests of web/: types, unit tests, and tests in a real browser (web/tests/README.md). Builds only the program
# that serves (HAIKUQ_BIN names another one); make web builds the rest, and this script names what is missing.
# Arguments go to `playwright test`.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.tools/node/bin:$HOME/.cargo/bin:$PATH"
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp}

missing=()
for built in src/engine/generated/haikuq_web{,_grammar}_bg.wasm dist/index.js dist/engine/generated/haikuq_web{,_grammar}_bg.wasm site/index.html site/bench/index.html site/validate/index.html; do
    [ -e "web/$built" ] || missing+=("web/$built")
done
if [ ${#missing[@]} -gt 0 ]; then
    printf 'test-web: %s is missing\n' "${missing[@]}" >&2
    echo "test-web: build it first: make web" >&2
    exit 1
fi
command -v npm >/dev/null || { echo "test-web: npm is missing: scripts/setup.sh web installs it" >&2; exit 1; }
if [ -z "${HAIKUQ_BIN:-}" ]; then
    cargo build --release --quiet --bin haikuq
fi

scripts/npm-ci.sh
cd web
node -e 'import("./scripts/browser.mjs").then(({ findChromium, findHaikuq }) => console.log(`test-web: ${findChromium()}, ${findHaikuq()}`)).catch(({ message }) => { console.error(`test-web: ${message}`); process.exit(1); })'
npm run --silent check
npm run --silent test
npx --no-install playwright test --reporter=list "$@"

#!/usr/bin/env bash
# Builds everything for the browser: WebAssembly, the npm package (web/dist), the pages (web/site); prints the sizes.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.tools/node/bin:$HOME/.cargo/bin:$PATH"
scripts/npm-ci.sh
scripts/wasm.sh
cd web
npm run --silent build
npm run --silent site >/dev/null
echo
echo "what a page downloads to generate:"
node scripts/sizes.mjs site/validate/assets/haikuq_web_bg-*.wasm site/validate/assets/worker-*.js
echo
echo "and with the first response format:"
node scripts/sizes.mjs site/validate/assets/haikuq_web_grammar_bg-*.wasm

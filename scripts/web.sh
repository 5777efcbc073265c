#!/usr/bin/env bash
# Builds everything for the browser: WebAssembly, the npm package (web/dist), the pages (web/site); prints the sizes.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.tools/node/bin:$HOME/.cargo/bin:$PATH"
cd web
# npm notes what it installed; a newer lock file asks for it again.
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
    npm ci --no-audit --no-fund --loglevel=error
fi
cd ..
scripts/wasm.sh
cd web
npm run --silent build
npm run --silent site >/dev/null
echo
echo "what a page downloads to generate:"
node scripts/sizes.mjs site/validate/assets/haikuq_web_bg-*.wasm site/validate/assets/worker-*.js

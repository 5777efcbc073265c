#!/usr/bin/env bash
# Installs what web/ needs from npm, unless it is there already.
set -euo pipefail
cd "$(dirname "$0")/../web"
# npm notes what it installed; a newer lock file asks for it again.
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
    npm ci --no-audit --no-fund --loglevel=error
fi

#!/usr/bin/env bash
# Packs what is published, and tries each as its users get it.
#
#   scripts/package.sh           all of it
#   scripts/package.sh crates    the crates' tarballs: 10 MB each at most, and built from them
#   scripts/package.sh wheel     PyPI's wheel, installed into an environment of its own
#   scripts/package.sh npm       npm's package: publint and attw (after `make web`)
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.tools/node/bin:$HOME/.cargo/bin:$PATH"
target=${CARGO_TARGET_DIR:-target}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

crates() {
    # The other three are for the browser's build, and are not published.
    cargo package --workspace --exclude haikuq-web --exclude haikuq-web-grammar --exclude haikuq-bindgen --quiet
    for crate in "$target"/package/*.crate; do
        bytes=$(wc -c <"$crate")
        echo "$(basename "$crate"): $bytes bytes, built"
        [ "$bytes" -le 10000000 ] || { echo "package: a registry takes 10 MB" >&2 && exit 1; }
    done
}
wheel() {
    python3 -m venv "$scratch/maturin" && "$scratch/maturin/bin/pip" -q install 'maturin>=1.9,<2'
    "$scratch/maturin/bin/maturin" build --quiet --release --locked --compatibility linux --out "$scratch/wheels"
    python3 -m venv "$scratch/user" && "$scratch/user/bin/pip" -q install --no-index "$scratch"/wheels/*.whl
    echo "$(basename "$scratch"/wheels/*.whl): $(wc -c <"$(echo "$scratch"/wheels/*.whl)") bytes, $("$scratch/user/bin/haikuq" --version)"
}
npm() {
    scripts/npm-ci.sh
    (cd web && npx --yes publint@0.3 --strict --pack npm && npx --yes @arethetypeswrong/cli@0.18 --pack . --profile esm-only)
}

for what in "${@:-crates wheel npm}"; do
    for part in $what; do
        case $part in
            crates | wheel | npm) "$part" ;;
            *) echo "package: $part is none of crates, wheel, npm" >&2 && exit 2 ;;
        esac
    done
done

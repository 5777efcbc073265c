#!/usr/bin/env bash
# Everything that is judged without running it; warnings are errors.
#
#   scripts/lint.sh                  all of the below, the quick ones first
#   scripts/lint.sh prose web rust   these alone
#
#   prose  sentences in documentation, comments and messages (scripts/prose.py)
#   web    TypeScript's lint and format (web/biome.jsonc)
#   rust   rustfmt, and clippy over the workspace
#   docs   rustdoc, where a link that leads nowhere is an error
#   wasm   clippy for wasm32, where that target is installed
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.tools/node/bin:$HOME/.cargo/bin:$PATH"
target=wasm32-unknown-unknown

prose() {
    python3 scripts/prose_test.py --quiet
    python3 scripts/prose.py
}
web() {
    scripts/npm-ci.sh
    (cd web && npm run --silent lint)
}
rust() {
    cargo fmt --all -- --check
    cargo clippy --workspace --all-targets -- -D warnings
}
docs() {
    RUSTDOCFLAGS="${RUSTDOCFLAGS:-} -D warnings" cargo doc --workspace --no-deps
}
wasm() {
    if [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; then
        cargo clippy -p haikuq-web --target "$target" -- -D warnings
        cargo clippy -p haikuq-runtime --no-default-features --features web --target "$target" -- -D warnings
    else
        echo "lint: NOT LINTED: the code for $target alone; rustup target add $target installs what that takes" >&2
    fi
}

for what in "${@:-prose web rust docs wasm}"; do
    for part in $what; do
        case $part in
            prose | web | rust | docs | wasm) "$part" ;;
            *)
                echo "lint: $part is none of prose, web, rust, docs, wasm" >&2
                exit 2
                ;;
        esac
    done
done

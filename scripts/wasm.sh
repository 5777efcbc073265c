#!/usr/bin/env bash
# Builds the runtime for the browser, and the module of response formats that a page loads when it needs it, into
# web/src/engine/generated, and prints their sizes.
#
# With rustup's wasm32 target where rustup can install it. Where rustup cannot reach its server, with the distribution's Rust for
# the web and its sources (Debian: rustc-web cargo-web rust-web-src lld), which build the standard library too.
# `--check-toolchain` only says (by its exit code) whether either is there.
set -euo pipefail
cd "$(dirname "$0")/.."
target=wasm32-unknown-unknown
out=web/src/engine/generated
# Each of its own: together they would share features, and the runtime would grow by what the other needs.
packages=(haikuq-web haikuq-web-grammar)
arguments=(rustc --locked --lib --crate-type cdylib --profile web --target "$target")
say() { printf 'wasm: %s\n' "$*" >&2; }

sysroot_has_target() { [ -d "$(rustc --print sysroot 2>/dev/null)/lib/rustlib/$target/lib" ]; }
# cargo and rustc that build the standard library from /usr/lib/rustlib's sources.
distribution_rust() { [ -x /usr/bin/cargo ] && [ -f "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library/std/Cargo.toml" ]; }
lld() { find /usr/bin /usr/lib/llvm-*/bin -name 'wasm-ld*' 2>/dev/null | sort -V | tail -n 1; }

if ! sysroot_has_target && command -v rustup >/dev/null; then
    rustup target add "$target" >/dev/null 2>&1 || say "rustup cannot add $target; trying the distribution's Rust"
fi
if [ "${1:-}" = --check-toolchain ]; then
    sysroot_has_target || { distribution_rust && [ -n "$(lld)" ]; } || { say "no Rust for $target"; exit 1; }
    exit 0
fi
export PATH="$PWD/.tools/node/bin:$PATH"
# Panics say what and not in which line of which file: a page would download 19 kB (brotli) of places. The compiler has this
# option for long, and only nightly ones take it unasked.
without_places=(env RUSTC_BOOTSTRAP=1 CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS=-Zlocation-detail=none)
target_dir=$(cargo metadata --no-deps --format-version 1 | sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
if sysroot_has_target; then
    for package in "${packages[@]}"; do "${without_places[@]}" cargo "${arguments[@]}" -p "$package"; done
elif distribution_rust && [ -n "$(lld)" ]; then
    # Of its own, because another compiler's artifacts would be rebuilt back and forth.
    target_dir=$target_dir/web-std
    for package in "${packages[@]}"; do
        CARGO_TARGET_DIR=$target_dir RUSTC=/usr/bin/rustc PATH="/usr/bin:$PATH" "${without_places[@]}" /usr/bin/cargo "${arguments[@]}" \
            -p "$package" -Z build-std=std,panic_abort --config "target.$target.linker='$(lld)'"
    done
else
    say "no Rust for $target: rustup target add $target, or on Debian: apt-get install rustc-web cargo-web rust-web-src lld-19"
    exit 1
fi

modules=("$target_dir/$target/web/haikuq_web.wasm" "$target_dir/$target/web/haikuq_web_grammar.wasm")
sizes() { for name in haikuq_web haikuq_web_grammar; do node web/scripts/sizes.mjs "$out/${name}_bg.wasm" "$out/$name.js"; done; }
# wasm-opt takes a minute: only for modules that are new.
stamp=$(cat "${modules[@]}" web/bindgen/src/main.rs scripts/wasm.sh Cargo.lock | sha256sum)
if [ "$stamp" = "$(cat "$out/.stamp" 2>/dev/null)" ]; then
    sizes
    exit 0
fi
rm -rf "$out.new"
for module in "${modules[@]}"; do cargo run --quiet --locked --release -p haikuq-bindgen -- "$module" "$out.new"; done
for wasm in "$out.new"/*_bg.wasm; do
    web/node_modules/.bin/wasm-opt -O2 --converge -ocimfs 0 -aimfs 0 --enable-bulk-memory --enable-bulk-memory-opt --enable-nontrapping-float-to-int --enable-sign-ext \
        --enable-mutable-globals --enable-multivalue --enable-reference-types --enable-simd "$wasm" -o "$wasm.small"
    mv "$wasm.small" "$wasm"
done
echo "$stamp" >"$out.new/.stamp"
rm -rf "$out"
mv "$out.new" "$out"
sizes

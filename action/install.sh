#!/usr/bin/env bash
# The program and a Vulkan driver. HAIKUQ names a program that is installed; without it this source is built.
source "$(dirname "$0")/common.sh"
if ! command -v "$HAIKUQ" >/dev/null; then
    cargo install --locked --path "$(dirname "$0")/../cli" --root "$OUT/program"
    HAIKUQ=$(cd "$OUT/program/bin" && pwd)/haikuq
fi
# Software rendering is enough for a proof, and hosted runners have no GPU.
if ! "$HAIKUQ" doctor >/dev/null 2>&1 && command -v apt-get >/dev/null; then
    sudo apt-get update -q
    sudo apt-get install -qy --no-install-recommends mesa-vulkan-drivers libvulkan1
fi
"$HAIKUQ" --version
if [ -n "${GITHUB_ENV:-}" ]; then echo "HAIKUQ=$HAIKUQ" >>"$GITHUB_ENV"; fi

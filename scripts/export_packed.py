#!/usr/bin/env python3
"""Holds `haikuq export --format compressed-tensors` against transformers with compressed-tensors, the library that vLLM reads it by.

    export_packed.py HAIKUQ FOLDER...

Each FOLDER is a checkpoint. It becomes packages by `q4-fast`, `q3-fast` and `q8`, and these become exports with codes and in plain f32.
The library decompresses the codes, and transformers runs both. Printed are the largest difference of a weight, KL of one export from
the other (a library that computes scales in f32 loses nothing), and sizes.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import compressed_tensors
import torch
import transformers
from transformers import AutoModelForCausalLM, CompressedTensorsConfig


def load(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()


def main():
    program, folders = sys.argv[1], [Path(folder) for folder in sys.argv[2:]]
    print(f"compressed-tensors {compressed_tensors.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
    failed = 0
    for checkpoint in folders:
        for recipe in ("q4-fast", "q3-fast", "q8"):
            with tempfile.TemporaryDirectory() as scratch:
                quiet = {"check": True, "stdout": subprocess.DEVNULL}
                subprocess.run([program, "convert", checkpoint, "-r", recipe, "-q", "--out", f"{scratch}/package"], **quiet)
                command = [program, "export", f"{scratch}/package", "--checkpoint", checkpoint]
                subprocess.run([*command, "--format", "hf", "--dtype", "f32", "--out", f"{scratch}/hf"], **quiet)
                subprocess.run([*command, "--format", "compressed-tensors", "--dtype", "f32", "--out", f"{scratch}/packed"], **quiet)
                plain = load(f"{scratch}/hf")
                packed = load(f"{scratch}/packed", quantization_config=CompressedTensorsConfig(run_compressed=False))
                ids = torch.arange(0, 64).mul(131).remainder(plain.config.vocab_size)[None]
                with torch.no_grad():
                    a, b = (model(ids).logits[0].double().log_softmax(-1) for model in (plain, packed))
                weights = dict(packed.named_parameters())
                difference = max(float((p - weights[name]).abs().max()) for name, p in plain.named_parameters())
                kl = float((a.exp() * (a - b)).sum(-1).mean())
                size = lambda folder: sum(file.stat().st_size for file in Path(scratch, folder).glob("*.safetensors"))
                bad = difference > 0 or abs(kl) > 1e-9
                failed += bad
                print(
                    f"{checkpoint.name:12} {recipe:8} {size('packed')} of {size('hf')} bytes, weights differ by {difference:.1e}, "
                    f"KL {kl:.1e}{'  WRONG' if bad else ''}"
                )
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()

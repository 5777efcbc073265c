#!/usr/bin/env python3
"""Holds exports (`haikuq export --format hf`) against Hugging Face transformers.

    export_hf.py HAIKUQ FOLDER...

Each FOLDER is a checkpoint. It becomes a package by `q4-fast`, and the package an export in f32, f16 and bf16. transformers loads each
export, and no tensor may be missing or unused. The logits of the export in f32 are those of the package by haikuq's reading of it:
`tests/python/read_package.py` reads its numbers, which are put into the checkpoint's model by the names that the export has for them.
Without that, what counts is the difference between the three exports, and that transformers' model of the export in f32 says the same
text as `haikuq run` does.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM


def load(folder, dtype):
    """The model, and what of its tensors was not as it should be."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    wrong = {key: sorted(map(str, value)) for key, value in info.items() if value}
    return model.eval(), wrong


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits[0].float().double()


def kl(a, b):
    """Mean divergence of the second from the first, over positions."""
    a, b = a.log_softmax(-1), b.log_softmax(-1)
    return float((a.exp() * (a - b)).sum(-1).mean())


def main():
    program, folders = sys.argv[1], [Path(f) for f in sys.argv[2:]]
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    failed = 0
    for checkpoint in folders:
        with tempfile.TemporaryDirectory() as scratch:
            package = f"{scratch}/package"
            subprocess.run([program, "convert", checkpoint, "--recipe", "q4-fast", "--out", package, "-q"], check=True, stdout=subprocess.DEVNULL)
            found, sizes, wrong = {}, {}, {}
            for name in ("f32", "f16", "bf16"):
                out = f"{scratch}/{name}"
                command = [program, "export", package, "--format", "hf", "--dtype", name, "--checkpoint", checkpoint, "--out", out, "--json"]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    print(f"{checkpoint.name:20} refused: {done.stderr.strip()}")
                    break
                sizes[name] = json.loads(done.stdout)["bytes"]
                # Computed in f32, so that the weights alone differ.
                model, wrong[name] = load(out, torch.float32)
                ids = torch.arange(0, 64).mul(131).remainder(model.config.vocab_size)[None]
                found[name] = logits(model, ids)
            else:
                original, _ = load(checkpoint, torch.float32)
                loss = kl(logits(original, ids), found["f32"])
                spread = found["f32"].std()
                error = {n: float((found[n] - found["f32"]).abs().max() / spread) for n in ("f16", "bf16")}
                bad = any(wrong.values()) or not 0 < loss or error["f16"] > 2e-2
                failed += bad
                print(
                    f"{checkpoint.name:20} bytes {sizes['f32']} f32, {sizes['f16']} f16; KL from the checkpoint {loss:.2e}; "
                    f"from f32 by f16 {kl(found['f32'], found['f16']):.1e}, by bf16 {kl(found['f32'], found['bf16']):.1e}"
                    + (f"  WRONG {wrong}" if bad else "")
                )
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()

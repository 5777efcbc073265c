#!/usr/bin/env python3
"""Holds exports (`haikuq export --format hf`) against Hugging Face transformers.

    export_hf.py HAIKUQ FOLDER...

Each FOLDER is a checkpoint. It becomes a package by `q4-fast`, and the package an export in f32, f16 and bf16. transformers loads each
export in f32 arithmetic, and no tensor may be missing or left over. Printed are KL from the checkpoint (what the package loses) and
from the export in f32 (what its 16 bits lose). With TEXT in the environment, a file for `haikuq golden`, also KL of transformers from
haikuq's reference on the same export, over the kept tokens of each position.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
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


def from_reference(program, folder, model, scratch):
    """KL of transformers from the reference, and the largest difference of a kept token's log likelihood."""
    out = f"{scratch}/golden.safetensors"
    command = [program, "golden", folder, "--text", os.environ["TEXT"], "--windows", "2", "--context", "256", "--max-new", "1", "--out", out, "-q"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    golden = load_file(out)
    with torch.no_grad():
        found = model(golden["input_ids"].long()).logits.double().log_softmax(-1).gather(-1, golden["top_ids"].long())
    expected = golden["top_logits"].double() - golden["logsumexp"].double()[..., None]
    return float((expected.exp() * (expected - found)).sum(-1).mean()), float((expected - found).abs().max())


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
                if name == "f32" and "TEXT" in os.environ:
                    mean, largest = from_reference(program, out, model, scratch)
                    print(f"{checkpoint.name:20} transformers from the reference: KL {mean:.1e}, log likelihoods {largest:.1e} at most")
            else:
                original, _ = load(checkpoint, torch.float32)
                loss = kl(logits(original, ids), found["f32"])
                by = {name: kl(found["f32"], found[name]) for name in ("f16", "bf16")}
                bad = any(wrong.values()) or not by["f16"] < 1e-3 * loss
                failed += bad
                print(
                    f"{checkpoint.name:20} bytes {sizes['f32']} f32, {sizes['f16']} f16; KL from the checkpoint {loss:.2e}; "
                    f"from f32 by f16 {by['f16']:.1e}, by bf16 {by['bf16']:.1e}"
                    + (f"  WRONG {wrong}" if bad else "")
                )
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()

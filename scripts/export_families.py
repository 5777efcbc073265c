#!/usr/bin/env python3
"""Holds GGUF exports of every family against transformers, by llama.cpp.

    export_families.py HAIKUQ FOLDER [FIXTURE...]

FOLDER has node-llama-cpp (see export_gguf.mjs). Each FIXTURE of tests/fixtures/architectures gets a tokenizer of single bytes, which
llama.cpp asks for. It becomes a package in f32 and a file in F32; KL is from transformers' logits of the fixture, over its 64 largest.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
USUAL = ["llama", "llama_untied", "qwen2", "qwen3", "smollm3", "gemma", "gemma2", "gemma3", "granite", "olmo2", "phi3", "ernie4_5"]


def add_tokenizer(folder):
    """Bytes as byte-level BPE writes them, one merge, and three tokens with names."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = sorted([chr(b) for b in plain] + [chr(256 + n) for n in range(256 - len(plain))])
    named = [f"<|{i}|>" for i in range(3)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": text, **flags} for i, text in enumerate(named)],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {"type": "BPE", "vocab": {text: i for i, text in enumerate([*named, *letters, "he"])}, "merges": [["h", "e"]]},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": named[1], "eos_token": named[2]}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


def main():
    program, node, *names = sys.argv[1:]
    for name in names or USUAL:
        with tempfile.TemporaryDirectory() as scratch:
            checkpoint, golden = Path(scratch) / name, f"{scratch}/golden.safetensors"
            shutil.copytree(ROOT / "tests/fixtures/architectures" / name, checkpoint)
            add_tokenizer(checkpoint)
            quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            subprocess.run([program, "convert", checkpoint, "--recipe", "f32", "-q", "--out", f"{scratch}/{name}.f32"], **quiet)
            subprocess.run([program, "export", f"{scratch}/{name}.f32", "--format", "gguf", "--out", f"{scratch}/out"], **quiet)
            reference = load_file(checkpoint / "reference.safetensors")
            logits = reference["logits"].double()
            top = logits.topk(64, -1)
            save_file(
                {
                    "input_ids": reference["input_ids"].long(),
                    "top_ids": top.indices.contiguous(),
                    "top_logits": top.values.float().contiguous(),
                    "logsumexp": logits.logsumexp(-1).float(),
                },
                golden,
            )
            command = ["node", ROOT / "scripts/export_gguf.mjs", node, golden, f"{scratch}/out/{name}.f32.gguf"]
            done = subprocess.run(command, capture_output=True, text=True)
            print((done.stdout or done.stderr).strip().splitlines()[-1])


if __name__ == "__main__":
    main()

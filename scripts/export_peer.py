#!/usr/bin/env python3
"""Rounds a GGUF file as llama.cpp's quantizer does with an importance matrix: the peer that exports are held against.

    export_peer.py LIBRARY CHECKPOINT TEXT F32.gguf OUT TYPE...

LIBRARY is `libggml-base.so`, as npm's @node-llama-cpp/linux-x64 has it. CHECKPOINT is the folder that F32.gguf was exported from: mean
squares of the inputs of its matrices, on windows of TEXT (.jsonl as in golden/haiku-7m), are the importance matrix. Each matrix is
rounded by `ggml_quantize_chunk`, in TYPE; the embedding, which makes logits too, in Q6_K at least, or in HEAD from the environment.
"""

import ctypes
import json
import os
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

WINDOWS, CONTEXT = 64, 512
OWN = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


def importance(checkpoint, text):
    """Mean square of every input of every linear layer, by the layer's name."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    lines = [json.loads(line) for line in Path(text).read_text().splitlines()]
    documents = (f"<|user|>{d['user']}<|assistant|>{d['reply']}<|endoftext|>" for d in lines)
    ids = tokenizer("".join(documents))["input_ids"][: WINDOWS * CONTEXT]
    squares = {}

    def hook(name):
        def add(_, inputs):
            x = inputs[0].reshape(-1, inputs[0].shape[-1]).double()
            squares[name] = squares.get(name, 0) + (x * x).sum(0)
        return add

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(hook(name))
    with torch.no_grad():
        for window in torch.tensor(ids).reshape(-1, CONTEXT):
            model(window[None])
    return {name: (sum_ / len(ids)).float().numpy() for name, sum_ in squares.items()}


def main():
    library, checkpoint, text, source, out = sys.argv[1:6]
    ggml = ctypes.CDLL(library)
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    matrix = importance(checkpoint, text)
    reader = gguf.GGUFReader(source)
    for name in sys.argv[6:]:
        wanted = gguf.GGMLQuantizationType[name]
        head = gguf.GGMLQuantizationType[os.environ.get("HEAD", "Q6_K" if name not in ("Q8_0",) else "Q8_0")]
        arch = reader.fields["general.architecture"].contents()
        path = Path(out) / f"peer-{name}{'-' + head.name if 'HEAD' in os.environ else ''}.gguf"
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = gguf.GGUFWriter(path, arch)
        for key, field in reader.fields.items():
            if key.startswith("GGUF.") or key == "general.architecture":
                continue
            kind = field.types[0]
            writer.add_key_value(key, field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
        for tensor in reader.tensors:
            data = np.array(tensor.data, dtype=np.float32)
            if data.ndim == 1:
                writer.add_tensor(tensor.name, data)
                continue
            of_head = tensor.name in ("token_embd.weight", "output.weight")
            kind = head if of_head else wanted
            parts = tensor.name.split(".")
            own = "lm_head" if of_head else f"model.layers.{parts[1]}.{OWN[parts[2]]}"
            weights = np.ascontiguousarray(matrix[own])
            block, size = gguf.GGML_QUANT_SIZES[kind]
            rows, columns = data.shape
            stored = np.empty((rows, columns // block * size), np.uint8)
            data = np.ascontiguousarray(data)
            ggml.ggml_quantize_chunk(kind, data.ctypes.data, stored.ctypes.data, 0, rows, columns, weights.ctypes.data)
            writer.add_tensor(tensor.name, stored, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        print(path)


if __name__ == "__main__":
    main()

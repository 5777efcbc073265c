#!/usr/bin/env python3
"""Writes a checkpoint with the shape of a real model and random weights, for measuring speed.

    python3 -m venv venv && venv/bin/pip install torch transformers==5.24.0 safetensors
    venv/bin/python scripts/random_checkpoint.py OUT SHAPE

SHAPE is one of those below. OUT gets `config.json` and `model.safetensors` in bf16. A GPU makes the weights where there is one. The
figures of docs/benchmarks.md ("Other mixers") are of such checkpoints, converted with `--recipe q4-fast`.
"""
import argparse
import os
import re

import torch
import transformers
from safetensors.torch import save_file

FULL, SLIDING, CONV, LINEAR = "full_attention", "sliding_attention", "conv", "linear_attention"
SHAPES = {
    "llama-1b": ("Llama", dict(vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
                               num_key_value_heads=8, head_dim=64, tie_word_embeddings=True)),
    "lfm2.5-1.2b": ("Lfm2", dict(vocab_size=65536, hidden_size=2048, intermediate_size=12288, num_hidden_layers=16, num_attention_heads=32,
                                 num_key_value_heads=8, block_auto_adjust_ff_dim=True, block_ffn_dim_multiplier=1.0,
                                 layer_types=[FULL if i in (2, 5, 8, 10, 12, 14) else CONV for i in range(16)])),
    "qwen3.5-0.8b": ("Qwen3_5Text", dict(vocab_size=248320, hidden_size=1024, intermediate_size=3584, num_hidden_layers=24,
                                         num_attention_heads=8, num_key_value_heads=2, head_dim=256, linear_key_head_dim=128,
                                         linear_value_head_dim=128, linear_num_key_heads=16, linear_num_value_heads=16,
                                         tie_word_embeddings=True, layer_types=[FULL if i % 4 == 3 else LINEAR for i in range(24)])),
    "granite-4-h-1b": ("GraniteMoeHybrid", dict(vocab_size=100352, hidden_size=1536, num_hidden_layers=40, num_attention_heads=12,
                                                num_key_value_heads=4, num_local_experts=0, shared_intermediate_size=4096, mamba_n_heads=48,
                                                mamba_d_state=128, mamba_n_groups=1, tie_word_embeddings=True,
                                                layer_types=[FULL if i in (5, 15, 25, 35) else LINEAR for i in range(40)])),
    "gemma-4-e2b": ("Gemma4Text", dict(vocab_size=262144, hidden_size=1536, intermediate_size=6144, num_hidden_layers=35,
                                       num_attention_heads=8, num_key_value_heads=1, head_dim=256, global_head_dim=512,
                                       hidden_size_per_layer_input=256, vocab_size_per_layer_input=262144, num_kv_shared_layers=20,
                                       use_double_wide_mlp=True, sliding_window=512, final_logit_softcapping=30.0,
                                       layer_types=[FULL if i % 5 == 4 else SLIDING for i in range(35)])),
    "olmoe-1b-7b": ("Olmoe", dict(vocab_size=50304, hidden_size=2048, intermediate_size=1024, num_hidden_layers=16, num_attention_heads=16,
                                  num_key_value_heads=16, num_experts=64, num_experts_per_tok=8)),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out")
    parser.add_argument("shape", choices=SHAPES)
    args = parser.parse_args()
    family, settings = SHAPES[args.shape]
    config = getattr(transformers, f"{family}Config")(**settings)
    config.architectures = [f"{family.removesuffix('Text')}ForCausalLM"]
    with torch.device("meta"):
        model = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")(config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(1)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name in tied:
            continue
        # Norms' gains as they begin; all else small enough for a few dozen layers.
        if re.search(r"norm\d?\.weight$", name):
            tensors[name] = torch.ones(tensor.shape, dtype=torch.bfloat16)
        else:
            tensors[name] = (torch.randn(tensor.shape, generator=generator, device=device, dtype=torch.bfloat16) * 0.02).cpu()
    os.makedirs(args.out, exist_ok=True)
    save_file(tensors, os.path.join(args.out, "model.safetensors"), metadata={"format": "pt"})
    config.save_pretrained(args.out)
    print(f"{args.out}: {sum(t.numel() for t in tensors.values()) / 1e6:.0f} M numbers")


main()

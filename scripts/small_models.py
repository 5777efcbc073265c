#!/usr/bin/env python3
"""Trains small models of several families on one text, so that what quantization costs them can be compared.

    python3 -m venv venv && venv/bin/pip install torch transformers==5.24.0 safetensors tokenizers
    venv/bin/python scripts/small_models.py OUT [FAMILY ...] [--steps 1500] [--seed 1] [--jobs 4]

Writes OUT/FAMILY, a checkpoint in bf16 with the tokenizer of golden/haiku-7m. The text is sampled from that model, from its own
beginnings of documents, with its calibration text put before it; nothing of its evaluation text is trained on. It is about as
long as all steps read together, so that no model learns it by heart. All models have 4 to 5 million parameters, the same
vocabulary, batches and steps. A GPU needs a minute or two a family.
"""
import argparse
import json
import multiprocessing
import os
import shutil
import time
import traceback

import torch
import transformers
from tokenizers import Tokenizer

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GOLDEN = os.path.join(HERE, "golden", "haiku-7m")
COMMON = dict(vocab_size=4096, hidden_size=256, intermediate_size=640, num_hidden_layers=5, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
              pad_token_id=0)
FAMILIES = {
    "llama": ("Llama", dict(head_dim=64)),
    "lfm2": ("Lfm2", dict(head_dim=64, block_auto_adjust_ff_dim=False,
                          layer_types=["conv", "conv", "full_attention", "conv", "full_attention"])),
    "lfm3": ("Lfm3", dict(head_dim=64, sliding_window=128,
                          layer_types=["conv", "sliding_attention", "full_attention", "conv", "full_attention"])),
    # Of eight experts a token uses two.
    "olmoe": ("Olmoe", dict(intermediate_size=80, num_experts=8, num_experts_per_tok=2, norm_topk_prob=True)),
    "qwen3_5": ("Qwen3_5Text", dict(head_dim=64, linear_key_head_dim=64, linear_value_head_dim=64, linear_num_key_heads=2,
                                    linear_num_value_heads=4,
                                    layer_types=["linear_attention"] * 3 + ["full_attention", "linear_attention"])),
    "granite4_hybrid": ("GraniteMoeHybrid", dict(num_local_experts=0, shared_intermediate_size=512, mamba_n_heads=8, mamba_d_state=64,
                                                 attention_multiplier=0.125,
                                                 layer_types=["linear_attention"] * 3 + ["full_attention", "linear_attention"])),
    "gemma4": ("Gemma4Text", dict(head_dim=64, global_head_dim=64, hidden_size_per_layer_input=32, vocab_size_per_layer_input=4096,
                                  intermediate_size=512, sliding_window=128, num_kv_shared_layers=2,
                                  layer_types=["sliding_attention", "full_attention"] * 2 + ["full_attention"])),
    # Two layers of five cut their gates, as the first ten of thirty in E2B.
    "gemma3n": ("Gemma3nText", dict(head_dim=64, hidden_size_per_layer_input=32, vocab_size_per_layer_input=4096,
                                    intermediate_size=[384] * 5, activation_sparsity_pattern=[0.95, 0.95, 0.0, 0.0, 0.0],
                                    laurel_rank=16, sliding_window=128, num_kv_shared_layers=2,
                                    layer_types=["sliding_attention", "full_attention"] * 2 + ["full_attention"])),
    # Sinks.
    "granite_swa": ("GraniteSWA", dict(attention_multiplier=0.125, sliding_window=128, layer_rope_theta=[10000.0] * 5,
                                       layer_types=["sliding_attention", "full_attention"] * 2 + ["full_attention"])),
    # Sinks and experts.
    "gpt_oss": ("GptOss", dict(head_dim=64, intermediate_size=80, num_local_experts=8, num_experts_per_tok=2, sliding_window=128,
                               rope_parameters=dict(rope_type="default", rope_theta=10000.0))),
    "falcon_h1": ("FalconH1", dict(head_dim=64, mamba_d_ssm=384, mamba_n_heads=6, mamba_d_state=64, intermediate_size=320)),
}

# Texts that the golden model writes at once.
TOGETHER = 8192


def documents(name):
    with open(os.path.join(GOLDEN, name)) as f:
        for line in f:
            d = json.loads(line)
            yield f"<|user|>{d['user']}<|assistant|>{d['reply']}<|endoftext|>"


def text(tokenizer, device, batches):
    """Ids of the calibration text, then of texts that the golden model writes from the beginnings of that."""
    ids = [tokenizer.encode(d, add_special_tokens=False).ids for d in documents("calibration.jsonl")]
    model = transformers.AutoModelForCausalLM.from_pretrained(GOLDEN, dtype=torch.bfloat16).to(device).eval()
    begin = torch.tensor([tokenizer.token_to_id("<|user|>")] * TOGETHER, device=device)[:, None]
    sampled = []
    with torch.no_grad():
        for _ in range(batches):
            sampled.append(model.generate(begin, max_new_tokens=320, do_sample=True, top_k=0, use_cache=True,
                                          attention_mask=torch.ones_like(begin), pad_token_id=0).cpu())
    flat = [i for d in ids for i in d]
    for row in (row for batch in sampled for row in batch.tolist()):
        end = row.index(0) if 0 in row else len(row)
        flat += row[:end] + [0]
    return torch.tensor(flat)


def train(family, ids, device, steps, seed, out):
    torch.manual_seed(seed)
    name, own = FAMILIES[family]
    model_class = getattr(transformers, name.removesuffix("Text") + "ForCausalLM")
    model = model_class(getattr(transformers, name + "Config")(**(COMMON | own))).to(device)
    count = sum(p.numel() for p in model.parameters())
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([dict(params=decayed, weight_decay=0.1), dict(params=others, weight_decay=0.0)], lr=3e-3,
                                  betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.05)
    length, started = 256, time.time()
    for step in range(steps):
        first = torch.randint(0, len(ids) - length - 1, (64,))
        batch = torch.stack([ids[i:i + length] for i in first]).to(device)
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = model(batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 250 == 0 or step == steps - 1:
            print(f"{family}: step {step}, loss {loss.item():.3f}, {time.time() - started:.0f} s", flush=True)
    folder = os.path.join(out, family)
    model.to(torch.bfloat16).save_pretrained(folder)
    for file in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copy(os.path.join(GOLDEN, file), folder)
    print(f"{family}: {count:,} parameters")


def try_to_train(work):
    family, ids, *others = work
    try:
        transformers.logging.set_verbosity_error()
        train(family, torch.from_numpy(ids), *others)
        return family, True
    except Exception:
        traceback.print_exc()
        return family, False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batches", type=int, default=12, help="of 8,192 texts that the golden model writes")
    parser.add_argument("--jobs", type=int, default=1, help="families at a time")
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(a.seed)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    started = time.time()
    ids = text(Tokenizer.from_file(os.path.join(GOLDEN, "tokenizer.json")), device, a.batches)
    print(f"{len(ids):,} tokens after {time.time() - started:.0f} s", flush=True)
    with multiprocessing.get_context("spawn").Pool(a.jobs, maxtasksperchild=1) as pool:
        work = [(family, ids.numpy(), device, a.steps, a.seed, a.out) for family in a.families or FAMILIES]
        failed = [family for family, ok in pool.imap_unordered(try_to_train, work) if not ok]
    if failed:
        raise SystemExit(f"not trained: {', '.join(failed)}")


if __name__ == "__main__":
    main()

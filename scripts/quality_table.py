#!/usr/bin/env python3
"""The table of scripts/quality.sh: reports of `haikuq validate --json`, given as NAME=FILE, beside recorded figures."""

import json
import sys

# Measured on the same checkpoint and windows with llama.cpp and ONNX Runtime, every matrix and the embedding at the named
# type: name, bits a weight, mean KL, share of equal likeliest tokens in percent.
PEERS = [
    ("llama.cpp Q4_K_M, importances", 5.15, 0.081, 83),
    ("llama.cpp Q4_K_M", 5.15, 0.162, 76),
    ("llama.cpp Q4_K, importances", 4.51, 0.144, 78),
    ("llama.cpp Q4_K", 4.51, 0.309, 67),
    ("llama.cpp Q4_0", 4.51, 0.461, 59),
    ("ONNX Runtime int4, k_quant", 4.5, 0.381, None),
    ("llama.cpp IQ4_XS, importances", 4.26, 0.201, 72),
    ("llama.cpp IQ3_S, importances", 3.44, 0.626, 55),
    ("llama.cpp Q3_K, importances", 3.44, 0.821, 51),
]


def ours(argument):
    name, file = argument.split("=", 1)
    with open(file, encoding="utf-8") as f:
        report = json.load(f)
    summary = report["summary"]
    return ("haikuq " + name, report["package"]["bits_per_weight"], summary["mean_kl"], summary["top1_percent"])


def main():
    rows = [ours(a) for a in sys.argv[1:]] + PEERS
    rows.sort(key=lambda row: (-round(row[1], 2), row[2]))
    print("| package | bits a weight | mean KL | top-1 |\n| --- | --- | --- | --- |")
    for name, bits, kl, top in rows:
        print(f"| {name} | {bits:.2f} | {kl:.4f} | {'' if top is None else f'{top:.0f} %'} |")


main()

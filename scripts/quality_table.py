#!/usr/bin/env python3
"""The table of scripts/quality.sh: reports of `haikuq validate --json`, given as NAME=FILE, beside recorded figures.

With --plot FILE the same is drawn too."""

import argparse
import json

from quality_plot import svg

# Measured on the same checkpoint and windows with llama.cpp and ONNX Runtime, every matrix and the embedding at the named
# type: series, name, bits a weight, mean KL, share of equal likeliest tokens in percent.
PEERS = [
    ("llama.cpp with importances", "Q4_K_M", 5.15, 0.081, 83),
    ("llama.cpp", "Q4_K_M", 5.15, 0.162, 76),
    ("llama.cpp with importances", "Q4_K", 4.51, 0.144, 78),
    ("llama.cpp", "Q4_K", 4.51, 0.309, 67),
    ("llama.cpp", "Q4_0", 4.51, 0.461, 59),
    ("ONNX Runtime int4", "k_quant", 4.5, 0.381, None),
    ("ONNX Runtime int4", "rounding", 4.5, 0.606, None),
    ("llama.cpp with importances", "Q3_K_M", 4.43, 0.257, 71),
    ("llama.cpp", "Q3_K_M", 4.43, 0.570, 59),
    ("llama.cpp with importances", "IQ4_XS", 4.26, 0.201, 72),
    ("llama.cpp with importances", "IQ3_S", 3.44, 0.626, 55),
    ("llama.cpp with importances", "Q3_K", 3.44, 0.821, 51),
    ("llama.cpp", "Q3_K", 3.44, 1.200, 44),
]


def ours(argument):
    name, file = argument.split("=", 1)
    with open(file, encoding="utf-8") as f:
        report = json.load(f)
    summary = report["summary"]
    return ("haikuq", name, report["package"]["bits_per_weight"], summary["mean_kl"], summary["top1_percent"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reports", nargs="*", metavar="NAME=FILE")
    parser.add_argument("--plot", metavar="FILE", help="an SVG of all that is calibrated or recorded")
    arguments = parser.parse_args()
    rows = [ours(a) for a in arguments.reports] + PEERS
    rows.sort(key=lambda row: (-round(row[2], 2), row[3]))
    print("| package | bits a weight | mean KL | top-1 |\n| --- | --- | --- | --- |")
    for series, name, bits, kl, top in rows:
        print(f"| {series}: {name} | {bits:.2f} | {kl:.4f} | {'' if top is None else f'{top:.0f} %'} |")
    if arguments.plot:
        # Recipes for trying things out are no points of the curve.
        points = [row[:4] for row in rows if not row[1].endswith("-fast")]
        with open(arguments.plot, "w", encoding="utf-8") as f:
            f.write(svg(points))


if __name__ == "__main__":
    main()

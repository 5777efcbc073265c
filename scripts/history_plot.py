#!/usr/bin/env python3
"""Draws docs/images/history.svg from benches/history.jsonl: how speed, loss and size went from commit to commit.

    python3 scripts/history_plot.py > docs/images/history.svg

Each line of the file is an object: `commit` (the one whose docs state the figures), `date`, `machine`, `what`, and `figures`, numbers
by name with their unit at the end of it. Lines are added, oldest first, and never changed.
"""

import json
from math import log10
from pathlib import Path

HISTORY = Path(__file__).resolve().parent.parent / "benches" / "history.jsonl"
# A panel: title, lines of the grid, and series of (name, colour, what, part of the machine's name, figure).
PANELS = [
    (
        "tokens a second, Llama 3B shape in q4-fast on an H200",
        (100, 1_000, 10_000, 30_000),
        [
            ("prefill of 512 tokens", "#d9480f", "inference: Llama 3B shape, q4-fast", "H200", "prefill_512_tokens_s"),
            ("decode", "#1971c2", "inference: Llama 3B shape, q4-fast", "H200", "decode_tokens_s"),
            ("decode in Chromium", "#2f9e44", "inference in the browser: Llama 3B shape, q4-fast", "H200", "decode_tokens_s"),
        ],
    ),
    (
        "mean KL divergence (nats), SmolLM2-135M",
        (0.01, 0.1, 1, 2),
        [
            ("q3-fast", "#74a9d8", "loss: SmolLM2-135M, q3-fast", "", "mean_kl"),
            ("q4-fast", "#e8a27c", "loss: SmolLM2-135M, q4-fast", "", "mean_kl"),
            ("q3", "#1971c2", "loss: SmolLM2-135M, q3", "", "mean_kl"),
            ("q4", "#d9480f", "loss: SmolLM2-135M, q4", "", "mean_kl"),
        ],
    ),
    (
        "seconds of a calibrated conversion to q4",
        (10, 100, 1_000),
        [
            ("1B shape, 16 cores", "#1971c2", "conversion: Llama 1B shape, q4", "AVX-512", "wall_s"),
            ("SmolLM2-135M, 2 cores", "#d9480f", "conversion: SmolLM2-135M, q4", "2 shared", "wall_s"),
            ("3B shape, with an H200", "#2f9e44", "conversion: Llama 3B shape, q4", "H200", "wall_s"),
            ("1B shape, with an H200", "#6741d9", "conversion: Llama 1B shape, q4", "H200", "wall_s"),
        ],
    ),
    (
        "kB to download for a page that generates (brotli)",
        (700, 800, 900, 1_000),
        [("WebAssembly and worker", "#d9480f", "download: WebAssembly and worker", "", "brotli_kb")],
    ),
]
WIDTH, PANEL = 720, 190
LEFT, RIGHT, TOP, BOTTOM = 72, 208, 28, 18
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#333}.grid{stroke:#8884;stroke-width:1}.small{font-size:11px}"
    "@media (prefers-color-scheme:dark){text{fill:#ddd}}"
)


def entries():
    with HISTORY.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def told(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:g}"


def panel(top, title, ticks, series, history, place):
    """The SVG of one panel whose upper edge is at `top`."""
    low, high = log10(ticks[0]), log10(ticks[-1])

    def y(value):
        return top + TOP + (high - log10(value)) / (high - low) * (PANEL - TOP - BOTTOM)

    out = [f'<text x="{LEFT}" y="{top + 14}">{title}</text>']
    for tick in ticks:
        out.append(f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{told(tick)}</text>')
    names = []
    for name, colour, what, machine, figure in series:
        points = [
            (place[entry["commit"]], entry["figures"][figure])
            for entry in history
            if entry["what"] == what and machine in entry["machine"] and figure in entry["figures"]
        ]
        path = " ".join(f"{x:.1f},{y(value):.1f}" for x, value in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y(value):.1f}" r="3.5" fill="{colour}"/>' for x, value in points]
        # The first figure stands left of its point, the last one behind the series' name.
        if len(points) > 1:
            x, value = points[0]
            out.append(f'<text class="small" x="{x - 7:.1f}" y="{y(value) + 4:.1f}" text-anchor="end">{told(value)}</text>')
        names.append((y(points[-1][1]), f"{name}: {told(points[-1][1])}", colour))
    # Names stand at the right of the lines, at least a line of text from each other.
    at = top + TOP - 12
    for height, name, colour in sorted(names):
        at = max(at + 14, height)
        out.append(f'<circle cx="{WIDTH - RIGHT + 14}" cy="{at:.1f}" r="4" fill="{colour}"/>')
        out.append(f'<text class="small" x="{WIDTH - RIGHT + 22}" y="{at + 4:.1f}">{name}</text>')
    return out


def svg():
    history = entries()
    dates = {entry["commit"]: entry["date"] for entry in history}
    step = (WIDTH - RIGHT - LEFT - 50) / max(1, len(dates) - 1)
    place = {commit: LEFT + 40 + step * number for number, commit in enumerate(dates)}
    height = PANEL * len(PANELS) + 34
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">']
    out.append(f"<title>Speed, loss, time of conversion and size by commit</title><style>{STYLE}</style>")
    for number, (title, ticks, series) in enumerate(PANELS):
        out += panel(PANEL * number, title, ticks, series, history, place)
    before, last = None, -100
    for commit, x in place.items():
        if dates[commit] != before:
            before = dates[commit]
            out.append(f'<path class="grid" d="M{x:.1f} {TOP}V{height - 28}"/>')
            if x - last > 40:
                last = x
                out.append(f'<text x="{x:.1f}" y="{height - 12}" text-anchor="middle">{before[5:]}</text>')
    return "\n".join([*out, "</svg>", ""])


print(svg(), end="")

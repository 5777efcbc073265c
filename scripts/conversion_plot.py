#!/usr/bin/env python3
"""Draws docs/images/conversion.svg: how long calibrated conversion takes, by the size of a model.

    python3 scripts/conversion_plot.py > docs/images/conversion.svg

The figures are those of docs/benchmarks.md; a circle is a conversion that was measured whole, a ring one that was computed from
some of its layers.
"""

from math import log10

# Series: colour, and points of (weights in billions, seconds, measured whole).
SERIES = {
    "2 cores (AVX2)": ("#d9480f", [(0.135, 122, True), (1.24, 1017, True), (3.2, 2800, False), (8.03, 8800, False)]),
    "16 cores (AVX-512)": ("#1971c2", [(1.24, 128, True), (3.2, 350, False)]),
    "the same with an H200": ("#2f9e44", [(0.135, 12, True), (1.24, 26, True), (3.2, 56, True), (8.03, 122, True)]),
}
WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 72, 20, 16, 48
SIZES = (0.1, 12.0)
SECONDS = (5.0, 20_000.0)
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#333}.grid{stroke:#8884;stroke-width:1}.small{font-size:11px}"
    "@media (prefers-color-scheme:dark){text{fill:#ddd}}"
)
TIMES = {10: "10 s", 60: "1 min", 300: "5 min", 1800: "30 min", 7200: "2 h", 14400: "4 h"}


def along(value, span, start, end):
    low, high = map(log10, span)
    return start + (log10(value) - low) / (high - low) * (end - start)


def x(size):
    return along(size, SIZES, LEFT, WIDTH - RIGHT)


def y(seconds):
    return along(seconds, SECONDS, HEIGHT - BOTTOM, TOP)


def told(seconds):
    return f"{seconds:.0f} s" if seconds < 300 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def svg():
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    out.append(f"<title>Time of a calibrated conversion by the size of the model</title><style>{STYLE}</style>")
    for seconds, name in TIMES.items():
        out.append(f'<path class="grid" d="M{LEFT} {y(seconds):.1f}H{WIDTH - RIGHT}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y(seconds) + 4:.1f}" text-anchor="end">{name}</text>')
    for size in (0.135, 1.2, 3.2, 8.0):
        out.append(f'<path class="grid" d="M{x(size):.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        out.append(f'<text x="{x(size):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{size:g}</text>')
    out.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 10}" text-anchor="middle">billions of weights</text>')
    for row, (name, (colour, points)) in enumerate(SERIES.items()):
        path = " ".join(f"{x(size):.1f},{y(seconds):.1f}" for size, seconds, _ in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for size, seconds, whole in points:
            fill = colour if whole else "none"
            out.append(f'<circle cx="{x(size):.1f}" cy="{y(seconds):.1f}" r="4" fill="{fill}" stroke="{colour}" stroke-width="2"/>')
            at = f'x="{x(size) - 8:.1f}" y="{y(seconds) - 6:.1f}" text-anchor="end"'
            out.append(f'<text class="small" {at}>{told(seconds)}</text>')
        legend = TOP + 14 + 16 * row
        out.append(f'<circle cx="{LEFT + 14}" cy="{legend - 4}" r="4" fill="{colour}"/>')
        out.append(f'<text x="{LEFT + 24}" y="{legend}">{name}</text>')
    return "\n".join([*out, "</svg>", ""])


print(svg(), end="")

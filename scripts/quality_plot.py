"""KL divergence against bits a weight as an SVG, light or dark as the page is. Points are (series, name, bits, KL)."""

from html import escape
from math import log10

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 16, 48
BITS = (3.0, 5.5)
KL = (0.01, 2.0)
# A colour that reads on white and on black for each series, and whether its points are joined.
SERIES = {
    "haikuq": ("#d9480f", True),
    "llama.cpp with importances": ("#1971c2", False),
    "llama.cpp": ("#74a9d8", False),
    "ONNX Runtime int4": ("#2f9e44", False),
}
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#333}.grid{stroke:#8884;stroke-width:1}.small{font-size:11px}"
    "@media (prefers-color-scheme:dark){text{fill:#ddd}}"
)


def x(bits):
    return LEFT + (bits - BITS[0]) / (BITS[1] - BITS[0]) * (WIDTH - LEFT - RIGHT)


def y(kl):
    low, high = map(log10, KL)
    return TOP + (high - log10(kl)) / (high - low) * (HEIGHT - TOP - BOTTOM)


def svg(points):
    points = [p for p in points if BITS[0] <= p[2] <= BITS[1] and KL[0] <= p[3] <= KL[1]]
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    out.append(f"<title>KL divergence against bits a weight</title><style>{STYLE}</style>")
    for kl in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2):
        out.append(f'<path class="grid" d="M{LEFT} {y(kl):.1f}H{WIDTH - RIGHT}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y(kl) + 4:.1f}" text-anchor="end">{kl:g}</text>')
    for bits in (3, 3.5, 4, 4.5, 5, 5.5):
        out.append(f'<path class="grid" d="M{x(bits):.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        out.append(f'<text x="{x(bits):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{bits:g}</text>')
    out.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 10}" text-anchor="middle">bits a weight, everything counted</text>')
    out.append(f'<text transform="translate(16 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">mean KL divergence (nats)</text>')
    for row, (series, (colour, joined)) in enumerate(SERIES.items()):
        of_series = sorted((p for p in points if p[0] == series), key=lambda p: p[2])
        if joined:
            path = " ".join(f"{x(bits):.1f},{y(kl):.1f}" for _, _, bits, kl in of_series)
            out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for _, name, bits, kl in of_series:
            # Names stand left of their points where they would leave the picture or lie on another point, and below the
            # line of a joined series.
            beside = any(0 < q[2] - bits < 0.1 and 0.8 < q[3] / kl < 1.25 for q in points)
            left = joined or beside or bits > 4.9
            at, anchor = (x(bits) - 7, "end") if left else (x(bits) + 7, "start")
            down = 14 if joined else 4
            out.append(f'<circle cx="{x(bits):.1f}" cy="{y(kl):.1f}" r="4" fill="{colour}"/>')
            out.append(f'<text class="small" x="{at:.1f}" y="{y(kl) + down:.1f}" text-anchor="{anchor}">{escape(name)}</text>')
        legend = HEIGHT - BOTTOM - 14 - 16 * (len(SERIES) - 1 - row)
        out.append(f'<circle cx="{LEFT + 14}" cy="{legend - 4}" r="4" fill="{colour}"/>')
        out.append(f'<text x="{LEFT + 24}" y="{legend}">{series}</text>')
    return "\n".join([*out, "</svg>", ""])

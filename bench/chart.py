"""Bars of ratios on a logarithmic axis, as SVG."""
import math
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, TOP, STEP = 960, 320, 250, 64, 24
AHEAD, BEHIND, INK, FAINT = "#2a7f62", "#b5533c", "#222222", "#bbbbbb"


@dataclass(frozen=True)
class Bar:
    label: str
    against: str
    median: float
    least: float
    most: float


def text(x, y, words, anchor="start", size=13, colour=INK, weight="normal"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}" '
            f'font-weight="{weight}">{escape(words)}</text>')


def line(x1, y1, x2, y2, colour, width=1.0):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def ticks(least, most):
    """Powers of two that enclose all bars and 1."""
    return [2.0 ** power for power in range(math.floor(math.log2(min(least, 0.5))), math.ceil(math.log2(max(most, 2.0))) + 1)]


def draw(title, bars, caption):
    marks = ticks(min((bar.least for bar in bars), default=1), max((bar.most for bar in bars), default=1))
    height = TOP + STEP * len(bars) + 60
    bottom = TOP + STEP * len(bars)

    def x(ratio):
        part = math.log2(ratio / marks[0]) / math.log2(marks[-1] / marks[0])
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
             f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>', text(16, 26, title, size=16, weight="bold")]
    for mark in marks:
        parts += [line(x(mark), TOP - 6, x(mark), bottom, INK if mark == 1 else FAINT, 1.5 if mark == 1 else 0.7),
                  text(x(mark), bottom + 16, f"{mark:g}", "middle", 11)]
    for index, bar in enumerate(bars):
        y = TOP + STEP * index + STEP / 2
        start, end = sorted((x(1), x(bar.median)))
        colour = AHEAD if bar.median >= 1 else BEHIND
        parts += [text(LEFT - 10, y + 4, bar.label, "end"),
                  f'<rect x="{start:.1f}" y="{y - 8:.1f}" width="{max(end - start, 1):.1f}" height="16" fill="{colour}"/>',
                  line(x(bar.least), y, x(bar.most), y, INK, 1.5),
                  text(WIDTH - RIGHT + 12, y + 4, f"{bar.median:.2f} of {bar.against}", colour=colour)]
    parts += [text(x(1), TOP - 12, "as fast", "middle", 11),
              text(16, height - 12, f"Times as good, median; the thin line: least to most. {caption}", size=11), "</svg>"]
    return "\n".join(parts)

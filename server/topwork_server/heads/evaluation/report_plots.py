"""Draws the report's plots as SVG. Colors are the page's CSS variables, so that they follow its light or dark theme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class PlotFrame:
    """Axes of a plot, x0..x1 by y0..y1, with space for ticks. `log` makes the x axis logarithmic."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: int = 340
    height: int = 240
    log: bool = False
    left, right, top, bottom = 46, 12, 10, 34

    def to_pixels(self, x: float, y: float) -> tuple[float, float]:
        """Convert a point to pixels."""
        x0, x1, x = (math.log10(v) for v in (*self.x, x)) if self.log else (*self.x, x)
        across = (x - x0) / ((x1 - x0) or 1.0)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1.0)
        inner = self.width - self.left - self.right, self.height - self.top - self.bottom
        return round(self.left + across * inner[0], 1), round(self.top + (1 - up) * inner[1], 1)

    def render(self, inside: Sequence[str], xlabel: str, ylabel: str, xticks: Sequence[float] | None = None) -> str:
        """Render the plot: grid and ticks, then the marks of `inside` on top."""
        ys, xs = ticks(*self.y), ticks(*self.x) if xticks is None else xticks
        parts = [self._tick_y(y, text) for y, text in zip(ys, tick_texts(ys), strict=True)]
        parts += [self._tick_x(x, text) for x, text in zip(xs, tick_texts(xs), strict=True)]
        middle = self.left + (self.width - self.left - self.right) / 2
        parts.append(f'<text x="{middle}" y="{self.height - 4}" class="axis" text-anchor="middle">{escape(xlabel)}</text>')
        upright = f'transform="rotate(-90)" x="{-(self.height - self.bottom) / 2}" y="11"'
        parts.append(f'<text {upright} class="axis" text-anchor="middle">{escape(ylabel)}</text>')
        return svg(self.width, self.height, [*parts, *inside])

    def _tick_y(self, y: float, text: str) -> str:
        (x0, py), (x1, _) = self.to_pixels(self.x[0], y), self.to_pixels(self.x[1], y)
        line = f'<line x1="{x0}" x2="{x1}" y1="{py}" y2="{py}" class="grid"/>'
        return f'{line}<text x="{x0 - 4}" y="{py + 4}" class="tick" text-anchor="end">{text}</text>'

    def _tick_x(self, x: float, text: str) -> str:
        px, bottom = self.to_pixels(x, self.y[0])
        return f'<text x="{px}" y="{bottom + 14}" class="tick" text-anchor="middle">{text}</text>'


def svg(width: float, height: float, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img">{"".join(parts)}</svg>'


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """List round numbers from low to high."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * 0.99)
    first = math.ceil(low / step - 1e-9)
    return [round((first + i) * step, 10) for i in range(int((high - first * step) / step + 1e-9) + 1)]


def tick_texts(values: Sequence[float]) -> list[str]:
    """Format values with the digits that tell them apart: ten for 1e9 + 1 and 1e9 + 2."""
    for digits in range(4, 18):
        texts = [f"{value:.{digits}g}" for value in values]
        if len(set(texts)) == len(values) and all(abs(float(t) - v) <= 1e-9 * abs(v) for t, v in zip(texts, values, strict=True)):
            return texts
    return [f"{value:g}" for value in values]


def path(frame: PlotFrame, points: Points, kind: str) -> str:
    where = " ".join(f"{x},{y}" for x, y in (frame.to_pixels(*point) for point in points))
    return f'<polyline points="{where}" class="{kind}"/>'


def dots(frame: PlotFrame, points: Points, kind: str, radius: float = 3) -> str:
    placed = (frame.to_pixels(*point) for point in points)
    return "".join(f'<circle cx="{x}" cy="{y}" r="{radius}" class="{kind}"/>' for x, y in placed)


def band(frame: PlotFrame, low: Points, high: Points) -> str:
    where = " ".join(f"{x},{y}" for x, y in (frame.to_pixels(*point) for point in [*high, *reversed(low)]))
    return f'<polygon points="{where}" class="band"/>'


def curve(sizes: Sequence[int], figures: Sequence[tuple[float, float, float]], name: str, baseline: float | None) -> str:
    """Plot the main metric (value, low, high) over the number of training items."""
    lows = [low for _, low, _ in figures] + ([baseline] if baseline is not None else [])
    y = max(-1.0, min(lows)), max(high for _, _, high in figures)
    frame = PlotFrame((sizes[0], max(sizes[-1], sizes[0] + 1)), padded(y), log=sizes[-1] > 8 * sizes[0])
    sides = [[(size, figure[side]) for size, figure in zip(sizes, figures, strict=True)] for side in range(3)]
    inside = [band(frame, sides[1], sides[2]), path(frame, sides[0], "line"), dots(frame, sides[0], "dot")]
    if baseline is not None:
        inside.append(path(frame, [(sizes[0], baseline), (frame.x[1], baseline)], "dashed"))
    return frame.render(inside, "training items", name, sizes)


def answered(points: Sequence[tuple[float, float, float, float]]) -> str:
    """Plot accuracy (answered, value, low, high) over the share of items that have an answer."""
    ends = min(low for _, _, low, _ in points), max(high for _, _, _, high in points)
    frame = PlotFrame((0, 1), padded(ends))
    sides = [[(point[0], point[side]) for point in points] for side in (1, 2, 3)]
    inside = [band(frame, sides[1], sides[2]), path(frame, sides[0], "line"), dots(frame, sides[0], "dot")]
    return frame.render(inside, "share of items with an answer", "accuracy")


def reliability(before: Sequence[tuple[float, float, int]], after: Sequence[tuple[float, float, int]]) -> str:
    """Plot accuracy over confidence; dots grow with the number of predictions."""
    frame = PlotFrame((0, 1), (0, 1))
    inside = [path(frame, [(0, 0), (1, 1)], "dashed")]
    most = max((count for _, _, count in (*before, *after)), default=1)
    for bins, kind in ((before, "before"), (after, "line")):
        kept = [one for one in bins if one[2]]
        inside.append(path(frame, [(confidence, accuracy) for confidence, accuracy, _ in kept], kind))
        inside += [_counted_dot(frame, *one, most, kind) for one in kept]
    return frame.render(inside, "how sure it was", "how often it was right")


def _counted_dot(frame: PlotFrame, sure: float, right: float, count: int, most: int, kind: str) -> str:
    """Draw a dot sized by its share of the predictions; the served curve shows their number below."""
    x, y = frame.to_pixels(sure, right)
    radius = round(2 + 5 * math.sqrt(count / most), 1)
    title = f"<title>{count:,} predictions, {sure:.0%} sure, {right:.0%} right</title>"
    dot = f'<circle cx="{x}" cy="{y}" r="{radius}" class="dot {kind}">{title}</circle>'
    if kind == "before":
        return dot
    bottom = frame.to_pixels(0, 0)[1] - 4
    return f'{dot}<text x="{x}" y="{bottom}" class="count" text-anchor="middle">{_short(count)}</text>'


def _short(count: int) -> str:
    return f"{count}" if count < 1000 else f"{count / 1000:.2g}k" if count < 100_000 else f"{count / 1e6:.2g}M"


def scatter(points: Points, interval: float) -> str:
    """Plot prediction over truth, with the band that held 90% of held-out items."""
    low, high = min(min(p) for p in points), max(max(p) for p in points)
    less = _offset(low, high)
    points = [(truth - less, predicted - less) for truth, predicted in points]
    low, high = low - less, high - less
    frame = PlotFrame(padded((low, high)), padded((low, high)), height=320)
    ends = [frame.x[0], frame.x[1]]
    inside = [band(frame, [(x, max(frame.y[0], x - interval)) for x in ends], [(x, min(frame.y[1], x + interval)) for x in ends])]
    inside += [path(frame, [(x, x) for x in ends], "dashed"), dots(frame, points, "dot faint", 2.2)]
    note = f", less {less:.17g}" if less else ""
    return frame.render(inside, f"truth{note}", f"prediction{note}")


def _offset(low: float, high: float) -> float:
    """Choose a round number to subtract from numbers that differ only in their last digits."""
    if not high > low or max(abs(low), abs(high)) < 1e4 * (high - low):
        return 0.0
    return ticks(low, high)[0]


def boxes(
    width: float,
    height: float,
    truth: Sequence[tuple[tuple[float, ...], str]],
    predicted: Sequence[tuple[tuple[float, ...], str]],
    shown: str,
) -> str:
    """Draw true and predicted boxes (x0, y0, x1, y1 in pixels, and what is written beside them) on a picture, 224 pixels wide or
    high. `shown` is a data URI, or "" where there is no picture."""
    scale = 224 / max(width, height)
    parts = [f'<rect width="{width * scale:g}" height="{height * scale:g}" class="sheet"/>']
    if shown:
        parts.append(f'<image width="{width * scale:g}" height="{height * scale:g}" href="{escape(shown)}"/>')
    parts += [_box([edge * scale for edge in box], text, "truth") for box, text in truth]
    parts += [_box([edge * scale for edge in box], text, "found") for box, text in predicted]
    return svg(round(width * scale, 1), round(height * scale, 1), parts)


def _box(edges: Sequence[float], text: str, kind: str) -> str:
    """Draw a box; its text stands above it for what was found, and below for the truth."""
    x0, y0, x1, y1 = (round(edge, 1) for edge in edges)
    rect = f'<rect x="{x0}" y="{y0}" width="{round(x1 - x0, 1)}" height="{round(y1 - y0, 1)}" class="box {kind}"/>'
    y = max(9.0, y0 - 2) if kind == "found" else y1 - 2
    return f'{rect}<text x="{x0 + 2}" y="{round(y, 1)}" class="label {kind}">{escape(text)}</text>'


def padded(ends: tuple[float, float]) -> tuple[float, float]:
    room = 0.04 * ((ends[1] - ends[0]) or 1.0)
    return ends[0] - room, ends[1] + room


def interval(value: float, low: float, high: float, ends: tuple[float, float], baseline: float | None) -> str:
    """Draw an interval as a bar, with the baseline as a mark and the ends of the scale as numbers."""

    def at(x: float) -> float:
        return round(48 + 152 * (min(max(x, ends[0]), ends[1]) - ends[0]) / ((ends[1] - ends[0]) or 1.0), 1)

    parts = ['<line x1="48" x2="200" y1="8" y2="8" class="grid"/>']
    parts.append(f'<text x="43" y="12" class="tick" text-anchor="end">{ends[0]:.3g}</text>')
    parts.append(f'<text x="205" y="12" class="tick">{ends[1]:.3g}</text>')
    parts.append(f'<line x1="{at(low)}" x2="{at(high)}" y1="8" y2="8" class="range"/>')
    parts.append(f'<circle cx="{at(value)}" cy="8" r="4" class="dot"/>')
    if baseline is not None:
        parts.append(f'<line x1="{at(baseline)}" x2="{at(baseline)}" y1="2" y2="14" class="mark"/>')
    return svg(250, 16, parts)

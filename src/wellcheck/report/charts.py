"""Line charts and histograms as inline SVG: no script, colours from the page's style sheet: they follow dark mode and a phone's width."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 8, 38
MOST_POINTS = 300
SERIES_STYLES = 6  # colours in the style sheet: series0 to series5


@dataclass(frozen=True)
class Line:
    """One curve: its name, its CSS class (colour and dash), its points; a point whose y is None is left out."""

    name: str
    style: str
    x: Sequence[float]
    y: Sequence[float | None]
    marks: bool = False  # a dot on every point, for curves of few points
    listed: bool = True  # in the legend

    def points(self) -> list[tuple[float, float]]:
        """The drawn points, at most MOST_POINTS of them."""
        known = [(x, y) for x, y in zip(self.x, self.y, strict=True) if y is not None]
        step = -(-len(known) // MOST_POINTS)
        return known[:: max(step, 1)] + (known[-1:] if step > 1 else [])


@dataclass(frozen=True)
class Bars:
    """One group of a histogram: its name, its CSS class, its count in every bin."""

    name: str
    style: str
    counts: Sequence[int]


def line_chart(
    lines: Sequence[Line], *, title: str, x_label: str, y_label: str, y_range: tuple[float, float] | None = None, marks: bool = False
) -> Markup:
    """Curves over a common x. `marks` puts a dot on every point of every line."""
    drawn = [(line, line.points()) for line in lines]
    everything = [point for _, points in drawn for point in points]
    if not everything:
        return Markup("<p class='quiet'>Nothing to draw.</p>")
    x_ticks = ticks(min(x for x, _ in everything), max(x for x, _ in everything))
    y_ticks = ticks(*(y_range or (min(y for _, y in everything), max(y for _, y in everything))))
    place = _Frame(x_ticks, y_ticks).place
    parts = [_axes(x_ticks, y_ticks, place, x_label, y_label)]
    for line, points in drawn:
        spots = [place(x, y) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline class="line {escape(line.style)}" points="{path}"><title>{escape(line.name)}</title></polyline>')
        if marks or line.marks:
            for (x, y), (across, down) in zip(points, spots, strict=True):
                told = f"<title>{escape(line.name)}: {_number(y)} at {_number(x)}</title>"
                parts.append(f'<circle class="dot {escape(line.style)}" cx="{across:.1f}" cy="{down:.1f}" r="3.5">{told}</circle>')
    return _framed(title, parts, [(line.name, line.style) for line, points in drawn if points and line.listed])


def scatter(groups: Sequence[tuple[str, str, np.ndarray]], *, title: str) -> Markup:
    """Points without axes: (name, CSS class, float [n, 2]) for each group, the last on top. Points that are no numbers are left out."""
    points = [(name, style, where[np.isfinite(where).all(1)]) for name, style, where in groups]
    everything = np.concatenate([where for _, _, where in points])
    if not len(everything):
        return Markup("<p class='quiet'>Nothing to draw.</p>")
    low, high = everything.min(0), everything.max(0)
    scale = np.array([WIDTH - 12, HEIGHT - 12]) / np.maximum(high - low, 1e-9)
    parts = []
    for name, style, where in points:
        # One path for all points of a group: the round ends of lines of no length.
        path = "".join(f"M{x:.0f} {y:.0f}h0" for x, y in 6 + (where - low) * scale)
        parts.append(f'<path class="points {escape(style)}" d="{path}"><title>{escape(name)}</title></path>')
    return _framed(title, parts, [(name, style) for name, style, _ in points])


def histogram(groups: Sequence[Bars], edges: Sequence[float], *, title: str, x_label: str, y_label: str) -> Markup:
    """Groups side by side in bins between the edges; heights are logarithms of count + 1, so that a few beside thousands can be seen."""
    most = max((count for group in groups for count in group.counts), default=0)
    steps = [0, *(10**power for power in range(max(1, math.ceil(math.log10(most + 1))) + 1))]
    x_ticks, y_ticks = ticks(edges[0], edges[-1]), [math.log10(step + 1) for step in steps]
    place = _Frame(x_ticks, y_ticks).place
    parts = [_axes(x_ticks, y_ticks, place, x_label, y_label, [f"{step:,}" for step in steps])]
    for index, group in enumerate(groups):
        for low, high, count in zip(edges, edges[1:], group.counts, strict=False):
            if count:
                width = (high - low) / len(groups)
                left, top = place(low + index * width, math.log10(count + 1))
                right, bottom = place(low + (index + 1) * width, 0)
                told = f"<title>{escape(group.name)}: {count:,} from {_number(low)} to {_number(high)}</title>"
                size = f'width="{max(1, right - left - 0.5):.1f}" height="{bottom - top:.1f}"'
                parts.append(f'<rect class="dot {escape(group.style)}" x="{left:.1f}" y="{top:.1f}" {size}>{told}</rect>')
    return _framed(title, parts, [(f"{group.name}: {sum(group.counts):,}", group.style) for group in groups])


def _framed(title: str, parts: Sequence[str], keys: Sequence[tuple[str, str]]) -> Markup:
    legend = "".join(f'<span class="key {escape(style)}">{escape(name)}</span>' for name, style in keys)
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    return Markup(f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{picture}<p class="legend">{legend}</p></figure>')


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that span [low, high]."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    step = 10 ** math.floor(math.log10((high - low) / wanted))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= wanted)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


@dataclass(frozen=True)
class _Frame:
    x_ticks: list[float]
    y_ticks: list[float]

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x_ticks[0]) / (self.x_ticks[-1] - self.x_ticks[0])
        up = (y - self.y_ticks[0]) / (self.y_ticks[-1] - self.y_ticks[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), TOP + (1 - up) * (HEIGHT - TOP - BOTTOM)


def _axes(
    x_ticks: list[float],
    y_ticks: list[float],
    place: Callable[[float, float], tuple[float, float]],
    x_label: str,
    y_label: str,
    y_names: Sequence[str] | None = None,
) -> str:
    parts = []
    for tick, name in zip(y_ticks, y_names or map(_number, y_ticks), strict=True):
        _, down = place(x_ticks[0], tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{down + 4:.1f}" text-anchor="end">{name}</text>')
    for tick in x_ticks:
        across, _ = place(tick, y_ticks[0])
        parts.append(f'<text x="{across:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{_number(tick)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text transform="translate(11 {middle}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>')
    return "".join(parts)


def _number(value: float) -> str:
    return f"{value:.4g}"

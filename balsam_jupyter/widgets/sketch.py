"""Drawings as SVG that needs no script, no trust and no kernel, and that reads on a light page and on a dark one."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from html import escape

from ..failures import printable
from .columns import Axis, Place
from .drawing import Drawing, Heatmap, Parallel, Scatter, along, decades, shade_of, steps
from .kinds import said

WIDTH, HEIGHT = 760, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 120, 56, 50
_WIDE, _HIGH = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
_INK = "#767676"  # 4.5 : 1 on white, and nearly that on a dark page
_SHADES = 24
_MOST = 2_000
"""Points and lines in a saved picture, so that a notebook stays small."""


class _Measure:
    """An axis of the picture: its marks, and how far along something lies, from 0 to 1."""

    def __init__(self, axis: Axis, places: list[Place]) -> None:
        self.axis = axis
        self.names: dict[str, int] = {}
        self.marks: list[tuple[float, str]]
        if axis.kind == "name":
            self.names = {name: at for at, name in enumerate(sorted({str(place) for place in places}))}
            number = max(len(self.names), 1)
            every = -(-number // 14)
            self.marks = [((at + 0.5) / number, name) for name, at in self.names.items() if at % every == 0]
            return
        numbers = [float(place) for place in places] or [1.0, 10.0]
        low, high = self._along(min(numbers)), self._along(max(numbers))
        pad = 0.04 * (high - low) or 0.04 * abs(low) or 0.5
        self.low, self.high = low - pad, high + pad
        ticks = decades(min(numbers), max(numbers)) if axis.log else steps(low, high)
        inside = [tick for tick in ticks if self.low <= self._along(tick) <= self.high]
        self.marks = [(self.share(tick), said(axis, tick)) for tick in inside]

    def _along(self, place: Place) -> float:
        return math.log10(float(place)) if self.axis.log else float(place)

    def share(self, place: Place) -> float:
        if self.axis.kind == "name":
            return (self.names[str(place)] + 0.5) / len(self.names)
        return (self._along(place) - self.low) / (self.high - self.low)


def svg(drawing: Drawing) -> str:
    """The drawing as a picture."""
    parts = [_text(_LEFT, 20, drawing.title, size=15), _text(_LEFT, 40, drawing.line, size=12)]
    for at, said_here in enumerate(drawing.said):
        parts.append(_text(_LEFT + _WIDE / 2, _TOP + _HIGH / 2 + 20 * at, said_here, "middle", 13))
    if isinstance(drawing, Scatter):
        parts += _scatter(drawing)
    elif isinstance(drawing, Parallel):
        parts += _parallel(drawing)
    elif isinstance(drawing, Heatmap) and drawing.columns:
        parts += _heatmap(drawing)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f'<g font-family="sans-serif" fill="{_INK}" stroke="none">{"".join(parts)}</g></svg>'
    )


def image(drawing: Drawing) -> str:
    """The picture as an image tag; untrusted notebooks show no inline SVG."""
    picture = base64.b64encode(svg(drawing).encode()).decode()
    told = escape(printable(f"{drawing.title}: {drawing.empty or drawing.line}"))
    return f'<img alt="{told}" width="{WIDTH}" style="max-width:100%" src="data:image/svg+xml;base64,{picture}">'


def _text(x: float, y: float, said: str, anchor: str = "start", size: int = 11, turn: bool = False) -> str:
    turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turn else ""
    said = escape(printable(said))
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{turned}>{said}</text>'


def _frame(x: _Measure, y: _Measure) -> Iterator[str]:
    bottom = _TOP + _HIGH
    crowded = sum(len(name) for _, name in x.marks) * 6.5 > _WIDE
    for share, name in x.marks:
        at = _LEFT + share * _WIDE
        yield f'<path d="M{at:.1f} {_TOP}V{bottom + 4}" stroke="{_INK}" stroke-opacity="0.22"/>'
        if not crowded:
            yield _text(at, bottom + 17, name, "middle")
    if crowded and x.marks:
        yield _text(_LEFT, bottom + 17, x.marks[0][1])
        yield _text(_LEFT + _WIDE, bottom + 17, x.marks[-1][1], "end")
    for share, name in y.marks:
        at = bottom - share * _HIGH
        yield f'<path d="M{_LEFT - 4} {at:.1f}H{_LEFT + _WIDE}" stroke="{_INK}" stroke-opacity="0.22"/>'
        yield _text(_LEFT - 8, at + 4, name if len(name) < 11 else f"{name[:9]}…", "end")
    yield _text(_LEFT + _WIDE / 2, HEIGHT - 12, x.axis.name, "middle", 12)
    yield _text(18, _TOP + _HIGH / 2, y.axis.name, "middle", 12, turn=True)


def _scatter(drawing: Scatter) -> Iterator[str]:
    x = _Measure(drawing.x, [place for one in drawing.series for place in one.x])
    y = _Measure(drawing.y, [place for one in drawing.series for place in one.y])
    if drawing.series or not drawing.empty:
        yield from _frame(x, y)
    shades = [number for one in drawing.series for number in one.shades or []]
    low, high = min(shades, default=0.0), max(shades, default=1.0)
    every = -(-sum(len(one.x) for one in drawing.series) // _MOST)
    dots: dict[str, list[str]] = {}
    for one in drawing.series:
        for at in range(0, len(one.x), every or 1):
            left, top = _LEFT + x.share(one.x[at]) * _WIDE, _TOP + (1 - y.share(one.y[at])) * _HIGH
            fill = one.colour if one.shades is None else _shade(one.shades[at], low, high)
            dots.setdefault(fill, []).append(f"{left:.1f} {top:.1f}")
    for number, (fill, places) in enumerate(dots.items()):
        yield from _dots(f"dot{number}", fill, places)
    yield from _legend(drawing, low, high)


def _dots(name: str, fill: str, places: list[str]) -> Iterator[str]:
    """A dot at each place: a mark at each corner of a line that is not drawn, which takes 11 bytes instead of 50."""
    dot = f'<circle cx="4" cy="4" r="3.5" fill="{fill}" stroke="{_INK}" stroke-width="0.5"/>'
    size = 'markerWidth="8" markerHeight="8" refX="4" refY="4" markerUnits="userSpaceOnUse"'
    yield f'<marker id="{name}" {size}>{dot}</marker>'
    marks = " ".join(f'marker-{where}="url(#{name})"' for where in ("start", "mid", "end"))
    yield f'<path fill="none" {marks} d="M{places[0]}L{" ".join(places)}"/>'


def _shade(number: float, low: float, high: float) -> str:
    """One of few colours along the scale."""
    return shade_of(round(along(number, low, high) * _SHADES) / _SHADES)


def _legend(drawing: Scatter | Parallel, low: float, high: float) -> Iterator[str]:
    if drawing.shade is None or not drawing.series:
        return
    left = _LEFT + _WIDE + 18
    if drawing.shade.kind != "name":
        yield from _bar(drawing.shade, low, high)
        return
    yield _text(left, _TOP + 6, drawing.shade.name, size=12)
    for line, one in enumerate(drawing.series[:16], 1):
        y = _TOP + 8 + 18 * line
        yield f'<circle cx="{left + 5}" cy="{y - 4}" r="4" fill="{one.colour}"/>'
        yield _text(left + 15, y, one.name if len(one.name) < 13 else f"{one.name[:11]}…")


def _bar(axis: Axis, low: float, high: float) -> Iterator[str]:
    left, pieces = _LEFT + _WIDE + 20, 24
    for piece in range(pieces):
        y = _TOP + _HIGH * (1 - (piece + 1) / pieces)
        fill = shade_of((piece + 0.5) / pieces)
        yield f'<rect x="{left}" y="{y:.1f}" width="12" height="{_HIGH / pieces + 0.5:.1f}" fill="{fill}"/>'
    yield _text(left + 17, _TOP + 9, said(axis, high))
    yield _text(left + 17, _TOP + _HIGH, said(axis, low))
    yield _text(left + 26, _TOP + _HIGH / 2, axis.name, "middle", 12, turn=True)


def _parallel(drawing: Parallel) -> Iterator[str]:
    number = len(drawing.scales)
    low, high = drawing.limits
    place = [_LEFT + _WIDE * at / max(number - 1, 1) for at in range(number)]
    every = -(-len(drawing.rows) // (_MOST // 4)) or 1
    paths: dict[str, list[str]] = {}
    for series in drawing.series:
        for at in range(0, len(series.y), every):
            line = drawing.rows[int(float(series.y[at]))]
            colour = series.colour if series.shades is None else _shade(series.shades[at], low, high)
            pen = "M"
            for left, share in zip(place, line, strict=True):
                if share is not None:
                    corner = f"{pen}{left:.0f} {_TOP + (1 - share) * _HIGH:.1f}"
                    paths.setdefault(colour, []).append(corner)
                pen = "M" if share is None else "L"
    for colour, corners in paths.items():
        yield f'<path d="{"".join(corners)}" fill="none" stroke="{colour}" stroke-opacity="0.75"/>'
    for left, scale in zip(place, drawing.scales, strict=True):
        yield f'<path d="M{left:.1f} {_TOP}V{_TOP + _HIGH}" stroke="{_INK}"/>'
        yield _text(left, _TOP + _HIGH + 20, scale.name, "middle", 12)
        for tick, name in scale.ticks:
            top = _TOP + (1 - (tick - scale.low) / (scale.high - scale.low)) * _HIGH
            yield _text(left - 5, top + 4, name, "end", 10)
    yield from _legend(drawing, low, high)


def _heatmap(drawing: Heatmap) -> Iterator[str]:
    x, y = _Measure(drawing.x, drawing.columns), _Measure(drawing.y, drawing.lines)
    numbers = [cell for line in drawing.cells for cell in line if cell is not None]
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    # The cells are equally large, whatever the distances: so each mark is a cell's own.
    x.marks = _marks(drawing.x, drawing.columns)
    y.marks = _marks(drawing.y, drawing.lines)
    yield from _frame(x, y)
    wide, high_ = _WIDE / len(drawing.columns), _HIGH / len(drawing.lines)
    strokes: dict[str, list[str]] = {}
    for line, cells in enumerate(drawing.cells):
        for column, cell in enumerate(cells):
            if cell is not None:
                middle = _TOP + _HIGH - (line + 0.5) * high_
                places = strokes.setdefault(_shade(cell, low, high), [])
                places.append(f"M{_LEFT + column * wide:.1f} {middle:.1f}h{wide - 0.7:.1f}")
    for colour, places in strokes.items():  # thick strokes take 15 bytes, rectangles 80
        yield f'<path d="{"".join(places)}" stroke="{colour}" stroke-width="{high_ - 0.7:.1f}"/>'
    yield from _bar(drawing.shade, low, high)


def _marks(axis: Axis, places: list[Place]) -> list[tuple[float, str]]:
    every = -(-len(places) // 10)
    return [
        ((at + 0.5) / len(places), place if isinstance(place, str) else said(axis, place))
        for at, place in enumerate(places)
        if at % every == 0
    ]

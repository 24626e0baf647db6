"""The kinds of result plots: which columns each needs, and how a sample of rows becomes a drawing."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import BadInput, many
from .columns import Axis, Place, axis, shown
from .drawing import GREY, OTHERS, Drawing, Heatmap, Parallel, Scale, Scatter, Series, colours, steps
from .sample import Sample

POINTS, LINES, GRID = 5_000, 500, 40
"""Most points, most parallel lines, and most columns and lines of a heat map; more are sampled, or put together."""


class Kind(Protocol):
    """A kind of plot."""

    most: int
    """How many rows it shows."""
    names: list[str]
    """The columns it needs; parallel axes may have none to begin with."""

    def draw(self, title: str, sample: Sample) -> Drawing:
        """The drawing of these rows; `BadInput` if a column cannot be drawn so."""
        ...


def _different(names: Sequence[str]) -> list[str]:
    """Each name once, in order; what is none (a list, an array) is kept, to be told of when the columns are known."""
    return list({name if isinstance(name, str) else id(name): name for name in names}.values())


def _said(sample: Sample, number: int, what: str, lacking: str) -> list[str]:
    """How many are shown, and why not more."""
    here = len(sample.tasks)
    notes = [many(number, what)]
    if here < sample.ended:
        notes.append(f"a random {here:,} of the {sample.ended:,} rows that have ended")
    if here > number:
        notes.append(f"{many(here - number, 'row')} without {lacking}")
    if sample.ended < sample.total:
        notes.append(f"{many(sample.total - sample.ended, 'row')} to come")
    return notes


def _empty(sample: Sample, number: int, lacking: str) -> str:
    if number:
        return ""
    if not sample.ended:
        return "No row has ended yet: points come as tasks end."
    return f"No row that has ended has {lacking}."


def _lacking(axes: Sequence[Axis], places: Sequence[Sequence[Place | None]]) -> str:
    """The columns without which a row cannot be drawn, as far as some row lacks them."""
    lack = [one for one, column in zip(axes, places, strict=True) if any(place is None for place in column)]
    return " or ".join(dict.fromkeys(f"{'a positive ' * one.log}{one.name}" for one in lack or axes))


@dataclass
class Painter:
    """Sorts points into series: of one colour, of a colour for each name, or shaded by a number."""

    taken: dict[str, str] = field(default_factory=dict)

    def series(self, shade: Axis | None, sample: Sample, kept: Sequence[int], x: Any, y: Any) -> list[Series]:
        """The rows `kept` as series; `x`, `y` are their places, by position in the sample."""
        texts = sample.texts()
        found: dict[str, Series] = {}
        places = [shade.place(cell) for cell in sample.cells[shade.name]] if shade else []
        if shade and shade.kind == "name":
            colours([str(places[at]) for at in kept if places[at] is not None], self.taken)
        for at in kept:
            key, colour = "", Series.colour
            if shade and places[at] is None:
                key, colour = f"no {shade.name}", GREY
            elif shade and shade.kind == "name":
                colour = self.taken[str(places[at])]
                key = OTHERS if colour == GREY else str(places[at])
            if key not in found:
                found[key] = Series(key, colour, shades=[] if shade and shade.kind != "name" and not key else None)
            one = found[key]
            one.x.append(x[at])
            one.y.append(y[at])
            one.tasks.append(sample.tasks[at])
            one.texts.append(texts[at])
            if one.shades is not None:
                one.shades.append(float(places[at] or 0.0))
        if shade and shade.kind == "name":  # in the order of their colours, which does not change as points come
            order = [*self.taken, OTHERS, f"no {shade.name}"]
            return sorted(found.values(), key=lambda each: order.index(each.name))
        return list(found.values())


class ScatterKind:
    """Points over two columns."""

    most = POINTS

    def __init__(self, x: str, y: str, color: str | None, logx: bool, logy: bool) -> None:
        self.x, self.y, self.color, self.logx, self.logy = x, y, color, logx, logy
        self.names = _different([x, y, *([color] if color is not None else [])])
        self._painter = Painter()

    def __str__(self) -> str:
        return f"{self.y} over {self.x}" + (f", coloured by {self.color}" if self.color is not None else "")

    def draw(self, title: str, sample: Sample) -> Drawing:
        """The points that have both."""
        x = axis(self.x, sample.types[self.x], self.logx)
        y = axis(self.y, sample.types[self.y], self.logy)
        shade = axis(self.color, sample.types[self.color]) if self.color is not None else None
        xs = [x.place(cell) for cell in sample.cells[x.name]]
        ys = [y.place(cell) for cell in sample.cells[y.name]]
        kept = [at for at in range(len(xs)) if xs[at] is not None and ys[at] is not None]
        lacking = _lacking((x, y), (xs, ys))
        return Scatter(
            title,
            _said(sample, len(kept), "point", lacking),
            _empty(sample, len(kept), lacking),
            x=x, y=y, shade=shade, series=self._painter.series(shade, sample, kept, xs, ys),
        )  # fmt: skip


class ParallelKind:
    """One axis for each column, and a line for each row."""

    most = LINES

    def __init__(self, columns: list[str] | None, color: str | None) -> None:
        self._columns, self.color = columns, color
        self.names = _different([*(columns or []), *([color] if color is not None else [])])
        self._painter = Painter()

    def __str__(self) -> str:
        what = ", ".join(self._columns) if self._columns else "parameters and values"
        return f"parallel axes of {what}" + (f", coloured by {self.color}" if self.color is not None else "")

    def columns(self, sample: Sample) -> list[str]:
        """Those asked for; else the parameters that vary and what the app yields, as far as it can be drawn."""
        if self._columns is not None:
            return self._columns
        found = []
        for name in (*sample.parameters, *sample.values):
            cells = sample.cells.get(name)
            if cells is None or all(_drawable(cell) is None for cell in cells):
                continue
            if name in sample.values or len({_drawable(cell) for cell in cells}) > 1:
                found.append(name)
        return found[:10]

    def draw(self, title: str, sample: Sample) -> Drawing:
        """The rows that have a place on two axes or more."""
        axes = [axis(name, sample.types[name]) for name in self.columns(sample)]
        shade = axis(self.color, sample.types[self.color]) if self.color is not None else None
        places = [[one.place(cell) for cell in sample.cells[one.name]] for one in axes]
        scales = [
            _scale(one, [each for each in column if each is not None]) for one, column in zip(axes, places, strict=True)
        ]
        kept = [at for at in range(len(sample.tasks)) if sum(column[at] is not None for column in places) >= 2]
        rows: list[list[float | None]] = [
            [scale.share(column[at]) for scale, column in zip(scales, places, strict=True)] for at in kept
        ]
        index = dict(zip(kept, map(float, range(len(kept))), strict=True))
        series = self._painter.series(shade, sample, kept, index, index)
        numbers = [number for one in series for number in one.shades or []]
        lacking = "values on two axes"
        return Parallel(
            title,
            _said(sample, len(kept), "row", lacking),
            _empty(sample, len(kept), lacking),
            scales=scales, shade=shade, series=series, rows=rows,
            limits=(min(numbers, default=0.0), max(numbers, default=1.0)),
        )  # fmt: skip


def _drawable(cell: Any) -> Place | None:
    for kind in ("number", "name", "date"):
        place = Axis("", kind).place(cell)
        if place is not None:
            return place
    return None


def _scale(one: Axis, places: list[Any]) -> Scale:
    if one.kind == "name":
        names = sorted(set(places))
        every = -(-len(names) // 12) or 1
        marks = [(float(at), names[at]) for at in range(0, len(names), every)]
        return Scale(one.name, 0.0, max(len(names) - 1.0, 1.0), marks, {name: at for at, name in enumerate(names)})
    ticks = steps(min(places, default=0.0), max(places, default=1.0))
    return Scale(one.name, ticks[0], ticks[-1], [(tick, said(one, tick)) for tick in ticks])


def said(one: Axis, place: float) -> str:
    """The text of a mark on an axis."""
    if one.kind == "date":
        try:
            moment = datetime.datetime.fromtimestamp(place, datetime.timezone.utc)
        except (OverflowError, ValueError):  # beside the first or the last year there is
            return ""
        return f"{moment:%Y-%m-%d}" if place % 86400 == 0 else f"{moment:%Y-%m-%d %H:%M}"
    return f"{place:.4g}"


class HeatmapKind:
    """A number over two columns."""

    most = POINTS * 4

    def __init__(self, x: str, y: str, z: str) -> None:
        self.x, self.y, self.z = x, y, z
        self.names = _different([x, y, z])

    def __str__(self) -> str:
        return f"{self.z} over {self.x} and {self.y}"

    def draw(self, title: str, sample: Sample) -> Drawing:
        """The means of the rows in each cell."""
        x, y, z = (axis(name, sample.types[name]) for name in (self.x, self.y, self.z))
        if z.kind != "number":
            raise BadInput(f"Column {z.name!r} holds {z.kind}s; a heat map needs a column of numbers as z.")
        xs, ys = ([one.place(cell) for cell in sample.cells[one.name]] for one in (x, y))
        zs: list[Any] = [z.place(cell) for cell in sample.cells[z.name]]
        kept = [at for at in range(len(xs)) if None not in (xs[at], ys[at], zs[at])]
        columns, column_of = _bins([xs[at] for at in kept], x)
        lines, line_of = _bins([ys[at] for at in kept], y)
        members: dict[tuple[int, int], list[int]] = {}
        for at in kept:
            members.setdefault((line_of[ys[at]], column_of[xs[at]]), []).append(at)
        drawing = Heatmap(title, x=x, y=y, shade=z, columns=columns, lines=lines)
        texts = sample.texts()
        for line in range(len(lines)):
            there = [members.get((line, column), []) for column in range(len(columns))]
            means = [sum(zs[at] for at in some) / len(some) if some else None for some in there]
            drawing.cells.append(means)
            drawing.tasks.append([sample.tasks[some[-1]] if some else None for some in there])
            drawing.texts.append([_told(z.name, mean, some, texts) for mean, some in zip(means, there, strict=True)])
        lacking = _lacking((x, y, z), (xs, ys, zs))
        drawing.notes = _said(sample, len(kept), "row", lacking)
        drawing.empty = _empty(sample, len(kept), lacking)
        if any(len(some) > 1 for some in members.values()):
            drawing.notes.append("means of the rows in each cell")
        return drawing


def _told(name: str, mean: float | None, some: list[int], texts: list[str]) -> str:
    if not some:
        return ""
    if len(some) == 1:
        return texts[some[0]]
    return f"{name} = {shown(mean)}, the mean of {len(some)} rows; one of them:\n{texts[some[-1]]}"


def _bins(places: list[Any], one: Axis) -> tuple[list[Place], dict[Any, int]]:
    """The columns (or lines) of the grid, and in which of them each place lies."""
    different = sorted(set(places))
    if one.kind == "name" and len(different) > 2 * GRID:
        raise BadInput(f"Column {one.name!r} has {many(len(different), 'name')}; a heat map has room for {2 * GRID}.")
    if one.kind == "name" or len(different) <= GRID:
        return different, {place: at for at, place in enumerate(different)}
    low, width = different[0], (different[-1] - different[0]) / GRID
    return (
        [low + (at + 0.5) * width for at in range(GRID)],
        {place: min(int((place - low) / width), GRID - 1) for place in different},
    )

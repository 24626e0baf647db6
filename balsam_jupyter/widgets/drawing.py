"""What a plot shows, as plain data: made from a sample of rows, drawn by `figures` (plotly) and `sketch` (SVG)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..failures import printable
from .columns import Axis, Place
from .palette import COLOURS

BLUE, GREY = "#0072B2", "#9A9A9A"
# Okabe and Ito's colours (jfly.uni-koeln.de/color) but for black, which a dark page swallows; told apart by anyone.
NAMED = (BLUE, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
OTHERS = "others"
# Viridis without its ends, which a dark page and a light one swallow.
SHADES = ("#4F4A96", "#355F8D", "#2A788E", "#21918C", "#22A884", "#44BF70", "#7AD151", "#BDDF26")


@dataclass
class Series:
    """Points of one colour, or with a number each (`shades`) that says how far along the colours."""

    name: str = ""
    colour: str = BLUE
    x: list[Place] = field(default_factory=list)
    y: list[Place] = field(default_factory=list)
    shades: list[float] | None = None
    tasks: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


@dataclass
class Drawing:
    """What all kinds have: a title, a line below it that says what is shown, and what is said where nothing is."""

    title: str
    notes: list[str] = field(default_factory=list)
    empty: str = ""
    unended: bool = False
    """Whether rows are to come."""

    @property
    def line(self) -> str:
        """What is shown, in one line."""
        return printable(" · ".join(self.notes))

    @property
    def said(self) -> list[str]:
        """What is said where nothing is, in lines."""
        return textwrap.wrap(printable(self.empty), 76)

    @property
    def marks(self) -> int:
        """How many things the page has to draw."""
        return 0


@dataclass
class Scatter(Drawing):
    """Points over two axes."""

    x: Axis = field(default_factory=lambda: Axis(""))
    y: Axis = field(default_factory=lambda: Axis(""))
    shade: Axis | None = None
    series: list[Series] = field(default_factory=list)

    @property
    def marks(self) -> int:
        """The points."""
        return sum(len(one.tasks) for one in self.series)


@dataclass
class Scale:
    """An axis among parallel ones: where it begins and ends, and its marks."""

    name: str
    low: float
    high: float
    ticks: list[tuple[float, str]]
    names: dict[str, int] | None = None
    """Where each name lies, if it is an axis of names."""

    def share(self, place: Place | None) -> float | None:
        """How far up the axis something lies, from 0 to 1."""
        if place is None:
            return None
        number = self.names[str(place)] if self.names is not None else float(place)
        return (number - self.low) / (self.high - self.low)


@dataclass
class Parallel(Drawing):
    """A line for each row, through its place on each of several axes side by side (`rows` of 0 to 1, or None)."""

    scales: list[Scale] = field(default_factory=list)
    shade: Axis | None = None
    series: list[Series] = field(default_factory=list)
    """Of each row one point: `x` is unused, `y` is its number in `rows`."""
    rows: list[list[float | None]] = field(default_factory=list)
    limits: tuple[float, float] = (0.0, 1.0)
    """Of the colours."""

    @property
    def marks(self) -> int:
        """The points on all axes."""
        return len(self.rows) * len(self.scales)


@dataclass
class Heatmap(Drawing):
    """A number over the cells of a grid; None where there is none."""

    x: Axis = field(default_factory=lambda: Axis(""))
    y: Axis = field(default_factory=lambda: Axis(""))
    shade: Axis = field(default_factory=lambda: Axis(""))
    columns: list[Place] = field(default_factory=list)
    lines: list[Place] = field(default_factory=list)
    cells: list[list[float | None]] = field(default_factory=list)
    tasks: list[list[int | None]] = field(default_factory=list)
    texts: list[list[str]] = field(default_factory=list)


def along(number: float, low: float, high: float) -> float:
    """How far along from `low` to `high` a number lies, from 0 to 1; the middle, where these are one."""
    return (number - low) / (high - low) if high > low else 0.5


def shade_of(share: float) -> str:
    """The colour at 0 … 1 along the scale."""
    at = min(max(share, 0.0), 1.0) * (len(SHADES) - 1)
    low = min(int(at), len(SHADES) - 2)
    one, two = (_rgb(SHADES[low + step]) for step in (0, 1))
    mixed = (round(a + (b - a) * (at - low)) for a, b in zip(one, two, strict=True))
    return "#" + "".join(f"{part:02X}" for part in mixed)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))


def colours(names: Sequence[str], taken: dict[str, str]) -> dict[str, str]:
    """A colour for each name: a state's own, else in the order in which names were first seen; the last are grey.

    `taken` is brought up to date, so that a name keeps its colour when others come.
    """
    for name in dict.fromkeys(names):
        if name not in taken:
            free = [colour for colour in NAMED if colour not in taken.values()]
            taken[name] = COLOURS[name] if name in COLOURS else free[0] if free else GREY
    return taken


def steps(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers at equal distances, the first at or below `low` and the last at or above `high`."""
    if not low < high:
        reach = abs(low) / 2 or 1.0
        low, high = low - reach, high + reach
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw)) if raw > 0 else 0.0
    if not power or not math.isfinite(raw):  # too near to each other, or too far apart, for a float between
        return [low, high]
    step = next(each * power for each in (1, 2, 2.5, 5, 10) if each * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """Round numbers around two positive ones: powers of ten, at most about six, or also 2 and 5 times these."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = -(-(last - first) // 6) or 1
    powers = [10.0**power for power in range(max(first, -307), min(last + stride, 308), stride)]
    if last - first > 2:
        return powers
    return [factor * power for power in powers for factor in (1, 2, 5)]

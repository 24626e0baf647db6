"""Columns of a table as axes of a plot: what is a number, a date or a name, and where a cell lies."""

from __future__ import annotations

import datetime
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from numbers import Real
from pathlib import PurePath
from typing import Any

from ..errors import BadInput, listing, nearest
from ..failures import printable

_NAMES = (str, PurePath, Enum, bool)
_NUMBERS = (Real, Decimal, datetime.timedelta)
_LABEL = 28
_MOST = 1e300
"""What is as large as this is taken for infinite: the distance of two such numbers is no number any more."""
_LAST = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.timezone.utc).timestamp()

Place = float | str
"""Where something lies on an axis: a number (of a date: seconds since the epoch), or a name."""


def _kind_of(cell: type) -> str:
    """``"name"``, ``"number"``, ``"date"``, or "" for what no axis can show."""
    if issubclass(cell, _NAMES) or cell.__name__ in ("bool", "bool_"):  # the latter are numpy's
        return "name"
    if issubclass(cell, _NUMBERS):
        return "number"
    return "date" if issubclass(cell, datetime.date) else ""


@dataclass(frozen=True)
class Axis:
    """An axis of a plot; `kind` is ``"number"``, ``"date"`` or ``"name"``."""

    name: str
    kind: str = "number"
    log: bool = False
    _texts: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """The whole text of each name, by its label."""

    def place(self, cell: Any) -> Place | None:
        """Where a cell lies; None where it is missing, or nothing that this axis shows."""
        if cell is None or (isinstance(cell, float) and math.isnan(cell)):
            return None
        if self.kind == "name":
            return self._label(cell) if _kind_of(type(cell)) in ("name", "number") else None
        if _kind_of(type(cell)) != self.kind:
            return None
        try:
            number = _number(cell)
        except (OverflowError, ValueError):  # more than a float holds; a date before the year 1
            return None
        return number if abs(number) < _MOST and not (self.log and number <= 0) else None  # NaN is not less

    def _label(self, cell: Any) -> str:
        """Its label; numbered, if another long name has the same."""
        text, short = str(cell), label(cell)
        unique, number = short, 1
        while self._texts.setdefault(unique, text) != text:
            number += 1
            unique = f"{short} ({number})"
        return unique


def _number(cell: Any) -> float:
    if isinstance(cell, datetime.timedelta):
        return cell.total_seconds()
    if isinstance(cell, datetime.date):
        moment = cell if isinstance(cell, datetime.datetime) else datetime.datetime(cell.year, cell.month, cell.day)
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)).timestamp()
        return min(seconds, _LAST)  # the last microseconds there are would be rounded to the year 10000
    return float(cell)


def label(cell: Any) -> str:
    """A name for an axis: one line, and of a long one (a path) the beginning and the end."""
    text = " ".join(printable(str(cell.value if isinstance(cell, Enum) else cell)).split()) or "(empty)"
    return text if len(text) <= _LABEL else f"{text[: _LABEL // 3]}…{text[-(_LABEL - _LABEL // 3 - 1) :]}"


def shown(cell: Any, most: int = 60) -> str:
    """A cell as short text."""
    if isinstance(cell, float):
        return f"{cell:.6g}"
    shape = getattr(cell, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"array of {' × '.join(map(str, shape))}"
    try:
        text = " ".join(printable(str(cell)).split())
    except Exception:  # its own text cannot be had
        text = f"a {type(cell).__name__}"
    return text if len(text) <= most else f"{text[: most - 1]}…"


def axis(name: str, types: Mapping[type, int], log: bool = False) -> Axis:
    """The axis for a column whose cells have these types.

    Raises
    ------
    BadInput
        If there are cells, and none can lie on an axis; or if others than numbers are to lie on a logarithmic one.
    """
    kinds: Counter[str] = Counter()
    for cell, number in types.items():
        if number > 0 and cell is not type(None):
            kinds[_kind_of(cell)] += number
    kind = max(("number", "date", "name"), key=lambda each: kinds[each])
    if kinds and not kinds[kind]:
        what = listing(sorted(cell.__name__ for cell, number in types.items() if number > 0 and cell is not type(None)))
        raise BadInput(
            f"Column {name!r} holds no numbers, names or dates but: {what}. Let the app yield the number to plot as an "
            "output of its own."
        )
    if log and kind != "number":
        raise BadInput(f"Column {name!r} holds {kind}s; they have no logarithm. Leave log out for it.")
    return Axis(name, kind, log)


def check(ensemble: str, wanted: object, known: list[str], whole: bool) -> None:
    """Whether there is such a column; `known` are those there are, and all there will be if `whole`.

    Raises
    ------
    BadInput
        If it is no name, or there is no such column; it names the nearest.
    """
    there = f"{ensemble!r} has: {listing(known, 20)}."
    if not isinstance(wanted, str) or not wanted:
        instead = "" if wanted is None or isinstance(wanted, str) else f", not {shown(wanted)}"
        raise BadInput(f"Say what to plot, by the names of columns{instead}. {there}")
    if whole and wanted not in known:
        raise BadInput(f"There is no column {wanted!r}.{nearest(wanted, known)} {there}")

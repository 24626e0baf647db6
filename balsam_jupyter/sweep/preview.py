"""What a sweep looks like in a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

from .columns import MISSING, short
from .distributions import Sampled
from .shapes import Shape

_FIRST, _LAST = 5, 3


def as_html(shape: Shape, title: str) -> str:
    """The title, and a table: what each parameter ranges over, the first rows and the last ones."""
    size = shape.size()
    shown = range(size) if size <= _FIRST + _LAST else [*range(_FIRST), *range(size - _LAST, size)]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in shape.names)
    over = "".join(f"<td><i>{html.escape(_range(shape, name))}</i></td>" for name in shape.names)
    body = []
    for place, at in enumerate(shown):
        if place == _FIRST and size > _FIRST + _LAST:
            left = size - _FIRST - _LAST
            more = f"… {left:,} more {'row' if left == 1 else 'rows'} …"
            body.append(f'<tr><td></td><td colspan="{len(shape.names)}">{more}</td></tr>')
        cells = ("" if value is MISSING else html.escape(short(value)) for value in shape.row(at))
        body.append(f"<tr><th>{at:,}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    table = (
        f"<table><thead><tr><th></th>{head}</tr><tr><td></td>{over}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    )
    return f"<p>{html.escape(title)}</p>{table}"


def _range(shape: Shape, name: str) -> str:
    """What a parameter ranges over: its distribution, its least and greatest number, or how many values."""
    columns = shape.over(name)
    if len(columns) == 1 and isinstance(columns[0], Sampled):
        return repr(columns[0].distribution)
    if len(columns) == 1 and isinstance(columns[0], range):
        return _span(*sorted((columns[0][0], columns[0][-1])))
    return _summary(value for column in columns for value in column if value is not MISSING)


def _summary(values: Iterable[Any]) -> str:
    found: dict[Any, Any] = {}
    numbers = True
    for value in values:
        numbers = numbers and type(value) in (int, float)
        try:
            found.setdefault(value, value)
        except TypeError:  # an array, a list
            found.setdefault(repr(value), value)
    if len(found) == 1:
        return short(next(iter(found)))
    if found and numbers:
        return _span(min(found), max(found))
    return f"{len(found):,} values"


def _span(low: float, high: float) -> str:
    return short(low) if low == high else f"{low:.6g} – {high:.6g}"

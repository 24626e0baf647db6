"""Any sweep, beside the rows it should have, made the plain way."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from balsam_jupyter import Sweep

Rows = list[dict[str, Any]]
NAMES = ("a", "b", "c", "seed")

plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**4000), 2**4000)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["{0}", '"}', "%s", "\ud83d", "\0", "1", 1, 1.0, True, -0.0, np.float64(1), np.int8(1)])
)
values = plain | st.lists(plain, max_size=2) | st.dates() | st.tuples(plain)


def without_numpy(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}


@st.composite
def tables(draw: st.DrawFn, names: tuple[str, ...], value: st.SearchStrategy[Any]) -> tuple[Sweep, Rows]:
    """A grid, a zip or rows with gaps."""
    names = tuple(draw(st.lists(st.sampled_from(names), min_size=1, unique=True)))
    kind = draw(st.sampled_from(["grid", "zip", "rows"]))
    if kind == "grid":
        columns = [draw(st.lists(value, min_size=1, max_size=3)) for _ in names]
        rows = [dict(zip(names, row, strict=True)) for row in itertools.product(*columns)]
        return Sweep.grid(**dict(zip(names, columns, strict=True))), list(map(without_numpy, rows))
    size = draw(st.integers(1, 4))
    columns = [draw(st.lists(value, min_size=size, max_size=size)) for _ in names]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    if kind == "zip":
        return Sweep.zip(**dict(zip(names, columns, strict=True))), list(map(without_numpy, rows))
    rows = [{name: one for name, one in row.items() if draw(st.booleans())} for row in rows]
    rows.append(dict.fromkeys(names, 0))
    return Sweep.rows(rows), list(map(without_numpy, rows))


@st.composite
def designs(draw: st.DrawFn, value: st.SearchStrategy[Any] = values, depth: int = 2) -> tuple[Sweep, Rows]:
    """Tables, products, sums, selections and replicates of one another."""
    kind = draw(st.sampled_from(["table", "product", "sum", "where", "repeat"])) if depth else "table"
    if kind == "table":
        return draw(tables(NAMES[:3], value))
    one, rows = draw(designs(value, depth - 1))
    if kind == "sum":
        other, others = draw(designs(value, depth - 1))
        return one + other, rows + others
    if kind == "where":
        kept = draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
        return one.where(following(kept)), [row for row, keep in zip(rows, kept, strict=True) if keep]
    free = tuple(name for name in NAMES[:3] if name not in one.names)
    if kind == "product" and free:
        other, others = draw(tables(free, value))
        return one * other, [{**row, **two} for row in rows for two in others]
    if "seed" in one.names:
        return one, rows
    number = draw(st.integers(1, 3))
    return one.repeat(number), [{**row, "seed": seed} for row in rows for seed in range(number)]


def following(answers: list[bool]) -> Callable[[dict[str, Any]], bool]:
    """A predicate with these answers, in turn; it is asked once for each row."""
    turn = iter(answers)
    return lambda row: next(turn)

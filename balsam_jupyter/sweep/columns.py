"""The values of one parameter in a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from ..codec import python_scalar
from ..errors import BadInput, listing


class Missing:
    """The type of `MISSING`."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()
"""Stands where a row leaves a parameter out."""


def single(value: Any) -> bool:
    """Whether this is one value of a parameter, not several of them."""
    if isinstance(value, str | bytes | bytearray | Mapping) or not hasattr(value, "__iter__"):
        return True
    return getattr(value, "ndim", None) == 0


def column(name: str, value: Any) -> Sequence[Any]:
    """The values of a parameter, as Python's own scalars where NumPy's were given."""
    if hasattr(value, "ppf"):
        raise BadInput(
            f"{name}={value!r} is a distribution; Sweep.random, .latin_hypercube and .sobol draw from it: "
            f"Sweep.random(100, seed=1, {name}={value!r})."
        )
    if single(value):
        return [python_scalar(value[()] if hasattr(value, "ndim") else value)]
    if hasattr(value, "columns"):
        raise BadInput(
            f"The values of {name!r} are a whole table; give one column of it, or use Sweep.from_dataframe(table)."
        )
    if isinstance(value, range):
        return value
    if isinstance(value, set | frozenset):
        try:
            value = sorted(value)  # a set's own order differs between processes
        except TypeError:
            raise BadInput(f"The values of {name!r} are a set, which has no order; give a list.") from None
    return [python_scalar(one) for one in value]


def columns(values: Mapping[str, Any], kind: str) -> dict[str, Sequence[Any]]:
    """The columns of a grid or zip; none of them empty."""
    if not values:
        raise BadInput(f"The sweep is empty: give each parameter its values, as in Sweep.{kind}(T=[1, 2, 3]).")
    found = {name: column(name, value) for name, value in values.items()}
    empty = [name for name, values in found.items() if not values]
    if empty:
        raise BadInput(f"The sweep is empty: {listing(empty)} has no values.")
    return found


class Field(Sequence[Any]):
    """One column of a list of mappings."""

    def __init__(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self.name, self.rows = name, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: Any) -> Any:
        return python_scalar(self.rows[at].get(self.name, MISSING))

    def __iter__(self) -> Iterator[Any]:
        return (python_scalar(row.get(self.name, MISSING)) for row in self.rows)


def of_rows(table: Iterable[Any]) -> dict[str, Sequence[Any]]:
    """The columns of mappings, in the order in which their names come up."""
    rows = list(table)
    names: dict[str, None] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or not all(isinstance(name, str) for name in row):
            raise BadInput(f"Row {number} of the sweep is {short(row)}; give a dict of names to values.")
        names.update(dict.fromkeys(row))
    if not names:
        raise BadInput("The sweep is empty: the table has no rows, or no columns.")
    return {name: Field(name, rows) for name in names}


def of_dataframe(frame: Any) -> dict[str, Sequence[Any]]:
    """The columns of a DataFrame (pandas' or one of its shape), its missing cells left out."""
    if not hasattr(frame, "columns") or not hasattr(frame, "__getitem__"):
        raise BadInput(f"Sweep.from_dataframe takes a DataFrame, not {short(frame)}.")
    names = list(frame.columns)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise BadInput(f"The DataFrame has the column {wrong[0]!r}; columns are parameters, so their names are text.")
    twice = [name for at, name in enumerate(names) if name in names[:at]]
    if twice:
        raise BadInput(f"The DataFrame has the column {twice[0]!r} twice.")
    if not names or not len(frame):
        raise BadInput("The sweep is empty: the table has no rows, or no columns.")
    return {name: _cells(frame[name]) for name in names}


def _cells(values: Iterable[Any]) -> list[Any]:
    """The cells of a column. NaN is a missing cell, too, except where numbers are: there it may be meant."""
    cells = [MISSING if _is_absent(value) else python_scalar(value) for value in values]
    if all(isinstance(cell, int | float | Missing) for cell in cells):
        return cells
    return [MISSING if isinstance(cell, float) and cell != cell else cell for cell in cells]


def _is_absent(value: Any) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def have_gaps(columns: Mapping[str, Sequence[Any]]) -> bool:
    """Whether some row leaves a parameter out."""
    return any(value is MISSING for values in columns.values() for value in values)


def short(value: Any) -> str:
    """A value as a table shows it."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:59] + "…"

"""Sweeps: rows of parameters for one app."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from .codec import python_scalar
from .errors import BadInput, listing

_PREVIEW = 8


class Sweep:
    """Rows of parameters, made when they are iterated over; use `Sweep.grid`, `Sweep.zip` or `Sweep.rows`.

    Iterating gives a dict for each row, in the same order every time; NumPy scalars become Python scalars.

    Attributes
    ----------
    names : tuple of str
        The parameters.
    """

    names: tuple[str, ...]

    def __init__(
        self, names: Iterable[str], length: int, rows: Callable[[], Iterator[dict[str, Any]]], shape: str
    ) -> None:
        self.names = tuple(names)
        self._length = length
        self._rows = rows
        self._shape = shape

    @classmethod
    def grid(cls, **values: Any) -> Sweep:
        """Every combination of the values; the last parameter varies fastest.

        Parameters
        ----------
        **values
            For each parameter its values: a list, range, array, Series or any other iterable. A single number, text
            or mapping is one value.

        Raises
        ------
        BadInput
            If there is no row.

        Examples
        --------
        >>> list(Sweep.grid(T=[1, 2], P=0.5))
        [{'T': 1, 'P': 0.5}, {'T': 2, 'P': 0.5}]
        """
        columns = _columns(values, "grid")

        def rows() -> Iterator[dict[str, Any]]:
            return (dict(zip(columns, row, strict=True)) for row in itertools.product(*columns.values()))

        shape = " × ".join(f"{name}: {len(column):,}" for name, column in columns.items())
        return cls(columns, math.prod(map(len, columns.values())), rows, f"grid of {shape}")

    @classmethod
    def zip(cls, **values: Any) -> Sweep:
        """The first values of all parameters together, then the second ones, and so on.

        Parameters
        ----------
        **values
            As for `grid`; all of one length.

        Raises
        ------
        BadInput
            If the lengths differ, or there is no row.

        Examples
        --------
        >>> list(Sweep.zip(T=[1, 2], P=[0.5, 0.7]))
        [{'T': 1, 'P': 0.5}, {'T': 2, 'P': 0.7}]
        """
        columns = _columns(values, "zip")
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            shown = listing(f"{name} has {length:,}" for name, length in lengths.items())
            raise BadInput(f"Sweep.zip needs as many values for each parameter: {shown}. Sweep.grid takes any lengths.")

        def rows() -> Iterator[dict[str, Any]]:
            return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))

        return cls(columns, next(iter(lengths.values())), rows, f"zip of {', '.join(columns)}")

    @classmethod
    def rows(cls, table: Any) -> Sweep:
        """The rows of a table: a DataFrame, or an iterable of mappings.

        Parameters
        ----------
        table : pandas.DataFrame or iterable of mapping
            A row may leave out a parameter that has a default.

        Raises
        ------
        BadInput
            If there is no row, or one is not a mapping with names.
        """
        table = table.to_dict("records") if hasattr(table, "to_dict") and hasattr(table, "columns") else list(table)
        names: dict[str, None] = {}
        for number, row in enumerate(table):
            if not isinstance(row, Mapping) or not all(isinstance(name, str) for name in row):
                raise BadInput(f"Row {number} of the sweep is {_short(row)}; give a dict of names to values.")
            names.update(dict.fromkeys(row))
        if not names:
            raise BadInput("The sweep is empty: the table has no rows, or no columns.")

        def rows() -> Iterator[dict[str, Any]]:
            return ({name: python_scalar(value) for name, value in row.items()} for row in table)

        return cls(names, len(table), rows, f"table of {', '.join(names)}")

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._rows()

    def __repr__(self) -> str:
        return f"<Sweep of {self._length:,} {'row' if self._length == 1 else 'rows'}: {self._shape}>"

    def _repr_html_(self) -> str:
        """A table of the first rows, and how many were left out."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.names)
        first = itertools.islice(self, _PREVIEW)
        shown = [[html.escape(_short(row[name])) if name in row else "" for name in self.names] for row in first]
        body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in shown)
        left = self._length - _PREVIEW
        more = f"<p>… and {left:,} more {'row' if left == 1 else 'rows'}</p>" if left > 0 else ""
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"<p>{html.escape(repr(self)[1:-1])}</p>{table}{more}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _columns(values: Mapping[str, Any], kind: str) -> dict[str, Sequence[Any]]:
    if not values:
        raise BadInput(f"The sweep is empty: give each parameter its values, as in Sweep.{kind}(T=[1, 2, 3]).")
    columns = {name: _column(name, value) for name, value in values.items()}
    empty = [name for name, column in columns.items() if not column]
    if empty:
        raise BadInput(f"The sweep is empty: {listing(empty)} has no values.")
    return columns


def _column(name: str, value: Any) -> Sequence[Any]:
    """The values of one parameter, as Python's own scalars where NumPy's were given."""
    if isinstance(value, (str, bytes, bytearray, Mapping)) or not hasattr(value, "__iter__"):
        return [python_scalar(value)]
    if hasattr(value, "ndim") and (value.ndim == 0 or hasattr(value, "columns")):
        if value.ndim == 0:
            return [python_scalar(value[()])]
        raise BadInput(f"The values of {name!r} are a whole table; give one column of it, or use Sweep.rows(table).")
    if isinstance(value, range):
        return value
    if isinstance(value, (set, frozenset)):
        try:
            value = sorted(value)  # a set's own order differs between processes
        except TypeError:
            raise BadInput(f"The values of {name!r} are a set, which has no order; give a list.") from None
    return [python_scalar(one) for one in value]

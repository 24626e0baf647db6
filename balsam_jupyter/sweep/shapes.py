"""How the rows of a sweep come from columns.

A shape never holds rows. It gives them as tuples, made from its columns or from what a caller made of each column's
values before: so what is done to a value (encoding it, checking it) is done once for each value of a column, not once
for each row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate, chain, compress, count, islice, product
from math import prod
from typing import Any

from ..errors import BadInput
from .columns import MISSING, short

Tuple = tuple[Any, ...]
Change = Callable[[str, Iterable[Any]], Iterable[Any]]
"""Turns the values of a parameter into others, one for one."""


_HELD = 10_000
"""So many rows of a product's second factor are kept while it is iterated over; more are made anew each time."""


def unchanged(_: str, values: Iterable[Any]) -> Iterable[Any]:
    """The values as they are."""
    return values


class Shape(ABC):
    """Rows with the parameters `names`."""

    names: tuple[str, ...]
    gaps: bool = False
    """Whether a row may leave a parameter out."""

    @abstractmethod
    def size(self) -> int:
        """The number of rows; beyond what `len` may return, too."""

    @abstractmethod
    def tuples(self, change: Change) -> Iterator[Tuple]:
        """All rows, in the order of `names`, of changed values."""

    @abstractmethod
    def row(self, at: int) -> Tuple:
        """One row."""

    @abstractmethod
    def columns(self) -> Iterator[tuple[str, Sequence[Any]]]:
        """The columns that rows are made of; each holds all values of its parameter in its part of the rows."""

    @abstractmethod
    def over(self, name: str) -> list[Sequence[Any]]:
        """Columns that together hold what a parameter is in some row, however often."""

    def dicts(self) -> Iterator[dict[str, Any]]:
        """All rows as mappings."""
        return (self.as_dict(row) for row in self.tuples(unchanged))

    def as_dict(self, row: Tuple) -> dict[str, Any]:
        """A row as a mapping, without what it leaves out."""
        if self.gaps:
            return {name: value for name, value in zip(self.names, row, strict=True) if value is not MISSING}
        return dict(zip(self.names, row, strict=True))


class Table(Shape):
    """Columns side by side."""

    def __init__(self, columns: Mapping[str, Sequence[Any]], gaps: bool = False) -> None:
        self._columns, self.gaps = columns, gaps
        self.names = tuple(columns)

    def size(self) -> int:
        return len(next(iter(self._columns.values())))

    def tuples(self, change: Change) -> Iterator[Tuple]:
        return zip(*(change(name, column) for name, column in self._columns.items()), strict=True)

    def row(self, at: int) -> Tuple:
        return tuple(column[at] for column in self._columns.values())

    def columns(self) -> Iterator[tuple[str, Sequence[Any]]]:
        return iter(self._columns.items())

    def over(self, name: str) -> list[Sequence[Any]]:
        return [self._columns[name]] if name in self.names else []


class Grid(Table):
    """Every combination of the values of columns; the last varies fastest."""

    def size(self) -> int:
        return prod(map(len, self._columns.values()))

    def tuples(self, change: Change) -> Iterator[Tuple]:
        first, *others = (change(name, column) for name, column in self._columns.items())
        inner = [list(column) for column in others]
        return ((value, *rest) for value in first for rest in product(*inner))

    def row(self, at: int) -> Tuple:
        found = []
        for column in reversed([*self._columns.values()]):
            at, rest = divmod(at, len(column))
            found.append(column[rest])
        return tuple(reversed(found))


class Product(Shape):
    """Every row of one shape with every row of another; those of the second vary fastest."""

    def __init__(self, first: Shape, second: Shape) -> None:
        self.first, self.second = first, second
        self.names = first.names + second.names
        self.gaps = first.gaps or second.gaps

    def size(self) -> int:
        return self.first.size() * self.second.size()

    def tuples(self, change: Change) -> Iterator[Tuple]:
        held = [*self.second.tuples(change)] if self.second.size() <= _HELD else []
        for one in self.first.tuples(change):
            for two in held or self.second.tuples(change):
                yield one + two

    def row(self, at: int) -> Tuple:
        one, two = divmod(at, self.second.size())
        return self.first.row(one) + self.second.row(two)

    def columns(self) -> Iterator[tuple[str, Sequence[Any]]]:
        return chain(self.first.columns(), self.second.columns())

    def over(self, name: str) -> list[Sequence[Any]]:
        return self.first.over(name) + self.second.over(name)


class Chain(Shape):
    """The rows of several shapes, one after the other."""

    def __init__(self, parts: Sequence[Shape]) -> None:
        self.parts: list[Shape] = []
        for part in parts:
            self.parts += part.parts if isinstance(part, Chain) else [part]
        self.names = tuple(dict.fromkeys(name for part in self.parts for name in part.names))
        self.gaps = any(part.gaps or len(part.names) < len(self.names) for part in self.parts)

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(part.size() for part in self.parts))

    def size(self) -> int:
        return self._ends[-1]

    def tuples(self, change: Change) -> Iterator[Tuple]:
        return chain.from_iterable(self._spread(part, part.tuples(change), change) for part in self.parts)

    def row(self, at: int) -> Tuple:
        number = bisect_right(self._ends, at)
        part = self.parts[number]
        row = part.row(at - (self._ends[number - 1] if number else 0))
        return next(iter(self._spread(part, [row], unchanged)))

    def columns(self) -> Iterator[tuple[str, Sequence[Any]]]:
        for part in self.parts:
            yield from part.columns()
            yield from ((name, [MISSING]) for name in self.names if name not in part.names)

    def over(self, name: str) -> list[Sequence[Any]]:
        return [column for part in self.parts for column in part.over(name)]

    def _spread(self, part: Shape, rows: Iterable[Tuple], change: Change) -> Iterable[Tuple]:
        """A part's rows in the order of all names."""
        if part.names == self.names:
            return rows
        absent = [name for name in self.names if name not in part.names]
        extra = tuple(value for name in absent for value in change(name, [MISSING]))
        places = [(*part.names, *absent).index(name) for name in self.names]
        return (tuple(map((row + extra).__getitem__, places)) for row in rows)


class Selection(Shape):
    """The rows of a shape for which a predicate holds. It is asked once for each row, when it is first needed."""

    def __init__(self, whole: Shape, predicate: Callable[[dict[str, Any]], object]) -> None:
        self.whole, self.predicate = whole, predicate
        self.names, self.gaps = whole.names, whole.gaps

    @cached_property
    def _kept(self) -> bytes:
        return bytes(map(self._keep, range(self.whole.size()), self.whole.dicts()))

    def _keep(self, at: int, row: dict[str, Any]) -> bool:
        try:
            return bool(self.predicate(row))
        except Exception as error:
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            raise BadInput(f"The predicate of where() fails at row {at}, {short(row)}: {said}.") from error

    def size(self) -> int:
        return self._kept.count(1)

    def tuples(self, change: Change) -> Iterator[Tuple]:
        return compress(self.whole.tuples(change), self._kept)

    def row(self, at: int) -> Tuple:
        return self.whole.row(next(islice(compress(count(), self._kept), at, None)))

    def columns(self) -> Iterator[tuple[str, Sequence[Any]]]:
        return self.whole.columns()

    def over(self, name: str) -> list[Sequence[Any]]:
        if name not in self.names:
            return []
        place = self.names.index(name)
        return [[row[place] for row in self.tuples(unchanged)]]

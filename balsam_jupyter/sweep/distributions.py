"""What a parameter of a sampled sweep is drawn from, and the points that are drawn.

A distribution is its inverse: `ppf` turns a number between 0 and 1 into a value. So random, Latin hypercube and
Sobol' designs differ only in how they choose those numbers, and all distributions serve all of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from statistics import NormalDist
from typing import Any

from ..codec import python_scalar
from ..errors import BadInput, listing
from .columns import column, short, single
from .points import Draw

KINDS = "uniform(low, high), loguniform(low, high), normal(mean, sd), integers(low, high), choice([…])"


class Distribution(ABC):
    """What all distributions share."""

    @abstractmethod
    def ppf(self, u: float) -> Any:
        """The value below which the part `u` (above 0, below 1) of all values lies."""


@dataclass(frozen=True, repr=False)
class _OfNumbers(Distribution):
    """Its fields are finite numbers."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = python_scalar(getattr(self, one.name))
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise BadInput(f"{type(self).__name__}: {one.name} is a finite number, not {short(value)}.")
            object.__setattr__(self, one.name, value)
        self._check()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(repr(getattr(self, one.name)) for one in fields(self))})"

    def _check(self) -> None:
        """Refuse what its numbers cannot be together."""
        low, high = (getattr(self, one.name) for one in fields(self))
        if low > high:
            raise BadInput(f"{self} has no values: low must not be above high.")


@dataclass(frozen=True, repr=False)
class uniform(_OfNumbers):  # lower case: in a sweep it reads as the word it is
    """Any number from `low` to `high`."""

    low: float
    high: float

    def ppf(self, u: float) -> float:
        """In proportion between `low` and `high`."""
        return min(max(self.low * (1 - u) + self.high * u, self.low), self.high)


@dataclass(frozen=True, repr=False)
class loguniform(_OfNumbers):
    """A number from `low` to `high`, both above 0, whose logarithm is uniform: each decade is as likely."""

    low: float
    high: float

    def _check(self) -> None:
        if self.low <= 0:
            raise BadInput(f"{self} has no logarithm: low must be above 0.")
        super()._check()

    def ppf(self, u: float) -> float:
        """In proportion between the logarithms of `low` and `high`."""
        value = math.exp(math.log(self.low) * (1 - u) + math.log(self.high) * u)
        return min(max(value, self.low), self.high)


@dataclass(frozen=True, repr=False)
class normal(_OfNumbers):
    """A number of the normal distribution; `sd` is the standard deviation, above 0."""

    mean: float
    sd: float

    def _check(self) -> None:
        if self.sd <= 0:
            raise BadInput(f"{self} has no spread: sd must be above 0. A fixed value is given as a plain number.")

    def ppf(self, u: float) -> float:
        """`mean` at 0.5."""
        return NormalDist(self.mean, self.sd).inv_cdf(u)


@dataclass(frozen=True, repr=False)
class integers(_OfNumbers):
    """A whole number from `low` to `high`, both included."""

    low: int
    high: int

    def _check(self) -> None:
        if not (type(self.low) is int and type(self.high) is int):
            raise BadInput(f"{self}: low and high are whole numbers; uniform takes any.")
        super()._check()
        if self.high - self.low >= 2**53:
            raise BadInput(f"{self} is too wide: at most 2**53 values.")

    def ppf(self, u: float) -> int:
        """Each number has an equal part of 0 to 1."""
        return min(self.low + int(u * (self.high - self.low + 1)), self.high)


@dataclass(frozen=True, init=False, repr=False)
class choice(Distribution):
    """One of the values, each as likely; one that is given twice is twice as likely."""

    values: tuple[Any, ...]

    def __init__(self, values: Any) -> None:
        if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
            raise BadInput(f"choice takes a list of values, not {values!r}.")
        object.__setattr__(self, "values", tuple(column("choice", values)))
        if not self.values:
            raise BadInput("choice has no values to choose from.")

    def __repr__(self) -> str:
        return f"choice([{listing(map(repr, self.values), 4)}])"

    def ppf(self, u: float) -> Any:
        """Each value has an equal part of 0 to 1."""
        return self.values[min(int(u * len(self.values)), len(self.values) - 1)]


class Sampled(Sequence[Any]):
    """A column that is drawn when it is first looked at; keeps 8 bytes for each row.

    Parameters
    ----------
    distribution : Distribution
        What its values are drawn from.
    rows : int
        How many.
    draw : callable
        Gives that many numbers between 0 and 1, always the same.
    """

    def __init__(self, distribution: Distribution, rows: int, draw: Draw) -> None:
        self.distribution, self.rows, self.draw = distribution, rows, draw

    @cached_property
    def drawn(self) -> array[float]:
        """The numbers between 0 and 1."""
        return self.draw()

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, at: Any) -> Any:
        return python_scalar(self.distribution.ppf(self.drawn[at]))

    def __iter__(self) -> Iterator[Any]:
        return map(python_scalar, map(self.distribution.ppf, self.drawn))


def sampled(
    kind: str, n: Any, seed: Any, values: Mapping[str, Any], points: Callable[[int, int, list[str]], list[Draw]]
) -> dict[str, Sequence[Any]]:
    """The columns of a sampled sweep. `points` gives what draws the numbers of each parameter with a distribution."""
    call = f"Sweep.{kind}"
    n, seed = python_scalar(n), python_scalar(seed)
    if n is None or seed is None:
        raise BadInput(f"{call} takes the number of rows first, and a seed: {call}(100, seed=1, T=uniform(300, 900)).")
    if type(n) is not int or n < 1:
        raise BadInput(f"{call}: n, the number of rows, is a whole number of at least 1, not {short(n)}.")
    if type(seed) is not int or seed < 0:
        raise BadInput(f"{call}: seed is a whole number from 0 on, by which the rows stay the same, not {short(seed)}.")
    for name, value in values.items():
        if not _is_distribution(value) and (isinstance(value, type) or hasattr(value, "ppf")):
            raise BadInput(f"{call}: {name} is {short(value)}, which is no distribution: {KINDS}.")
        if not _is_distribution(value) and not single(value):
            raise BadInput(
                f"{call}: {name} has several values: {name}=choice([…]) draws one of them for each row; "
                f"{call}(…) * Sweep.grid({name}=[…]) runs each row with all."
            )
    drawn = [name for name, value in values.items() if _is_distribution(value)]
    if not drawn:
        raise BadInput(f"{call} has nothing to draw from: give {call}({n}, {seed}, T=uniform(300, 900)), or {KINDS}.")
    draws = dict(zip(drawn, points(n, seed, drawn), strict=True))
    return {
        name: Sampled(value, n, draws[name]) if name in draws else [*column(name, value)] * n
        for name, value in values.items()
    }


def _is_distribution(value: Any) -> bool:
    return callable(getattr(value, "ppf", None)) and not isinstance(value, type)

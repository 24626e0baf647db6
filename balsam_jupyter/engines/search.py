"""What a view looks for among a site's jobs, and what it shows of each: plain values that every engine speaks."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..models import Query

SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}
"""How a value may be compared; longer signs before those they begin with."""


class Term(NamedTuple):
    """A condition on one value, as somebody typed it: ``T>300``."""

    name: str
    sign: str
    word: str


@dataclass(frozen=True)
class Search:
    """Which jobs, in which order.

    `query` names them by site or ensemble, states and tags. `columns` are conditions on plain numbers of a job,
    `parameters` on what was passed to it, and each of `texts` must be found in its parameters, its error or its work
    directory (letters of ASCII in either case). `order` is a column of numbers, ``"state"``, or
    ``"parameter.NAME"``.
    """

    query: Query = field(default_factory=Query)
    columns: tuple[Term, ...] = ()
    parameters: tuple[Term, ...] = ()
    texts: tuple[str, ...] = ()
    order: str = "id"
    descending: bool = False

    @property
    def plain(self) -> bool:
        """Whether it asks for all jobs of its site or ensemble."""
        return not (self.query.states or self.query.tags or self.columns or self.parameters or self.texts)


class Cells(NamedTuple):
    """What a table shows of a job. What is too long for a cell is left out (None), and the error is only its end."""

    id: int
    row: int | None
    app_name: str
    ensemble: str | None
    state: str
    parameters: str | bytes | None
    start_time: float | None
    end_time: float | None
    runtime_s: float | None
    return_code: int | None
    attempts: int
    value: str | bytes | None
    error: str


def number(word: str) -> float | int | None:
    """What a word means as a number; None if it is none."""
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return None


def matcher(sign: str, word: str) -> Callable[[Any], bool]:
    """Whether a parameter's value compares with a word in this way.

    Numbers compare by value, all else as text; what has no order with the word (a number with text, anything with
    True or None) is neither less nor more.
    """
    compare, wanted = SIGNS[sign], number(word)
    lowered = word.lower()
    exact = sign in ("=", "!=")

    def holds(value: Any) -> bool:
        if value is None or isinstance(value, bool):
            return exact and compare(str(value).lower(), lowered)
        if isinstance(value, (int, float)):
            if wanted is None:
                return sign == "!="
            if exact and wanted != wanted:
                return (value != value) == (sign == "=")
            return compare(value, wanted)
        return compare(value if isinstance(value, str) else str(value), word)

    return holds

"""The ways in which a parameter varies over the rows of a sweep: how many values, which, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ...errors import BadInput
from ...sweep import distributions
from .reading import ANY, NUMBER, WHOLE, Field, number, pieces, whole
from .written import source

MOST = 1_000_000
"""A form submits no more rows than this at once."""
_WRITTEN_OUT = 12
"""So many evenly spaced numbers are written out; more as what computes them."""
_DIGITS = 15
_LARGEST = 1e300


@dataclass(frozen=True)
class Values:
    """What one parameter is in the rows.

    Attributes
    ----------
    size : int or None
        How many values; None if it is one, fixed, or drawn.
    make : callable
        Gives what `Sweep.grid` takes for it, or the distribution. Values are made only when it is called.
    source : str
        The Python expression that makes the same.
    drawn : bool
        Whether it is a distribution.
    """

    size: int | None
    make: Callable[[], Any]
    source: str
    drawn: bool = False


class Wrong(BadInput):
    """A part of a field cannot be; `part` says which input of it ("a", "b", "c")."""

    def __init__(self, message: str, part: str = "a") -> None:
        super().__init__(message)
        self.part = part


@dataclass(frozen=True)
class Way:
    """A way to vary: its name, what its inputs are called, and the kinds of field it is for."""

    name: str
    label: str
    inputs: tuple[str, ...]
    kinds: tuple[str, ...] = ()

    @property
    def drawn(self) -> bool:
        """Whether it is a distribution."""
        return self.label.startswith("drawn")

    def serves(self, field: Field) -> bool:
        """Whether a field can vary so."""
        return not self.kinds or field.kind in self.kinds


NUMBERS = (NUMBER, ANY)
WAYS = (
    Way("value", "one value", ("value",)),
    Way("list", "each of a list", ("values, with commas between them",)),
    Way("range", "range with a step", ("from", "to", "step"), (WHOLE, *NUMBERS)),
    Way("points", "evenly spaced", ("from", "to", "how many"), NUMBERS),
    Way("uniform", "drawn: uniform", ("low", "high"), NUMBERS),
    Way("loguniform", "drawn: log-uniform", ("low", "high"), NUMBERS),
    Way("normal", "drawn: normal", ("mean", "sd"), NUMBERS),
    Way("integers", "drawn: whole numbers", ("low", "high"), (WHOLE, *NUMBERS)),
    Way("choice", "drawn: one of a list", ("values, with commas between them",)),
)
BY_NAME = {one.name: one for one in WAYS}


def values(field: Field, given: Mapping[str, str]) -> Values | None:
    """What the inputs of a field say; None if the field is left out.

    Parameters
    ----------
    field : Field
        The parameter.
    given : mapping
        ``how`` (the name of a way, or "") and its inputs ``a``, ``b``, ``c``, as texts.

    Raises
    ------
    Wrong
        If an input cannot be read; says which.
    """
    how = given.get("how", "")
    if not how:
        return None
    way = BY_NAME.get(how)
    if way is None or not way.serves(field):
        raise Wrong(f"{field.name} cannot vary by {how!r}.")
    texts = [given.get(part, "") for part in "abc"[: len(way.inputs)]]
    if how == "value":
        return _fixed(_read(field, texts[0], "a"))
    if how in ("list", "choice"):
        return _listed(field, texts[0], how)
    for part, text, label in zip("abc", texts, way.inputs, strict=False):
        if not text.strip():
            raise Wrong(f"{field.name}: give {label}.", part)
    if how == "range":
        return _stepped(texts)
    if how == "points":
        return _spaced(texts)
    return _drawn(how, texts)


def _read(field: Field, text: str, part: str) -> Any:
    try:
        return field.read(text)
    except BadInput as error:
        raise Wrong(str(error), part) from None


def _number(text: str, part: str, only_whole: bool = False) -> Any:
    try:
        found = whole(text.strip()) if only_whole else number(text.strip())
    except BadInput as error:
        raise Wrong(str(error), part) from None
    if not abs(found) < _LARGEST:
        raise Wrong(f"A number below {_LARGEST:g}, not {text.strip()[:40]}.", part)
    return found


def _fixed(value: Any) -> Values:
    """One value; one that is itself a list stands in a list, so that it is not taken for several."""
    if hasattr(value, "__iter__") and not isinstance(value, str | bytes | Mapping):
        return Values(None, lambda: [value], f"[{source(value)}]")
    return Values(None, lambda: value, source(value))


def _listed(field: Field, text: str, how: str) -> Values:
    found = [_read(field, piece, "a") for piece in pieces(text)]
    if not found:
        raise Wrong(f"{field.name}: give values, with commas between them.")
    if how == "choice":
        return Values(None, lambda: distributions.choice(found), f"choice({source(found)})", drawn=True)
    return Values(len(found), lambda: found, source(found))


def _stepped(texts: list[str]) -> Values:
    """From one number to another by steps, the last one included if a step hits it."""
    low, high, step = (_number(text, part) for text, part in zip(texts, "abc", strict=True))
    if step == 0 or (high - low) * step < 0:
        raise Wrong(f"A step that leads from {low} to {high}, not {step}.", "c")
    if isinstance(low, int) and isinstance(high, int) and isinstance(step, int):
        return _range(low, high, step)
    # In decimals, as they were typed: 0 to 0.3 by 0.1 has 0.3.
    exact = [Decimal(repr(one)) for one in (low, high, step)]
    digits = max(0, *(-_exponent(one) for one in exact[::2]))
    size = int((exact[1] - exact[0]) / exact[2]) + 1

    def make() -> list[float]:
        return [round(low + step * i, digits) for i in range(size)]

    return _computed(size, make, f"[round({low!r} + {step!r} * i, {digits}) for i in range({size})]")


def _range(low: int, high: int, step: int) -> Values:
    stop = high + (1 if step > 0 else -1)
    text = f"range({low}, {stop})" if step == 1 else f"range({low}, {stop}, {step})"
    return Values((high - low) // step + 1, lambda: range(low, stop, step), text)


def _exponent(one: Decimal) -> int:
    return int(one.as_tuple().exponent)


def _spaced(texts: list[str]) -> Values:
    """So many numbers from one to another, both included."""
    low, high = (_number(text, part) for text, part in zip(texts[:2], "ab", strict=True))
    size = _number(texts[2], "c", only_whole=True)
    if size < 2:
        raise Wrong("At least 2 numbers; one alone is a value.", "c")
    span, gaps = high - low, size - 1
    if isinstance(span, int) and span and span % gaps == 0:
        return _range(low, high, span // gaps)
    largest = max(abs(low), abs(high))
    digits = _DIGITS - 1 - (math.floor(math.log10(largest)) if largest else 0)

    def make() -> list[float]:
        return [round(low + span * i / gaps, digits) for i in range(size)]

    return _computed(size, make, f"[round({low!r} + {span!r} * i / {gaps}, {digits}) for i in range({size})]")


def _computed(size: int, make: Callable[[], list[float]], text: str) -> Values:
    return Values(size, make, source(make()) if size <= _WRITTEN_OUT else text)


def _drawn(how: str, texts: list[str]) -> Values:
    numbers = [_number(text, part, how == "integers") for text, part in zip(texts, "ab", strict=True)]
    try:
        found = getattr(distributions, how)(*numbers)
    except BadInput as error:
        raise Wrong(str(error), "b") from None
    return Values(None, lambda: found, f"{how}({', '.join(map(source, numbers))})", drawn=True)

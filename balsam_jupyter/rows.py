"""The rows of a sweep as they are stored: all checked, their parameters encoded, with the key of each.

There are two ways, with the same bytes. Row by row takes anything. A `Sweep` of plain values (numbers, booleans, short
ASCII text) goes column by column: each value is encoded once, and rows are joined from these pieces.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import starmap
from typing import Any

from . import codec
from .apps import check_parameters
from .errors import BadInput
from .models import AppRecord
from .sweep import Sweep
from .sweep.columns import MISSING

_PLAIN_TEXT = 1000
_PLAIN_BITS = 1000
"""Longer text and numbers than these go row by row, where what is wrong with them is found."""


def encoded(app: AppRecord, rows: Iterable[Mapping[str, Any]]) -> tuple[Texts | Held, list[bytes]]:
    """Encoded parameters and the key of each row, all checked before anything is stored.

    Parameters
    ----------
    app : AppRecord
        The app they are for.
    rows : Sweep or iterable of mapping
        Iterated once, if it is no Sweep.

    Returns
    -------
    parameters : sized iterable of str or bytes
        What `codec.encode` gives for all parameters of each row.
    keys : list of bytes
        What `codec.row_key` gives.

    Raises
    ------
    BadInput
        If a row cannot be; says which.
    """
    if isinstance(rows, Sweep) and _is_plain(app, rows):
        texts = Texts(app, rows)
        return texts, list(codec.row_keys(app.name, texts.forms()))
    parameters = Held()
    return parameters, list(codec.row_keys(app.name, _forms(app, rows, parameters)))


def _forms(app: AppRecord, rows: Iterable[Any], parameters: Held) -> Iterator[bytes]:
    """The canonical form of each row, whose parameters are encoded on the way."""
    for at, row in enumerate(rows):
        try:
            if not isinstance(row, Mapping):
                raise BadInput(f"a row is a mapping of parameters, not {row!r}.")
            full = check_parameters(app, row)
            form = codec.canonical(full)
            parameters.append(codec.encode(full))
        except BadInput as error:
            raise BadInput(f"Row {at} of the sweep: {error}") from None
        yield form


class Held:
    """What rows gave, one behind the other: less than half the memory of a list."""

    def __init__(self) -> None:
        self._all, self._ends = bytearray(), array("q")
        self._pickles: set[int] = set()

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[str | bytes]:
        start = 0
        for at, end in enumerate(self._ends):
            yield bytes(self._all[start:end]) if at in self._pickles else self._all[start:end].decode("ascii")
            start = end

    def append(self, one: str | bytes) -> None:
        """Add what `codec.encode` gave."""
        if isinstance(one, bytes):
            self._pickles.add(len(self._ends))
        self._all += one if isinstance(one, bytes) else one.encode("ascii")
        self._ends.append(len(self._all))


def _is_plain(app: AppRecord, sweep: Sweep) -> bool:
    """Whether its rows can be joined from values that are encoded one by one, and nothing can be wrong with them."""
    known = app.parameters
    if not known.keys() >= set(sweep.names):
        return False
    left_out = [one for name, one in known.items() if name not in sweep.names]
    if any(one.required or not _is_plain_value(one.default) for one in left_out):
        return False
    for name, values in sweep.columns():
        optional = not known[name].required and _is_plain_value(known[name].default)
        if not all(_is_plain_value(value) or (value is MISSING and optional) for value in values):
            return False
    return True


def _is_plain_value(value: Any) -> bool:
    kind = type(value)
    if kind is str:
        return len(value) < _PLAIN_TEXT and value.isascii() and "\0" not in value
    return kind is float or kind is bool or value is None or (kind is int and value.bit_length() < _PLAIN_BITS)


class Texts:
    """The encoded parameters of a sweep's rows, made when they are iterated over."""

    def __init__(self, app: AppRecord, sweep: Sweep) -> None:
        self._app, self._sweep = app, sweep

    def __len__(self) -> int:
        return len(self._sweep)

    def __iter__(self) -> Iterator[str]:
        return self._joined(list(self._app.parameters), codec.to_json)

    def forms(self) -> Iterator[bytes]:
        """The canonical forms."""
        return map(str.encode, self._joined(sorted(self._app.parameters), codec.scalar_form))

    def _joined(self, names: list[str], text_of: Callable[[Any], str]) -> Iterator[str]:
        """JSON objects of these names, in this order."""
        names_of_sweep, known = self._sweep.names, self._app.parameters

        def texts(name: str, values: Iterable[Any]) -> Iterable[str]:
            default = known[name].default
            return (text_of(default if value is MISSING else value) for value in values)

        def place(name: str) -> str:
            if name in names_of_sweep:
                return f"{{{names_of_sweep.index(name)}}}"
            return _literal(text_of(known[name].default))

        template = "{{" + ",".join(f"{_literal(codec.to_json(name))}:{place(name)}" for name in names) + "}}"
        return starmap(template.format, self._sweep.tuples(texts))


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")

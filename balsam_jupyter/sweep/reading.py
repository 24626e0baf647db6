"""Sweeps from CSV files: text to typed columns."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from ..errors import BadInput, NotFound, listing, nearest
from .columns import MISSING, short

# Python takes more for a number: 1_000 and 007, which in a table are names.
_INT = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|nan|[+-]?inf", re.IGNORECASE)
_BOOL = {"true": True, "false": False}


def of_csv(
    path: str | os.PathLike[str] | TextIO, types: Mapping[str, Callable[[str], Any]]
) -> dict[str, Sequence[Any]]:
    """The columns of a CSV file with a header, each of one type."""
    text = _text(path).removeprefix("\ufeff")  # a mark that Excel puts there
    name = str(path) if isinstance(path, str | os.PathLike) else getattr(path, "name", "the text")
    header, lines = _cells(name, text)
    unknown = [one for one in types if one not in header]
    if unknown:
        raise BadInput(f"{name} has no column {unknown[0]!r} ({listing(header)}).{nearest(unknown[0], header)}")
    columns: dict[str, Sequence[Any]] = {}
    for at, parameter in enumerate(header):
        cells = [(number, cells[at].strip()) for number, cells in lines]
        convert = types.get(parameter) or _type_of([text for _, text in cells if text])
        columns[parameter] = [
            _converted(f"{name}, line {number}", parameter, text, convert) if text else MISSING
            for number, text in cells
        ]
    return columns


def _text(path: str | os.PathLike[str] | TextIO) -> str:
    if not isinstance(path, str | os.PathLike):
        if hasattr(path, "read") and isinstance(text := path.read(), str):
            return text
        raise BadInput(f"Sweep.from_csv takes the path of a file, or an open text file, not {short(path)}.")
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except FileNotFoundError:
        folder = Path(path).expanduser().parent
        near = [one.name for one in folder.glob("*.csv")] if folder.is_dir() else []
        raise NotFound(f"There is no file {os.fspath(path)}.{nearest(Path(path).name, near)}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{os.fspath(path)} is not UTF-8 text ({error.reason}); save it as CSV in UTF-8.") from None
    except OSError as error:
        raise BadInput(f"{os.fspath(path)} cannot be read: {error.strerror}.") from None


def _cells(name: str, text: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and each line that is not blank with its number."""
    first = text.lstrip().partition("\n")[0]
    reader = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count))
    try:
        lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise BadInput(f"{name}, line {reader.line_num}: {error}.") from None
    if len(lines) < 2:
        raise BadInput(f"The sweep is empty: {name} has no rows below a header of names.")
    header = [cell.strip() for cell in lines.pop(0)[1]]
    if "" in header:
        raise BadInput(f"{name}: column {header.index('') + 1} of the header has no name.")
    twice = [one for at, one in enumerate(header) if one in header[:at]]
    if twice:
        raise BadInput(f"{name} has the column {twice[0]!r} twice.")
    for number, cells in lines:
        if len(cells) != len(header):
            number_of = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
            raise BadInput(f"{name}, line {number} has {number_of}, but the header has {len(header)}.")
    return header, lines


def _type_of(texts: Sequence[str]) -> Callable[[str], Any]:
    """What all texts of a column can be read as."""
    if all(map(_INT.fullmatch, texts)):
        return int
    if all(map(_FLOAT.fullmatch, texts)):
        return float
    if all(text.lower() in _BOOL for text in texts):
        return bool
    return str


def _converted(where: str, parameter: str, text: str, convert: Callable[[str], Any]) -> Any:
    try:
        return _BOOL[text.lower()] if convert is bool else convert(text)
    except Exception as error:
        kind = getattr(convert, "__name__", repr(convert))
        told = "" if isinstance(error, KeyError | ValueError) else f" ({type(error).__name__}: {error})"
        raise BadInput(f"{where}: {parameter} is {short(text)!r}, which is no {kind}{told}.") from None

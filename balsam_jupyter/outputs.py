"""What a task yields, read from its work directory.

Standard library only and no import from this package: a worker in another Python loads this file by its path.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

LOG = "job.out"
_JSON = re.compile(r"(?P<file>[^:()\[\]\\*?]+\.json):(?P<keys>.+)", re.DOTALL)
_INTEGER = re.compile(r"[+-]?\d+")
_FORTRAN = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))[dD]([+-]?\d+)")

Output = str | Callable[[Path], Any]


class Missing(Exception):
    """An output that is not there; its text becomes the note."""


def problem(output: object) -> str:
    """Why `output` cannot be an output, or "" if it can: for checks before anything runs."""
    if callable(output):
        return ""
    if not isinstance(output, str):
        return f"is a {type(output).__name__}; give a regular expression, 'file.json:key' or a function"
    found = _JSON.fullmatch(output)
    if found:
        file = Path(found["file"])
        outside = file.is_absolute() or ".." in file.parts
        return f"reads {found['file']!r}, which is not below the work directory" if outside else ""
    try:
        groups = re.compile(output).groups
    except re.error as error:
        return f"is not a regular expression ({error})"
    return "" if groups == 1 else f"has {groups} groups in its regular expression; put ( ) around the one value"


def number(text: str) -> int | float | str:
    """`text` as the number it looks like (Fortran's 1.0D+03 too), else as it is."""
    word = text.strip()
    if _INTEGER.fullmatch(word) and len(word) < 4000:  # Python refuses to read longer ones
        return int(word)
    fortran = _FORTRAN.fullmatch(word)
    try:
        return float(f"{fortran[1]}e{fortran[2]}" if fortran else word) if "_" not in word else text
    except ValueError:
        return text


def extract(workdir: str | os.PathLike[str], outputs: Mapping[str, Output]) -> tuple[dict[str, Any], str]:
    """Compute outputs from the files of one task.

    Parameters
    ----------
    workdir : str or path
        The task's work directory (absolute).
    outputs : mapping of str to (str or callable)
        A regular expression with one group (its last match in ``job.out``, a number if it looks like one),
        ``"file.json:a.b"`` (a key path; numbers index lists) or a function of the work directory.

    Returns
    -------
    values : dict
        One value for each output; NaN where it could not be had.
    note : str
        A line for each NaN that says why; "" if there is none.
    """
    folder = Path(workdir)
    values: dict[str, Any] = {}
    notes: list[str] = []
    texts: dict[str, str] = {}  # the log is read once, however many expressions search it
    for name, output in outputs.items():
        try:
            values[name] = _one(folder, output, texts)
        except Missing as error:
            values[name] = float("nan")
            notes.append(f"{name}: {error}")
        except (Exception, SystemExit) as error:  # a user's function may raise anything; a task that ran stays finished
            values[name] = float("nan")
            notes.append(f"{name}: {_told(error)}")
    return values, "\n".join(notes)


def _told(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # its own text cannot be had
        return type(error).__name__


def _one(folder: Path, output: Output, texts: dict[str, str]) -> Any:
    if callable(output):
        return output(folder)
    found = _JSON.fullmatch(output)
    if found:
        return _key(json.loads(_text(folder, found["file"], texts)), found["keys"], found["file"])
    last = None
    for match in re.finditer(output, _text(folder, LOG, texts), re.MULTILINE):
        last = match
    if last is None:
        raise Missing(f"no match for {output!r} in {LOG}")
    if last[1] is None:
        raise Missing(f"the group of {output!r} is empty in its last match in {LOG}")
    return number(last[1])


def regular(path: str, flags: int) -> int:
    """Open a regular file only: a FIFO would block."""
    fd = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(2, "not a regular file")
    return fd


def _text(folder: Path, file: str, texts: dict[str, str]) -> str:
    if file not in texts:
        try:
            with open(folder / file, encoding="utf-8", errors="replace", opener=regular) as opened:
                texts[file] = opened.read()
        except OSError as error:
            raise Missing(f"cannot read {file} ({error.strerror})") from None
    return texts[file]


def _key(value: Any, keys: str, file: str) -> Any:
    if isinstance(value, dict) and keys in value:  # a key that has a dot in it
        return value[keys]
    for key in keys.split("."):
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and _INTEGER.fullmatch(key) and -len(value) <= int(key) < len(value):
            value = value[int(key)]
        else:
            has = ", ".join(map(str, list(value)[:8])) if isinstance(value, dict) else f"a {type(value).__name__}"
            raise Missing(f"{file} has no {keys!r} (at {key!r} there is {has})")
    return value

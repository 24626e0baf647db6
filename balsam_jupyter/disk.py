"""What an ensemble's directories hold, and cleaning them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from html import escape
from typing import NamedTuple

from .errors import BadInput, TimeoutExpired, many

LOGS = ("job.out", "job.err", "balsam.log")
"""What `clean` always keeps."""
_SHOWN = 8
_LOOK_S = 1.0


class FilesLike(NamedTuple):
    """Files whose names match a pattern: how many, and the sum of their sizes in bytes."""

    pattern: str
    files: int
    bytes: int


class RowDisk(NamedTuple):
    """What the directory of one task holds; `row` is None for a task of no ensemble."""

    row: int | None
    job_id: int
    workdir: str
    files: int
    bytes: int


class DiskUse(NamedTuple):
    """What work directories hold, in bytes (the sizes of the files added up; small files take more on the disk).

    Attributes
    ----------
    bytes, files, directories : int
        In all; directories below work directories are counted, too.
    patterns : tuple of FilesLike
        By name: ``job.out``, ``dump.*``, ``*.dat``; most bytes first.
    largest : tuple of RowDisk
        The tasks with most bytes.
    unreadable : int
        Directories that could not be read; what is in them is not counted.
    seconds : float
        How long it took to look.
    """

    bytes: int
    files: int
    directories: int
    patterns: tuple[FilesLike, ...]
    largest: tuple[RowDisk, ...]
    unreadable: int
    seconds: float

    def _head(self) -> str:
        missed = f"; {many(self.unreadable, 'directory')} could not be read" if self.unreadable else ""
        held = f"{human(self.bytes)} in {many(self.files, 'file')} and {many(self.directories, 'directory')}"
        return f"{held} ({self.seconds:.1f} s to look{missed})"

    def _tables(self) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
        kinds: list[tuple[str, ...]] = [
            (one.pattern, f"{one.files:,}", human(one.bytes)) for one in self.patterns[:_SHOWN]
        ]
        if rest := self.patterns[_SHOWN:]:
            number, size = sum(one.files for one in rest), sum(one.bytes for one in rest)
            kinds.append((f"({len(rest):,} more)", f"{number:,}", human(size)))
        rows: list[tuple[str, ...]] = [
            (one.workdir if one.row is None else f"row {one.row}", f"{one.files:,}", human(one.bytes))
            for one in self.largest
        ]
        return [(("files", "number", "size"), kinds), (("largest", "files", "size"), rows)]

    def __repr__(self) -> str:
        lines = [self._head()]
        for head, rows in self._tables():
            if rows:
                widths = [max(len(one[at]) for one in [head, *rows]) for at in range(3)]
                for first, *rest in [head, *rows]:
                    words = [word.rjust(width) for word, width in zip(rest, widths[1:], strict=True)]
                    lines.append("  ".join(["", first.ljust(widths[0]), *words]))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        tables = ""
        for (first, *others), rows in self._tables():
            head = f'<th style="text-align:left">{first}</th>' + "".join(f"<th>{word}</th>" for word in others)
            body = "".join(
                f'<tr><td style="text-align:left">{escape(name)}</td>'
                + "".join(f"<td>{escape(word)}</td>" for word in numbers)
                + "</tr>"
                for name, *numbers in rows
            )
            tables += f"<table><tr>{head}</tr>{body}</table>" if rows else ""
        return f"<div><div>{escape(self._head())}</div>{tables}</div>"


class Cleaned:
    """Directories that are being cleaned, in the background.

    Attributes
    ----------
    directories : int
        How many: those of the rows that had finished when it was asked for.
    keep : tuple of str
        What stays in them, beside the logs.
    """

    def __init__(self, done: Callable[[float], bool], directories: int, keep: tuple[str, ...]) -> None:
        self._done = done  # within so many seconds
        self.directories, self.keep = directories, keep

    def done(self) -> bool:
        """Whether all have been cleaned."""
        return self._done(0.0)

    def wait(self, timeout: float | None = None) -> Cleaned:
        """Block until all have been cleaned; `TimeoutExpired` if that takes longer than `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _LOOK_S if deadline is None else deadline - time.monotonic()
            if self._done(max(0.0, min(left, _LOOK_S))):
                return self
            if left <= 0:
                raise TimeoutExpired("Cleaning", timeout or 0.0)

    def __repr__(self) -> str:
        kept = ", ".join([*LOGS, *self.keep])
        if not self.directories:
            return "<Cleaned: no finished row has a directory>"
        what = f"{many(self.directories, 'directory')} of finished rows"
        return f"<Cleaned: {what} {'were' if self.done() else 'are being'} cleaned; {kept} stay>"


def checked_globs(keep: object) -> tuple[str, ...]:
    """Globs of what to keep, as text; `BadInput` for what would not keep what is meant."""
    if isinstance(keep, str | bytes) or not isinstance(keep, Iterable):
        raise BadInput(f"keep is a list of patterns such as ['*.json'], not {keep!r}; [] keeps the logs only.")
    globs = tuple(keep)
    for glob in globs:
        if not isinstance(glob, str) or not glob.strip():
            raise BadInput(f"keep has {glob!r}, which is not a pattern such as '*.json'.")
        if glob.startswith(("/", "~", "./")) or ".." in glob.split("/"):
            raise BadInput(f"keep has {glob!r}; a pattern is relative to the work directory, such as 'results/*'.")
    return globs


def is_kept(path: str, keep: Iterable[str]) -> bool:
    """Whether a file (its path relative to the work directory) stays.

    A pattern without ``/`` is compared with the name, wherever the file is, others with the path; ``*`` matches any
    text. ``results/`` is all below that directory.
    """
    if path in LOGS:
        return True
    name = path.rpartition("/")[2]
    return any(
        fnmatchcase(path, glob + "*" if glob.endswith("/") else glob) if "/" in glob else fnmatchcase(name, glob)
        for glob in keep
    )


def human(size: int) -> str:
    """Bytes in words: ``1.5 MB``, powers of 1,000."""
    amount = float(size)
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if amount < 999.5 or unit == "TB":
            break
        amount /= 1000
    return f"{size:,} bytes" if unit == "bytes" else f"{amount:.3g} {unit}" if amount < 999.5 else f"{amount:,.0f} TB"

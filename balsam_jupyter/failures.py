"""Failed tasks in groups: those whose errors differ only in numbers, paths, times and the like are one kind."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, overload

from .api import Site
from .errors import BalsamJupyterError, ExecutorException
from .models import EnsembleRecord, JobRow, Query

if TYPE_CHECKING:
    import pandas as pd

    from .engines.base import Engine

SHOWN = 10
"""Groups that a text or a page shows; the others are counted."""
FIRST_ROWS = 8
"""Rows a group names."""
LOG_LINES = 10
_LENGTH = 200

# -- shapes ------------------------------------------------------------------------------------------------------------

# What stands for each kind of word, tried in this order at every place of a line.
_MASKS = {
    "<time>": r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"
    r"|\b\d\d:\d\d:\d\d(?:[.,]\d+)?",
    "<url>": r"\b[a-z][a-z+.-]{1,20}://[^\s'\"<>]+",
    "'<path>'": r"(?<!\w)(?P<mark>['\"])(?:~\w*|\.{1,2})?/[^'\"]*(?P=mark)",
    "<path>": r"(?<![\w.)\]<>])(?:~\w*|\.{1,2})?/[^\s:'\"`,;()\[\]{}<>/]+(?:/[^\s:'\"`,;()\[\]{}<>/]*)*"
    r"|(?<![\w./])[\w.+@=~-]+(?:/[\w.+@=~-]+){2,}/?|(?<![\w./])(?:[\w.+@=~-]+/)+[\w+@=~-]+\.\w+",
    "<id>": r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b|\b0[xX][0-9a-fA-F]+"
    r"|\b(?=[0-9a-fA-F]*\d)(?=[0-9a-fA-F]*[a-fA-F])[0-9a-fA-F]{8,}\b",
    "'<id>'": r"(?P<quote>['\"`])(?=[^\s'\"`]*\d)[^\s'\"`]*[A-Za-z_][^\s'\"`]*(?P=quote)",
    "<n>": r"(?:(?<![\w.)\]])[-+])?(?:\d+\.?\d*|\.\d+)(?:[eEdD][-+]?\d+)?|(?<!\w)[-+]?(?:nan|inf|NaN|Inf)\b",
}
_MASK = re.compile("|".join(f"(?P<m{at}>{pattern})" for at, pattern in enumerate(_MASKS.values())))
_WORDS = {f"m{at}": word for at, word in enumerate(_MASKS)}
_MANY = re.compile(r"<n>(?:[,;]? ?<n>)+")
# A line that says what went wrong, among others that only say how far the program came.
_TELLING = re.compile(
    r"\b\w*(?:error|exception)\b(?!\s*[=\d])|\bfatal\b|\babort|\bkilled\b|\bdenied\b|\bnot found\b|\bno such\b"
    r"|\bcannot\b|\bcould not\b|\bfailed\b|\bfailure\b|\bassertion\b|\bsegmentation fault\b"
    r"|\bout of memory\b|\bpanic\b",
    re.IGNORECASE,
)
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f]"
)
_TRACEBACK = "Traceback (most recent call last):"


def printable(text: str) -> str:
    """The text without what a terminal takes for commands (colours, control characters), as UTF-8 can have it."""
    return _CONTROL.sub("", text).encode("utf-8", "replace").decode()  # a lone surrogate is in no message


def telling_line(error: str) -> str:
    """The line of an error that says most: a traceback's exception, else the first that speaks of an error."""
    error = printable(error)
    if _TRACEBACK in error:
        after = error.rpartition(_TRACEBACK)[2].splitlines()[1:]
        # Frames are indented; below them come the exception and the other lines of its text.
        found = next((line for line in after if line[:1] not in ("", " ", "\t")), "")
        if found:
            return found
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return next((line for line in lines if _TELLING.search(line)), lines[-1] if lines else "(it said nothing)")


def shape_of(line: str) -> str:
    """The line with what is different each time masked: numbers, paths, times, addresses, quoted ids.

    >>> shape_of("node 17: file /a/b/3 missing")
    'node <n>: file <path> missing'
    """
    masked = _MANY.sub("<n> …", _MASK.sub(lambda found: _WORDS[found.lastgroup or ""], line))
    return masked if len(masked) <= _LENGTH else f"{masked[: _LENGTH - 1]}…"


# -- groups ------------------------------------------------------------------------------------------------------------


class FailureGroup:
    """Failed tasks with errors of one shape.

    Attributes
    ----------
    shape : str
        What their errors have in common, e.g. ``node <n>: file <path> missing``.
    return_code : int or None
        The same for all of them; None for tasks that never ran.
    count : int
        How many there are.
    rows : tuple of int
        The numbers of the first few in the sweep.
    example : int
        The id of the first one's task.
    """

    def __init__(self, site: Site, shape: str, failed: Sequence[JobRow], of_site: bool = False) -> None:
        self._site, self._row = site, failed[0]
        self._first, self._of_site = failed[:FIRST_ROWS], of_site
        self.shape, self.return_code, self.count = shape, failed[0].return_code, len(failed)
        self.rows = tuple(row.id if row.row is None else row.row for row in failed[:FIRST_ROWS])
        self.example = failed[0].id

    @property
    def run_by_hand(self) -> str:
        """The command that runs the example again in a terminal, in a directory of its own; "" if it ran elsewhere."""
        if not self._site.engine.runs_here:
            return ""
        return f"balsam-jupyter job try {self.example} --site {shlex.quote(self._site.name)}"

    @cached_property
    def command(self) -> str:
        """For an app with a command, that of the example as a line for a shell; else ""."""
        try:
            if self._site.app(self._row.app_name).kind != "shell":
                return ""
            argv, _ = self._site.engine.command(self._row)
        except BalsamJupyterError:  # the app has gone, or it cannot be launched here any more
            return ""
        return f"cd {shlex.quote(str(self._site.data_path / self._row.workdir))} && {shlex.join(argv)}"

    @cached_property
    def log(self) -> str:
        """The end of the example's log, below a line that says which task it is."""
        return log_of(self._site.engine, self._row, LOG_LINES)

    @property
    def title(self) -> str:
        """How many, in which rows (of a site: of which ensembles), and their return code."""
        many = "1 task" if self.count == 1 else f"{self.count:,} tasks"
        more = ", …" if self.count > len(self.rows) else ""
        named: dict[str, list[int]] = {}
        for row, number in zip(self._first, self.rows, strict=True):
            what = "task" if row.row is None else "row"
            named.setdefault(f"{what} of {row.ensemble}" if self._of_site and row.ensemble else what, []).append(number)
        rows = ", ".join(_numbered(what, numbers) for what, numbers in named.items()) + more
        code = self.return_code
        ended = "never ran" if code is None else f"killed by signal {-code}" if code < 0 else f"return code {code}"
        return f"{many} ({rows}; {ended})"

    def __repr__(self) -> str:
        lines = [f"  {line}" for line in self.log.splitlines()]
        return "\n".join([f"{self.title}: {self.shape}", *lines, *(f"  $ {one}" for one in self._commands())])

    def _commands(self) -> list[str]:
        return [one for one in (self.run_by_hand, self.command) if one]

    def _repr_html_(self) -> str:
        commands = "".join(f"<div><code>{escape(one)}</code></div>" for one in self._commands())
        return (
            f"<details><summary><b>{escape(self.title)}</b>: <code>{escape(self.shape)}</code></summary>"
            f'<pre style="text-align:left;max-height:20em;overflow:auto">{escape(self.log)}</pre>{commands}</details>'
        )


@dataclass(frozen=True, repr=False)
class Failures(Sequence[FailureGroup]):
    """The failed tasks of an ensemble as they were when it was made, in groups, the largest first.

    Attributes
    ----------
    ensemble : str
        Its name.
    total : int
        How many tasks have failed.
    groups : tuple of FailureGroup
        All of them, however few are shown.
    """

    ensemble: str
    total: int
    groups: tuple[FailureGroup, ...]

    @classmethod
    def of(cls, site: Site, record: EnsembleRecord) -> Failures:
        """Those of an ensemble, now."""
        return cls.among(site, record.rows(order="row"), record.name)

    @classmethod
    def among(cls, site: Site, query: Query, name: str, most: int | None = None) -> Failures:
        """Those of the tasks that `query` names, of `most` of them at most; `name` is their ensemble, "" for a site."""
        rows = site.engine.jobs(replace(query, states=("FAILED",), limit=most))
        shape = _remembered(lambda line: shape_of(line))
        kind = _remembered(lambda error: shape(telling_line(error)))
        found: dict[tuple[str, int | None], list[JobRow]] = {}
        for row in rows:
            found.setdefault((kind(row.error), row.return_code), []).append(row)
        ordered = sorted(found.items(), key=lambda each: -len(each[1]))  # of equal ones, the first to fail first
        return cls(name, len(rows), tuple(FailureGroup(site, shape, some, not name) for (shape, _), some in ordered))

    def __len__(self) -> int:
        return len(self.groups)

    @overload
    def __getitem__(self, at: int) -> FailureGroup: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[FailureGroup, ...]: ...
    def __getitem__(self, at: int | slice) -> FailureGroup | tuple[FailureGroup, ...]:
        return self.groups[at]

    def __iter__(self) -> Iterator[FailureGroup]:
        return iter(self.groups)

    def to_dataframe(self) -> pd.DataFrame:
        """All groups as a table: ``count``, ``shape``, ``return_code``, ``rows`` (the first few), ``example`` (a task's
        id) and ``run_by_hand`` (the command).

        Raises
        ------
        ExecutorException
            If pandas is not installed.
        """  # noqa: D205
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise ExecutorException(
                "to_dataframe() needs pandas, which is not installed: pip install 'balsam-jupyter[notebook]'."
            ) from None
        names = ("count", "shape", "return_code", "rows", "example", "run_by_hand")
        table = pd.DataFrame({name: [getattr(group, name) for group in self.groups] for name in names})
        return table.astype({"count": "int64", "return_code": "Int64", "example": "int64"})

    @property
    def title(self) -> str:
        """How many tasks and groups."""
        if not self.groups:
            return f"{self.ensemble}: no task has failed."
        many = "1 failed task" if self.total == 1 else f"{self.total:,} failed tasks"
        kinds = "" if self.total == 1 else f" in {len(self)} group{'s' if len(self) > 1 else ''}"
        return f"{self.ensemble}: {many}{kinds}"

    def _left_out(self) -> str:
        rest = self.groups[SHOWN:]
        tasks = sum(group.count for group in rest)
        groups = "1 more group" if len(rest) == 1 else f"{len(rest):,} more groups"
        left = "1 task" if tasks == 1 else f"{tasks:,} tasks"
        return f"… and {groups} ({left}): failures[{SHOWN}:], failures.to_dataframe()" if rest else ""

    def __repr__(self) -> str:
        parts = [self.title, *map(repr, self.groups[:SHOWN]), self._left_out()]
        return "\n".join(part for part in parts if part)

    def _repr_html_(self) -> str:
        groups = "".join(group._repr_html_() for group in self.groups[:SHOWN])
        return f"<div><b>{escape(self.title)}</b>{groups}<div>{escape(self._left_out())}</div></div>"


def _numbered(what: str, numbers: Sequence[int]) -> str:
    """``row 3``, ``rows 1, 2 of scan``."""
    kind, _, whose = what.partition(" ")
    return f"{kind}{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}{whose and f' {whose}'}"


def log_of(engine: Engine, job: JobRow, lines: int) -> str:
    """A head, and the last `lines` lines of a task's log and of what its error adds to the log."""
    error = [line for line in printable(job.error).splitlines() if line.strip()]
    # An error is often the end of the log, and longer than what is asked for.
    end = printable(engine.output(job.id, lines + len(error))).rstrip("\n")
    added = [line for line in error if line.strip() not in end]
    shown = [*(end.splitlines() or ([] if added else [f"({no_log(engine, job)})"])), *added][-lines:]
    code = "" if job.return_code is None else f", return code {job.return_code}"
    return "\n".join([f"task {job.id} ({job.app_name}, {job.state}{code}) in {job.workdir}:", *shown])


def no_log(engine: Engine, job: JobRow) -> str:
    """Why there is nothing to show of a task's log."""
    if job.scratch and job.state == "JOB_FINISHED":
        return "a scratch task's directory, and its log with it, goes when it finishes well"
    if not job.attempts:
        return "it has not run"
    return "its log is empty" if engine.site.here else f"its log is at site {engine.site.name!r}, not on this machine"


def _remembered(function: Callable[[str], str]) -> Callable[[str], str]:
    """The function, called once for each text."""
    known: dict[str, str] = {}

    def remembered(text: str) -> str:
        found = known.get(text)
        if found is None:
            found = known[text] = function(text)
        return found

    return remembered

"""The table of an ensemble, kept column by column, so that asked for again only what changed is read."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from . import codec
from .api import Site
from .api_jobs import changed_ids
from .failures import printable
from .models import TASK_STATE, EnsembleRecord, JobRow

log = logging.getLogger(__name__)

OWN_COLUMNS = ("row", "task", "state", "return_code", "runtime_s", "error", "workdir")
"""Columns that every table has, beside the parameters and what the app yields."""
ERROR_LINES, ERROR_LENGTH = 3, 500
"""How much of an error a table shows: its last lines, and of these at most so many characters."""
_PAGE = 25_000
_COMPARED = frozenset({bool, int, float, str, type(None)})
_MOST_EVENTS = 5_000  # with more, reading all rows again costs less than finding out which
_MOST_ROWS = 500_000  # in all the tables kept; the one used last is kept whatever its size


class Column:
    """The cells of a column by position (None: nothing there), with their types counted.

    Parameters
    ----------
    kind : str, optional
        What it is whatever the cells are: ``"int"``, ``"float"``, ``"bool"``, ``"text"`` or ``"object"``.
    gaps : bool
        Whether its type has room for missing cells even while none is missing.
    """

    def __init__(self, kind: str = "", gaps: bool = False) -> None:
        self.cells: list[Any] = []
        self.types: Counter[type] = Counter()
        self.built: Any = None
        """What `frames` made of the cells, and keeps for the next time."""
        self.changed: set[int] = set()
        """Positions set since it was built."""
        self._kind, self._gaps = kind, gaps

    def extend(self, cells: Iterable[Any]) -> None:
        """Append cells."""
        before = len(self.cells)
        self.cells.extend(cells)
        self.types.update(map(type, self.cells[before:]))
        self.built = None

    def put(self, at: int, cell: Any) -> None:
        """Replace a cell."""
        before = self.cells[at]
        if type(cell) is type(before) and type(cell) in _COMPARED and cell == before:
            return
        self.types[type(before)] -= 1
        self.types[type(cell)] += 1
        self.cells[at] = cell
        self.changed.add(at)

    @property
    def kinds(self) -> set[type]:
        """The types of the cells, but for those that are missing."""
        return {each for each, number in self.types.items() if number and each is not type(None)}

    @property
    def kind(self) -> str:
        """What all cells are; ints among floats count as floats, and what has no one type is an object."""
        if self._kind:
            return self._kind
        kinds = self.kinds
        if kinds == {int, float}:
            return "float"
        names = {bool: "bool", int: "int", float: "float", str: "text"}
        return names.get(next(iter(kinds)), "object") if len(kinds) == 1 else "object"

    @property
    def gaps(self) -> bool:
        """Whether cells are missing, or may be."""
        return self._gaps or self.types[type(None)] > 0


class Mappings:
    """Rows that are mappings (parameters, values), a column for each key."""

    def __init__(self) -> None:
        self.columns: dict[str, Column] = {}
        self._keys: list[tuple[str, ...]] = []  # the different sets of keys
        self._numbers: dict[tuple[str, ...], int] = {}
        self._of: list[int] = []  # by position: which of them

    def extend(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows."""
        before = len(self._of)
        numbers = [self._number(row) for row in rows]
        self._of += numbers
        different = set(numbers)
        for number in different:
            for name in self._keys[number]:
                if name not in self.columns:
                    column = self.columns[name] = Column()
                    column.extend([None] * before)
        same = self._keys[numbers[0]] if len(different) == 1 else None
        for name, column in self.columns.items():
            if same is not None and name not in same:
                column.extend([None] * len(rows))
            else:
                column.extend([row.get(name) for row in rows])

    def put(self, at: int, row: Mapping[str, Any]) -> None:
        """Replace a row."""
        before, self._of[at] = self._keys[self._of[at]], self._number(row)
        for name in {*before, *row}:
            if name not in self.columns:
                column = self.columns[name] = Column()
                column.extend([None] * len(self._of))
            self.columns[name].put(at, row.get(name))

    def _number(self, row: Mapping[str, Any]) -> int:
        keys = tuple(row)
        number = self._numbers.get(keys)
        if number is None:
            number = self._numbers[keys] = len(self._keys)
            self._keys.append(keys)
        return number

    def names(self) -> list[str]:
        """The keys that any row has, in the order in which they appear from the first row on."""
        return list(dict.fromkeys(name for number in dict.fromkeys(self._of) for name in self._keys[number]))


class Table:
    """The rows of one ensemble, brought up to date by what the engine says has changed. Not safe without `lock`."""

    def __init__(self, site: Site, record: EnsembleRecord) -> None:
        self.site = site
        self.lock = threading.Lock()
        self._data = f"{site.data_path}/"
        self._name = record.name
        self._query = record.rows()
        self._cursor = ""
        self._clear()

    def _clear(self) -> None:
        self._at: dict[int, int] = {}
        self._last = 0  # the highest id read
        self._unread: set[int] = set()  # ids of rows with a value that this process could not decode
        self._lost: list[Exception] = []  # why, of what was read since the last warning
        self._lacking: dict[int, str] = {}  # finished rows without some output: position → why
        self._finished = 0
        self._own = {
            "row": Column("int"),
            "task": Column("int"),
            "state": Column("text"),
            "return_code": Column("int", gaps=True),
            "runtime_s": Column("float"),
            "error": Column("text"),
            "workdir": Column("text"),
        }
        self._parameters, self._values = Mappings(), Mappings()

    def __len__(self) -> int:
        return len(self._at)

    # -- reading ------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Bring it up to date."""
        if self._cursor and self._catch_up():
            return
        self._clear()
        self._cursor = ""  # until all is read, there is nothing to go on from
        cursor = self.site.engine.events("now").cursor
        self._read_on()
        self._cursor = cursor

    def _catch_up(self) -> bool:
        """Read the rows that changed; False where it is better, or necessary, to read all again."""
        engine = self.site.engine
        page = engine.events(self._cursor, limit=_MOST_EVENTS)
        if page.reset or len(page.rows) == _MOST_EVENTS:
            return False
        changed = changed_ids(page.rows, self._at) | self._unread
        if len(changed) > max(1000, len(self) // 4):
            return False
        if changed:
            rows = engine.jobs(replace(self._query, ids=tuple(changed)))
            if len(rows) < len(changed):  # some were deleted, or are another ensemble's now
                return False
            self._put(rows)
        if any(row.last_id > self._last for row in page.rows):
            self._read_on()
        self._cursor = page.cursor
        return True

    def _read_on(self) -> None:
        """Append the rows that were not read yet, page by page: only the columns hold them all."""
        rows: list[JobRow] | None = None
        while rows is None or len(rows) == _PAGE:
            rows = self.site.engine.jobs(replace(self._query, after_id=self._last, limit=_PAGE))
            if rows:
                self._last = rows[-1].id
                self._append(rows)

    def _read(self, rows: list[JobRow]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The parameters and the values of rows."""
        parameters, lost = _mappings([row.parameters for row in rows])
        values, lost_too = _mappings([row.value for row in rows])
        self._unread.difference_update(row.id for row in rows)
        self._unread.update(rows[at].id for at in (*lost, *lost_too))
        self._lost += [*lost.values(), *lost_too.values()]
        return parameters, values

    def _append(self, rows: list[JobRow]) -> None:
        first = len(self)
        parameters, values = self._read(rows)
        self._parameters.extend(parameters)
        self._values.extend(values)
        for name, cells in self._own_cells(rows, first).items():
            self._own[name].extend(cells)
        self._at.update(zip((row.id for row in rows), range(first, first + len(rows)), strict=True))
        for at, row in enumerate(rows):
            if row.state == "JOB_FINISHED":
                self._finished += 1
                if row.error:
                    self._note(first + at, row, values[at])

    def _put(self, rows: list[JobRow]) -> None:
        for row, parameters, value in zip(rows, *self._read(rows), strict=True):
            at = self._at[row.id]
            self._finished += (row.state == "JOB_FINISHED") - (self._own["state"].cells[at] == "FINISHED")
            self._parameters.put(at, parameters)
            self._values.put(at, value)
            for name, cells in self._own_cells([row], at).items():
                self._own[name].put(at, cells[0])
            self._note(at, row, value)

    def _own_cells(self, rows: list[JobRow], first: int) -> dict[str, list[Any]]:
        """The cells of the fixed columns; a row that waits or runs shows nothing of an attempt before."""
        states = [TASK_STATE[row.state] for row in rows]
        ended = [state not in ("WAITING", "RUNNING") for state in states]
        return {
            "row": [at if row.row is None else row.row for at, row in enumerate(rows, first)],
            "task": [row.id for row in rows],
            "state": states,
            "return_code": [row.return_code if over else None for row, over in zip(rows, ended, strict=True)],
            "runtime_s": [row.runtime_s if over else None for row, over in zip(rows, ended, strict=True)],
            "error": [last_lines(row.error) if over else None for row, over in zip(rows, ended, strict=True)],
            "workdir": [self._data + row.workdir for row in rows],
        }

    # -- what is missing ----------------------------------------------------------------------------------

    def _note(self, at: int, row: JobRow, value: dict[str, Any]) -> None:
        self._lacking.pop(at, None)
        if row.error and row.state == "JOB_FINISHED" and (why := _still_missing(row.error, value)):
            self._lacking[at] = why

    def warn(self) -> None:
        """Say why there is NaN in the table, and what is left out, in a line of the log each."""
        if self._lost:
            log.warning("%d values cannot be read in this kernel and are left out: %r", len(self._lost), self._lost[0])
            self._lost.clear()
        if self._lacking:
            at = min(self._lacking)
            log.warning(
                "%s: outputs missing in %d of %d finished rows, e.g. row %s: %s; "
                "ensemble.extract(outputs=…) reads them again with other outputs.",
                self._name, len(self._lacking), self._finished, self._own["row"].cells[at], self._lacking[at],
            )  # fmt: skip

    # -- columns ------------------------------------------------------------------------------------------

    def columns(self) -> dict[str, Column]:
        """The columns as a table has them, by unique names and in order; ``row`` is the first."""
        yielded, given = self._values.names(), self._parameters.names()
        values = _named(yielded, "value_", set(OWN_COLUMNS))
        parameters = _named(given, "param_", {*OWN_COLUMNS, *values})
        own = self._own
        return {
            "row": own["row"],
            **{name: self._parameters.columns[key] for name, key in parameters.items()},
            **{name: own[name] for name in ("state", "return_code", "runtime_s")},
            **{name: self._values.columns[key] for name, key in values.items()},
            **{name: own[name] for name in ("error", "workdir", "task")},
        }


def _named(keys: list[str], prefix: str, taken: set[str]) -> dict[str, str]:
    """Column name → key: the keys themselves, with the prefix (as often as it takes) where a name is taken."""
    used = {*taken, *keys}
    named: dict[str, str] = {}
    for key in keys:
        name = key
        if key in taken:
            while name in used:
                name = prefix + name
            used.add(name)
        named[name] = key
    return named


def last_lines(error: str) -> str | None:
    """The end of an error, for a cell; None if there is none."""
    if not error:
        return None
    lines = [line for line in printable(error).splitlines() if line.strip()][-ERROR_LINES:]
    text = "\n".join(lines)
    return (text if len(text) <= ERROR_LENGTH else f"…{text[1 - ERROR_LENGTH :]}") or None


def _mappings(encoded: Sequence[str | bytes | None]) -> tuple[list[dict[str, Any]], dict[int, Exception]]:
    """All decoded, what is no mapping as that of ``value``; and, by position, why something cannot be read here."""
    texts = [one for one in encoded if isinstance(one, str)]
    plain = iter(json.loads(f"[{','.join(texts)}]"))  # in one go, which is what makes many rows quick
    found: list[dict[str, Any]] = []
    bad: dict[int, Exception] = {}
    for at, one in enumerate(encoded):
        try:
            value = next(plain) if isinstance(one, str) else None if one is None else codec.decode(one)
        except Exception as error:  # a value of a class this process does not have must not hide the other rows
            bad[at] = error
            value = None
        if type(value) is dict and isinstance(one, str):
            found.append(value)
        elif isinstance(value, Mapping):  # pickled: its keys may be anything
            found.append({str(key): each for key, each in value.items()})
        else:
            found.append({} if value is None else {"value": value})
    return found, bad


def _still_missing(note: str, value: Mapping[str, Any]) -> str:
    """The first line of a row's note whose output is NaN; a later extract() may have found the others."""
    lines = note.splitlines()
    if not value:  # nothing could be read
        return lines[0]
    lacking = tuple(f"{name}: " for name, one in value.items() if isinstance(one, float) and one != one)
    return next((line for line in lines if line.startswith(lacking)), "") if lacking else ""


class Tables:
    """The tables that the handles of one executor share; those used least are dropped when they get large."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], Table] = OrderedDict()

    def use(self, record: EnsembleRecord, make: Callable[[Table], Any], warn: bool = True) -> Any:
        """`make` of the ensemble's table as it is now; nobody else changes the table meanwhile.

        Without `warn` it is silent about what is missing: for threads in the background, which may not print.
        """
        key = record.name, record.generation
        with self._lock:
            table = self._kept.setdefault(key, Table(self._site, record))
            self._kept.move_to_end(key)
        with table.lock:
            table.refresh()
            if warn:
                table.warn()
            made = make(table)
        with self._lock:
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > _MOST_ROWS:
                self._kept.popitem(last=False)
        return made

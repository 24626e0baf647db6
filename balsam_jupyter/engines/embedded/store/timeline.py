"""Events summed up in bins of time, so that a view of a million jobs need not read a million events."""

from __future__ import annotations

import json
import sqlite3
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Any, NamedTuple

from ....past import Step, runs, steps
from .schema import ENSEMBLE

EVERY = range(1, 1 << 62)
"""The ids of all jobs there can be."""

_MOST_RUNS = 100
_Counts = Counter[tuple[str, str, int, "int | None"]]
"""Numbers of jobs by step (two states), bin and shape (None where it does not matter or is not known)."""


class Scope(NamedTuple):
    """Which jobs: those of an ensemble, or all (`ensemble` is None). `counts` are their numbers by state."""

    ensemble: int | None
    ids: list[range]
    counts: dict[str, int]


def whole_site(con: sqlite3.Connection) -> Scope:
    # by the index of ensemble and state, which has them in this order: no row is read, and nothing sorted
    counts: dict[str, int] = Counter()
    for state, number in con.execute("SELECT state, count(*) FROM job GROUP BY ensemble_id, state"):
        counts[state] += number
    return Scope(None, [EVERY], dict(counts))


def find_ensemble(con: sqlite3.Connection, name: str, generation: int | None) -> tuple[int, int] | None:
    """Its id and generation; None if there is none."""
    found = con.execute(f"SELECT id, generation FROM ensemble WHERE id = ({ENSEMBLE})", (name, generation)).fetchone()
    return None if found is None else (int(found[0]), int(found[1]))


def of_ensemble(con: sqlite3.Connection, ensemble: int) -> Scope:
    found = con.execute(
        "SELECT state, count(*), min(id), max(id) FROM job WHERE ensemble_id = ? GROUP BY state", (ensemble,)
    ).fetchall()
    counts = {state: number for state, number, _, _ in found}
    if not found:
        return Scope(ensemble, [], counts)
    first, last = min(row[2] for row in found), max(row[3] for row in found)
    if last - first + 1 == sum(counts.values()):
        return Scope(ensemble, [range(first, last + 1)], counts)
    ids = array("q", (row[0] for row in con.execute("SELECT id FROM job WHERE ensemble_id = ?", (ensemble,))))
    return Scope(ensemble, _ranges(sorted(ids)), counts)


def members(con: sqlite3.Connection, ensemble: int, first: int, last: int) -> list[range]:
    """Which of the jobs `first` to `last`, all stored by one submission, are the ensemble's."""
    ends = con.execute(
        "SELECT id, row FROM job WHERE id IN (?, ?) AND +ensemble_id = ? ORDER BY id", (first, last, ensemble)
    ).fetchall()
    # A submission counts an ensemble's rows on job by job: no job of anything else can lie between these.
    if len(ends) == len({first, last}) and ends[-1][1] - ends[0][1] == last - first:
        return [range(first, last + 1)]
    found = con.execute(
        "SELECT id FROM job WHERE id BETWEEN ? AND ? AND +ensemble_id = ? ORDER BY id", (first, last, ensemble)
    )
    return _ranges(job_id for (job_id,) in found)


def _ranges(ids: Iterable[int]) -> list[range]:
    found: list[range] = []
    first = last = -1
    for job_id in ids:
        if job_id != last + 1:
            if last >= 0:
                found.append(range(first, last + 1))
            first = job_id
        last = job_id
    return [*found, range(first, last + 1)] if last >= 0 else found


def shapes(con: sqlite3.Connection) -> dict[int, dict[str, Any]]:
    """What jobs of each shape ask for; there are few shapes, however many jobs."""
    return {shape: json.loads(asked) for shape, asked in con.execute("SELECT id, resources FROM shape ORDER BY id")}


def newest_shape(con: sqlite3.Connection) -> int:
    return int(con.execute("SELECT coalesce(max(id), 0) FROM shape").fetchone()[0])


def shapes_of(con: sqlite3.Connection, ids: Iterable[int]) -> dict[int, int]:
    """The shape of each of these jobs that is there."""
    found = con.execute(
        "SELECT id, shape_id FROM job WHERE id IN (SELECT value FROM json_each(?))", (json.dumps([*ids]),)
    )
    return dict(found.fetchall())


def shapes_of_running(con: sqlite3.Connection) -> dict[int, int]:
    """The shape of each job that runs."""
    found = con.execute(
        "SELECT id, shape_id FROM job INDEXED BY job_session WHERE session_id IS NOT NULL AND state = 'RUNNING'"
    )
    return dict(found.fetchall())


class Bins(NamedTuple):
    """Equal bins of time. What lies before the start goes to the first."""

    start: float
    width: float

    def at(self, time: float) -> int:
        return max(0, int((time - self.start) / self.width))

    def middle(self, at: int) -> float:
        return self.start + (at + 0.5) * self.width

    def sql(self, column: str) -> str:
        """As `at`, but for the limit below."""
        return f"CAST(({column} - :start) / :width AS INTEGER)"


def find_bins(
    con: sqlite3.Connection, scope: Scope, bins: int, width: float, since: float | None = None
) -> Bins | None:
    """Bins of `width` times a power of two, hardly more than `bins` of them, for all events; None if there are none."""
    if not scope.ids:
        return None
    if scope.ensemble is None:
        first = con.execute("SELECT min(seq) FROM event").fetchone()[0]
        last = con.execute(f"SELECT seq FROM event WHERE {_STEPS} ORDER BY seq DESC LIMIT 1").fetchone()
    else:
        lowest, highest = scope.ids[0].start, scope.ids[-1].stop - 1
        first = con.execute(  # its first job was born before all that happened to any
            f"SELECT min(seq) FROM (SELECT seq FROM event WHERE first_id = ?1 UNION ALL {_SHARED})", (lowest, lowest)
        ).fetchone()[0]
        # by the index of first_id, which has the numbers of the events, too
        after = con.execute(
            f"""SELECT max(seq) FROM (SELECT max(seq) AS seq FROM event WHERE first_id BETWEEN ?1 AND ?2
                UNION ALL {_SHARED})""",
            (lowest, highest),
        ).fetchone()[0]
        last = con.execute(
            f"""SELECT seq FROM event WHERE seq <= ?3 AND {_STEPS} AND last_id >= ?1 AND +first_id <= ?2
                ORDER BY seq DESC LIMIT 1""",
            (lowest, highest, after),
        ).fetchone()
    if first is None or last is None:
        return None
    found = "SELECT time, end_time, times FROM event WHERE seq = ?"
    start = max(con.execute(found, (first,)).fetchone()[0], since or 0.0)
    # The width that the last of many events needs is not more than what all of them need: bins can still be merged.
    began, end, times = con.execute(found, last).fetchone()
    until = began if times else end
    while int((until - start) / width) >= bins:
        width *= 2
    return Bins(start, width)


_STEPS = "instr(path, '>')"  # a path of one state is no transition
_SHARED = """SELECT seq FROM event INDEXED BY event_range
    WHERE last_id > first_id AND last_id >= ?1 AND first_id <= ?2"""


def count_steps(
    con: sqlite3.Connection, scope: Scope, bins: Bins, default: float, nodes: Mapping[int, float]
) -> list[Step]:
    """What happened to the jobs, by bin. `nodes` is what a job of each shape takes; empty where all take `default`."""
    steps: list[Step] = []
    for ids in scope.ids:
        parts = _shape_runs(con, ids) if nodes else [(ids, None)]
        for part, shape in parts or [(ids, None)]:
            counts: _Counts = Counter()
            _count_single(con, part, bins, counts, mixed=not parts)
            _count_shared(con, part, bins, counts, mixed=not parts)
            each = default if shape is None else nodes.get(shape, default)
            steps += [
                Step(left, reached, bins.middle(at), number, each if one is None else nodes.get(one, default))
                for (left, reached, at, one), number in counts.items()
            ]
    return steps


def _shape_runs(con: sqlite3.Connection, ids: range) -> list[tuple[range, int]]:
    """The parts of these jobs that have one shape each, as most submissions have; empty if they are many."""
    runs: list[tuple[range, int]] = []
    query = "SELECT id, shape_id FROM job WHERE id >= ? AND id < ? AND shape_id IS NOT ? ORDER BY id LIMIT 1"
    at, shape = ids.start, None
    while found := con.execute(query, (at, ids.stop, shape)).fetchone():
        if len(runs) == _MOST_RUNS:
            return []
        if runs:
            runs[-1] = range(runs[-1][0].start, found[0]), runs[-1][1]
        at, shape = found
        runs.append((range(at if runs else ids.start, ids.stop), shape))
    return runs


def _count(counts: _Counts, path: tuple[str, ...], began: int, end: int, shape: int | None, number: int) -> None:
    for left, reached, at_end in steps(path):
        counts[left, reached, end if at_end else began, shape] += number


def _count_single(con: sqlite3.Connection, ids: range, bins: Bins, counts: _Counts, mixed: bool) -> None:
    """Events of one job each."""
    began, end = bins.sql("time"), bins.sql("end_time")
    columns = f"path, {began}, {end}"
    if mixed:  # the shape, where it matters: a start or an end of a run whose other end is in another bin
        columns += f""", CASE WHEN instr(path, 'RUNNING') AND NOT ({began} = {end} AND instr(path, '>RUNNING>'))
            THEN (SELECT shape_id FROM job WHERE id = first_id) END"""
    events = con.execute("SELECT max(seq) FROM event").fetchone()[0]
    column = "+first_id" if 4 * len(ids) > events else "first_id"  # many are found faster by reading all in order
    which = "1" if ids == EVERY else f"{column} BETWEEN :first AND :last"
    rows = con.execute(
        f"SELECT {columns} FROM event WHERE last_id = first_id AND {which}",
        {"start": bins.start, "width": bins.width, "first": ids.start, "last": ids.stop - 1},
    )
    # Counted here rather than by GROUP BY, which sorts all rows first.
    for (path, one, two, *of), number in Counter(rows).items():
        _count(counts, tuple(path.split(">")), max(0, one), max(0, two), of[0] if of else None, number)


def _count_shared(con: sqlite3.Connection, ids: range, bins: Bins, counts: _Counts, mixed: bool) -> None:
    """Events of several jobs each."""
    rows = con.execute(
        f"SELECT first_id, last_id, path, time, end_time, times FROM event WHERE seq IN ({_SHARED})",
        (ids.start, ids.stop - 1),
    )
    for first, last, text, time, end_time, times in rows:
        path = tuple(text.split(">"))
        first_id, last_id = max(first, ids.start), min(last, ids.stop - 1)
        number = last_id - first_id + 1
        began, end = bins.at(time), bins.at(end_time)
        within = runs(path) == (True, True) and began == end
        shapes: Iterable[int | None] = repeat(None)
        if mixed and any(runs(path)) and not within:
            known = dict(
                con.execute("SELECT id, shape_id FROM job WHERE id BETWEEN ? AND ?", (first_id, last_id)).fetchall()
            )
            shapes = map(known.get, range(first_id, last_id + 1))
        elif not times or began == end:
            _count(counts, path, began, end, None, number)
            continue
        if times:
            both = array("d", times[16 * (first_id - first) : 16 * (last_id - first + 1)])
            begun, ends = list(map(bins.at, both[::2])), list(map(bins.at, both[1::2]))
        else:
            begun, ends = [began] * number, [end] * number
        for (one, two, shape), equal in Counter(zip(begun, ends, shapes)).items():  # noqa: B905 - shapes may be endless
            _count(counts, path, one, two, shape, equal)

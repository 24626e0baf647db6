"""Storing new jobs."""

from __future__ import annotations

import json
import sqlite3
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from hashlib import blake2b
from itertools import islice, pairwise
from typing import Any, NamedTuple

from ....errors import BadInput, NotFound
from ....models import TERMINAL, JobCommon, JobSpec, Submitted
from . import flow
from .directories import TRASH, row_of

CHUNK = 1000
_AT_ONCE = 200  # rows of one statement; more make it no faster

_INSERT = """INSERT INTO job(
        id, spec_id, shape_id, ensemble_id, row, key, parameters, workdir, state, app_version, submit_time, data,
        transfers)
    VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""


# OR FAIL: else SQLite notes down every page that a statement of several rows touches, to undo it alone, which takes
# longer than to store the rows. The caller's transaction undoes all.
_INSERT_ROWS = """INSERT OR FAIL INTO job(
        spec_id, shape_id, ensemble_id, state, app_version, submit_time, row, key, parameters)
    SELECT ?, ?, ?, ?, ?, ?, * FROM (VALUES {})"""


def submit(con: sqlite3.Connection, specs: Iterable[JobSpec], check: Callable[[JobSpec], None]) -> Submitted:
    """Store the jobs; the caller holds the transaction. `check` refuses one; of equals it sees the first only."""
    found = con.execute("SELECT seq FROM sqlite_sequence WHERE name = 'job'").fetchone()
    first_new = next_id = (found[0] if found else 0) + 1
    ids: array[int] = array("q")
    renamed: dict[int, str] = {}
    commons: dict[int, tuple[Spec, int | None, JobCommon]] = {}  # keyed by identity: one object serves many jobs
    births = _Births(con)
    rows: dict[int, int] = {}  # next row of each ensemble
    grown: set[int] = set()  # ensembles that had rows before this submission
    taken: dict[int, set[int]] = {}  # numbers of rows, of ensembles whose new rows have numbers of their own
    now = time.time()
    for chunk in _chunks(specs):
        plain = _plain(chunk)
        for spec in chunk[:1] if plain else chunk:
            check(spec)
        kept = _kept(con, chunk, commons, rows, grown)
        stored, ensemble_id, common = commons[id(chunk[0].common)]
        if ensemble_id is not None and plain and not kept:
            state = births.add(next_id, stored, chunk[0])
            shared = (*stored, ensemble_id, state, common.app_version, now)
            _insert_rows(con, shared, rows[ensemble_id], chunk)
            rows[ensemble_id] += len(chunk)
            ids.extend(range(next_id, next_id + len(chunk)))
            next_id += len(chunk)
            continue
        fresh = []
        for spec in chunk:
            stored, ensemble_id, common = commons[id(spec.common)]
            if kept and spec.key is not None and (ensemble_id, spec.key) in kept:
                ids.append(kept[ensemble_id, spec.key])
                continue
            row = workdir = None
            if ensemble_id is not None:
                row = rows[ensemble_id]
                if spec.row is not None and spec.row not in (used := _used_rows(con, ensemble_id, taken)):
                    row = spec.row
                    used.add(row)
                rows[ensemble_id] = max(rows[ensemble_id], row + 1)
            else:
                workdir = _free_workdir(con, spec.workdir.replace("{id}", str(next_id)))
                if workdir != spec.workdir and "{id}" not in spec.workdir:
                    renamed[next_id] = workdir
            state = births.add(next_id, stored, spec)
            data = json.dumps(spec.data) if spec.data else None
            transfers = json.dumps(dict(spec.transfers)) if spec.transfers else None
            fresh.append(
                (next_id, stored.id, stored.shape_id, ensemble_id, row, spec.key, spec.parameters, workdir, state,
                 common.app_version, now, data, transfers)
            )  # fmt: skip
            ids.append(next_id)
            next_id += 1
            if workdir is not None:  # the next lone job's directory is compared with this one's
                con.execute(_INSERT, fresh.pop())
        con.executemany(_INSERT, fresh)
    for ensemble_id, row in rows.items():
        _refuse_taken_rows(con, ensemble_id, row)
        con.execute("UPDATE ensemble SET rows = ? WHERE id = ?", (row, ensemble_id))
    for first, last, path in births.ranges(next_id):
        add_event(con, first, last, path, now, now)
    return Submitted(ids, next_id - first_new, renamed)


def _used_rows(con: sqlite3.Connection, ensemble_id: int, taken: dict[int, set[int]]) -> set[int]:
    if ensemble_id not in taken:
        found = con.execute("SELECT row FROM job WHERE ensemble_id = ?", (ensemble_id,))
        taken[ensemble_id] = {row for (row,) in found}
    return taken[ensemble_id]


def _plain(chunk: list[JobSpec]) -> bool:
    """Whether all differ in nothing but their parameters and keys."""
    common, _, _, _, data, parents, transfers, row = chunk[0]
    if data or parents or transfers or row is not None:
        return False
    return all(
        [one[0] is common and one[3] is not None and not (one[4] or one[5] or one[6] or one[7]) for one in chunk]
    )


def _insert_rows(con: sqlite3.Connection, shared: tuple[Any, ...], first_row: int, chunk: list[JobSpec]) -> None:
    """Store new rows of an ensemble that differ in nothing else, many with one statement."""
    for start in range(0, len(chunk), _AT_ONCE):
        some = chunk[start : start + _AT_ONCE]
        values = [*shared]
        for row, spec in enumerate(some, first_row + start):
            values += row, spec[3], spec[1]
        con.execute(_INSERT_ROWS.format(",".join(["(?,?,?)"] * len(some))), values)


class _Births:
    """The states new jobs are born in; equal ones in a row share an event."""

    def __init__(self, con: sqlite3.Connection) -> None:
        self.con = con
        self.starts: list[tuple[int, str]] = []  # from which job on which path
        self.path = ""
        self.needs: dict[int, flow.Needs] = {}  # of each spec
        self.plain: dict[int, tuple[str, str]] = {}  # path and state of a spec's jobs without parents and transfers
        self.waits: dict[tuple[tuple[int, ...], bool], bool] = {}

    def add(self, job: int, stored: Spec, spec: JobSpec) -> str:
        """The state of a new job."""
        if stored.id not in self.plain:
            self.needs[stored.id] = flow.needs(self.con, spec.common.app_id)
            self.plain[stored.id] = _born(self.needs[stored.id].first(()))
        path, state = self.plain[stored.id]
        if spec.transfers:
            path, state = _born(self.needs[stored.id].first(spec.transfers))
        if spec.parents:
            if self._waits(spec):
                path, state = _born("AWAITING_PARENTS")
            flow.add_parents(self.con, job, spec.parents)
        if path != self.path:
            self.starts.append((job, path))
            self.path = path
        return state

    def ranges(self, end: int) -> Iterator[tuple[int, int, str]]:
        """First job, last job and path of each event; `end` follows the last job."""
        for (first, path), (after, _) in pairwise([*self.starts, (end, "")]):
            yield first, after - 1, path

    def _waits(self, spec: JobSpec) -> bool:
        key = spec.parents, spec.common.on_parent_failure == "wait"
        if key not in self.waits:
            self.waits[key] = flow.unfinished_parents(self.con, *key)
        return self.waits[key]


def _born(path: str) -> tuple[str, str]:
    return f">CREATED>{path}", path.rpartition(">")[2]


def _chunks(specs: Iterable[JobSpec]) -> Iterator[list[JobSpec]]:
    stream = iter(specs)
    while chunk := list(islice(stream, CHUNK)):
        yield chunk


def _kept(
    con: sqlite3.Connection,
    chunk: list[JobSpec],
    commons: dict[int, tuple[Spec, int | None, JobCommon]],
    rows: dict[int, int],
    grown: set[int],
) -> dict[tuple[int | None, bytes], int]:
    """Job ids of the chunk's rows that exist already; resolves what the chunk's jobs share on the way."""
    for spec in chunk:
        if id(spec.common) not in commons:
            stored, ensemble_id, count = _intern(con, spec.common)
            commons[id(spec.common)] = stored, ensemble_id, spec.common
            if ensemble_id is not None and ensemble_id not in rows:
                rows[ensemble_id] = count
                if count:
                    grown.add(ensemble_id)
    kept: dict[tuple[int | None, bytes], int] = {}
    for ensemble_id in grown:
        keys = [s.key for s in chunk if s.key is not None and commons[id(s.common)][1] == ensemble_id]
        for some in (keys[i : i + 500] for i in range(0, len(keys), 500)):
            marks = ",".join("?" * len(some))
            found = con.execute(
                f"SELECT key, id FROM job WHERE ensemble_id = ? AND key IN ({marks})", (ensemble_id, *some)
            )
            kept.update(((ensemble_id, key), job) for key, job in found)
    return kept


def _intern(con: sqlite3.Connection, common: JobCommon) -> tuple[Spec, int | None, int]:
    """The spec, id of the ensemble, and the rows it has."""
    resources = json.dumps(asdict(common.resources), sort_keys=True)
    options: dict[str, Any] = {}
    if common.max_retries:
        options["max_retries"] = common.max_retries
    if common.on_parent_failure != "fail":
        options["on_parent_failure"] = common.on_parent_failure
    if common.scratch:
        options["scratch"] = True
    stored = intern_spec(
        con,
        common.app_id,
        resources,
        json.dumps(dict(common.tags), sort_keys=True),
        json.dumps(options, sort_keys=True),
    )
    if common.ensemble is None:
        return stored, None, 0
    found = con.execute(
        "SELECT id, rows FROM ensemble WHERE name = ? AND generation = ?", (common.ensemble, common.generation)
    )
    ensemble = found.fetchone()
    if ensemble is None:
        raise NotFound(f"There is no ensemble {common.ensemble!r}, generation {common.generation}; create it first.")
    return stored, ensemble[0], ensemble[1]


class Spec(NamedTuple):
    """What many jobs share, as stored."""

    id: int
    shape_id: int


def intern_spec(con: sqlite3.Connection, app_id: int, resources: str, tags: str, options: str) -> Spec:
    """The one row for equal app, resources (its shape), tags and options."""
    words = [str(app_id), resources, tags, *([options] if options != "{}" else [])]
    digest = blake2b("\n".join(words).encode(), digest_size=16).digest()
    found = con.execute("SELECT id, shape_id FROM spec WHERE digest = ?", (digest,)).fetchone()
    if found is not None:
        return Spec(*found)
    con.execute("INSERT OR IGNORE INTO shape(resources) VALUES(?)", (resources,))
    shape_id = con.execute("SELECT id FROM shape WHERE resources = ?", (resources,)).fetchone()[0]
    cursor = con.execute(
        "INSERT INTO spec(digest, app_id, resources, tags, options, shape_id) VALUES(?, ?, ?, ?, ?, ?)",
        (digest, app_id, resources, tags, options, shape_id),
    )
    return Spec(int(cursor.lastrowid or 0), shape_id)


def _free_workdir(con: sqlite3.Connection, wanted: str) -> str:
    """The name wanted, or the next free ``.2``, ``.3`` … where an ended job holds it."""
    if wanted.startswith("/") or ".." in wanted.split("/"):
        raise BadInput(f"workdir {wanted!r} must be a relative path without '..'; it is below the site's data folder.")
    if wanted.split("/")[0] == TRASH:
        raise BadInput(f"workdir {wanted!r} would be in the site's trash; choose another.")
    name, number = wanted, 1
    row = row_of(wanted)
    if row and (found := con.execute("SELECT name FROM ensemble WHERE folder = ?", row[:1]).fetchone()):
        raise BadInput(f"{wanted!r} is the directory of row {row[1]} of ensemble {found[0]!r}; choose another workdir.")
    while holder := con.execute("SELECT id, state FROM job WHERE workdir = ?", (name,)).fetchone():
        if holder[1] not in TERMINAL:
            raise BadInput(
                f"Job {holder[0]} ({holder[1]}) still works in {name!r}; choose another workdir, or leave it out."
            )
        number += 1
        name = f"{wanted}.{number}"
    return name


def _refuse_taken_rows(con: sqlite3.Connection, ensemble_id: int, rows: int) -> None:
    """Refuse new rows of an ensemble whose directory a lone job has."""
    top, before = con.execute("SELECT folder, rows FROM ensemble WHERE id = ?", (ensemble_id,)).fetchone()
    lone = con.execute("SELECT id, workdir FROM job WHERE workdir > ? AND workdir < ?", (f"{top}/", f"{top}0"))
    for job, workdir in lone:
        found = row_of(workdir)
        if found and before <= found[1] < rows:
            raise BadInput(f"Job {job} works in {workdir!r}, which would be a row's; give the ensemble another name.")


def add_event(
    con: sqlite3.Connection, first: int, last: int, path: str, time: float, end: float, data: str | None = None
) -> None:
    con.execute(
        "INSERT INTO event(first_id, last_id, path, time, end_time, data) VALUES(?, ?, ?, ?, ?, ?)",
        (first, last, path, time, end, data),
    )

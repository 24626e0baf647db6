"""Jobs: submission, queries, changes asked for by users."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from hashlib import blake2b
from itertools import islice
from typing import Any, NamedTuple

from ....errors import BadInput, NotFound
from ....models import JobCommon, JobRow, JobSpec, Query, Resources, Submitted

CHUNK = 1000
FOLDER_SIZE = 5000
_BORN = "CREATED>READY>STAGED_IN>PREPROCESSED"

_INSERT = """INSERT INTO job(
        id, spec_id, shape_id, ensemble_id, row, key, parameters, workdir, state, app_version, submit_time, data)
    VALUES(?, ?, ?, ?, ?, ?, ?, ?, 'PREPROCESSED', ?, ?, ?)"""


def row_workdir(ensemble: str, generation: int, row: int) -> str:
    """Directory of an ensemble's row below ``data/``: at most 5,000 rows (and folders of rows) in a folder."""
    top = ensemble if generation == 1 else f"{ensemble}~{generation}"  # no ensemble can have such a name
    if row < FOLDER_SIZE:
        return f"{top}/{row}"
    first = row - row % FOLDER_SIZE
    return f"{top}/{first}-{first + FOLDER_SIZE - 1}/{row}"


def submit(con: sqlite3.Connection, specs: Iterable[JobSpec]) -> Submitted:
    """Store the jobs; the caller holds the transaction."""
    found = con.execute("SELECT seq FROM sqlite_sequence WHERE name = 'job'").fetchone()
    first_new = next_id = (found[0] if found else 0) + 1
    ids: array[int] = array("q")
    renamed: dict[int, str] = {}
    commons: dict[int, tuple[Spec, int | None, JobCommon]] = {}  # keyed by identity: one object serves many jobs
    rows: dict[int, int] = {}  # next row of each ensemble
    grown: set[int] = set()  # ensembles that had rows before this submission
    now = time.time()
    for chunk in _chunks(specs):
        kept = _kept(con, chunk, commons, rows, grown)
        fresh = []
        for spec in chunk:
            stored, ensemble_id, common = commons[id(spec.common)]
            if kept and spec.key is not None and (ensemble_id, spec.key) in kept:
                ids.append(kept[ensemble_id, spec.key])
                continue
            row = workdir = None
            if ensemble_id is not None:
                row = rows[ensemble_id]
                rows[ensemble_id] = row + 1
            else:
                workdir = _free_workdir(con, spec.workdir.replace("{id}", str(next_id)))
                if workdir != spec.workdir and "{id}" not in spec.workdir:
                    renamed[next_id] = workdir
            data = json.dumps(spec.data) if spec.data else None
            fresh.append(
                (
                    next_id,
                    stored.id,
                    stored.shape_id,
                    ensemble_id,
                    row,
                    spec.key,
                    spec.parameters,
                    workdir,
                    common.app_version,
                    now,
                    data,
                )
            )
            ids.append(next_id)
            next_id += 1
            if workdir is not None:  # the next lone job's directory is compared with this one's
                con.execute(_INSERT, fresh.pop())
        con.executemany(_INSERT, fresh)
    for ensemble_id, row in rows.items():
        con.execute("UPDATE ensemble SET rows = ? WHERE id = ?", (row, ensemble_id))
    if next_id > first_new:
        add_event(con, first_new, next_id - 1, ">" + _BORN, now, now)
    return Submitted(ids, next_id - first_new, renamed)


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
    name, number = wanted, 1
    while holder := con.execute("SELECT id, state FROM job WHERE workdir = ?", (name,)).fetchone():
        if holder[1] not in ("JOB_FINISHED", "FAILED", "USER_KILLED"):
            raise BadInput(
                f"Job {holder[0]} ({holder[1]}) still works in {name!r}; choose another workdir, or leave it out."
            )
        number += 1
        name = f"{wanted}.{number}"
    return name


def add_event(
    con: sqlite3.Connection, first: int, last: int, path: str, time: float, end: float, data: str | None = None
) -> None:
    con.execute(
        "INSERT INTO event(first_id, last_id, path, time, end_time, data) VALUES(?, ?, ?, ?, ?, ?)",
        (first, last, path, time, end, data),
    )


_COLUMNS = """job.id, spec.app_id, app.name, job.state, job.parameters, job.workdir, spec.resources, spec.tags,
    ensemble.name, ensemble.generation, job.row, job.app_version, job.submit_time, job.start_time, job.end_time,
    job.runtime_s, job.return_code, job.batch_job_id, job.attempts, job.data, job.value, job.error, job.exception"""
_FROM = """job JOIN spec ON spec.id = job.spec_id JOIN app ON app.id = spec.app_id
    LEFT JOIN ensemble ON ensemble.id = job.ensemble_id"""
_ORDERS = {
    name: f"job.{name}"
    for name in ("id", "state", "workdir", "row", "submit_time", "start_time", "end_time", "runtime_s", "return_code")
}


def where(query: Query) -> tuple[str, list[Any]]:
    """The query as a condition on job (with `spec` and `app` only through sub-selects), and its arguments."""
    terms: list[str] = []
    arguments: list[Any] = []

    def add(term: str, *values: Any) -> None:
        terms.append(term)
        arguments.extend(values)

    if query.ids is not None:
        if len(query.ids) == 1:
            add("job.id = ?", query.ids[0])
        else:
            add("job.id IN (SELECT value FROM json_each(?))", json.dumps([int(i) for i in query.ids]))
    if query.states is not None:
        add("job.state IN (SELECT value FROM json_each(?))", json.dumps(list(query.states)))
    if query.ensemble is not None:
        generation = "" if query.generation is None else " AND generation = ?"
        values = [query.ensemble] + ([] if query.generation is None else [query.generation])
        add(f"job.ensemble_id IN (SELECT id FROM ensemble WHERE name = ?{generation})", *values)
    if query.app_name is not None:
        add(
            "job.spec_id IN (SELECT spec.id FROM spec JOIN app ON app.id = spec.app_id WHERE app.name = ?)",
            query.app_name,
        )
    for key, value in (query.tags or {}).items():
        add(
            "job.spec_id IN (SELECT spec.id FROM spec, json_each(spec.tags) tag WHERE tag.key = ? AND tag.value = ?)",
            key,
            value,
        )
    if query.batch_job_id is not None:
        add("job.batch_job_id = ?", query.batch_job_id)
    if query.after_id is not None:
        add("job.id > ?", query.after_id)
    if query.workdir is not None:
        add(*_at_workdir(query.workdir))
    return " AND ".join(terms) or "1", arguments


def _at_workdir(workdir: str) -> tuple[Any, ...]:
    """Condition and arguments for one directory: a lone job's is stored, that of an ensemble's row follows from it."""
    top, _, rest = workdir.partition("/")
    found = re.fullmatch(r"(.+?)(?:~(\d+))?", top)
    row = rest.rpartition("/")[2]
    if found and row.isdecimal():
        name, generation = found[1], int(found[2] or 1)
        if row_workdir(name, generation, int(row)) == workdir:
            ensemble = "SELECT id FROM ensemble WHERE name = ? AND generation = ?"
            ours = f"job.workdir IS NULL AND job.row = ? AND job.ensemble_id = ({ensemble})"
            return f"(job.workdir = ? OR {ours})", workdir, int(row), name, generation
    return "job.workdir = ?", workdir


def select(con: sqlite3.Connection, query: Query) -> list[JobRow]:
    condition, arguments = where(query)
    column = query.order.lstrip("-")
    if column not in _ORDERS:
        raise BadInput(f"Jobs cannot be ordered by {column!r}; choose one of {', '.join(_ORDERS)}.")
    order = _ORDERS[column] + (" DESC" if query.order.startswith("-") else "")
    page = (
        ""
        if query.limit is None and not query.offset
        else f" LIMIT {-1 if query.limit is None else query.limit} OFFSET {query.offset}"
    )
    shared: dict[tuple[str, str], tuple[Resources, dict[str, str]]] = {}
    return [
        _job(row, shared)
        for row in con.execute(
            f"SELECT {_COLUMNS} FROM {_FROM} WHERE {condition} ORDER BY {order}{page}", arguments
        ).fetchall()
    ]


def _job(row: tuple[Any, ...], shared: dict[tuple[str, str], tuple[Resources, dict[str, str]]]) -> JobRow:
    id_, app_id, app_name, state, parameters, workdir, resources, tags, ensemble, generation, number, *rest = row
    if (resources, tags) not in shared:  # parsed once for all the jobs of a submission
        shared[resources, tags] = Resources(**json.loads(resources)), json.loads(tags)
    common_resources, common_tags = shared[resources, tags]
    if workdir is None:
        workdir = row_workdir(ensemble, generation, number)
    version, submitted, started, ended, runtime, code, batch_job_id, attempts, data, value, error, exception = rest
    return JobRow(
        id_, app_id, app_name, state, parameters, workdir, common_resources, dict(common_tags), ensemble,
        generation or 1, number, version, submitted, started, ended, runtime, code, batch_job_id, attempts,
        json.loads(data) if data else {}, value, error or "", exception,
    )  # fmt: skip


def count(con: sqlite3.Connection, query: Query) -> dict[str, int]:
    condition, arguments = where(query)
    return dict(con.execute(f"SELECT state, count(*) FROM job WHERE {condition} GROUP BY state", arguments).fetchall())


def kill(con: sqlite3.Connection, query: Query, wait_time: float | None) -> tuple[int, bool]:
    """Ask for the end of jobs; those no launcher holds end here. How many in all, and whether any is held."""
    condition, arguments = where(query)
    ended = _move(
        con,
        f"{condition} AND session_id IS NULL AND state NOT IN ('JOB_FINISHED', 'FAILED', 'USER_KILLED')",
        arguments,
        "USER_KILLED",
    )
    held = con.execute(
        f"UPDATE job SET kill_wait = ? WHERE {condition} AND session_id IS NOT NULL",
        [-1.0 if wait_time is None else wait_time, *arguments],
    ).rowcount
    return ended + held, held > 0


def retry(con: sqlite3.Connection, query: Query) -> int:
    """Make ended jobs that did not finish well (and, if named by state, those that did) runnable again."""
    condition, arguments = where(query)
    if query.states is None:
        condition += " AND state IN ('FAILED', 'USER_KILLED')"
    return _move(con, f"{condition} AND state IN ('FAILED', 'USER_KILLED', 'JOB_FINISHED')", arguments, "RESTART_READY")


def _move(con: sqlite3.Connection, condition: str, arguments: list[Any], state: str) -> int:
    now = time.time()
    con.execute(
        f"""INSERT INTO event(first_id, last_id, path, time, end_time)
            SELECT id, id, state || '>{state}', ?, ? FROM job WHERE {condition}""",
        [now, now, *arguments],
    )
    renewed = (
        "deaths = 0, return_code = NULL, value = NULL, error = NULL, exception = NULL,"
        if state == "RESTART_READY"
        else "end_time = ?2,"
    )
    return con.execute(
        f"UPDATE job SET {renewed} kill_wait = NULL, state = ?1 WHERE {condition}".replace("?1", f"'{state}'").replace(
            "?2", str(now)
        ),
        arguments,
    ).rowcount


def edit(con: sqlite3.Connection, ids: Iterable[int], changes: dict[str, Any]) -> int:
    """Change jobs that no launcher holds: tags, data, parameters, resources."""
    changed = 0
    for job_id in ids:
        found = con.execute(
            """SELECT spec.app_id, resources, tags, options FROM job JOIN spec ON spec.id = spec_id
               WHERE job.id = ? AND session_id IS NULL""",
            (job_id,),
        ).fetchone()
        if found is None:
            continue
        app_id, resources, tags, options = found
        if "resources" in changes:
            resources = json.dumps(asdict(changes["resources"]), sort_keys=True)
        if "tags" in changes:
            tags = json.dumps(dict(changes["tags"]), sort_keys=True)
        stored = intern_spec(con, app_id, resources, tags, options)
        con.execute("UPDATE job SET spec_id = ?, shape_id = ? WHERE id = ?", (*stored, job_id))
        if "data" in changes:
            con.execute("UPDATE job SET data = ? WHERE id = ?", (json.dumps(changes["data"]), job_id))
        if "parameters" in changes:
            con.execute("UPDATE job SET parameters = ? WHERE id = ?", (changes["parameters"], job_id))
        changed += 1
    return changed


def delete(con: sqlite3.Connection, query: Query) -> int:
    condition, arguments = where(query)
    condition += " AND session_id IS NULL"
    now = time.time()
    con.execute(  # so that whoever waits for such a job is woken, and learns that it is gone
        f"""INSERT INTO event(first_id, last_id, path, time, end_time)
            SELECT id, id, state || '>', ?, ? FROM job WHERE {condition}""",
        [now, now, *arguments],
    )
    return con.execute(f"DELETE FROM job WHERE {condition}", arguments).rowcount


def set_values(con: sqlite3.Connection, values: Iterable[tuple[int, str | bytes]]) -> None:
    con.executemany("UPDATE job SET value = ? WHERE id = ?", ((value, job_id) for job_id, value in values))

"""Jobs: queries, and changes asked for by users."""

from __future__ import annotations

import json
import sqlite3
import time
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from ....errors import BadInput
from ....models import JobRow, Query, Resources
from . import flow
from .directories import FOLDER_SIZE, row_of, row_workdir
from .schema import ENSEMBLE
from .submission import add_event, intern_spec


def workdirs_below(con: sqlite3.Connection, workdir: str) -> set[str]:
    """Directories of other jobs inside one job's, relative to it; of an ensemble whole, where it lies inside whole."""
    found = con.execute("SELECT workdir FROM job WHERE workdir > ? AND workdir < ?", (f"{workdir}/", f"{workdir}0"))
    below = {name for (name,) in found}
    for top, rows in con.execute("SELECT folder, rows FROM ensemble"):
        if top == workdir:
            below |= {row_workdir(top, row) for row in range(min(rows, FOLDER_SIZE))}
            firsts = range(FOLDER_SIZE, rows, FOLDER_SIZE)
            below |= {row_workdir(top, row).rpartition("/")[0] for row in firsts}
        elif top.startswith(f"{workdir}/"):
            below.add(top)
    return {name.removeprefix(f"{workdir}/") for name in below}


class Whereabouts(NamedTuple):
    """Where a job works, and whether it is done with that."""

    state: str
    attempts: int
    workdir: str


def whereabouts(con: sqlite3.Connection, job: int) -> Whereabouts | None:
    """Of one job, as it is now; None if it was deleted."""
    found = con.execute(
        """SELECT state, attempts, workdir, folder, row FROM job LEFT JOIN ensemble ON ensemble.id = ensemble_id
           WHERE job.id = ?""",
        (job,),
    ).fetchone()
    return None if found is None else Whereabouts(found[0], found[1], found[2] or row_workdir(*found[3:]))


class Workdir(NamedTuple):
    """A job's directory; `attempts` tells one run of it from the next."""

    job_id: int
    row: int | None
    attempts: int
    workdir: str


def workdirs(con: sqlite3.Connection, query: Query) -> list[Workdir]:
    """The directory of each job a query names, whether or not it is there."""
    condition, arguments = where(query)
    found = con.execute(
        f"""SELECT job.id, row, attempts, workdir, folder FROM job LEFT JOIN ensemble ON ensemble.id = ensemble_id
            WHERE {condition} ORDER BY job.id""",
        arguments,
    ).fetchall()
    return [Workdir(job, row, n, workdir or row_workdir(folder, row)) for job, row, n, workdir, folder in found]


_COLUMNS = """spec_id, ensemble_id, id, state, parameters, workdir, row, app_version, submit_time, start_time,
    end_time, runtime_s, return_code, batch_job_id, attempts, data, value, error, exception, transfers"""
_PARENTS = "(SELECT group_concat(parent_id) FROM dependency WHERE child_id = job.id)"
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
        column = "job.ensemble_id" if query.ids is None else "+job.ensemble_id"  # ids find the rows, not this index
        add(f"{column} = ({ENSEMBLE})", query.ensemble, query.generation)
    if query.rows is not None:
        add("job.row IN (SELECT value FROM json_each(?))", json.dumps(query.rows))
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
    if query.parent_ids is not None:
        children = "SELECT child_id FROM dependency WHERE parent_id IN (SELECT value FROM json_each(?))"
        add(f"job.id IN ({children})", json.dumps(query.parent_ids))
    if query.workdir is not None:
        add(*_at_workdir(query.workdir))
    return " AND ".join(terms) or "1", arguments


def _at_workdir(workdir: str) -> tuple[Any, ...]:
    """Condition and arguments for one directory: a lone job's is stored, that of an ensemble's row follows from it."""
    found = row_of(workdir)
    if found is None:
        return "job.workdir = ?", workdir
    folder, row = found
    ours = "job.workdir IS NULL AND job.row = ? AND job.ensemble_id = (SELECT id FROM ensemble WHERE folder = ?)"
    return f"(job.workdir = ? OR {ours})", workdir, row, folder


def select(con: sqlite3.Connection, query: Query) -> list[JobRow]:
    which, arguments = _which(query)
    parents = _PARENTS if flow.any_dependency(con) else "NULL"
    rows = con.execute(f"SELECT {_COLUMNS}, {parents} FROM job {which}", arguments).fetchall()
    # What many jobs share is read and parsed once; joined to each of them it would cost more than all the rest.
    specs = _specs(con, {row[0] for row in rows})
    ensembles = _ensembles(con, {row[1] for row in rows})
    # One whose spec is gone is a fault that `site check` tells of.
    return [_job(specs[row[0]], ensembles[row[1]], *row[2:]) for row in rows if row[0] in specs]


def ids(con: sqlite3.Connection, query: Query) -> array[int]:
    which, arguments = _which(query)
    return array("q", (job_id for (job_id,) in con.execute(f"SELECT job.id FROM job {which}", arguments)))


def _which(query: Query) -> tuple[str, list[Any]]:
    """The query as a condition with its order and page, and its arguments."""
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
    return f"WHERE {condition} ORDER BY {order}{page}", arguments


class _Spec(NamedTuple):
    app_id: int
    app_name: str
    resources: Resources
    tags: dict[str, str]
    max_retries: int
    on_parent_failure: str
    scratch: bool


def _specs(con: sqlite3.Connection, ids: Iterable[int]) -> dict[int, _Spec]:
    found = con.execute(
        """SELECT spec.id, app_id, name, resources, tags, options FROM spec JOIN app ON app.id = app_id
           WHERE spec.id IN (SELECT value FROM json_each(?))""",
        (json.dumps([*ids]),),
    )
    specs = {}
    for spec_id, app_id, name, resources, tags, options in found:
        said = json.loads(options)
        asked = Resources(**json.loads(resources)), json.loads(tags)
        wishes = said.get("max_retries", 0), said.get("on_parent_failure", "fail"), said.get("scratch", False)
        specs[spec_id] = _Spec(app_id, name, *asked, *wishes)
    return specs


def _ensembles(con: sqlite3.Connection, ids: Iterable[int | None]) -> dict[int | None, tuple[str | None, int, str]]:
    """Name, generation and folder; those of a job in no ensemble are under None."""
    found = con.execute(
        "SELECT id, name, generation, folder FROM ensemble WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps([*ids]),),
    )
    return {None: (None, 1, ""), **{number: (name, generation, folder) for number, name, generation, folder in found}}


def _job(
    spec: _Spec, ensemble: tuple[str | None, int, str], id_: int, state: str, parameters: str | bytes,
    workdir: str | None, row: int | None, version: str, submitted: float, started: float | None, ended: float | None,
    runtime: float | None, code: int | None, batch_job_id: int | None, attempts: int, data: str | None,
    value: str | bytes | None, error: str | None, exception: bytes | None, transfers: str | None, parents: str | None,
) -> JobRow:  # fmt: skip
    name, generation, folder = ensemble
    if workdir is None:
        assert row is not None
        workdir = row_workdir(folder, row)
    return JobRow(
        id_, spec.app_id, spec.app_name, state, parameters, workdir, spec.resources, dict(spec.tags), name,
        generation, row, version, submitted, started, ended, runtime, code, batch_job_id, attempts,
        json.loads(data) if data else {}, value, error or "", exception,
        tuple(map(int, parents.split(","))) if parents else (), json.loads(transfers) if transfers else {},
        spec.max_retries, spec.on_parent_failure, spec.scratch,
    )  # fmt: skip


def count(con: sqlite3.Connection, query: Query) -> dict[str, int]:
    condition, arguments = where(query)
    return dict(con.execute(f"SELECT state, count(*) FROM job WHERE {condition} GROUP BY state", arguments).fetchall())


def kill(con: sqlite3.Connection, query: Query, wait_time: float | None) -> tuple[int, bool]:
    """Ask for the end of jobs; those nobody holds end here. How many in all, and whether any is held."""
    condition, arguments = where(query)
    unheld = f"{condition} AND session_id IS NULL AND state NOT IN {flow.ENDED}"
    families = flow.any_dependency(con)
    over = _ids(con, unheld, arguments) if families else []
    ended = _move(con, unheld, arguments, "USER_KILLED")
    if families:
        flow.parents_ended(con, over)
    held = con.execute(
        f"UPDATE job SET kill_wait = ? WHERE {condition} AND session_id IS NOT NULL",
        [-1.0 if wait_time is None else wait_time, *arguments],
    ).rowcount
    return ended + held, held > 0


def _ids(con: sqlite3.Connection, condition: str, arguments: list[Any]) -> list[int]:
    return [row[0] for row in con.execute(f"SELECT id FROM job WHERE {condition} ORDER BY id", arguments)]


# A job that never ran may still need its hooks and transfers, and one with parents may have to wait for them again.
_PREPROCESSED = """SELECT spec.id FROM spec JOIN app ON app.id = app_id
    WHERE json_extract(record, '$.hooks') LIKE '%"preprocess"%'"""
_SPECIAL = f"""(id IN (SELECT child_id FROM dependency)
    OR (attempts = 0 AND (transfers IS NOT NULL OR spec_id IN ({_PREPROCESSED}))))"""


def retry(con: sqlite3.Connection, query: Query) -> int:
    """Make ended jobs that did not finish well (and, if named by state, those that did) runnable again."""
    condition, arguments = where(query)
    if query.states is None:
        condition += " AND state IN ('FAILED', 'USER_KILLED')"
    condition += f" AND state IN {flow.ENDED}"
    special = _ids(con, f"{condition} AND {_SPECIAL}", arguments)
    moved = _move(con, f"{condition} AND NOT {_SPECIAL}", arguments, "RESTART_READY")
    for job in special:  # parents come before their children
        _move(con, "id = ?", [job], _retry_state(con, job))
    return moved + len(special)


def _retry_state(con: sqlite3.Connection, job: int) -> str:
    if flow.waits(con, job):
        return "AWAITING_PARENTS"
    app_id, transfers, attempts = con.execute(
        "SELECT app_id, transfers, attempts FROM job JOIN spec ON spec.id = spec_id WHERE job.id = ?", (job,)
    ).fetchone()
    first = flow.needs(con, app_id).first(json.loads(transfers) if transfers else ())
    return "READY" if first == "READY" and not attempts else "RESTART_READY"


def _move(con: sqlite3.Connection, condition: str, arguments: list[Any], state: str) -> int:
    now = time.time()
    con.execute(
        f"""INSERT INTO event(first_id, last_id, path, time, end_time)
            SELECT id, id, state || '>{state}', ?, ? FROM job WHERE {condition}""",
        [now, now, *arguments],
    )
    renewed = (
        f"end_time = {now},"
        if state == "USER_KILLED"
        else "deaths = 0, retries = 0, return_code = NULL, value = NULL, error = NULL, exception = NULL,"
    )
    return con.execute(
        f"UPDATE job SET {renewed} kill_wait = NULL, state = '{state}' WHERE {condition}", arguments
    ).rowcount


def edit(con: sqlite3.Connection, ids: Iterable[int], changes: Mapping[str, Any], session: int | None = None) -> int:
    """Change jobs that nobody but this session holds: tags, data, parameters, resources."""
    touched: list[int] = []
    for job_id in ids:
        found = con.execute(
            """SELECT spec.app_id, resources, tags, options FROM job JOIN spec ON spec.id = spec_id
               WHERE job.id = ? AND session_id IS ?""",
            (job_id, session),
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
        if "key" in changes:  # the row of its ensemble with these parameters, unless there is one
            con.execute("UPDATE job SET key = NULL WHERE id = ?", (job_id,))
            con.execute("UPDATE OR IGNORE job SET key = ? WHERE id = ?", (changes["key"], job_id))
        touched.append(job_id)
    if session is None:  # else the step of whoever holds the job tells of it
        touch(con, touched)
    return len(touched)


def tag(con: sqlite3.Connection, query: Query, tags: Mapping[str, str | None]) -> int:
    """Merge tags into those of jobs (None removes one), once for all jobs that share them. How many jobs there are."""
    condition, arguments = where(query)
    shared = con.execute(
        f"""SELECT id, app_id, resources, tags, options FROM spec
            WHERE id IN (SELECT DISTINCT spec_id FROM job WHERE {condition})""",
        arguments,
    ).fetchall()
    moves = []
    for spec_id, app_id, resources, before, options in shared:
        merged = {key: word for key, word in {**json.loads(before), **tags}.items() if word is not None}
        moves.append((intern_spec(con, app_id, resources, json.dumps(merged, sort_keys=True), options).id, spec_id))
    # One statement, by what each job has now: what one spec's jobs become may be what another's are.
    found = con.execute(f"SELECT id, spec_id FROM job WHERE {condition}", arguments).fetchall()
    after = {spec_id: new for new, spec_id in moves if new != spec_id}
    changed = [(after[spec_id], job) for job, spec_id in found if spec_id in after]
    con.executemany("UPDATE job SET spec_id = ? WHERE id = ?", changed)
    touch(con, (job for _, job in changed))
    return len(found)


def delete(con: sqlite3.Connection, query: Query) -> int:
    """Remove jobs that nobody holds. Children that wait for one of them fail: it will never finish."""
    condition, arguments = where(query)
    condition += " AND session_id IS NULL"
    now = time.time()
    con.execute(  # so that whoever waits for such a job is woken, and learns that it is gone
        f"""INSERT INTO event(first_id, last_id, path, time, end_time)
            SELECT id, id, state || '>', ?, ? FROM job WHERE {condition}""",
        [now, now, *arguments],
    )
    if not flow.any_dependency(con):
        return con.execute(f"DELETE FROM job WHERE {condition}", arguments).rowcount
    names = con.execute(
        f"""SELECT job.id, app.name FROM job JOIN spec ON spec.id = spec_id JOIN app ON app.id = app_id
            WHERE state <> 'JOB_FINISHED' AND {condition}""",
        arguments,
    ).fetchall()
    con.execute(f"DELETE FROM dependency WHERE child_id IN (SELECT id FROM job WHERE {condition})", arguments)
    deleted = con.execute(f"DELETE FROM job WHERE {condition}", arguments).rowcount
    flow.fail_children(con, {job: f"parent job {job} ({app}) was deleted" for job, app in names}, waiting_too=True)
    return deleted


def preamble(con: sqlite3.Connection, job: int) -> list[str]:
    """The lines that the app's `shell_preamble` gave for this job alone."""
    found = con.execute("SELECT preamble FROM job WHERE id = ?", (job,)).fetchone()
    lines: list[str] = json.loads(found[0]) if found and found[0] else []
    return lines


def set_values(con: sqlite3.Connection, values: Iterable[tuple[int, str | bytes]]) -> None:
    given = list(values)
    con.executemany("UPDATE job SET value = ? WHERE id = ?", ((value, job_id) for job_id, value in given))
    touch(con, (job_id for job_id, _ in given))


def touch(con: sqlite3.Connection, ids: Iterable[int]) -> None:
    """Tell those who keep a copy that something other than the state of these jobs changed.

    The path of such an event is the one state they are in; neighbours in the same state share it.
    """
    rows = con.execute(
        "SELECT id, state FROM job WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id", (json.dumps([*ids]),)
    )
    now = time.time()
    runs: list[tuple[int, int, str]] = []
    for job_id, state in rows.fetchall():
        if runs and runs[-1][1:] == (job_id - 1, state):
            runs[-1] = runs[-1][0], job_id, state
        else:
            runs.append((job_id, job_id, state))
    for first, last, state in runs:
        add_event(con, first, last, state, now, now)

"""What launchers do: sessions, check-out, and the group commit of starts and ends."""

from __future__ import annotations

import heapq
import json
import sqlite3
import time
from array import array
from collections.abc import Iterable
from typing import Any, NamedTuple

from ....models import Resources
from . import flow
from .directories import row_workdir
from .schema import READY

_RAN = "RUNNING>RUN_DONE>POSTPROCESSED>STAGED_OUT>JOB_FINISHED"
_PATHS = {
    # Outcome of a run: the states passed, the first being RUNNING. "done" is for the session itself to complete (it
    # reads the outputs), "ran", "erred", "timed" and "staged" are for the processor (postprocess and transfers,
    # handle_error, handle_timeout, removing a scratch directory).
    "finished": _RAN,
    "staged": "RUNNING>RUN_DONE>POSTPROCESSED>STAGED_OUT",
    "done": "RUNNING>RUN_DONE",
    "ran": "RUNNING>RUN_DONE",
    "erred": "RUNNING>RUN_ERROR",
    "timed": "RUNNING>RUN_TIMEOUT",
    "error": "RUNNING>RUN_ERROR>FAILED",
    "timeout": "RUNNING>RUN_TIMEOUT>RESTART_READY",
    "killed": "RUNNING>USER_KILLED",
    "died": "RUNNING>RUN_TIMEOUT>RESTART_READY",
}
_LAST = frozenset({"finished", "staged", "done", "killed"})
MOST_DEATHS = flow.MOST_DEATHS
_DIED = f"its launcher died {MOST_DEATHS} times while this task ran; find what kills it (memory?), then retry it"


class Fenced(Exception):
    """This session was declared dead by another process; nothing of it may be written any more."""


class Work(NamedTuple):
    """A job checked out by a session."""

    id: int
    app_id: int
    spec_id: int
    state: str
    parameters: str | bytes
    workdir: str
    attempt: int
    data: str | None = None
    """The job's data as JSON text; None if it has none."""
    lone: bool = False
    """It is of no ensemble, and its directory was named for it."""
    preamble: str | None = None
    """What the app's `shell_preamble` gave for this job, as a JSON list of lines."""
    scratch: bool = False
    """Its directory goes when it has finished."""


class End(NamedTuple):
    """How a run ended. `outcome` is a key of the paths above, `from_state` what is stored of the job now."""

    job_id: int
    outcome: str
    from_state: str
    start_time: float
    runtime_s: float
    return_code: int | None
    value: str | bytes | None = None
    error: str = ""
    exception: bytes | None = None
    app_version: str | None = None


class Done(NamedTuple):
    """A run of which there is nothing to say but that it went well."""

    job_id: int
    from_state: str
    start_time: float
    runtime_s: float
    value: str | bytes | None
    app_version: str | None


def storable(text: str, most: int = 20_000) -> str:
    """Text as the store can hold it: no lone surrogates, and not without end."""
    text = text if len(text) <= most else f"{text[: most // 2]}\n…\n{text[-most // 2 :]}"
    return text.encode("utf-8", "backslashreplace").decode()


def open_session(con: sqlite3.Connection, batch_job_id: int | None, pid: int, kind: str) -> int:
    cursor = con.execute("INSERT INTO session(batch_job_id, pid, kind) VALUES(?, ?, ?)", (batch_job_id, pid, kind))
    return int(cursor.lastrowid or 0)


def session_kind(con: sqlite3.Connection, session: int) -> str:
    return str(con.execute("SELECT kind FROM session WHERE id = ?", (session,)).fetchone()[0])


def unclosed_sessions(con: sqlite3.Connection) -> list[tuple[int, int]]:
    """Id and allocation of every session that is open or fenced."""
    return con.execute("SELECT id, batch_job_id FROM session WHERE state <> 'closed' ORDER BY id").fetchall()


def session(con: sqlite3.Connection, session: int) -> tuple[int, str]:
    """Process id and state of a session."""
    found: tuple[int, str] = con.execute("SELECT pid, state FROM session WHERE id = ?", (session,)).fetchone()
    return found


def fence(con: sqlite3.Connection, session: int) -> bool:
    """Have every further commit of this session refused; whether it was open."""
    return con.execute("UPDATE session SET state = 'fenced' WHERE id = ? AND state = 'open'", (session,)).rowcount > 0


def set_session(con: sqlite3.Connection, session: int, state: str) -> None:
    con.execute("UPDATE session SET state = ? WHERE id = ?", (state, session))


def require_open(con: sqlite3.Connection, session: int) -> None:
    if con.execute("SELECT state FROM session WHERE id = ?", (session,)).fetchone()[0] != "open":
        raise Fenced(session)


def count_death(con: sqlite3.Connection, batch_job_id: int, young: bool) -> None:
    """A launcher of this allocation died, perhaps because of a task that was in flight.

    A task is to blame at the third death, if launchers since the first one died young. Of several, the one that
    began last is blamed, and the counts of the others begin anew.
    """
    in_flight = """state = 'RUNNING' AND session_id IN (
        SELECT id FROM session WHERE batch_job_id = ?1 AND state <> 'closed')"""
    blamed = con.execute(
        f"SELECT id FROM job WHERE {in_flight} AND ?2 AND deaths >= ?3 ORDER BY deaths DESC, start_time DESC LIMIT 1",
        (batch_job_id, young, MOST_DEATHS - 1),
    ).fetchone()
    if blamed:
        count = "CASE WHEN id = ?2 THEN deaths + 1 ELSE 0 END"
        con.execute(f"UPDATE job SET deaths = {count} WHERE {in_flight}", (batch_job_id, blamed[0]))
    else:
        con.execute(
            f"UPDATE job SET deaths = deaths + 1 WHERE {in_flight} AND (deaths = 0 OR ?2)", (batch_job_id, young)
        )


def doomed(con: sqlite3.Connection, session: int) -> set[int]:
    """Jobs of a session that are to be ended because launchers die while they run."""
    rows = con.execute("SELECT id FROM job WHERE session_id = ? AND deaths >= ?", (session, MOST_DEATHS))
    return {row[0] for row in rows}


def shapes(con: sqlite3.Connection, after: int) -> list[tuple[int, Resources]]:
    """Ids and resources of the shapes stored since `after`."""
    rows = con.execute("SELECT id, resources FROM shape WHERE id > ? ORDER BY id", (after,)).fetchall()
    return [(shape_id, Resources(**json.loads(resources))) for shape_id, resources in rows]


def specs(con: sqlite3.Connection, after: int) -> list[tuple[int, int, dict[str, str]]]:
    """Ids, shapes and tags of the specs stored since `after`, for choosing which a launcher takes."""
    rows = con.execute("SELECT id, shape_id, tags FROM spec WHERE id > ? ORDER BY id", (after,)).fetchall()
    return [(spec_id, shape_id, json.loads(tags)) for spec_id, shape_id, tags in rows]


def ready_shapes(con: sqlite3.Connection) -> list[int]:
    """Shapes that have runnable jobs; reads one index entry for each, however many jobs there are."""
    return [row[0] for row in con.execute(_DISTINCT.format(index="job_ready", column="shape_id"))]


def ready_specs(con: sqlite3.Connection) -> list[int]:
    """Specs that have runnable jobs; reads one index entry for each."""
    return [row[0] for row in con.execute(_DISTINCT.format(index="job_ready_spec", column="spec_id"))]


_DISTINCT = f"""WITH RECURSIVE found(x) AS (
    SELECT min({{column}}) FROM job INDEXED BY {{index}} WHERE {READY}
    UNION ALL
    SELECT (SELECT min({{column}}) FROM job INDEXED BY {{index}} WHERE {READY} AND {{column}} > x)
    FROM found WHERE x IS NOT NULL)
SELECT x FROM found WHERE x IS NOT NULL"""


def check_out(
    con: sqlite3.Connection, session: int, batch_job_id: int, shape_id: int, spec_ids: list[int] | None, limit: int
) -> list[Work]:
    """Take up to `limit` runnable jobs of a shape (and of those specs; None: any), first submitted first."""
    if spec_ids is None:
        which = f"INDEXED BY job_ready WHERE {READY} AND shape_id = ? ORDER BY id LIMIT ?"
        given: tuple[Any, ...] = (shape_id, limit)
    else:
        which = "WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"
        given = (json.dumps(_first(con, spec_ids, limit)),)
    rows = con.execute(f"SELECT {_WORK} FROM job {which}", given).fetchall()
    # Neighbours are changed as one range, which costs half of finding each. OR FAIL, as nothing can: else SQLite notes
    # down each page to undo the statement alone.
    con.executemany(
        """UPDATE OR FAIL job SET session_id = ?, batch_job_id = ?, attempts = attempts + 1 WHERE id BETWEEN ? AND ?""",
        [(session, batch_job_id, first, last) for first, last in _ranges([row[0] for row in rows])],
    )
    return _work(con, rows, taken=1)


def _ranges(ids: list[int]) -> list[tuple[int, int]]:
    """Increasing ids as ranges, both ends included."""
    if ids and ids[-1] - ids[0] == len(ids) - 1:
        return [(ids[0], ids[-1])]
    ends = [at for at in range(1, len(ids)) if ids[at] != ids[at - 1] + 1]
    return [(ids[first], ids[last - 1]) for first, last in zip([0, *ends], [*ends, len(ids)], strict=True) if ids]


def _first(con: sqlite3.Connection, spec_ids: list[int], limit: int) -> list[int]:
    """The first `limit` runnable jobs of several specs: what each has is merged, a run of neighbours at a time."""
    ready = f"FROM job INDEXED BY job_ready_spec WHERE {READY} AND spec_id = ?"

    def next_of(spec: int, after: int) -> list[tuple[int, int]]:
        found = con.execute(f"SELECT min(id) {ready} AND id > ?", (spec, after)).fetchone()[0]
        return [] if found is None else [(found, spec)]

    heads = [head for spec in spec_ids for head in next_of(spec, 0)]
    heapq.heapify(heads)
    chosen: list[int] = []
    while heads and len(chosen) < limit:
        first, spec = heapq.heappop(heads)
        bound = heads[0][0] if heads else 1 << 62
        rows = con.execute(
            f"SELECT id {ready} AND id >= ? AND id < ? ORDER BY id LIMIT ?", (spec, first, bound, limit - len(chosen))
        )
        chosen += [row[0] for row in rows]
        for head in next_of(spec, chosen[-1]):
            heapq.heappush(heads, head)
    return chosen


def held(con: sqlite3.Connection, session: int) -> list[tuple[Work, float | None]]:
    """Every job a session holds, and the kill asked for it (None: none)."""
    rows = con.execute(f"SELECT {_WORK}, kill_wait FROM job WHERE session_id = ? ORDER BY id", (session,)).fetchall()
    return list(zip(_work(con, [row[:-1] for row in rows]), [row[-1] for row in rows], strict=True))


_WORK = "id, spec_id, ensemble_id, row, state, parameters, workdir, attempts, data, preamble"


def _work(con: sqlite3.Connection, rows: list[tuple[Any, ...]], taken: int = 0) -> list[Work]:
    """The jobs of such rows, in their order; `taken` is how often they were checked out since these were read."""
    specs = {
        spec: (app, bool(scratch))
        for spec, app, scratch in con.execute(
            """SELECT id, app_id, coalesce(json_extract(options, '$.scratch'), 0) FROM spec
               WHERE id IN (SELECT value FROM json_each(?))""",
            (json.dumps([*{row[1] for row in rows}]),),
        )
    }
    wanted = json.dumps([*{row[2] for row in rows if row[2] is not None}])
    found = con.execute("SELECT id, folder FROM ensemble WHERE id IN (SELECT value FROM json_each(?))", (wanted,))
    folders = dict(found)
    works = []
    for job, spec, ensemble, row, state, parameters, workdir, attempts, data, preamble in rows:
        app, scratch = specs[spec]
        place = workdir or row_workdir(folders[ensemble], row)
        attempt, lone = attempts + taken, ensemble is None
        works.append(Work(job, app, spec, state, parameters, place, attempt, data, lone, preamble, scratch))
    return works


def kills(con: sqlite3.Connection, session: int) -> list[tuple[int, float]]:
    """Jobs of the session that are to be killed, with the seconds between SIGTERM and SIGKILL (-1: never)."""
    return con.execute(
        "SELECT id, kill_wait FROM job WHERE session_id = ? AND kill_wait IS NOT NULL", (session,)
    ).fetchall()


def commit_starts(con: sqlite3.Connection, session: int, starts: Iterable[tuple[int, str, float]]) -> None:
    """Jobs (id, state before, start time) that run now."""
    con.executemany(
        "INSERT INTO event(first_id, last_id, path, time, end_time) VALUES(?1, ?1, ?2 || '>RUNNING', ?3, ?3)",
        starts := list(starts),
    )
    con.executemany(
        "UPDATE job SET state = 'RUNNING', start_time = ? WHERE id = ? AND session_id = ?",
        ((start, job, session) for job, _, start in starts),
    )


def commit_ends(con: sqlite3.Connection, session: int, ends: Iterable[End]) -> bool:
    """What runs came to; whether any job became runnable by it (a child of one, or one that is run again).

    The session lets go of each job, except of one whose outputs are still to be read.
    """
    events, updates = [], []
    runnable = False
    for end in ends:
        if end.outcome == "died":
            query = "UPDATE job SET deaths = deaths + 1 WHERE id = ? RETURNING deaths"
            if con.execute(query, (end.job_id,)).fetchone()[0] >= MOST_DEATHS:
                end = end._replace(outcome="error", error=_DIED)
        path = _PATHS[end.outcome]
        if end.outcome == "error" and end.error != _DIED and flow.retry_left(con, session, end.job_id):
            path = "RUNNING>RUN_ERROR>RESTART_READY"
        if end.outcome not in _LAST and not path.endswith("FAILED") and flow.kill_asked(con, end.job_id):
            path += ">USER_KILLED"
        runnable |= path.endswith("RESTART_READY")
        if end.from_state == "RUN_DONE":
            path = path[path.index("RUN_DONE") :] if "RUN_DONE" in path else f"RUN_DONE>{path.rpartition('>')[2]}"
        elif end.from_state != "RUNNING":
            path = f"{end.from_state}>{path}"
        finish = end.start_time + end.runtime_s
        error = storable(end.error)
        data = json.dumps({"returncode": end.return_code, "error": error}) if error else None
        events.append((end.job_id, end.job_id, path, end.start_time, finish, data))
        updates.append(
            (path.rpartition(">")[2], end.outcome == "done", end.start_time, finish, end.runtime_s, end.return_code,
             end.value, error or None, end.exception, end.app_version, end.job_id, session)
        )  # fmt: skip
    con.executemany("INSERT INTO event(first_id, last_id, path, time, end_time, data) VALUES(?, ?, ?, ?, ?, ?)", events)
    con.executemany(
        """UPDATE job SET state = ?1,
               session_id = CASE WHEN ?2 THEN session_id END, kill_wait = CASE WHEN ?2 THEN kill_wait END,
               start_time = ?3, end_time = ?4, runtime_s = ?5, return_code = ?6, value = ?7, error = ?8, exception = ?9,
               app_version = coalesce(?10, app_version) WHERE id = ?11 AND session_id = ?12""",
        updates,
    )
    if updates and flow.any_dependency(con):
        runnable |= flow.parents_ended(con, [event[0] for event in events])
    return runnable


def commit_done(con: sqlite3.Connection, session: int, done: list[Done]) -> bool:
    """Runs that went well; neighbours among them share one event, with the times of each. Returns as `commit_ends`."""
    if not done:
        return False
    done = sorted(done)
    group: list[Done] = []
    for each in done:
        if group and (each.job_id != group[-1].job_id + 1 or each.from_state != group[-1].from_state):
            _add_done(con, group)
            group = []
        group.append(each)
    _add_done(con, group)
    con.executemany(
        """UPDATE job SET state = 'JOB_FINISHED', session_id = NULL, kill_wait = NULL,
               start_time = ?3, end_time = ?3 + ?4, runtime_s = ?4, return_code = 0, value = ?5,
               error = NULL, exception = NULL, app_version = coalesce(?6, app_version)
           WHERE id = ?1 AND session_id = ?2""",
        [(id_, session, start, runtime, value, version) for id_, _, start, runtime, value, version in done],
    )
    return flow.any_dependency(con) and flow.parents_ended(con, [each.job_id for each in done])


def _add_done(con: sqlite3.Connection, group: list[Done]) -> None:
    path = _RAN if group[0].from_state == "RUNNING" else f"{group[0].from_state}>{_RAN}"
    times = array("d", [time for each in group for time in (each.start_time, each.start_time + each.runtime_s)])
    con.execute(
        "INSERT INTO event(first_id, last_id, path, time, end_time, times) VALUES(?, ?, ?, ?, ?, ?)",
        (group[0].job_id, group[-1].job_id, path, min(times), max(times), times.tobytes() if len(group) > 1 else None),
    )


def release(con: sqlite3.Connection, session: int, jobs: Iterable[int]) -> None:
    """Give back jobs that did not start; one that was to be killed ends here."""
    now = time.time()
    released = list(jobs)
    for job in released:
        con.execute(
            """INSERT INTO event(first_id, last_id, path, time, end_time)
               SELECT id, id, state || '>USER_KILLED', ?1, ?1 FROM job
               WHERE id = ?2 AND session_id = ?3 AND kill_wait IS NOT NULL""",
            (now, job, session),
        )
        con.execute(
            """UPDATE job SET session_id = NULL, attempts = attempts - 1, kill_wait = NULL,
                   end_time = CASE WHEN kill_wait IS NULL THEN end_time ELSE ? END,
                   state = CASE WHEN kill_wait IS NULL THEN state ELSE 'USER_KILLED' END
               WHERE id = ? AND session_id = ?""",
            (now, job, session),
        )
    if released and flow.any_dependency(con):
        flow.parents_ended(con, released)

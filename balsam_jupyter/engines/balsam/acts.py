"""Changing jobs that are at the service: killing, retrying, tags, values. By lists of ids, never by a query.

(A filter that the service does not know matches everything.)
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import BadInput, BalsamJupyterError, Unsupported, many
from ...models import TERMINAL, Query, Resources
from ..embedded.store import jobs
from . import apps, transfers, truth, wire
from .news import shown_state
from .rest import IDS, PAGE, parts

if TYPE_CHECKING:
    from .engine import BalsamEngine

_RUNS = ("RUNNING",)
_SETTLES = ("RUN_DONE", "POSTPROCESSED", "STAGED_OUT")  # its program has ended
_HOOKS_S = 5.0  # what the agent overtakes after that is killed again (`settle`)
_STOPS_S = 30.0  # from the end of an allocation to its launcher's last word about its jobs
_HELD = ("PREPROCESSED", "RESTART_READY")  # held in these states, a job is in a launcher's hands


class Job(NamedTuple):
    """A job as the mirror has it: what is sent when it changes."""

    id: int
    state: str
    tags: dict[str, str]
    """All, ours too."""
    data: dict[str, Any]
    attempts: int
    batch_job_id: int | None
    held: bool = False
    """Whether the site's agent is at its hooks now, and will say what state it is in then."""


def known(engine: BalsamEngine, query: Query) -> list[Job]:
    """The jobs a query names, as they were when the service was asked last."""
    con = engine.store.con
    ids = jobs.ids(con, query)
    jobs_found: list[Job] = []
    for part in parts(ids, PAGE):
        rows = con.execute(
            """SELECT job.id, state, spec.tags, remote.tags, remote.data, attempts, batch_job_id
               FROM job JOIN spec ON spec.id = spec_id JOIN remote ON job_id = job.id
               WHERE job.id IN (SELECT value FROM json_each(?)) ORDER BY job.id""",
            (json.dumps(part),),
        )
        for number, state, tags, ours, data, attempts, batch_job in rows:
            both = {**json.loads(tags), **json.loads(ours)}
            jobs_found.append(Job(number, state, both, json.loads(data), attempts, batch_job))
    return jobs_found


def found(engine: BalsamEngine, query: Query) -> list[Job]:
    """The jobs a query names, as they are at the service now: another machine may have changed or deleted some.

    One that a launcher has taken counts as running.
    """
    there = _as_they_are(engine, known(engine, query))
    return [job for job in there if query.states is None or job.state in query.states]


def patch(engine: BalsamEngine, rows: Iterable[dict[str, Any]]) -> int:
    """Send changes; all rows must have the same keys (a mixture is lost, or refused, by the service)."""
    changed = 0
    for part in parts(rows, PAGE):
        changed += int(engine.rest.set("PATCH", "/jobs/", part) or 0)
    if changed:
        engine.look_again()
    return changed


def kill(engine: BalsamEngine, query: Query, running: str = "refuse") -> int:
    """End jobs that have not ended: those that wait become FAILED, with a mark that says why.

    Parameters
    ----------
    running : {"refuse", "leave", "revoke"}
        What becomes of those that run: an error, once the others are killed; nothing; or their allocations are revoked.
    """
    alive = [job for job in known(engine, query) if job.state not in TERMINAL]
    now = _once_let_go(engine, alive, lambda job: job.held, _HOOKS_S)
    waiting = [job for job in now if job.state not in (*_RUNS, *_SETTLES)]
    runs = [job for job in now if job.state in _RUNS]
    killed = _mark(engine, waiting)
    if runs and running == "revoke":
        allocations = sorted({job.batch_job_id for job in runs if job.batch_job_id is not None})
        for number in allocations:
            engine.revoke(number)
        if allocations:
            stopped = _once_let_go(engine, runs, lambda job: job.held or job.state in _RUNS, _STOPS_S)
            runs = [job for job in stopped if job.state in _RUNS]
            killed += _mark(engine, [job for job in stopped if job.state not in (*_RUNS, *_SETTLES)])
    if runs and running != "leave":
        raise Unsupported(_cannot(engine, runs, killed))
    return killed


def _once_let_go(engine: BalsamEngine, asked: list[Job], busy: Callable[[Job], bool], most_s: float) -> list[Job]:
    """These jobs once none is busy, or after so many seconds; those that had ended by then are left out."""
    deadline = time.monotonic() + most_s
    while True:
        now = [job for job in _as_they_are(engine, asked) if job.state not in TERMINAL]
        if not any(map(busy, now)) or time.monotonic() > deadline:
            return now
        time.sleep(0.5)


def _cannot(engine: BalsamEngine, runs: list[Job], killed: int) -> str:
    where = sorted({job.batch_job_id for job in runs if job.batch_job_id is not None})
    done = f"{many(killed, 'task')} that waited {'is' if killed == 1 else 'are'} killed. " if killed else ""
    which = "runs or is about to" if len(runs) == 1 else "run or are about to"  # a launcher takes some beforehand
    what = f"task {runs[0].id}, which {which}" if len(runs) == 1 else f"{len(runs):,} tasks that {which}"
    there = f" (in allocation {where[0]})" if len(where) == 1 else ""
    return (
        f"{done}Balsam cannot stop {what}{there}. Wait for the end, or end the allocation with all that runs in it: "
        '--revoke, in Python kill(force="revoke").'
    )


def _as_they_are(engine: BalsamEngine, asked: list[Job]) -> list[Job]:
    by_id = {job.id: job for job in asked}
    fresh: list[Job] = []
    for part in parts(by_id, IDS):
        _, rows = engine.rest.page("/jobs/", [*(("id", number) for number in part), ("limit", PAGE)])
        for row in rows:
            held = row.get("session_id") is not None
            state = "RUNNING" if held and row["state"] in _HELD else shown_state(row)
            fresh.append(
                by_id[row["id"]]._replace(
                    state=state, tags=row["tags"], data=row["data"] or {}, batch_job_id=row["batch_job_id"],
                    held=held and state not in _RUNS,
                )
            )  # fmt: skip
    if gone := by_id.keys() - {job.id for job in fresh}:
        engine.forget(gone)
    return sorted(fresh, key=lambda job: job.id)


def _mark(engine: BalsamEngine, waiting: list[Job]) -> int:
    said = {"message": "killed by the user"}
    return patch(
        engine,
        (
            {"id": job.id, "state": "FAILED", "data": {**job.data, wire.KILLED: True}, "state_data": said}
            for job in waiting
        ),
    )


def retry(engine: BalsamEngine, query: Query) -> int:
    """Make ended jobs that did not finish well (and, if named by state, those that did) run again."""
    states = ("FAILED", "USER_KILLED") if query.states is None else tuple(s for s in query.states if s in TERMINAL)
    ended = [job for job in found(engine, query) if job.state in states]
    ids = [job.id for job in ended]
    unfinished = _with_unfinished_parents(engine, ids)
    staging = transfers.again(engine.rest, engine.store.con, ids)
    written = apps.with_inputs(engine.store, engine.apps(), ids)

    def again(job: Job) -> dict[str, Any]:
        ran = "STAGED_IN" if not job.attempts or job.id in written else "RESTART_READY"
        state = "AWAITING_PARENTS" if job.id in unfinished else "READY" if job.id in staging else ran
        data = {key: value for key, value in job.data.items() if not key.startswith("bj_")}
        return {
            "id": job.id, "state": state, "data": data, "state_data": {"message": "retried by the user"},
            "serialized_return_value": "", "serialized_exception": "",
        }  # fmt: skip

    return patch(engine, map(again, ended))


def _with_unfinished_parents(engine: BalsamEngine, ids: list[int]) -> set[int]:
    rows = engine.store.con.execute(
        """SELECT DISTINCT child_id FROM dependency JOIN job ON job.id = parent_id
           WHERE state <> 'JOB_FINISHED' AND child_id IN (SELECT value FROM json_each(?))""",
        (json.dumps(ids),),
    )
    return {number for (number,) in rows}


def delete(engine: BalsamEngine, query: Query) -> int:
    """Remove jobs that do not run."""
    ids = [job.id for job in found(engine, query) if job.state not in _RUNS]
    for part in parts(ids, IDS):
        engine.rest.delete("/jobs/", [("id", number) for number in part])
    if ids:
        engine.forget(ids)
    return len(ids)


def tag(engine: BalsamEngine, query: Query, tags: Mapping[str, str | None]) -> int:
    """Merge tags into those of jobs; None removes one."""
    truth.tags(tags)
    theirs = found(engine, query)

    def merged(job: Job) -> dict[str, str]:
        return {key: word for key, word in {**job.tags, **tags}.items() if word is not None}

    patch(engine, ({"id": job.id, "tags": merged(job)} for job in theirs if merged(job) != job.tags))
    return len(theirs)


def edit(engine: BalsamEngine, ids: Iterable[int], changes: dict[str, object]) -> int:
    """Change jobs that do not run."""
    if isinstance(changes.get("tags"), Mapping):
        truth.tags(changes["tags"])  # type: ignore[arg-type]
    if isinstance(wants := changes.get("resources"), Resources):
        truth.resources(engine, wants)
    idle = [job for job in found(engine, Query(ids=tuple(ids))) if job.state not in _RUNS]
    rows = []
    for job in idle:
        row: dict[str, Any] = {"id": job.id}
        ours = {key: word for key, word in job.tags.items() if key.startswith("bj_")}
        if "tags" in changes or "key" in changes:
            given = changes.get("tags", job.tags)
            assert isinstance(given, Mapping)
            row["tags"] = {**given, **ours}
            if "key" in changes:
                row["tags"].pop(wire.KEY, None)
                if isinstance(changes["key"], bytes):
                    row["tags"][wire.KEY] = changes["key"].hex()
        if "data" in changes:
            given = changes["data"]
            assert isinstance(given, Mapping)
            row["data"] = {**given, **{key: word for key, word in job.data.items() if key.startswith("bj_")}}
        if "parameters" in changes:
            row["serialized_parameters"] = wire.packed(changes["parameters"])  # type: ignore[arg-type]
        if isinstance(wants, Resources):
            row |= wire.asked(wants, 1)
        rows.append(row)
    return patch(engine, rows)


def set_values(engine: BalsamEngine, values: Iterable[tuple[int, str | bytes]]) -> None:
    """Replace what finished jobs yielded."""
    given = dict(values)
    texts = {number: value for number, value in given.items() if isinstance(value, str)}
    theirs = {job.id: job for job in found(engine, Query(ids=tuple(texts)))}
    patch(engine, ({"id": n, "data": {**job.data, wire.VALUE: texts[n]}} for n, job in theirs.items()))
    pickles = {number: value for number, value in given.items() if isinstance(value, bytes)}
    there = [job.id for job in found(engine, Query(ids=tuple(pickles)))]
    patch(engine, ({"id": n, "serialized_return_value": base64.b64encode(pickles[n]).decode()} for n in there))


def settle(engine: BalsamEngine) -> int:
    """What was left half done: jobs stored twice, kills that a site overtook, children of parents that ended badly."""
    con = engine.store.con
    done = 0
    twins = [number for (number,) in con.execute("SELECT job_id FROM twin")]
    if twins:
        for part in parts(twins, IDS):
            engine.rest.delete("/jobs/", [("id", number) for number in part])
        with engine.store.transaction() as con:
            con.execute("DELETE FROM twin")
        done += len(twins)
    overtaken = con.execute(
        f"""SELECT job.id FROM job JOIN remote ON job_id = job.id
            WHERE state IN ('READY', 'STAGED_IN', 'PREPROCESSED', 'RESTART_READY')
                AND remote.data LIKE '%"{wire.KILLED}":true%'"""
    ).fetchall()
    if overtaken:
        ids = tuple(number for (number,) in overtaken)
        waits = [job for job in found(engine, Query(ids=ids)) if job.state not in (*_RUNS, *TERMINAL)]
        done += _mark(engine, waits)
    return done + _fail_children(engine)


def _fail_children(engine: BalsamEngine) -> int:
    """Balsam's own would wait for ever."""
    children = engine.store.con.execute(
        """SELECT child.id, parent.id, parent.state FROM job child
           JOIN spec ON spec.id = child.spec_id JOIN remote ON remote.job_id = child.id
           JOIN dependency ON child_id = child.id JOIN job parent ON parent.id = parent_id
           WHERE child.state = 'AWAITING_PARENTS' AND parent.state IN ('FAILED', 'USER_KILLED')
               AND spec.options NOT LIKE '%"wait"%' AND remote.tags LIKE '%bj_batch%'"""
    ).fetchall()
    if not children:
        return 0
    why = {child: f"parent job {parent} is {state}" for child, parent, state in children}
    wait = [job.id for job in found(engine, Query(ids=tuple(why))) if job.state == "AWAITING_PARENTS"]
    return patch(engine, ({"id": child, "state": "FAILED", "state_data": {"message": why[child]}} for child in wait))


def rename(
    engine: BalsamEngine, name: str, new: str, generations: Iterable[int], store: Callable[[str, str], None]
) -> None:
    """Give an ensemble's jobs another name, once the mirror has it; `store` renames there."""
    if engine.store.con.execute("SELECT 1 FROM ensemble WHERE name = ?", (new,)).fetchone():
        raise BadInput(f"There is an ensemble {new!r} already; choose another name, or delete that one first.")
    store(name, new)

    def tags(job: Job) -> dict[str, str]:
        follows = {"workflow": new} if job.tags.get("workflow") == name else {}
        return {**job.tags, wire.ENSEMBLE: new, **follows}

    renamed = 0
    try:
        # all at first: what is read in between still has the old name, and is there again until it is patched
        theirs = [job for one in generations for job in found(engine, Query(ensemble=new, generation=one))]
        for part in parts(theirs, PAGE):
            renamed += patch(engine, ({"id": job.id, "tags": tags(job)} for job in part))
    except BalsamJupyterError:
        if not renamed:
            store(new, name)
        raise

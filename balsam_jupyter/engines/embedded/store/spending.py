"""What allocations and jobs have used."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import Any

from ....accounts import Load, Run, Usage
from ....models import Query, Resources
from .jobs import where
from .records import boot_id

_LONE = 2_000  # finished jobs outside of ensembles that are looked at
_ENSEMBLES = 50


def usage(con: sqlite3.Connection, limit: float | None) -> Usage:
    """Node-hours of all allocations. One that is being ended is not counted on to use more."""
    used, committed = con.execute(
        """WITH allocation AS (
               SELECT state, num_nodes, json_extract(request, '$.wall_time_min') * 60 AS asked_s,
                      CASE WHEN start_time IS NULL THEN 0 ELSE
                      coalesce(elapsed_s, end_time - start_time, CASE WHEN boot_id = ? THEN ? - started END, 0) END
                      AS used_s
               FROM batch_job)
           SELECT coalesce(sum(num_nodes * used_s), 0),
                  coalesce(sum(CASE WHEN state IN ('pending_submission', 'queued', 'running')
                               THEN num_nodes * max(0, asked_s - used_s) ELSE 0 END), 0)
           FROM allocation""",
        (boot_id(), time.monotonic()),
    ).fetchone()
    return Usage(used / 3600, committed / 3600, limit)


def loads(con: sqlite3.Connection, query: Query) -> list[Load]:
    """Jobs in groups; reads each job once, and none of their values."""
    condition, arguments = where(query)
    rows = con.execute(
        f"""WITH part AS (
                SELECT spec_id, state, count(*) AS number,
                       total(CASE WHEN state = 'RUNNING' THEN max(0, ? - start_time) ELSE runtime_s END) AS spent
                FROM job WHERE {condition} GROUP BY spec_id, state)
            SELECT app.name, part.state, spec.resources, spec.tags, part.number, part.spent
            FROM part JOIN spec ON spec.id = part.spec_id JOIN app ON app.id = spec.app_id""",
        [time.time(), *arguments],
    ).fetchall()
    return list(map(_load, rows))


def running(con: sqlite3.Connection) -> list[Load]:
    """The jobs that run, in groups."""
    rows = con.execute(
        """SELECT app.name, 'RUNNING', resources, tags, count(*), total(max(0, ? - start_time))
           FROM job INDEXED BY job_session JOIN spec ON spec.id = spec_id JOIN app ON app.id = app_id
           WHERE session_id IS NOT NULL AND state = 'RUNNING' GROUP BY spec_id""",
        (time.time(),),
    ).fetchall()
    return list(map(_load, rows))


def _load(row: tuple[Any, ...]) -> Load:
    app_name, state, resources, tags, number, spent = row
    return Load(app_name, state, Resources(**json.loads(resources)), json.loads(tags), number, spent)


_RUN = "job.id, runtime_s, job.app_version, resources"


def runs(con: sqlite3.Connection, app_name: str, most: int) -> list[Run]:
    """The last finished jobs of an app, newest first.

    Looked up by ensemble, newest first, since that is what an index has: whatever waits is not read, be it a million
    jobs. Of the jobs in no ensemble only the last 2,000 finished ones of any app are looked at.
    """
    finished = "state = 'JOB_FINISHED' AND runtime_s IS NOT NULL"
    found = con.execute(
        f"""SELECT {_RUN} FROM (
                SELECT * FROM job WHERE ensemble_id IS NULL AND {finished} ORDER BY id DESC LIMIT {_LONE}) AS job
            JOIN spec ON spec.id = spec_id JOIN app ON app.id = app_id
            WHERE app.name = ? ORDER BY job.id DESC LIMIT ?""",
        (app_name, most),
    ).fetchall()
    ensembles = con.execute(
        f"SELECT id FROM ensemble WHERE app_name = ? ORDER BY id DESC LIMIT {_ENSEMBLES}", (app_name,)
    ).fetchall()
    left = most
    for (ensemble,) in ensembles:
        rows = con.execute(
            f"""SELECT {_RUN} FROM job JOIN spec ON spec.id = spec_id
                WHERE ensemble_id = ? AND {finished} ORDER BY job.id DESC LIMIT ?""",
            (ensemble, left),
        ).fetchall()
        found += rows
        left -= len(rows)
        if not left:
            break
    newest = sorted(found, reverse=True)[:most]
    shared = {text: Resources(**json.loads(text)) for text in {row[3] for row in newest}}
    return [Run(runtime, version, shared[text]) for _, runtime, version, text in newest]

"""How much work waits and runs, for whoever asks for allocations."""

from __future__ import annotations

import json
import sqlite3
from typing import NamedTuple

from ....models import Resources
from .schema import READY

_MOST = 100_000  # more of one kind need not be told apart


class Demand(NamedTuple):
    """Jobs that share resources and tags."""

    resources: Resources
    tags: dict[str, str]
    number: int


def waiting(con: sqlite3.Connection) -> list[Demand]:
    """The runnable jobs that nobody holds; of each kind 100,000 at most are counted."""
    ready = f"SELECT spec_id FROM job INDEXED BY job_ready_spec WHERE {READY}"
    # One look-up for each kind of job instead of a walk over all jobs.
    specs = con.execute(
        f"""WITH RECURSIVE kind(spec_id) AS (
                SELECT * FROM ({ready} ORDER BY spec_id LIMIT 1)
                UNION ALL
                SELECT ({ready} AND spec_id > kind.spec_id ORDER BY spec_id LIMIT 1) FROM kind
                WHERE kind.spec_id IS NOT NULL)
            SELECT id, resources, tags FROM kind JOIN spec ON spec.id = kind.spec_id"""
    ).fetchall()
    found = []
    for spec_id, resources, tags in specs:
        number = con.execute(f"SELECT count(*) FROM ({ready} AND spec_id = ? LIMIT {_MOST})", (spec_id,)).fetchone()[0]
        found.append(Demand(Resources(**json.loads(resources)), json.loads(tags), number))
    return found


def running(con: sqlite3.Connection) -> list[tuple[int, Resources, int]]:
    """Allocation, resources and number of the jobs that run."""
    rows = con.execute(
        """SELECT batch_job_id, spec.resources, count(*) FROM job INDEXED BY job_session
           JOIN spec ON spec.id = job.spec_id
           WHERE session_id IS NOT NULL AND state = 'RUNNING' GROUP BY batch_job_id, spec.resources"""
    ).fetchall()
    return [(allocation, Resources(**json.loads(resources)), number) for allocation, resources, number in rows]

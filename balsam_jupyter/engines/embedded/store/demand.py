"""How much work waits and runs, for whoever asks for allocations."""

from __future__ import annotations

import json
import sqlite3
from typing import NamedTuple

from ....models import Resources
from .schema import ENSEMBLE, READY

_MOST = 100_000  # more of one kind need not be told apart
_SAMPLES = 50
_LOOKED_AT = 2_000
_READY = f"SELECT spec_id FROM job INDEXED BY job_ready_spec WHERE {READY}"
# One look-up for each kind of job instead of a walk over all jobs.
_KINDS = f"""WITH RECURSIVE kind(spec_id) AS (
    SELECT * FROM ({_READY} ORDER BY spec_id LIMIT 1)
    UNION ALL
    SELECT ({_READY} AND spec_id > kind.spec_id ORDER BY spec_id LIMIT 1) FROM kind WHERE kind.spec_id IS NOT NULL)"""


class Demand(NamedTuple):
    """Jobs that share resources and tags."""

    resources: Resources
    tags: dict[str, str]
    number: int
    app_name: str = ""


def waiting(con: sqlite3.Connection, most: int = _MOST) -> list[Demand]:
    """The runnable jobs that nobody holds; of each kind so many at most are counted."""
    specs = con.execute(
        f"""{_KINDS}
        SELECT spec.id, resources, tags, app.name
        FROM kind JOIN spec ON spec.id = kind.spec_id JOIN app ON app.id = spec.app_id"""
    ).fetchall()
    found = []
    for spec_id, resources, tags, app_name in specs:
        number = con.execute(f"SELECT count(*) FROM ({_READY} AND spec_id = ? LIMIT {most})", (spec_id,)).fetchone()[0]
        found.append(Demand(Resources(**json.loads(resources)), json.loads(tags), number, app_name))
    return found


def samples(con: sqlite3.Connection, ensemble: str | None) -> list[int]:
    """The first job of each kind that is runnable and held by nobody; of an ensemble, of its first 2,000 such jobs."""
    if ensemble is None:
        first = (
            f"SELECT id FROM job INDEXED BY job_ready_spec WHERE {READY} AND spec_id = kind.spec_id ORDER BY id LIMIT 1"
        )
        text = f"{_KINDS} SELECT ({first}) FROM kind WHERE spec_id IS NOT NULL LIMIT {_SAMPLES}"
        return [row[0] for row in con.execute(text)]
    ours = f"""SELECT id, spec_id FROM job INDEXED BY job_state
        WHERE ensemble_id = ({ENSEMBLE}) AND {READY} LIMIT {_LOOKED_AT}"""
    text = f"SELECT min(id) FROM ({ours}) GROUP BY spec_id LIMIT {_SAMPLES}"
    return [row[0] for row in con.execute(text, (ensemble, None))]


def running(con: sqlite3.Connection) -> list[tuple[int, Resources, int]]:
    """Allocation, resources and number of the jobs that run."""
    rows = con.execute(
        """SELECT batch_job_id, spec.resources, count(*) FROM job INDEXED BY job_session
           JOIN spec ON spec.id = job.spec_id
           WHERE session_id IS NOT NULL AND state = 'RUNNING' GROUP BY batch_job_id, spec.resources"""
    ).fetchall()
    return [(allocation, Resources(**json.loads(resources)), number) for allocation, resources, number in rows]

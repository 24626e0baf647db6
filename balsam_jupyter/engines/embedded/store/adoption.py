"""Rows that finished elsewhere, stored as they are."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence

from ....models import JobRow, JobSpec
from .submission import add_event, submit


def adopt(con: sqlite3.Connection, given: Sequence[tuple[JobSpec, JobRow]]) -> int:
    """Store finished rows of an ensemble; those that are there are kept. The caller holds the transaction."""
    before = con.execute("SELECT coalesce(max(id), 0) FROM job").fetchone()[0]
    submitted = submit(con, (spec for spec, _ in given), lambda _: None)
    now = time.time()
    for job_id, (_, row) in zip(submitted.ids, given, strict=True):
        if job_id <= before:
            continue
        (state,) = con.execute("SELECT state FROM job WHERE id = ?", (job_id,)).fetchone()
        con.execute(
            """UPDATE job SET state = 'JOB_FINISHED', value = ?, error = ?, return_code = ?, start_time = ?,
                   end_time = ?, runtime_s = ?, attempts = ?, submit_time = ? WHERE id = ?""",
            (row.value, row.error or None, row.return_code, row.start_time, row.end_time, row.runtime_s,
             max(1, row.attempts), row.submit_time, job_id),
        )  # fmt: skip
        add_event(con, job_id, job_id, f"{state}>JOB_FINISHED", now, now)
    return submitted.new

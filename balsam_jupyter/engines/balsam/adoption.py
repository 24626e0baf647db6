"""Rows that finished elsewhere, stored at the service as they are."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...models import JobRow, JobSpec, Query
from . import acts, jobs, wire

if TYPE_CHECKING:
    from .engine import BalsamEngine


def adopt(engine: BalsamEngine, given: Sequence[tuple[JobSpec, JobRow]], hold: int) -> int:
    """Store finished rows; those that are there are kept. See `engines.base.Engine.adopt`.

    The service makes every job one that is to be run. So that no site takes them up before they are marked as finished,
    they are stored as children of a job that has not ended.
    """
    rows = {spec.key: row for spec, row in given}
    held = (spec._replace(parents=(hold,), transfers=None) for spec, _ in given)
    submitted = jobs.submit(engine, held, None, None)
    by_id = {job_id: rows[spec.key] for job_id, (spec, _) in zip(submitted.ids, given, strict=True)}
    waiting = acts.found(engine, Query(ids=tuple(by_id), states=("AWAITING_PARENTS",)))

    def finished() -> Iterator[dict[str, Any]]:
        for job in waiting:
            row = by_id[job.id]
            data = {**job.data, wire.RAN: [row.start_time, row.end_time, row.runtime_s, row.return_code]}
            if isinstance(row.value, str):
                data[wire.VALUE] = row.value
            if row.error:
                data[wire.NOTE] = row.error
            pickled = base64.b64encode(row.value).decode() if isinstance(row.value, bytes) else ""
            said = {"message": "it finished elsewhere"}
            yield {
                "id": job.id, "state": "JOB_FINISHED", "data": data, "serialized_return_value": pickled,
                "state_data": said,
            }  # fmt: skip

    acts.patch(engine, finished())
    return submitted.new

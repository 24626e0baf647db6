"""``Job.objects``: many jobs at once, and waiting for them."""

from __future__ import annotations

import logging
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from .api_job import SETTABLE, Job
from .api_query import Manager, as_tags
from .api_site import Site, existing_site
from .errors import BadInput, NotFound, TimeoutExpired, listing, nearest
from .models import JOB_STATES, TERMINAL, EventRow, JobCommon, Query

log = logging.getLogger(__name__)

EVENTS_WAIT_S = 600.0
"""Longest single wait for a change; a longer one is asked for again."""


def changed_ids(rows: Iterable[EventRow], known: Mapping[int, Any]) -> set[int]:
    """Which of the known ids changed."""
    found: set[int] = set()
    for row in rows:
        span = range(row.first_id, row.last_id + 1)
        few, many = (span, known) if len(span) <= len(known) else (known, span)
        found.update(_both(few, many))
    return found


def _both(few: Iterable[int], many: Container[int]) -> Iterator[int]:
    return (number for number in few if number in many)


class JobWaitResult(NamedTuple):
    """What `Job.objects.wait` returns."""

    done: list[Job]
    not_done: list[Job]


class JobManager(Manager[Job]):
    """``Job.objects``."""

    _filters = (
        "id", "state", "state__ne", "tags", "workdir", "app_name", "app_id", "batch_job_id", "ensemble", "site_id",
        "parent_id",
    )  # fmt: skip
    _orders = (
        "id", "state", "workdir", "row", "submit_time", "start_time", "end_time", "runtime_s", "return_code",
    )  # fmt: skip

    def create(self, **fields: Any) -> Job:
        """Make a job and save it."""
        job = Job(**fields)
        job.save()
        return job

    def bulk_create(self, instances: Iterable[Job]) -> list[Job]:
        """Store new jobs in one step, all or none; returns them."""
        jobs = list(instances)
        if any(not isinstance(job, Job) or job._row is not None for job in jobs):
            raise BadInput("bulk_create() takes a list of new, unsaved Job objects.")
        by_site: dict[Site, list[Job]] = {}
        for job in jobs:
            by_site.setdefault(job._site, []).append(job)
        specs = []
        for some in by_site.values():
            shared: dict[Any, JobCommon] = {}
            specs.append([job._spec(shared) for job in some])
        for (site, some), checked in zip(by_site.items(), specs, strict=True):
            submitted = site.engine.submit(checked)
            rows = {row.id: row for row in site.engine.jobs(Query(ids=tuple(submitted.ids)))}
            for job, number in zip(some, submitted.ids, strict=True):
                job._row = rows[number]
                job._values.clear()
            for number, name in submitted.renamed.items():
                log.warning("A finished job has that work directory: job %s gets %s.", number, name)
        return jobs

    def bulk_update(self, instances: Iterable[Job]) -> None:
        """`save` each of them."""
        for job in instances:
            job.save()

    def bulk_refresh(self, jobs: Iterable[Job]) -> None:
        """Read all of them as they are now."""
        by_site: dict[Site, dict[int, list[Job]]] = {}
        for job in jobs:
            if job._row is not None:
                by_site.setdefault(job._site, {}).setdefault(job._row.id, []).append(job)
        for site, by_id in by_site.items():
            for row in site.engine.jobs(Query(ids=tuple(by_id))):
                for job in by_id.pop(row.id):
                    job._row = row
                    job._values.clear()
            if by_id:
                raise Job.DoesNotExist(f"Deleted in the meantime: job {listing(by_id)}.")

    def wait(
        self,
        jobs: Iterable[Job],
        timeout: float | None = None,
        poll_interval: float = 1.0,
        return_when: str = "ALL_COMPLETED",
    ) -> JobWaitResult:
        """Block until all (or with ``return_when="FIRST_COMPLETED"`` any) have ended, or `timeout` seconds.

        `poll_interval` is Balsam's and not needed: the change itself wakes the wait.
        """
        if return_when not in ("ALL_COMPLETED", "FIRST_COMPLETED"):
            raise BadInput(f"return_when is 'ALL_COMPLETED' or 'FIRST_COMPLETED', not {return_when!r}.")
        jobs = list(jobs)
        for _ in self._ending(jobs, timeout):
            if return_when == "FIRST_COMPLETED":
                break
        done = [job for job in jobs if job.state in TERMINAL]
        return JobWaitResult(done, [job for job in jobs if job.state not in TERMINAL])

    def as_completed(
        self, jobs: Iterable[Job], timeout: float | None = None, poll_interval: float = 1.0
    ) -> Iterator[Job]:
        """The jobs as they end; `TimeoutExpired` if some have not after `timeout` seconds."""
        jobs = list(jobs)
        yield from self._ending(jobs, timeout)
        left = [job for job in jobs if job.state not in TERMINAL]
        if left:
            raise TimeoutExpired(f"{len(left)} of {len(jobs)} jobs", timeout or 0.0)

    def _ending(self, jobs: list[Job], timeout: float | None) -> Iterator[Job]:
        """The jobs as they end, until all have or time is up. Only changes are asked for, once for all jobs."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if any(job._row is None for job in jobs):
            raise BadInput("A job that was never saved cannot be waited for: save() it first.")
        if len({job._site for job in jobs}) > 1:
            raise BadInput("These jobs are at several sites; wait for those of one site at a time.")
        if not jobs:
            return
        engine = jobs[0]._site.engine
        cursor = engine.events("now").cursor
        self.bulk_refresh(jobs)
        pending: dict[int, list[Job]] = {}
        for job in jobs:
            if job.state in TERMINAL:
                yield job
            else:
                pending.setdefault(job.id, []).append(job)
        while pending:
            left = EVENTS_WAIT_S if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return
            events = engine.events(cursor, left)
            cursor = events.cursor
            changed = set(pending) if events.reset else changed_ids(events.rows, pending)
            self.bulk_refresh(job for number in changed for job in pending[number])
            for number in sorted(changed):
                if pending[number][0].state in TERMINAL:
                    yield from pending.pop(number)

    def _query(self, filters: Mapping[str, Any]) -> Query | None:
        """The engine's query for conditions, or None if nothing can match."""
        site, asked = existing_site(), dict(filters)
        ids = _many(asked.get("id"))
        states = _many(asked.get("state"))
        for state in (*(states or ()), *(_many(asked.get("state__ne")) or ())):
            if state not in JOB_STATES:
                raise BadInput(f"{state!r} is not a job state.{nearest(str(state), JOB_STATES)}")
        if "state__ne" in asked:
            others = _many(asked["state__ne"]) or ()
            states = tuple(state for state in states or JOB_STATES if state not in others)
        app = asked.get("app_name")
        if "app_id" in asked:
            try:
                named = site.app(asked["app_id"]).name
            except NotFound:
                return None
            if app not in (None, named):
                return None
            app = named
        if ids == () or states == () or ("site_id" in asked and site.id not in (_many(asked["site_id"]) or ())):
            return None
        workdir = asked.get("workdir")
        return Query(
            ids=ids,
            states=states,
            tags=as_tags(asked["tags"]) if "tags" in asked else None,
            ensemble=asked.get("ensemble"),
            app_name=app,
            batch_job_id=asked.get("batch_job_id"),
            workdir=None if workdir is None else str(workdir),
            parent_ids=_many(asked.get("parent_id")),
        )

    def _list(self, filters: Mapping[str, Any], order: str | None, start: int, stop: int | None) -> list[Job]:
        query = self._query(filters)
        if query is None or (stop is not None and stop <= start):
            return []
        limit = None if stop is None else stop - start
        site = existing_site()
        rows = site.engine.jobs(replace(query, order=order or "id", limit=limit, offset=start))
        return [Job._of(row, site) for row in rows]

    def _count(self, filters: Mapping[str, Any]) -> int:
        query = self._query(filters)
        return 0 if query is None else sum(existing_site().engine.count(query).values())

    def _update(self, filters: Mapping[str, Any], changes: Mapping[str, Any]) -> int:
        query = self._query(filters)
        if query is None or not changes:
            return 0
        if set(changes) == {"state"} and changes["state"] in SETTABLE:
            return existing_site().engine.update(query, changes["state"])
        jobs = self._list(filters, None, 0, None)
        for job in jobs:
            for name, value in changes.items():
                setattr(job, name, value)
            job.save()
        return len(jobs)

    def _delete(self, filters: Mapping[str, Any]) -> int:
        query = self._query(filters)
        return 0 if query is None else existing_site().engine.delete(query)


def _many(value: Any) -> tuple[Any, ...] | None:
    if value is None:
        return None
    return (value,) if isinstance(value, str | int) else tuple(value)


Job.objects = JobManager(lambda: Job)

"""Balsam's object API bound to an engine: Job, BatchJob, Site, App, EventLog, each with `.objects`."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, ClassVar, TypeVar

from .api_check import allocation_request, partition_list
from .api_job import Job, NoResult
from .api_jobs import JobManager, JobWaitResult
from .api_query import DoesNotExist, Field, Manager, Model, MultipleObjectsReturned, Query, matches, sort_by
from .api_site import Site, current_site, existing_site, find_site, open_site
from .errors import BadInput
from .models import Allocation, AppRecord, Events

__all__ = [
    "App",
    "BatchJob",
    "DoesNotExist",
    "EventLog",
    "Job",
    "JobManager",
    "JobWaitResult",
    "MultipleObjectsReturned",
    "NoResult",
    "Query",
    "Site",
    "current_site",
    "find_site",
    "load_app",
    "load_apps",
    "open_site",
    "submit_app",
    "sync_app",
]

B = TypeVar("B", bound="BatchJob")


def _when(seconds: float | None) -> datetime.datetime | None:
    """A time for display, in UTC (it knows its zone: subtracting one from another is right anywhere)."""
    return None if seconds is None else datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)


class App(Model):
    """An application as the site has it; `ApplicationDefinition.sync` makes one."""

    name: Field[str] = Field()
    site_id: Field[int] = Field()
    description: Field[str] = Field()
    parameters: Field[dict[str, dict[str, Any]]] = Field()
    command_template: Field[str] = Field()
    source_code: Field[str] = Field()
    version: Field[str] = Field()
    objects: ClassVar[Manager[App]]

    def __init__(self, record: AppRecord, site: Site) -> None:
        super().__init__()
        self._record, self._site = record, site

    def _read(self, name: str) -> Any:
        if name == "site_id":
            return self._site.id
        if name == "source_code":
            return self._record.source
        if name == "parameters":
            return {
                key: {"required": one.required, "default": one.default, "help": one.help}
                for key, one in self._record.parameters.items()
            }
        return getattr(self._record, name)


class BatchJob(Model):
    """A block of nodes for some minutes in which a launcher runs jobs."""

    site_id: Field[int] = Field()
    num_nodes: Field[int] = Field()
    wall_time_min: Field[float] = Field()
    job_mode: Field[str] = Field()
    queue: Field[str] = Field()
    project: Field[str] = Field()
    optional_params: Field[dict[str, str]] = Field()
    filter_tags: Field[dict[str, str]] = Field()
    partitions: Field[list[dict[str, Any]]] = Field()
    wf_filter: Field[str] = Field()
    by_service: Field[bool] = Field()
    state: Field[str | None] = Field()
    scheduler_id: Field[int | None] = Field()
    status_info: Field[dict[str, str]] = Field()
    start_time: Field[datetime.datetime | None] = Field()
    end_time: Field[datetime.datetime | None] = Field()
    objects: ClassVar[BatchJobManager]

    def __init__(
        self,
        num_nodes: int,
        wall_time_min: float,
        job_mode: str = "mpi",
        site_id: int | str | Site | None = None,
        project: str = "local",
        queue: str = "local",
        optional_params: Mapping[str, str] | None = None,
        filter_tags: Mapping[str, str] | None = None,
        partitions: Sequence[Mapping[str, Any] | str] | None = None,
        wf_filter: str = "",
    ) -> None:
        super().__init__()
        self._site = existing_site(site_id)
        self._allocation: Allocation | None = None
        self._values.update(
            site_id=self._site.id,
            num_nodes=num_nodes,
            wall_time_min=wall_time_min,
            job_mode=job_mode,
            queue=queue,
            project=project,
            optional_params=dict(optional_params or {}),
            filter_tags=dict(filter_tags or {}),
            partitions=partition_list(partitions),
            wf_filter=wf_filter,
        )

    @classmethod
    def _of(cls: type[B], allocation: Allocation, site: Site) -> B:
        job = cls.__new__(cls)
        Model.__init__(job)
        job._allocation, job._site = allocation, site
        return job

    def __repr__(self) -> str:
        nodes = "1 node" if self.num_nodes == 1 else f"{self.num_nodes} nodes"
        name = "BatchJob" if self.id is None else f"BatchJob {self.id}"
        asked = f"{nodes}, {self.wall_time_min:g} min, {self.job_mode}"
        return f"<{name} at {self._site.name}: {self.state or 'not saved'}, {asked}>"

    def _repr_html_(self) -> str:
        return f"<div>{escape(repr(self).strip('<>'))}</div>"

    def _read(self, name: str) -> Any:
        one = self._allocation
        if one is None:
            return None
        if name == "site_id":
            return self._site.id
        if name in ("start_time", "end_time"):
            return _when(getattr(one, name))
        if name in ("id", "state", "scheduler_id", "status_info"):
            return getattr(one, name)
        value = getattr(one.request, name)
        return dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value

    def _may_set(self, name: str) -> bool:
        if self._allocation is not None:
            return name == "state"
        return name not in ("id", "state", "scheduler_id", "status_info", "start_time", "end_time", "by_service")

    def save(self) -> None:
        """Ask for the allocation, or end a stored one whose `state` was set to ``"pending_deletion"``."""
        engine = self._site.engine
        if self._allocation is None:
            asked = {name: value for name, value in self._values.items() if name != "site_id"}
            self._allocation = engine.allocate(allocation_request(engine.site, **asked))
            self._values.clear()
            return
        state = self._changes().get("state")
        if state == "pending_deletion":
            engine.revoke(self._allocation.id, 0.0)
        elif state is not None:
            raise BadInput(f"A BatchJob's state can be set to 'pending_deletion' (which ends it), not {state!r}.")
        self.refresh_from_db()

    def refresh_from_db(self) -> None:
        """Read the allocation as it is now."""
        if self._allocation is None:
            raise BadInput("This BatchJob was never saved: save() it first.")
        for one in self._site.engine.allocations():
            if one.id == self._allocation.id:
                self._allocation = one
                self._values.clear()
                return
        raise self.DoesNotExist(f"There is no BatchJob {self._allocation.id} any more.")

    def revoke(self, timeout: float = 60.0) -> bool:
        """End it gracefully; True once none of its launcher's processes lives."""
        if self._allocation is None:
            raise BadInput("This BatchJob was never saved, so there is nothing to revoke.")
        gone = self._site.engine.revoke(self._allocation.id, timeout)
        self.refresh_from_db()
        return gone


class BatchJobManager(Manager[BatchJob]):
    """``BatchJob.objects``."""

    def create(self, **fields: Any) -> BatchJob:
        """Ask for an allocation."""
        job = BatchJob(**fields)
        job.save()
        return job


class EventLog(Model):
    """One state change of one job. `id` numbers the commit it was stored in; events come oldest first."""

    job_id: Field[int] = Field()
    timestamp: Field[datetime.datetime] = Field()
    from_state: Field[str] = Field()
    to_state: Field[str] = Field()
    data: Field[dict[str, Any]] = Field()
    objects: ClassVar[EventManager]

    def __init__(self, **values: Any) -> None:
        super().__init__()
        self._stored = values

    def _read(self, name: str) -> Any:
        return self._stored[name]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EventLog) and self._stored == other._stored

    def __hash__(self) -> int:
        return hash((self.id, self.job_id, self.to_state))


class EventManager(Manager[EventLog]):
    """``EventLog.objects``."""

    _filters = ("id", "job_id", "from_state", "to_state", "timestamp_before", "timestamp_after", "data")
    _orders = ("id", "job_id", "timestamp", "from_state", "to_state")

    def _list(self, filters: Mapping[str, Any], order: str | None, start: int, stop: int | None) -> list[EventLog]:
        conditions = dict(filters)
        before, after = conditions.pop("timestamp_before", None), conditions.pop("timestamp_after", None)
        wanted = conditions.pop("job_id", None)
        jobs = None if wanted is None else {wanted} if isinstance(wanted, int) else set(wanted)
        found = [
            event
            for event in _events(jobs)
            if all(matches(getattr(event, name), value) for name, value in conditions.items())
            and (before is None or event.timestamp < _aware(before))
            and (after is None or event.timestamp > _aware(after))
        ]
        if order is not None:
            sort_by(found, order)
        return found[start:stop]


def _aware(time: datetime.datetime) -> datetime.datetime:
    """Balsam's naive times are UTC."""
    return time if time.tzinfo else time.replace(tzinfo=datetime.timezone.utc)


def _events(jobs: set[int] | None) -> Iterator[EventLog]:
    """Single transitions, from commits that may hold those of many jobs."""
    engine, cursor = existing_site().engine, ""
    while True:
        page = engine.events(cursor) if jobs is None else Events("", engine.history(jobs))
        cursor = page.cursor
        for row in page.rows:
            span = range(row.first_id, row.last_id + 1)
            ids = span if jobs is None else sorted(number for number in jobs if number in span)
            for number in ids:
                for left, reached, time, data in row.steps(number):
                    yield EventLog(
                        id=row.seq, job_id=number, timestamp=_when(time), from_state=left, to_state=reached, data=data
                    )
        if not page.rows or jobs is not None:
            return


def _all_apps() -> list[App]:
    site = existing_site()
    return [App(record, site) for record in site.engine.apps()]


def _all_batch_jobs() -> list[BatchJob]:
    site = existing_site()
    return [BatchJob._of(one, site) for one in site.engine.allocations()]


App.objects = Manager(lambda: App, _all_apps)
BatchJob.objects = BatchJobManager(lambda: BatchJob, _all_batch_jobs)
EventLog.objects = EventManager(lambda: EventLog)


def sync_app(cls: type) -> int:
    """Create or update the app at the site its class names; returns the app's id."""
    return existing_site(getattr(cls, "site", None)).register(cls).id


_JOB_FIELDS = (
    "tags", "data", "num_nodes", "ranks_per_node", "threads_per_rank", "threads_per_core", "launch_params",
    "gpus_per_rank", "node_packing_count", "wall_time_min", "parent_ids", "transfers", "max_retries",
    "on_parent_failure", "scratch",
)  # fmt: skip


def submit_app(cls: type, workdir: str, *, save: bool = True, **fields: Any) -> Job:
    """Make a Job of the app (and save it): `fields` are the job's by Balsam's names, and else the app's parameters."""
    name = existing_site(getattr(cls, "site", None)).name
    given = {key: fields.pop(key) for key in _JOB_FIELDS if key in fields}
    job = Job(cls, workdir, parameters=fields, site_name=name, **given)
    if save:
        job.save()
    return job


def load_apps(site: int | str | Site) -> dict[str, type]:
    """The classes of all apps at a site, by name."""
    from .apps import app_from_record

    return {record.name: app_from_record(record) for record in existing_site(site).engine.apps()}


def load_app(name: str, site_name: str | None = None) -> type:
    """The class of one app."""
    from .apps import app_from_record

    return app_from_record(existing_site(site_name).app(name))

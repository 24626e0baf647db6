"""The seam: what stores and runs jobs. Two implementations keep it honest (`embedded`, `balsam`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ..models import (
    Allocation,
    AllocationRequest,
    AppRecord,
    EnsembleRecord,
    Events,
    JobRow,
    JobSpec,
    Query,
    SiteRecord,
    Submitted,
    Usage,
)


class Engine(Protocol):
    """Bulk first (a list of one is still a list); every call is safe to repeat after a crash of the caller.

    Engines are bound to one site and are safe to use from several threads.
    """

    kind: str
    site: SiteRecord

    def sites(self) -> list[SiteRecord]:
        """The sites this engine can reach."""

    def register(self, app: AppRecord) -> int:
        """Create or update the app of that name at the site; returns its id."""

    def apps(self) -> list[AppRecord]:
        """The registered apps, whole."""

    def submit(self, specs: Iterable[JobSpec], ensemble: EnsembleRecord | None = None) -> Submitted:
        """Store many jobs in one atomic step, or none. Rows of an ensemble that exist are kept as they are.

        A new ensemble comes along as `ensemble`, so that it is stored with its rows or not at all.
        """

    def jobs(self, query: Query) -> list[JobRow]:
        """The jobs a query names."""

    def count(self, query: Query) -> dict[str, int]:
        """Numbers by job state; states with none are left out."""

    def events(self, after: str, timeout: float = 0.0, limit: int = 10_000) -> Events:
        """State changes since the cursor `after` ("" is the beginning, "now" is from here on).

        Returns at the first change or after `timeout` seconds.
        """

    def update(self, query: Query, state: str, wait_time: float | None = 0.5) -> int:
        """Kill (USER_KILLED) or retry (RESTART_READY) jobs; returns how many it applies to.

        A job that runs is ended by its launcher: SIGTERM, and SIGKILL `wait_time` seconds later (None:
        never). Ended jobs cannot be killed, unended ones not retried: these are left out of the count.
        """

    def edit(self, ids: Iterable[int], changes: dict[str, object]) -> int:
        """Change `tags`, `data`, `parameters` (encoded) or `resources` of jobs that do not run."""

    def delete(self, query: Query) -> int:
        """Remove jobs that do not run; returns how many. Work directories stay."""

    def put_ensemble(self, record: EnsembleRecord) -> None:
        """Create the ensemble, or update its provenance."""

    def ensembles(self) -> list[EnsembleRecord]:
        """All ensembles, oldest first."""

    def allocate(self, request: AllocationRequest) -> Allocation:
        """Ask for a BatchJob."""

    def allocations(self) -> list[Allocation]:
        """All BatchJobs, oldest first, as they are now."""

    def revoke(self, allocation_id: int, timeout: float = 60.0) -> bool:
        """End a BatchJob gracefully; True once none of its launcher's processes lives."""

    def read_file(self, job_id: int, path: str) -> bytes:
        """A file below the job's work directory."""

    def file_exists(self, job_id: int, path: str) -> bool:
        """Whether a file is there below the job's work directory."""

    def output(self, job_id: int, tail: int | None = None) -> str:
        """The job's log (job.out), or its last `tail` lines; "" before there is one."""

    def command(self, job: JobRow) -> tuple[list[str], dict[str, str]]:
        """The exact argument list and the added environment a job starts with."""

    def set_values(self, values: Iterable[tuple[int, str | bytes]]) -> None:
        """Replace the encoded values of finished jobs (later extraction)."""

    def usage(self) -> Usage:
        """What this site has spent."""

    def close(self) -> None:
        """Let go of files and sockets; jobs and launchers go on."""


def open_engine(kind: str, name: str | None = None, path: str | None = None) -> Engine:
    """Open the engine of that kind at a site, creating the site where the kind can.

    Raises
    ------
    BadInput
        If `kind` is not known.
    """
    from ..errors import BadInput, nearest

    if kind == "embedded":
        from .embedded import EmbeddedEngine

        return EmbeddedEngine.open(name, path)
    raise BadInput(f"Unknown engine {kind!r}: this version has 'embedded'.{nearest(kind, ['embedded'])}")


def registered_site(kind: str, ref: int | str) -> str:
    """The name of a site of that kind that exists already, from its name or id; for when none is open yet.

    Raises
    ------
    NotFound
        Lists the sites there are.
    """
    if kind == "embedded":
        from .embedded.site import find

        return find(ref)
    return str(ref)

"""The seam: what stores and runs jobs. Two implementations keep it honest (`embedded`, `balsam`)."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..accounts import Agree, Load, Run, Usage
from ..disk import DiskUse
from ..models import (
    Allocation,
    AllocationRequest,
    AppRecord,
    EnsembleRecord,
    EventRow,
    Events,
    Finding,
    HookRun,
    JobRow,
    JobSpec,
    Query,
    Resources,
    ServiceSettings,
    ServiceStatus,
    SiteRecord,
    Submitted,
    Vacuumed,
)
from ..past import Nodes, Past
from .search import Cells, Search


class Service(Protocol):
    """What asks for allocations on the user's behalf, one process for a site.

    An engine whose sites have such a service of their own (Balsam's elastic queue is set up at the site) raises
    `Unsupported` from all of these.
    """

    def start(self, settings: ServiceSettings, replace: bool = False) -> ServiceStatus:
        """Start it detached; if it runs already with these settings, nothing happens.

        Raises `BadInput` if it runs with others, unless `replace`, and `SiteError` if it does not come up.
        """

    def stop(self, revoke: bool = False) -> bool:
        """Stop it; false if it did not run. What it asked for goes on, unless `revoke`."""

    def status(self) -> ServiceStatus:
        """How it is."""

    def run(self, settings: ServiceSettings, show: Callable[[str], None]) -> None:
        """Be the service, until SIGINT, SIGTERM or SIGHUP; `show` gets the lines of its log."""


class Accounts(Protocol):
    """What a site has spent, and what is known about what its jobs will."""

    def usage(self) -> Usage:
        """Node-hours of its allocations, and its limit."""

    def loads(self, query: Query) -> list[Load]:
        """The jobs a query names, in groups."""

    def ahead(self) -> list[Load]:
        """The jobs that could run now, and those that do."""

    def runs(self, app_name: str, most: int) -> list[Run]:
        """The last finished jobs of an app, newest first: at most so many, however many there are."""

    def footprint(self, wants: Resources) -> float:
        """How many nodes one job takes: a share of one where several jobs run on a node."""

    def check(self, request: AllocationRequest) -> None:
        """Refuse an allocation as `Engine.allocate` would; nothing is asked for."""

    def queues(self) -> list[str]:
        """The queues that an allocation may be asked for in; empty if the site does not tell."""

    def projects(self) -> list[str]:
        """The projects that may be charged; empty if any may."""


class Timeline(Protocol):
    """What the jobs of an ensemble, or (with the name "") of the whole site, did over time: to follow many at once."""

    def past(self, ensemble: str, generation: int | None, bins: int, width: float, since: float | None = None) -> Past:
        """What was up to now, without handing over every event; the later ones begin at the answer's cursor.

        Of an ensemble, the jobs that it has now; of a site, those that were deleted, too. The bins' width is `width`
        times a power of two, so that hardly more than so many are needed. `generation` None is the newest. What was
        before the time `since` is in the first bin.
        """

    def members(self, ensemble: str, generation: int | None, first: int, last: int) -> list[range]:
        """Which of the jobs `first` to `last`, all of one submission, are the ensemble's, as ranges of ids.

        Quick if they are all its own; else it reads each.
        """

    def nodes(self, ids: Iterable[int]) -> Nodes:
        """What these jobs take of the site's nodes; where all jobs take the same, no job is looked at."""


class Engine(Protocol):
    """Bulk first (a list of one is still a list); every call is safe to repeat after a crash of the caller.

    Engines are bound to one site and are safe to use from several threads.
    """

    kind: str
    site: SiteRecord
    trouble: str
    """Why nothing can be launched at the site, where it was opened all the same; else ""."""
    has_default: bool
    """Whether there can be a site called ``default``; if not, that name means the site that is open."""

    @property
    def silence(self) -> tuple[float, str] | None:
        """For how many seconds the engine has not answered, and why; None while it does.

        Meanwhile what is asked is answered from what is known.
        """

    @property
    def runs_here(self) -> bool:
        """Whether jobs run on this machine, so that one can be tried by hand."""

    def why_waiting(self) -> str:
        """Why jobs wait, where it is not for want of an allocation: the engine or the site is silent; else ""."""

    def sites(self) -> list[SiteRecord]:
        """The sites this engine can reach."""

    def register(self, app: AppRecord) -> int:
        """Create or update the app of that name at the site; returns its id."""

    def apps(self) -> list[AppRecord]:
        """The registered apps, whole."""

    def submit(
        self, specs: Iterable[JobSpec], ensemble: EnsembleRecord | None = None, agree: Agree = None
    ) -> Submitted:
        """Store many jobs in one atomic step, or none. Rows of an ensemble that exist are kept as they are.

        A new ensemble comes along as `ensemble`, so that it is stored with its rows or not at all; if it is a new
        generation, what has not ended of the one before is killed in the same step. `agree` is told how many jobs are
        new before they are stored for good; if it raises, none is.
        """

    def adopt(self, rows: Sequence[tuple[JobSpec, JobRow]], hold: int) -> int:
        """Store rows of an ensemble that finished elsewhere, with what they yielded; how many are new. None is run.

        `hold` is a job here that has not ended; an engine may have them wait for it until they are marked as finished.
        """

    def jobs(self, query: Query) -> list[JobRow]:
        """The jobs a query names."""

    def ids(self, query: Query) -> array[int]:
        """Only the ids of these jobs: what there is of a million jobs, in little memory."""

    def span(self, query: Query) -> range:
        """All ids from the first to the last job of an ensemble, or of the site; found without reading the jobs."""

    def scan(self, search: Search, ids: range | Sequence[int]) -> list[tuple[int, Any]]:
        """Those of these ids whose jobs match, ascending, each with the value that orders it (None for ``"id"``).

        It reads each of the jobs, so that many are looked through a part at a time.
        """

    def cells(self, ids: Sequence[int]) -> list[Cells]:
        """What a table shows of these jobs, in the order of their ids; those that are gone are left out."""

    def kinds(self, ensemble: str | None = None) -> list[JobRow]:
        """One runnable job that nobody holds of each kind (app, resources, tags); of many kinds only some."""

    def count(self, query: Query) -> dict[str, int]:
        """Numbers by job state; states with none are left out."""

    def events(self, after: str, timeout: float = 0.0, limit: int = 10_000) -> Events:
        """State changes since the cursor `after` ("" is the beginning, "now" is from here on).

        Changes of values, parameters, tags and the like are among them, with a path of one state. Returns at the first
        change or after `timeout` seconds.
        """

    def history(self, ids: Iterable[int]) -> list[EventRow]:
        """All state changes of these jobs, oldest first."""

    def update(self, query: Query, state: str, wait_time: float | None = 0.5, force: str = "") -> int:
        """Kill (USER_KILLED) or retry (RESTART_READY) jobs; returns how many it applies to.

        A job that runs is ended by its launcher: SIGTERM, and SIGKILL `wait_time` seconds later (None:
        never). Ended jobs cannot be killed, unended ones not retried: these are left out of the count. An engine whose
        launchers cannot end one job raises `Unsupported`, once all that wait are killed, unless `force` is "revoke":
        then the allocations in which the others run are revoked.
        """

    def edit(self, ids: Iterable[int], changes: dict[str, object]) -> int:
        """Change `tags`, `data`, `parameters` (encoded), `key` (of a row) or `resources` of jobs that do not run."""

    def delete(self, query: Query) -> int:
        """Remove jobs that do not run; returns how many. Work directories stay."""

    def tag(self, query: Query, tags: Mapping[str, str | None]) -> int:
        """Merge `tags` into those of jobs, whatever state they are in; None removes a tag. How many jobs there are."""

    def update_ensemble(self, record: EnsembleRecord) -> None:
        """Update its app's version and its provenance; nothing if it was renamed or deleted meanwhile."""

    def ensembles(self, name: str | None = None) -> list[EnsembleRecord]:
        """All ensembles, or those of one name, oldest first; of one name the generations in their order."""

    def versions(self, query: Query) -> dict[str, list[range]]:
        """Which versions of its app the ended rows of an ensemble ran with: the numbers of the rows, by version.

        Rows that ended without having run are left out.
        """

    def row_ids(self, ensemble: str, generation: int, keys: Iterable[bytes]) -> dict[bytes, int]:
        """The jobs that are the rows with these keys (`JobSpec.key`); keys that no row has are left out."""

    def rename_ensemble(self, name: str, new: str) -> None:
        """Give an ensemble, all its generations, another name, and its jobs the tag `workflow` that goes with it.

        Directories stay where they are. Raises `BadInput` if the new name is taken, `NotFound` if there is no such
        ensemble.
        """

    def delete_ensemble(self, name: str, generation: int) -> None:
        """Remove one generation: its jobs, its record and, in the background, its directory.

        Raises `BadInput` while jobs of it have not ended, `NotFound` if there is no such ensemble.
        """

    def allocate(self, request: AllocationRequest) -> Allocation:
        """Ask for a BatchJob. Raises `OverLimit` if the site could use more than its limit with it."""

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

    def read_output(self, job_id: int, start: int, most: int) -> bytes:
        """At most `most` bytes of the job's log from `start` on; b"" at its end and before there is one."""

    def output_size(self, job_id: int) -> int:
        """How many bytes the job's log has; 0 before there is one."""

    def command(self, job: JobRow) -> tuple[list[str], dict[str, str]]:
        """The exact argument list and the added environment a job starts with.

        Refuses what `submit` would refuse of a job that was never stored (its id is 0).
        """

    def try_job(self, job_id: int, folder: Path, output: int, show: Callable[[str], None]) -> int:
        """Run a job's app once more, in the foreground and in `folder`; nothing of it is stored. Its exit code.

        It gets the command, environment and inputs that a launcher would give it; hooks are not run. A negative
        exit code is the signal that ended it. `output` is the file descriptor that gets what it writes to stdout (1:
        stderr has its own), `show` gets lines about the run. `folder` is made, or has to be empty (`BadInput`).
        An engine whose jobs run on other machines raises `Unsupported`.
        """

    def set_values(self, values: Iterable[tuple[int, str | bytes]]) -> None:
        """Replace the encoded values of finished jobs (later extraction)."""

    def hooks(self) -> list[HookRun]:
        """The hooks that run now, the one that began first first."""

    def usage(self) -> Usage:
        """What this site's allocations have used, and may use."""

    @property
    def accounts(self) -> Accounts:
        """The site's accounts."""

    def run_allocation(self, request: AllocationRequest, show: Callable[[str], None]) -> Allocation:
        """Ask for a BatchJob and run its launcher as a child of this process, until it has ended.

        `show` gets the lines of its log. SIGINT, SIGTERM and SIGHUP stop it gracefully. An engine whose launchers
        run on other machines raises `Unsupported`; `allocate` is the way round.
        """

    @property
    def timeline(self) -> Timeline:
        """What was, for views that follow many jobs."""

    @property
    def service(self) -> Service:
        """The site's service."""

    def disk(self, query: Query) -> DiskUse:
        """What the jobs' work directories hold."""

    def clean(self, query: Query, keep: Iterable[str]) -> tuple[str, int]:
        """Have the files of the jobs that are JOB_FINISHED removed, in the background, but for logs and `keep`.

        Returns the order's name, and how many directories it is about. A job that is run again by then is left alone.
        """

    def cleaned(self, order: str, timeout: float = 0.0) -> bool:
        """Whether such an order has been carried out, within `timeout` seconds."""

    def check(self) -> list[Finding]:
        """What is wrong with the site, with what to do; an engine that cannot look raises `Unsupported`."""

    def vacuum(self) -> Vacuumed:
        """Make the store small and remove what ended launchers left.

        Raises `SiteError` while launchers run. An engine that keeps no store of its own raises `Unsupported`.
        """

    def close(self) -> None:
        """Let go of files and sockets; jobs and launchers go on."""


KINDS = ("embedded", "balsam")
"""The engines there are."""


def open_engine(kind: str, name: str | None = None, path: str | None = None, lenient: bool = False) -> Engine:
    """Open the engine of that kind at a site, creating the site where the kind can.

    `lenient`: a site whose settings are wrong is opened all the same, to look and to stop what runs.

    Raises
    ------
    BadInput
        If `kind` is not known.
    """
    from ..errors import BadInput, nearest

    if kind == "embedded":
        from .embedded import EmbeddedEngine

        return EmbeddedEngine.open(name, path, lenient)
    if kind == "balsam":
        from .balsam import BalsamEngine

        return BalsamEngine.open(name, path, lenient)
    raise BadInput(f"Unknown engine {kind!r}: this version has {' and '.join(KINDS)}.{nearest(kind, KINDS)}")


def sites(kind: str) -> list[SiteRecord]:
    """The sites of that kind, without opening one: id, name and directory."""
    if kind == "embedded":
        from .embedded.site import known_sites

        return [SiteRecord(number, name, str(path)) for name, (number, path) in known_sites().items()]
    if kind == "balsam":
        from .balsam.site import all_sites

        return all_sites()
    return []


def signed_in() -> bool:
    """Whether the user has signed in to a Balsam service."""
    from .balsam.signin import client_file

    return client_file().exists()


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


def site_around(kind: str, folder: Path) -> Path | None:
    """The directory of the site of that kind that `folder` is, or lies in; None where there is none (or no such)."""
    if kind == "embedded":
        from .embedded.site import around

        return around(folder)
    return None

"""The plain values every engine speaks. No behaviour beyond what the values mean."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

JOB_STATES: tuple[str, ...] = (
    "CREATED", "AWAITING_PARENTS", "READY", "STAGED_IN", "PREPROCESSED", "RUNNING", "RUN_DONE",
    "POSTPROCESSED", "STAGED_OUT", "JOB_FINISHED", "RUN_ERROR", "RUN_TIMEOUT", "RESTART_READY",
    "FAILED", "USER_KILLED",
)  # fmt: skip
"""Balsam's job states, plus our USER_KILLED."""

RUNNABLE = frozenset({"PREPROCESSED", "RESTART_READY"})
TERMINAL = frozenset({"JOB_FINISHED", "FAILED", "USER_KILLED"})
UNENDED = tuple(state for state in JOB_STATES if state not in TERMINAL)
_AFTER_RUNNING = frozenset(JOB_STATES[JOB_STATES.index("RUNNING") + 1 :])
TASK_STATES: tuple[str, ...] = ("WAITING", "RUNNING", "FINISHED", "FAILED", "USER_KILLED")
"""libEnsemble's task states, in the order a view shows them."""

TASK_STATE: dict[str, str] = {
    **dict.fromkeys((*JOB_STATES[:5], "RESTART_READY", "RUN_TIMEOUT", "RUN_ERROR"), "WAITING"),
    **dict.fromkeys(("RUNNING", "RUN_DONE", "POSTPROCESSED", "STAGED_OUT"), "RUNNING"),
    "JOB_FINISHED": "FINISHED",
    "FAILED": "FAILED",
    "USER_KILLED": "USER_KILLED",
}
"""The task state of each job state, the same on every engine."""

ALLOCATION_STATES = ("pending_submission", "queued", "running", "finished", "submit_failed", "pending_deletion")


@dataclass(frozen=True)
class Resources:
    """What one job asks for (Balsam's names).

    `num_nodes` nodes, `ranks_per_node` processes on each, `threads_per_rank` logical threads for each
    process, `threads_per_core` of them on a core, `gpus_per_rank` GPUs for each process,
    `node_packing_count` jobs at most on one node (None: the site's default), `wall_time_min` minutes
    expected (0: unknown), `launch_params` passed through to the MPI launcher.
    """

    num_nodes: int = 1
    ranks_per_node: int = 1
    threads_per_rank: int = 1
    threads_per_core: int = 1
    gpus_per_rank: float = 0
    node_packing_count: int | None = None
    wall_time_min: int = 0
    launch_params: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Parameter:
    """One parameter of an app. `type` is its annotation's name ("" if none), `choices` the values that one lists."""

    required: bool = True
    default: Any = None
    help: str = ""
    type: str = ""
    choices: tuple[Any, ...] = ()


@dataclass
class AppRecord:
    """An application as an engine stores it: plain data, plus one pickle of its functions.

    `kind` is ``"shell"`` or ``"python"``. `inputs` maps a file name to one of ``{"text": str}`` (written
    as it is), ``{"template": str}`` (rendered with the parameters) or ``{"path": str}`` (an absolute path,
    copied). `outputs` maps a name to a spec string (``"file.json:key"`` or a regular expression with one
    group searched in job.out) or to None where the spec is a callable, which then is in the payload.
    `payload` is a cloudpickle of ``{"functions": {name: function}, "attributes": {name: value},
    "outputs": {name: callable}, "sources": {file name: text}}`` (the texts of notebook cells, for tracebacks)
    or None if the app has none of these. `preamble` holds the shell lines that run before the command.
    `sys_path` lists import folders of the declaring process.
    `hooks` names those of Balsam's hooks the class defines; they are among the payload's functions. `transfers` maps a
    slot to ``{"required", "direction", "local_path", "description", "recursive"}``. `cleanup_files` are globs.
    `version` is the hash of the design's section "Identity"; `source` the text as written.
    """

    name: str
    kind: str
    version: str
    parameters: dict[str, Parameter]
    command_template: str = ""
    description: str = ""
    environment_variables: dict[str, str] = field(default_factory=dict)
    python_exe: str = ""
    preamble: list[str] = field(default_factory=list)
    inputs: dict[str, dict[str, str]] = field(default_factory=dict)
    outputs: dict[str, str | None] = field(default_factory=dict)
    sys_path: list[str] = field(default_factory=list)
    hooks: list[str] = field(default_factory=list)
    transfers: dict[str, dict[str, Any]] = field(default_factory=dict)
    cleanup_files: list[str] = field(default_factory=list)
    source: str = ""
    payload: bytes | None = None
    id: int = 0


@dataclass(frozen=True)
class JobCommon:
    """What many jobs of one submission share; share the *object*, engines look at it once.

    `ensemble` names the ensemble (stored before, or given to `Engine.submit`), None for a lone job.
    """

    app_id: int
    app_version: str = ""
    resources: Resources = Resources()
    tags: Mapping[str, str] = field(default_factory=dict)
    ensemble: str | None = None
    generation: int = 1
    max_retries: int = 0
    """Automatic reruns of a job that fails."""
    on_parent_failure: str = "fail"
    """When a parent ends badly: ``"fail"`` too, or ``"wait"`` until somebody retries the parent."""
    scratch: bool = False
    """Whether a job's directory goes when it is JOB_FINISHED."""


class JobSpec(NamedTuple):
    """One job to store. `parameters` is encoded (`codec.encode`).

    `workdir` is relative to the site's ``data/``; "" in an ensemble (its row names the directory), and
    a name ending in ``"{id}"`` gets the job's id there. `key` identifies a row of an ensemble (16 bytes of
    `codec.row_key`), None otherwise.
    """

    common: JobCommon
    parameters: str | bytes
    workdir: str = ""
    key: bytes | None = None
    data: Mapping[str, Any] | None = None
    parents: tuple[int, ...] = ()
    """Jobs that must be JOB_FINISHED before this one runs."""
    transfers: Mapping[str, str] | None = None
    """Slot of the app → ``"location:/path"``."""
    row: int | None = None  # its number in its ensemble, where that is not the next one


class Submitted(NamedTuple):
    """Answer to a submission: job ids in the order of the specs (kept rows included), and how many are new."""

    ids: array[int]
    new: int
    renamed: dict[int, str]
    """Work directories that were taken by a finished job: job id → the name given instead."""


@dataclass
class JobRow:
    """A job as stored. Times are seconds since the epoch (display only); `runtime_s` is monotonic.

    `runtime_s` is None until the job has run. `parameters`, `value` are encoded (`codec.decode`);
    `value` is what a Python app returned, or the mapping of a command's outputs; None if there is none.
    `error` is one or more lines of text ("" if none); `exception` a pickle of the remote exception.
    """

    id: int
    app_id: int
    app_name: str
    state: str
    parameters: str | bytes
    workdir: str
    resources: Resources
    tags: dict[str, str]
    ensemble: str | None
    generation: int
    row: int | None
    app_version: str
    submit_time: float
    start_time: float | None
    end_time: float | None
    runtime_s: float | None
    return_code: int | None
    batch_job_id: int | None
    attempts: int
    data: dict[str, Any]
    value: str | bytes | None
    error: str
    exception: bytes | None
    parent_ids: tuple[int, ...] = ()
    transfers: dict[str, str] = field(default_factory=dict)
    max_retries: int = 0
    on_parent_failure: str = "fail"
    scratch: bool = False


_TWO_DOUBLES = struct.Struct("dd")


class EventRow(NamedTuple):
    """State changes of one commit: jobs `first_id` … `last_id` each passed through `path`.

    `path` starts with the state left ("" at creation) and ends with the state reached ("" at deletion). A path of
    one state is no transition: something else of the jobs changed (values, parameters, tags, their ensemble). States
    up to RUNNING were reached at `time`, those after it at `end_time` (seconds since the epoch). Where several jobs
    share the row, these are the first and the last of their times; `when` has those of one.
    """

    seq: int
    first_id: int
    last_id: int
    path: tuple[str, ...]
    time: float
    end_time: float
    data: dict[str, Any]
    times: bytes = b""
    """Doubles, two for each job in the order of ids; empty where all have the times of the row."""

    def when(self, job_id: int) -> tuple[float, float]:
        """`time` and `end_time` of one of the jobs."""
        if not self.times:
            return self.time, self.end_time
        began, ended = _TWO_DOUBLES.unpack_from(self.times, _TWO_DOUBLES.size * (job_id - self.first_id))
        return began, ended

    def steps(self, job_id: int) -> list[tuple[str, str, float, dict[str, Any]]]:
        """What one of the jobs passed through: the state left, the state reached, when, and what was said about it."""
        # what a commit says is about its error, or else about where it ended
        told = next((state for state in self.path[1:] if state in ("RUN_ERROR", "RUN_TIMEOUT")), self.path[-1])
        began, ended = self.when(job_id)
        return [
            (left, reached, ended if reached in _AFTER_RUNNING else began, self.data if reached == told else {})
            for left, reached in zip(self.path, self.path[1:], strict=False)
        ]


class Events(NamedTuple):
    """Changes since a cursor, and the next cursor. `reset` is true when the cursor was too old to follow."""

    cursor: str
    rows: list[EventRow]
    reset: bool = False


@dataclass(frozen=True)
class Query:
    """Which jobs: all conditions must hold; None means any. `tags` must all match."""

    ids: tuple[int, ...] | None = None
    states: tuple[str, ...] | None = None
    tags: Mapping[str, str] | None = None
    ensemble: str | None = None
    generation: int | None = None
    """Of `ensemble`; None means its newest."""
    rows: tuple[int, ...] | None = None  # their numbers
    app_name: str | None = None
    batch_job_id: int | None = None
    workdir: str | None = None
    after_id: int | None = None
    """Only ids above this: the next page of many jobs in the order of their ids."""
    parent_ids: tuple[int, ...] | None = None
    """Children of any of these jobs."""
    order: str = "id"
    """A column of JobRow that is a plain number or text, with a leading ``-`` for descending."""
    limit: int | None = None
    offset: int = 0


@dataclass
class EnsembleRecord:
    """The durable head of an ensemble. `provenance` is a JSON-able mapping.

    `folder`, the engine's to choose, is where its rows' directories are, below the site's ``data/``.
    """

    name: str
    app_name: str
    generation: int = 1
    app_version: str = ""
    created: float = 0.0
    provenance: dict[str, Any] = field(default_factory=dict)
    folder: str = ""

    def rows(self, states: tuple[str, ...] | None = None, order: str = "id", limit: int | None = None) -> Query:
        """Its rows, of this generation."""
        return Query(ensemble=self.name, generation=self.generation, states=states, order=order, limit=limit)


@dataclass(frozen=True)
class AllocationRequest:
    """A block of `num_nodes` nodes for `wall_time_min` minutes (Balsam's BatchJob)."""

    num_nodes: int
    wall_time_min: float
    job_mode: str = "mpi"
    queue: str = "local"
    project: str = "local"
    optional_params: Mapping[str, str] = field(default_factory=dict)
    filter_tags: Mapping[str, str] = field(default_factory=dict)
    partitions: tuple[Mapping[str, Any], ...] = ()
    wf_filter: str = ""
    """Run only jobs whose tag ``workflow`` has this text in it."""
    by_service: bool = False
    """The site's service asked for it."""
    max_node_hours: float | None = None
    """Refuse it if the site might use more than so many node-hours with it, those it has used included."""


@dataclass
class Allocation:
    """An allocation as stored. Times are seconds since the epoch; `status_info` says why it ended."""

    id: int
    request: AllocationRequest
    state: str
    scheduler_id: int | None = None
    start_time: float | None = None
    end_time: float | None = None
    remaining_s: float | None = None
    status_info: dict[str, str] = field(default_factory=dict)
    nodes: tuple[int, ...] = ()
    """The numbers of the nodes it has, where the engine knows them."""


@dataclass(frozen=True)
class SiteRecord:
    """A place where jobs run; `path` is its directory, `here` whether it is on this machine. 0 cores: unknown."""

    id: int
    name: str
    path: str
    nodes: int = 1
    cores_per_node: int = 1
    gpus_per_node: int = 0
    here: bool = True


class HookRun(NamedTuple):
    """A hook that runs now, and since when (seconds since the epoch)."""

    job_id: int
    hook: str
    since: float


class Finding(NamedTuple):
    """Something a check of a site found, what to do about it, and whether it is a fault (or only litter)."""

    what: str
    todo: str
    fault: bool = True


class Vacuumed(NamedTuple):
    """What a vacuum of a site did. Sizes of the store are in bytes."""

    size_before: int
    size_after: int
    folders: int
    """Folders of closed sessions that it removed."""
    jobs: int
    """Jobs that a session held which no longer is; they can run again."""


@dataclass(frozen=True)
class ServiceSettings:
    """What the service of a site may ask for.

    Allocations of `min_nodes` to `max_nodes` nodes (`max_nodes` also for all it has asked for together) for
    `wall_time_min` minutes, at most `max_queued` of them waiting for nodes; for jobs that match `filter_tags` and
    `wf_filter`. It decides at most once in `period` seconds.
    """

    min_nodes: int = 1
    max_nodes: int = 1
    wall_time_min: float = 60
    job_mode: str = "mpi"
    max_queued: int = 1
    filter_tags: Mapping[str, str] = field(default_factory=dict)
    wf_filter: str = ""
    queue: str = "local"
    project: str = "local"
    period: float = 1.0


@dataclass(frozen=True)
class ServiceStatus:
    """Whether a site's service runs, and with which settings (None: it never did).

    `since` is when it was started (seconds since the epoch). `died` is true if it ended without having been stopped.
    `allocations` are those it asked for that have not ended; `log` the last lines of its log.
    """

    running: bool
    settings: ServiceSettings | None = None
    pid: int | None = None
    since: float | None = None
    died: bool = False
    allocations: tuple[int, ...] = ()
    log: tuple[str, ...] = ()

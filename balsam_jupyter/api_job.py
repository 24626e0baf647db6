"""Balsam's Job, over any engine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from . import codec
from .api_check import (
    is_scratch,
    job_common,
    job_ids,
    json_map,
    mapping,
    parent_failure,
    resources,
    retries,
    text_map,
    transfer_map,
    workdir_below,
)
from .api_query import Field, Model
from .api_query import Query as ModelQuery
from .api_site import Site, existing_site
from .errors import BadInput, ExecutorException, TaskFailed, TimeoutExpired
from .models import TERMINAL, JobCommon, JobRow, JobSpec, Query, Resources

if TYPE_CHECKING:
    from .api_jobs import JobManager

log = logging.getLogger(__name__)

RESOURCE_FIELDS = tuple(Resources.__dataclass_fields__)
LOG_TAIL = 10
SETTABLE = ("USER_KILLED", "RESTART_READY")
_TOO_LATE = ("app_id", "workdir", "parent_ids", "transfers", "max_retries", "on_parent_failure", "scratch")
J = TypeVar("J", bound="Job")


class NoResult(ExecutorException, ValueError):
    """A job that has no value (yet)."""


class _RemoteTraceback(Exception):
    """Shown as the cause of an exception that was raised in another process."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'


class Job(Model):
    """One invocation of an app: parameters, resources, tags, state; durable once saved.

    Parameters
    ----------
    app_id : int, str or type
        The app's id, name or class (a class is registered if it was not).
    workdir : str or Path
        Its work directory, relative to the site's ``data/``.
    parameters : mapping, optional
        The app's parameters.
    tags : mapping, optional
        Text to text.
    data : mapping, optional
        Anything that is JSON; ``self.job.data`` in a Python app.
    num_nodes, ranks_per_node, threads_per_rank, threads_per_core, gpus_per_rank, node_packing_count, launch_params
        What it needs, by Balsam's names.
    wall_time_min : int
        Minutes it is expected to run; 0: unknown.
    parent_ids : iterable of int
        Jobs that must be JOB_FINISHED before this one runs.
    transfers : mapping, optional
        For the app's transfer slots: ``{slot: "location:/path"}``; ``{id}`` in a path stands for the job's id.
    max_retries : int
        How often it is run again by itself after a run that failed.
    on_parent_failure : {"fail", "wait"}
        When a parent ends FAILED or USER_KILLED: fail, too, or wait until somebody retries the parent.
    scratch : bool
        Remove its work directory, log and all, once it is JOB_FINISHED.
    site_name : str, optional
        The site, if not the one last opened.
    """

    NoResult = NoResult

    app_id: Field[int] = Field()
    workdir: Field[Path] = Field()
    tags: Field[dict[str, str]] = Field()
    data: Field[dict[str, Any]] = Field()
    parameters: Field[dict[str, Any]] = Field()
    state: Field[str | None] = Field()
    return_code: Field[int | None] = Field()
    num_nodes: Field[int] = Field()
    ranks_per_node: Field[int] = Field()
    threads_per_rank: Field[int] = Field()
    threads_per_core: Field[int] = Field()
    launch_params: Field[dict[str, str]] = Field()
    gpus_per_rank: Field[float] = Field()
    node_packing_count: Field[int | None] = Field()
    wall_time_min: Field[int] = Field()
    parent_ids: Field[set[int]] = Field()
    transfers: Field[dict[str, str]] = Field()
    max_retries: Field[int] = Field()
    on_parent_failure: Field[str] = Field()
    scratch: Field[bool] = Field()
    batch_job_id: Field[int | None] = Field()
    ensemble: Field[str | None] = Field()
    objects: ClassVar[JobManager]

    def __init__(
        self,
        app_id: int | str | type,
        workdir: str | os.PathLike[str],
        parameters: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        data: Mapping[str, Any] | None = None,
        *,
        num_nodes: int = 1,
        ranks_per_node: int = 1,
        threads_per_rank: int = 1,
        threads_per_core: int = 1,
        launch_params: Mapping[str, str] | None = None,
        gpus_per_rank: float = 0,
        node_packing_count: int | None = None,
        wall_time_min: int = 0,
        parent_ids: Iterable[int] = (),
        transfers: Mapping[str, Any] | None = None,
        max_retries: int = 0,
        on_parent_failure: str = "fail",
        scratch: bool = False,
        site_name: str | Site | None = None,
    ) -> None:
        super().__init__()
        self._site = existing_site(site_name)
        self._row: JobRow | None = None
        self._values.update(
            app_id=self._site.app(app_id).id,
            workdir=Path(workdir),
            parameters=mapping("parameters", parameters),
            tags=mapping("tags", tags),
            data=json_map("data", data),
            num_nodes=num_nodes,
            ranks_per_node=ranks_per_node,
            threads_per_rank=threads_per_rank,
            threads_per_core=threads_per_core,
            launch_params=mapping("launch_params", launch_params),
            gpus_per_rank=gpus_per_rank,
            node_packing_count=node_packing_count,
            wall_time_min=wall_time_min,
            parent_ids=set(job_ids(parent_ids)),
            transfers=transfer_map(transfers),
            max_retries=retries(max_retries),
            on_parent_failure=parent_failure(on_parent_failure),
            scratch=is_scratch(scratch),
        )

    @classmethod
    def _of(cls: type[J], row: JobRow, site: Site) -> J:
        """A saved job from its row."""
        job = cls.__new__(cls)
        Model.__init__(job)
        job._row, job._site = row, site
        return job

    def _read(self, name: str) -> Any:
        row = self._row
        if row is None:
            return None
        if name in RESOURCE_FIELDS:
            return getattr(row.resources, name)
        if name == "parameters":
            return codec.decode(row.parameters)
        if name == "workdir":
            return Path(row.workdir)
        return set(row.parent_ids) if name == "parent_ids" else getattr(row, name)

    def _may_set(self, name: str) -> bool:
        if name in ("id", "return_code", "batch_job_id", "ensemble"):
            return False
        return name not in _TOO_LATE if self._row is not None else name != "state"

    @property
    def app(self) -> type:
        """The app's class, loaded from the site."""
        from .apps import app_from_record

        return app_from_record(self._site.app(self.app_id))

    @property
    def site(self) -> Site:
        """The job's site."""
        return self._site

    @property
    def site_id(self) -> int:
        """The id of the job's site."""
        return int(self._site.id)

    def get_parameters(self) -> dict[str, Any]:
        """The parameters."""
        return self.parameters

    def set_parameters(self, value: Mapping[str, Any]) -> None:
        """Replace the parameters (stored at `save`)."""
        self.parameters = dict(value)

    def save(self) -> None:
        """Store a new job, or the changed fields of a stored one.

        A state can be set to ``"USER_KILLED"`` (kill) or ``"RESTART_READY"`` (run again).
        """
        if self._row is None:
            Job.objects.bulk_create([self])
            return
        changes = self._changes()
        state = changes.pop("state", None)
        edits = self._edits(changes)
        engine = self._site.engine
        if state is not None and state not in SETTABLE:
            raise BadInput(
                f"A job's state can be set to 'USER_KILLED' or 'RESTART_READY', not {state!r}; the rest is the site's."
            )
        if edits and not engine.edit([self._row.id], edits | self._key(edits)):
            raise ExecutorException(
                f"Job {self._row.id} runs or is gone; its {', '.join(edits)} cannot be changed now."
            )
        if state is not None and not engine.update(Query(ids=(self._row.id,)), state):
            self.refresh_from_db()
            cannot = "it has not ended"
            if self.state in TERMINAL:
                cannot = "it has ended" if state == "USER_KILLED" else "only jobs that failed or were killed run again"
            raise ExecutorException(f"Job {self._row.id} is {self.state}: {cannot}, so it cannot become {state}.")
        self.refresh_from_db()

    def checked_edits(self, changes: dict[str, Any]) -> dict[str, object]:
        """Set these fields; they come back as an engine stores them, checked."""
        for name, value in changes.items():
            setattr(self, name, value)
        return self._edits(changes)

    def parent_query(self) -> ModelQuery[Job]:
        """Its parents."""
        return Job.objects.filter(id=sorted(self.parent_ids))

    def _edits(self, changes: dict[str, Any]) -> dict[str, object]:
        edits: dict[str, object] = {}
        if any(name in RESOURCE_FIELDS for name in changes):
            edits["resources"] = self._resources()
        for name, value in changes.items():
            if name == "parameters":
                edits[name] = codec.encode(self._checked_parameters())
            elif name in ("tags", "data"):
                edits[name] = text_map("tags", value) if name == "tags" else json_map("data", value)
        return edits

    def _key(self, edits: Mapping[str, object]) -> dict[str, object]:
        """What identifies a row whose parameters change: a sweep finds it by those it is given now."""
        if "parameters" not in edits or self._row is None or self._row.ensemble is None:
            return {}
        return {"key": codec.row_key(self._row.app_name, codec.canonical(self._checked_parameters()), 0)}

    def _resources(self) -> Resources:
        return resources(**{name: getattr(self, name) for name in RESOURCE_FIELDS})

    def _checked_parameters(self) -> dict[str, Any]:
        from .apps import check_parameters

        return check_parameters(self._site.app(self.app_id), self.parameters)

    def _spec(self, shared: dict[Any, JobCommon]) -> JobSpec:
        """What the engine stores, checked; jobs with equal resources and tags share them."""
        tags, wants = text_map("tags", self.tags), self._resources()
        app = self._site.app(self.app_id)
        common = job_common(app, wants, tags, self.max_retries, self.on_parent_failure, self.scratch)
        common = shared.setdefault(repr(common), common)
        parameters, folder = codec.encode(self._checked_parameters()), workdir_below(self.workdir)
        parents, files = job_ids(self.parent_ids), transfer_map(self.transfers)
        return JobSpec(common, parameters, folder, None, self.data or None, parents, files or None)

    def delete(self) -> None:
        """Remove the job; its work directory stays. A job that runs is refused: kill it first."""
        if self._row is None:
            raise BadInput("This job was never saved.")
        if not self._site.engine.delete(Query(ids=(self._row.id,))):
            raise ExecutorException(
                f"Job {self._row.id} runs or is gone: kill it (state = 'USER_KILLED', save()) first."
            )
        self._row = None

    def refresh_from_db(self) -> None:
        """Forget unsaved changes and read the job as it is now."""
        if self._row is None:
            raise BadInput("This job was never saved: save() it first.")
        found = self._site.engine.jobs(Query(ids=(self._row.id,)))
        if not found:
            raise self.DoesNotExist(f"Job {self._row.id} was deleted.")
        self._row = found[0]
        self._values.clear()

    def done(self) -> bool:
        """Whether it has ended, as of now."""
        self.refresh_from_db()
        return self.state in TERMINAL

    def wait(self, timeout: float | None = None) -> None:
        """Block until the job has ended (`TimeoutExpired` after `timeout` seconds)."""
        if Job.objects.wait([self], timeout).not_done:
            raise TimeoutExpired(f"Job {self.id}", timeout or 0.0)

    def result(self, timeout: float | None = None) -> Any:
        """Wait, then `result_nowait`."""
        self.wait(timeout)
        return self.result_nowait()

    def result_nowait(self) -> Any:
        """What the app yielded; re-raises what it raised, with the remote traceback.

        Raises
        ------
        Job.NoResult
            If there is nothing (yet).
        TaskFailed
            If a command failed or the job was killed: with the return code and the log's last lines.
        """
        row = self._row
        if row is None or row.state not in TERMINAL:
            raise NoResult(f"Job {self.id} has not ended ({self.state}); result() waits for it.")
        value = outcome(row, self._site)
        if row.value is None:
            raise NoResult(f"App {row.app_name} yields no values; give it `outputs`.")
        return value

    def resolve_workdir(self, data_path: str | os.PathLike[str]) -> Path:
        """The work directory below a site's data folder."""
        return Path(data_path) / self.workdir


def outcome(row: JobRow, site: Site) -> Any:
    """The decoded value of an ended job (None if it has none); raises what it raised, or `TaskFailed`."""
    name = f"{row.app_name} (job {row.id})"
    if row.state == "JOB_FINISHED":
        try:
            return codec.decode(row.value) if row.value is not None else None
        except Exception as error:  # its class is not here, or it is no value at all
            raise ExecutorException(
                f"{name} finished, but its value cannot be read here ({type(error).__name__}: {error}): import or "
                "declare what it is made of, as the app does, and ask again."
            ) from error
    if row.state == "USER_KILLED":
        raise TaskFailed(f"{name} was killed, so it has no value.")
    if row.exception is not None:
        try:
            remote = codec.decode(row.exception)
        except Exception as error:  # its class may not exist here; the text below says what it was
            log.debug("exception of job %s: %s", row.id, error)
        else:
            if isinstance(remote, Exception):  # a KeyboardInterrupt out there is none here
                remote.__cause__ = _RemoteTraceback(row.error)
                raise remote
    code = "" if row.return_code is None else f" with return code {row.return_code}"
    why = f": {row.error.strip()}" if row.error.strip() else ""
    tail = site.engine.output(row.id, LOG_TAIL).rstrip()
    shown = f"\nThe last lines of {row.workdir}/job.out:\n{tail}" if tail and tail not in why else ""
    raise TaskFailed(f"{name} failed{code}{why}{shown}")

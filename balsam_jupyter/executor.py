"""BalsamExecutor: libEnsemble's Balsam executor, over any engine."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from . import codec
from .api import BatchJob, Site, current_site, open_site
from .api_check import allocation_request, job_common, job_ids, task_resources, text_map, transfer_map, workdir_below
from .api_site import existing_site, find_site
from .apps import app_record, check_parameters
from .cost import Price, asked_of, price
from .ensemble import Ensemble
from .errors import BadInput, ExecutorException, NotFound
from .models import AppRecord, JobSpec, Query
from .selection import record_of
from .submission import LONE_TASKS, check_app, newest, row_count, slug, store_sweep
from .task import BalsamTask, Follower, unstored_task
from .views import ExecutorViews

log = logging.getLogger(__name__)

_NONE: Mapping[str, Any] = MappingProxyType({})


class BalsamExecutor(ExecutorViews):
    """Registers apps, asks for allocations and submits tasks, at one site.

    Parameters
    ----------
    site : Site, str or int, optional
        The site, or its name or id; by default the one last opened, else the site ``default``.
    """

    def __init__(self, site: Site | str | int | None = None) -> None:
        if site is None:
            try:
                self.site = current_site()
            except NotFound:
                self.site = open_site()
        else:
            self.site = existing_site(site)
        self._follower = Follower(self.site)
        self._defaults: dict[str, str] = {}
        self.allocations: list[BatchJob] = []

    def __repr__(self) -> str:
        return f"<BalsamExecutor at site {self.site.name!r}>"

    def register_app(
        self,
        BalsamApp: type,
        app_name: str | None = None,
        calc_type: str | None = None,
        desc: str | None = None,
        precedent: str | None = None,
    ) -> None:
        """Register an application at the site, or its new version.

        Parameters
        ----------
        BalsamApp : type
            A class that has the shape of an ApplicationDefinition, ours or Balsam's.
        app_name : str, optional
            The name to submit it by; the class's name by default.
        calc_type : {"sim", "gen"}, optional
            Make it the default app of that kind.
        desc : str, optional
            A description; the class's docstring by default.
        precedent : str, optional
            Not used by Balsam: write what comes before the program into the command template.
        """
        check_app(BalsamApp, app_name, calc_type)
        if precedent is not None:
            log.warning("precedent is not used; write it into the command template.")
        if app_name is None and desc is None:
            record = self.site.register(BalsamApp)
        else:
            record = app_record(BalsamApp)
            record.name, record.description = app_name or record.name, desc or record.description
            self.site.register(record)
        if calc_type is not None:
            self._defaults[calc_type] = record.name

    def submit_allocation(
        self,
        site_id: int | str | Site,
        num_nodes: int,
        wall_time_min: float,
        job_mode: str = "mpi",
        queue: str = "local",
        project: str = "local",
        optional_params: Mapping[str, str] = _NONE,
        filter_tags: Mapping[str, str] = _NONE,
        partitions: Sequence[Mapping[str, Any] | str] = (),
        wf_filter: str = "",
        max_node_hours: float | None = None,
    ) -> BatchJob:
        """Ask for a block of nodes in which tasks run.

        Parameters
        ----------
        site_id : int or str
            The site's id or name.
        num_nodes : int
            Nodes for all tasks together.
        wall_time_min : float
            Minutes until the allocation ends.
        job_mode : {"mpi", "serial"}
            How its launcher starts tasks.
        queue, project : str
            The scheduler's queue and the account that is charged.
        optional_params : mapping
            Variables of the site's ``job-template.sh``.
        filter_tags : mapping
            Run only tasks that have all these tags.
        partitions : list of mappings or str, optional
            Parts with `num_nodes`, `job_mode` and `filter_tags` of their own, or written ``"mpi:2:role=leader"``.
        wf_filter : str
            Run only tasks whose tag ``workflow`` (which an ensemble's name fills) has this text in it.
        max_node_hours : float, optional
            Refuse it if the site might use more than so many node-hours with it: what it has used and what live
            allocations may still use count. The site's own limit is `max_node_hours` in its settings.yml.

        Returns
        -------
        BatchJob
            Give it to `revoke_allocation` when it is no longer needed.

        Raises
        ------
        BadInput, OverLimit
            If it cannot be, or could take the site over a limit; nothing is asked for then.
        """
        site = find_site(site_id, self.site)
        request = allocation_request(
            site.engine.site, num_nodes, wall_time_min, job_mode, queue, project, optional_params, filter_tags,
            partitions, wf_filter, max_node_hours,
        )  # fmt: skip
        allocation = BatchJob._of(site.engine.allocate(request), site)
        self.allocations.append(allocation)
        log.info("Allocation %s at site %s: %s nodes, %g min", allocation.id, site.name, num_nodes, wall_time_min)
        return allocation

    def revoke_allocation(self, allocation: BatchJob | int, timeout: float = 60) -> bool:
        """End an allocation gracefully: its running tasks become ready to run again.

        Parameters
        ----------
        allocation : BatchJob or int
            The allocation or its id.
        timeout : float
            Seconds to wait for its launcher to be gone.

        Returns
        -------
        bool
            True once none of its launcher's processes lives.
        """
        if isinstance(allocation, BatchJob):
            return allocation.revoke(timeout)
        known = [one.id for one in self.site.engine.allocations()]
        if isinstance(allocation, bool) or allocation not in known:
            raise NotFound(f"Site {self.site.name!r} has no allocation {allocation!r}.")
        return self.site.engine.revoke(allocation, timeout)

    def submit(
        self,
        calc_type: str | None = None,
        app_name: str | None = None,
        app_args: Mapping[str, Any] | None = None,
        num_procs: int | None = None,
        num_nodes: int | None = None,
        procs_per_node: int | None = None,
        max_tasks_per_node: int | None = None,
        machinefile: str | None = None,
        gpus_per_rank: float = 0,
        transfers: Mapping[str, Any] = _NONE,
        workdir: str = "",
        dry_run: bool = False,
        wait_on_start: bool = False,
        extra_args: Mapping[str, str] = _NONE,
        tags: Mapping[str, str] = _NONE,
        *,
        threads_per_rank: int = 1,
        wall_time_min: float = 0,
        max_retries: int = 0,
        parent_ids: Any = (),
        on_parent_failure: str = "fail",
        scratch: bool = False,
    ) -> BalsamTask:
        """Submit one task.

        Parameters
        ----------
        calc_type : {"sim", "gen"}, optional
            Use the default app of that kind, where `app_name` is not given.
        app_name : str, optional
            The app.
        app_args : mapping
            The app's parameters.
        num_procs, num_nodes, procs_per_node : int, optional
            Ranks in all, nodes, ranks on each node; `num_procs` alone means one node.
        max_tasks_per_node : int, optional
            Tasks at most on one node.
        machinefile : str, optional
            Not supported: the launcher places ranks.
        gpus_per_rank : float
            GPUs for each rank.
        transfers : mapping
            Files for the app's transfer slots: ``{slot: "location:/path"}``, with a location of the site's settings;
            ``{id}`` in a path stands for the task's id.
        workdir : str
            The work directory below ``data/libe_workflow/``; by default the app's name and the task's id.
        dry_run : bool
            Store and run nothing; the task returned has the exact command line in `runline` (of several lines, the
            script that a shell runs) and the added environment in `env`.
        wait_on_start : bool
            Return when the task runs (or has ended).
        extra_args : mapping
            Passed through to the MPI launcher.
        tags : mapping
            Text to text, to find the task by and for an allocation's `filter_tags`.
        threads_per_rank : int
            Threads of each rank; as many cores are its own.
        wall_time_min : float
            Minutes it may take, for the order of tasks and so that none is started that cannot end in time.
        max_retries : int
            How often it is run again by itself after a run that failed.
        parent_ids : list of task, Job or int
            Tasks that must have finished before this one runs.
        on_parent_failure : {"fail", "wait"}
            When one of them fails or is killed: fail, too, or wait until somebody retries it.
        scratch : bool
            Remove the work directory, log and all, once the task has finished well and its outputs are stored.

        Returns
        -------
        BalsamTask
            The handle to poll, wait for or kill it.

        Raises
        ------
        BadInput, NotFound, Unsupported
            If something of it cannot be; nothing is stored then.
        """
        app = self._app(calc_type, app_name)
        wants = task_resources(
            num_procs, num_nodes, procs_per_node, max_tasks_per_node, machinefile, gpus_per_rank=gpus_per_rank,
            launch_params=extra_args, threads_per_rank=threads_per_rank, wall_time_min=wall_time_min,
        )  # fmt: skip
        words = text_map("tags", tags)
        folder = workdir_below(workdir if workdir not in (None, "") else f"{slug(app.name)}_{{id}}", LONE_TASKS)
        if app_args is not None and not isinstance(app_args, Mapping):
            raise BadInput(f"app_args is a mapping of the app's parameters such as {{'T': 300}}, not {app_args!r}.")
        parameters = codec.encode(check_parameters(app, app_args or {}))
        common = job_common(app, wants, words, max_retries, on_parent_failure, scratch)
        spec = JobSpec(common, parameters, folder, None, None, job_ids(parent_ids), transfer_map(transfers) or None)
        if dry_run:
            return unstored_task(self.site, app, folder, spec)
        submitted = self.site.engine.submit([spec])
        number = submitted.ids[0]
        for name in submitted.renamed.values():
            log.warning("A finished task has the work directory %s: this one gets %s.", folder, name)
        (task,) = self._follower.tasks(self.site.engine.jobs(Query(ids=(number,))))
        if wait_on_start:
            task._wait(lambda: task.finished or task.state == "RUNNING", None)
        return task

    def submit_sweep(
        self,
        app_name: str,
        sweep: Any,
        name: str | None = None,
        num_procs: int | None = None,
        num_nodes: int | None = None,
        procs_per_node: int | None = None,
        max_tasks_per_node: int | None = None,
        machinefile: str | None = None,
        gpus_per_rank: float = 0,
        transfers: Mapping[str, Any] = _NONE,
        extra_args: Mapping[str, str] = _NONE,
        tags: Mapping[str, str] = _NONE,
        *,
        threads_per_rank: int = 1,
        wall_time_min: float = 0,
        max_retries: int = 0,
        parent_ids: Any = (),
        on_parent_failure: str = "fail",
        max_node_hours: float | None = None,
        scratch: bool = False,
        if_changed: str | None = None,
    ) -> Ensemble:
        """Submit a task for each row of a sweep, in one step. Rows that the ensemble has already are kept.

        Parameters
        ----------
        app_name : str
            The app.
        sweep : Sweep, mapping of lists, list of mappings or DataFrame
            Its parameters, row by row; a mapping of lists is a grid.
        name : str, optional
            The ensemble's name; by default the app's with a short hash of the sweep, so that running the
            same cell again finds the same ensemble.
        num_procs, num_nodes, procs_per_node, max_tasks_per_node, machinefile, gpus_per_rank, transfers, extra_args
            As in `submit`, for each task; so are `threads_per_rank` and `wall_time_min`.
        max_retries, parent_ids, on_parent_failure, scratch
            As in `submit`, for each task; they count for the rows that are new.
        tags : mapping
            For each task, beside ``workflow``, which is the ensemble's name.
        max_node_hours : float, optional
            Refuse it if the site is expected to have used more than so many node-hours after the new rows.
        if_changed : {"keep", "fresh"}, optional
            If rows ended with another version of the app: they count from then on, or all rows run in a new
            generation (what has not ended of the old one is killed). By default refused, naming the rows.

        Returns
        -------
        Ensemble
            With `new` rows added and `kept` rows.

        Raises
        ------
        BadInput, NotFound, Unsupported, OverLimit
            If any row or name cannot be, it costs too much, or the app has changed; nothing is stored then.
        """
        app = self._app(None, app_name)
        wants = task_resources(
            num_procs, num_nodes, procs_per_node, max_tasks_per_node, machinefile, gpus_per_rank=gpus_per_rank,
            launch_params=extra_args, threads_per_rank=threads_per_rank, wall_time_min=wall_time_min,
        )  # fmt: skip
        common = job_common(app, wants, text_map("tags", tags), max_retries, on_parent_failure, scratch)
        files = transfer_map(transfers) or None
        parents = job_ids(parent_ids)
        stored = store_sweep(self.site, app, sweep, name, common, parents, files, if_changed, max_node_hours)
        if stored.note:
            log.warning("%s: %s.", stored.record.name, stored.note)
        return Ensemble(self.site, self._follower, stored.record, stored.new, stored.first_new)

    def price(self, app_name: str, sweep: Any, **wants: Any) -> Price:
        """What `submit_sweep` with these arguments would cost, as far as it is known; nothing is stored.

        Parameters
        ----------
        app_name : str
            The app.
        sweep : Sweep, mapping of lists, list of mappings, DataFrame or int
            As for `submit_sweep`, or how many rows it has.
        **wants
            As for `submit_sweep`: `num_procs`, `num_nodes`, `procs_per_node`, `wall_time_min`, `tags`, …

        Returns
        -------
        Price
            With `node_hours`, `expected_s` (low, middle, high) and whether it `fits` into the live allocations.
        """
        return price(self.site, self._app(None, app_name), row_count(sweep), *asked_of(wants))

    def ensemble(self, name: str, generation: int | None = None) -> Ensemble:
        """The ensemble of that name, whichever kernel submitted it; by default its newest generation."""
        return Ensemble(self.site, self._follower, record_of(self.site, name, generation))

    def ensembles(self) -> list[Ensemble]:
        """All ensembles of the site (their newest generations), oldest first."""
        return [Ensemble(self.site, self._follower, one) for one in newest(self.site.engine.ensembles()).values()]

    def poll(self) -> None:
        """Bring all tasks of this executor up to date, at once."""
        self._follower.poll()

    def _app(self, calc_type: str | None, app_name: str | None) -> AppRecord:
        if app_name is None:
            if calc_type is None:
                raise BadInput("Which app? Give app_name (or calc_type, after register_app(…, calc_type='sim')).")
            if calc_type not in self._defaults:
                raise BadInput(f"No default {calc_type!r} app: register_app(…, calc_type={calc_type!r}) sets it.")
            app_name = self._defaults[calc_type]
        if isinstance(app_name, type):  # the class itself, for those who have it at hand
            return self.site.app(app_name)
        try:
            return self.site.app(app_name)
        except NotFound:
            # libEnsemble named an app after the first word of its command.
            words = [one for one in self.site.engine.apps() if one.command_template.split()[:1] == [app_name]]
            if len(words) == 1:
                return self.site.app(words[0].name)
            raise


__all__ = ["BalsamExecutor", "BalsamTask", "ExecutorException"]

"""The Balsam engine behind the seam."""

from __future__ import annotations

import os
import shlex
import threading
import time
from array import array
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from weakref import WeakSet

from ...accounts import Agree, Usage
from ...codec import decode
from ...errors import BadInput, NoAnswer, NotFound, NotSignedIn, Unsupported
from ...models import (
    Allocation,
    AllocationRequest,
    AppRecord,
    EnsembleRecord,
    EventRow,
    Events,
    HookRun,
    JobRow,
    JobSpec,
    Query,
    SiteRecord,
    Submitted,
)
from ...shelltext import shell
from ...templates import CommandTemplate
from ..embedded import files
from ..embedded.browsing import PageCalls
from ..embedded.site import Settings
from ..embedded.store import demand, ensembles, jobs, records
from ..embedded.timeline import SiteTimeline
from . import acts, adoption, apps, mirror, pythons, queue, signin, site, story, truth
from . import jobs as submission
from .accounts import RemoteAccounts
from .changes import Changes
from .mirror import Mirror
from .news import Apply
from .refused import Refused
from .rest import Rest

_LOOK_S = 0.25  # how often a waiting thread looks whether another process has read something
_UNKNOWN_CORES = 64


_engines: WeakSet[BalsamEngine] = WeakSet()


class BalsamEngine(PageCalls, Refused):
    """Stores and runs jobs at a site of a Balsam service. See `engines.base.Engine` for what the calls do."""

    store: Mirror
    kind = "balsam"
    has_default = False
    trouble = ""
    runs_here = False

    def __init__(self, rest: Rest, record: SiteRecord, store: Mirror) -> None:
        self.rest, self.site, self.store = rest, record, store
        self.settings = Settings(
            nodes=record.nodes,
            cores_per_node=record.cores_per_node or _UNKNOWN_CORES,
            gpus_per_node=record.gpus_per_node,
        )
        self.submitting = threading.RLock()
        self.accounts = RemoteAccounts(self)
        self.timeline = SiteTimeline(self)
        self._closed = threading.Event()
        self._settling: int | None = None  # the thread that does
        self.changes = Changes(rest, store, record.id, self._settle)
        self.under_way: Future[Any] | None = None
        """What an interrupted submission still had to hear of."""
        _engines.add(self)

    def after_fork(self) -> None:
        """Begin anew in a forked child: threads, with what they held, stayed in the parent."""
        self.submitting, self._settling, self.under_way = threading.RLock(), None, None
        self.rest.after_fork()
        self.store.after_fork()
        self.changes.after_fork()

    @classmethod
    def open(cls, name: str | None = None, path: str | None = None, lenient: bool = False) -> BalsamEngine:
        """Open a site of the service that one is signed in to; the only one, if no name is given.

        Raises
        ------
        NotSignedIn
            Says what to run.
        NotFound
            Lists the sites.
        NoAnswer
            If the service is silent and nothing is known here of the site.
        """
        if path is not None:
            raise BadInput("A site of a Balsam service is opened by its name; leave out the path.")
        rest = Rest(signin.read)
        try:
            row = site.find(rest, None if name in (None, "default") else name)
            store = Mirror(site.mirror_path(rest.address, row["id"]))
            with store.transaction() as con:
                mirror.keep(con, "site", row)
        except NoAnswer:
            known = site.known_here(rest.address, name)
            if known is None:
                raise
            store, row = known, known.note("site")
        engine = cls(rest, site.describe(row), store)
        engine.refresh()
        return engine

    def sites(self) -> list[SiteRecord]:
        try:
            _, rows = self.rest.page("/sites/", [("limit", 1000)])
        except (NoAnswer, NotSignedIn):
            return [self.site]
        return [self.site if row["id"] == self.site.id else site.describe(row) for row in rows]

    def remote_site(self) -> dict[str, Any]:
        """The site's record at the service, as it was read last."""
        found: dict[str, Any] = self.store.note("site") or {}
        return found

    def queues(self) -> dict[str, dict[str, int]]:
        """The queues one may ask for, with their limits."""
        return dict(self.remote_site().get("allowed_queues") or {})

    # -- keeping up -----------------------------------------------------------------------------------------

    def refresh(self, now: bool = False) -> None:
        """Bring the mirror up to date, if that was not done just now."""
        self.changes.look(now)

    def look_again(self) -> None:
        """After something was changed at the service: all of it is in the mirror then."""
        self.changes.hurry()
        if self._settling != threading.get_ident():
            self.changes.catch_up()

    def forget(self, ids: Iterable[int]) -> None:
        """Jobs that were just removed."""
        with self.store.transaction() as con:
            Apply(con, time.time()).gone(ids)

    def _settle(self) -> int:
        self._settling = threading.get_ident()
        try:
            return acts.settle(self)
        finally:
            self._settling = None

    @property
    def silence(self) -> tuple[float, str] | None:
        found = self.changes.silence
        return None if found is None else (time.monotonic() - found.since, str(found.error))

    # -- apps and jobs --------------------------------------------------------------------------------------

    def register(self, app: AppRecord) -> int:
        known = next((one for one in self.apps() if one.name == app.name), None)
        try:  # another machine may have changed or deleted it
            _, found = self.rest.page("/apps/", [("site_id", self.site.id), ("name", app.name)])
        except (NoAnswer, NotSignedIn):
            if known is not None and apps.same(known, app):
                return known.id
            raise
        if found and apps.same(there := apps.record(found[0]), app):
            apps.put(self.store, there)
            return there.id
        pythons.registered(self, app)
        body = apps.body(app, self.site.id)
        if found:
            row = self.rest.set("PUT", f"/apps/{found[0]['id']}", body)
            apps.tell_of_update(self.store, app)
        else:
            row = apps.create(self.rest, body)
        apps.put(self.store, apps.with_id(app, int(row["id"])))
        return int(row["id"])

    def apps(self) -> list[AppRecord]:
        self.refresh()
        return records.apps(self.store.con)

    def submit(
        self, specs: Iterable[JobSpec], ensemble: EnsembleRecord | None = None, agree: Agree = None
    ) -> Submitted:
        return submission.submit(self, specs, ensemble, agree)

    def adopt(self, rows: Sequence[tuple[JobSpec, JobRow]], hold: int) -> int:
        return adoption.adopt(self, rows, hold)

    def jobs(self, query: Query) -> list[JobRow]:
        self.refresh()
        rows = jobs.select(self.store.con, query)
        if mirror.untold(self.store.con, 1):
            lacking = [row.id for row in rows if row.state not in ("STAGED_IN", "AWAITING_PARENTS", "READY")]
            if mirror.untold(self.store.con, 1, lacking):
                self.changes.tell(lacking)
                rows = jobs.select(self.store.con, query)
        return rows

    def ids(self, query: Query) -> array[int]:
        self.refresh()
        return jobs.ids(self.store.con, query)

    def kinds(self, ensemble: str | None = None) -> list[JobRow]:
        found = demand.samples(self.store.con, ensemble)
        return jobs.select(self.store.con, Query(ids=tuple(found))) if found else []

    def count(self, query: Query) -> dict[str, int]:
        self.refresh()
        return jobs.count(self.store.con, query)

    def update(self, query: Query, state: str, wait_time: float | None = 0.5, force: str = "") -> int:
        if state == "USER_KILLED":
            return acts.kill(self, query, "revoke" if force == "revoke" else "refuse")
        if state == "RESTART_READY":
            return acts.retry(self, query)
        raise BadInput(f"A job's state can be set to USER_KILLED or RESTART_READY, not to {state!r}.")

    def kill(self, query: Query, running: str) -> int:
        """See `acts.kill`."""
        return acts.kill(self, query, running)

    def edit(self, ids: Iterable[int], changes: dict[str, object]) -> int:
        return acts.edit(self, ids, changes)

    def delete(self, query: Query) -> int:
        return acts.delete(self, query)

    def set_values(self, values: Iterable[tuple[int, str | bytes]]) -> None:
        acts.set_values(self, values)

    def tag(self, query: Query, tags: Mapping[str, str | None]) -> int:
        return acts.tag(self, query, tags)

    # -- ensembles ------------------------------------------------------------------------------------------

    def update_ensemble(self, record: EnsembleRecord) -> None:
        with self.store.transaction() as con:
            ensembles.update(con, record)

    def ensembles(self, name: str | None = None) -> list[EnsembleRecord]:
        self.refresh()
        return ensembles.records(self.store.con, name)

    def versions(self, query: Query) -> dict[str, list[range]]:
        self.refresh()
        return ensembles.versions(self.store.con, query)

    def row_ids(self, ensemble: str, generation: int, keys: Iterable[bytes]) -> dict[bytes, int]:
        self.refresh()
        return ensembles.row_ids(self.store.con, ensemble, generation, keys)

    def rename_ensemble(self, name: str, new: str) -> None:
        generations = [one.generation for one in self.ensembles(name)]

        def store(before: str, after: str) -> None:
            with self.store.transaction() as con:
                ensembles.rename(con, before, after)

        acts.rename(self, name, new, generations, store)

    def delete_ensemble(self, name: str, generation: int) -> None:
        self.refresh(now=True)
        rows = Query(ensemble=name, generation=generation)
        with self.store.transaction() as con:
            ensembles.refuse_unended(con, name, generation)
        acts.delete(self, rows)
        with self.store.transaction() as con:
            folder = ensembles.delete(con, name, generation)
            mirror.keep(con, "folders", sorted({*(self.store.note("folders") or ()), folder}))

    # -- changes --------------------------------------------------------------------------------------------

    def events(self, after: str, timeout: float = 0.0, limit: int = 10_000) -> Events:
        self.refresh()
        if after == "now":
            return Events(str(records.last_event(self.store.con)), [])
        last, deadline = int(after or 0), time.monotonic() + timeout
        while True:
            rows = records.events(self.store.con, last, limit)
            left = deadline - time.monotonic()
            if rows or left <= 0 or self._closed.is_set():
                return Events(str(rows[-1].seq if rows else last), rows)
            due = self.changes.due_in()
            if due <= 0:
                self.refresh()
            else:
                self._closed.wait(min(left, due, _LOOK_S))

    def history(self, ids: Iterable[int]) -> list[EventRow]:
        self.refresh()
        return records.history(self.store.con, ids)

    # -- allocations ----------------------------------------------------------------------------------------

    def allocate(self, request: AllocationRequest) -> Allocation:
        self.accounts.check(request)
        row = queue.create(self.rest, truth.request(self, request))
        with self.store.transaction() as con:
            queue.put(con, row)
        self.changes.hurry()
        return records.allocation(self.store.con, row["id"])

    def allocations(self) -> list[Allocation]:
        self.refresh()
        return records.allocations(self.store.con)

    def revoke(self, allocation_id: int, timeout: float = 60.0) -> bool:
        records.allocation(self.store.con, allocation_id)
        return queue.revoke(self, allocation_id, timeout)

    # -- what a job left ------------------------------------------------------------------------------------

    def _job(self, job_id: int) -> JobRow:
        found = self.jobs(Query(ids=(job_id,)))
        if not found:
            raise NotFound(f"There is no job {job_id} at the site {self.site.name!r}.")
        return found[0]

    def _workdir(self, job_id: int) -> Path | None:
        """The job's directory, where it can be seen from this machine."""
        return Path(self.site.path) / "data" / self._job(job_id).workdir if self.site.here else None

    def _folder(self, job_id: int) -> Path:
        folder = self._workdir(job_id)
        if folder is None:
            raise Unsupported(
                f"The files of site {self.site.name!r} are on its own machine: a transfer slot (direction 'out') "
                "brings some here, and `outputs` of the app bring values."
            )
        return folder

    def read_file(self, job_id: int, path: str) -> bytes:
        return files.read(self._folder(job_id), path)

    def file_exists(self, job_id: int, path: str) -> bool:
        return files.below(self._folder(job_id), path).exists()

    def output(self, job_id: int, tail: int | None = None) -> str:
        folder = self._workdir(job_id)
        if folder is None:
            text = self._job(job_id).error
            return text if tail is None else "\n".join(text.splitlines()[-tail:])
        return story.plain_log(files.log_text(folder, tail))

    def output_size(self, job_id: int) -> int:
        folder = self._workdir(job_id)
        return len(self._job(job_id).error.encode()) if folder is None else files.log_size(folder)

    def read_output(self, job_id: int, start: int, most: int) -> bytes:
        folder = self._workdir(job_id)
        if folder is None:
            return self._job(job_id).error.encode()[start : start + most]
        return files.log_piece(folder, start, most)

    def command(self, job: JobRow) -> tuple[list[str], dict[str, str]]:
        truth.resources(self, job.resources)
        app = next((one for one in records.apps(self.store.con, job.app_id)), None)
        if app is None:
            raise NotFound(f"There is no app {job.app_name!r} at the site {self.site.name!r}; register it first.")
        if app.kind == "python":
            return [app.python_exe, f"{app.name}.run"], dict(app.environment_variables)
        argv = CommandTemplate(app.command_template).argv(decode(job.parameters))
        env = {**app.environment_variables, "BALSAM_JOB_ID": str(job.id)}
        if app.preamble:
            argv = [shell(), "-c", "\n".join([*app.preamble, shlex.join(argv)])]
        return argv, env

    def hooks(self) -> list[HookRun]:
        return []  # the site does not tell

    def usage(self) -> Usage:
        return self.accounts.usage()

    def why_waiting(self) -> str:
        return truth.why_waiting(self)

    def close(self) -> None:
        self._closed.set()
        self.rest.close()
        self.store.close()


def _after_fork() -> None:
    for engine in list(_engines):
        engine.after_fork()


os.register_at_fork(after_in_child=_after_fork)

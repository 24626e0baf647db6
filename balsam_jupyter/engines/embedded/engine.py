"""The embedded engine behind the seam."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from ...accounts import Agree, Usage
from ...errors import BadInput, NotFound, SiteError
from ...models import (
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
    SiteRecord,
    Submitted,
    Vacuumed,
)
from . import byhand, checks, files, foreground, scheduler, site, transfers, trash, upkeep
from .accounts import SiteAccounts
from .browsing import PageCalls
from .disk import DiskCalls
from .doorbell import Bell, Listener, runtime_folder
from .processor import underway
from .processor.start import ensure
from .recovery import Recovery
from .service_control import ServiceControl
from .sessions import try_lock
from .store import Store, adoption, demand, ensembles, jobs, records, submission, work
from .store.schema import StoreBusy
from .timeline import SiteTimeline

KILL_WAIT_S = 0.5
"""Between SIGTERM and SIGKILL of what a new generation of its ensemble ends."""
_LOOK_S = 1.0  # how often a waiting process looks after the site, and at the store if no bell rang


class EmbeddedEngine(DiskCalls, PageCalls):
    """Stores and runs jobs on this machine. See `engines.base.Engine` for what the calls do."""

    kind = "embedded"
    has_default = True
    silence = None
    runs_here = True

    def __init__(self, record: SiteRecord, settings: site.Settings, trouble: str = "") -> None:
        self.site = record
        self.trouble = trouble
        self.settings = settings
        self.path = Path(record.path)
        self.store = Store(self.path / "balsam.db")
        self.accounts = SiteAccounts(self)
        self.timeline = SiteTimeline(self)
        self.folder = runtime_folder(self.path)
        self.bell = Bell(self.folder)
        self._local = threading.local()
        self._ears: list[Listener] = []
        self._care = threading.Lock()
        self._last_care = 0.0
        self._recovery = Recovery(self.path, self.store, self.bell, settings.stopped_after_s)
        self.look_after()

    @classmethod
    def open(cls, name: str | None = None, path: str | None = None, lenient: bool = False) -> EmbeddedEngine:
        """Open a site by name or path; creates it if it is new.

        `lenient`: settings that are wrong are noted as `trouble`, and the defaults taken.

        Raises
        ------
        BadInput
            If the name cannot be a site's name, or belongs to another directory.
        SiteError
            If the directory cannot be written to, its settings are wrong or its database is of a newer version.
        """
        number, name, folder = site.locate(name, path)
        trouble = ""
        try:
            settings = site.Settings.read(folder / "settings.yml")
        except SiteError as error:
            if not lenient:
                raise
            settings, trouble = site.Settings(cores_per_node=site.usable_cores(), gpus_per_node=0), str(error)
        shape = settings.nodes, settings.cores_per_node, settings.gpus_per_node
        return cls(SiteRecord(number, name, str(folder), *shape), settings, trouble)

    def why_waiting(self) -> str:
        return ""

    def sites(self) -> list[SiteRecord]:
        known = site.known_sites().items()
        return [self.site if name == self.site.name else SiteRecord(n, name, str(at)) for name, (n, at) in known]

    # -- apps and jobs ------------------------------------------------------------------------------------

    def register(self, app: AppRecord) -> int:
        checks.app(app)
        with self.store.transaction() as con:
            app_id = records.put_app(con, app)
        self.bell.ring()
        return app_id

    def apps(self) -> list[AppRecord]:
        return records.apps(self.store.con)

    def submit(
        self, specs: Iterable[JobSpec], ensemble: EnsembleRecord | None = None, agree: Agree = None
    ) -> Submitted:
        seen: dict[int, tuple[str, transfers.Slots]] = {}  # the app's name and slots, of each common
        locations: dict[str, str] = {}

        def check(spec: JobSpec) -> None:
            if id(spec.common) not in seen:
                checks.resources(self, spec.common.resources)
                seen[id(spec.common)] = records.slots(self.store.con, spec.common.app_id)
            app, slots = seen[id(spec.common)]
            if slots or spec.transfers:
                if not locations:
                    locations.update(site.Settings.read(self.path / "settings.yml").transfer_locations)
                transfers.check(app, slots, spec.transfers or {}, locations)

        with self.store.transaction() as con:
            held = False
            if ensemble is not None and ensembles.put(con, ensemble) and ensemble.generation > 1:
                before = Query(ensemble=ensemble.name, generation=ensemble.generation - 1)
                _, held = jobs.kill(con, before, KILL_WAIT_S)
            submitted = submission.submit(con, specs, check)
            if agree is not None:
                agree(submitted.new)
        if held:
            self._recovery.sweep()  # their launcher may be dead
        self.bell.ring()
        ensure(self.path, self.store)
        return submitted

    def adopt(self, rows: Sequence[tuple[JobSpec, JobRow]], hold: int) -> int:
        with self.store.transaction() as con:
            new = adoption.adopt(con, rows)
        self.bell.ring()
        return new

    def jobs(self, query: Query) -> list[JobRow]:
        return jobs.select(self.store.con, query)

    def ids(self, query: Query) -> array[int]:
        return jobs.ids(self.store.con, query)

    def kinds(self, ensemble: str | None = None) -> list[JobRow]:
        found = demand.samples(self.store.con, ensemble)
        return jobs.select(self.store.con, Query(ids=tuple(found))) if found else []

    def count(self, query: Query) -> dict[str, int]:
        return jobs.count(self.store.con, query)

    def update(self, query: Query, state: str, wait_time: float | None = 0.5, force: str = "") -> int:
        if state == "USER_KILLED":
            with self.store.transaction() as con:
                changed, held = jobs.kill(con, query, wait_time)
            if held:
                self._recovery.sweep()  # its launcher may be dead
        elif state == "RESTART_READY":
            with self.store.transaction() as con:
                changed = jobs.retry(con, query)
            ensure(self.path, self.store)
        else:
            raise BadInput(f"A job's state can be set to USER_KILLED or RESTART_READY, not to {state!r}.")
        self.bell.ring()
        return changed

    def edit(self, ids: Iterable[int], changes: dict[str, object]) -> int:
        asked = changes.get("resources")
        if isinstance(asked, Resources):
            checks.resources(self, asked)
        with self.store.transaction() as con:
            changed = jobs.edit(con, ids, changes)
        self.bell.ring()
        return changed

    def delete(self, query: Query) -> int:
        with self.store.transaction() as con:
            deleted = jobs.delete(con, query)
        self.bell.ring()
        return deleted

    def set_values(self, values: Iterable[tuple[int, str | bytes]]) -> None:
        with self.store.transaction() as con:
            jobs.set_values(con, values)
        self.bell.ring()

    def tag(self, query: Query, tags: Mapping[str, str | None]) -> int:
        with self.store.transaction() as con:
            changed = jobs.tag(con, query, tags)
        self.bell.ring()
        return changed

    # -- ensembles ----------------------------------------------------------------------------------------

    def update_ensemble(self, record: EnsembleRecord) -> None:
        with self.store.transaction() as con:
            ensembles.update(con, record)

    def ensembles(self, name: str | None = None) -> list[EnsembleRecord]:
        return ensembles.records(self.store.con, name)

    def versions(self, query: Query) -> dict[str, list[range]]:
        return ensembles.versions(self.store.con, query)

    def row_ids(self, ensemble: str, generation: int, keys: Iterable[bytes]) -> dict[bytes, int]:
        return ensembles.row_ids(self.store.con, ensemble, generation, keys)

    def rename_ensemble(self, name: str, new: str) -> None:
        with self.store.transaction() as con:
            ensembles.rename(con, name, new)
        self.bell.ring()

    def delete_ensemble(self, name: str, generation: int) -> None:
        with self.store.transaction() as con:
            folder = ensembles.delete(con, name, generation)
        self.bell.ring()
        trash.discard(self.path, self.path / "data" / folder)

    # -- changes ------------------------------------------------------------------------------------------

    def events(self, after: str, timeout: float = 0.0, limit: int = 10_000) -> Events:
        if after == "now":
            return Events(str(records.last_event(self.store.con)), [])
        ear, last, deadline = self._ear(), int(after or 0), time.monotonic() + timeout
        while True:
            rows = records.events(self.store.con, last, limit)
            left = deadline - time.monotonic()
            if rows or left <= 0:
                return Events(str(rows[-1].seq if rows else last), rows)
            if ear.wait(min(left, _LOOK_S)):
                ensure(self.path, self.store)
            self.store.require_there()
            self.look_after()

    def history(self, ids: Iterable[int]) -> list[EventRow]:
        return records.history(self.store.con, ids)

    def _ear(self) -> Listener:
        """This thread's listener: two waiting threads must not take each other's rings."""
        ear: Listener | None = getattr(self._local, "ear", None)
        if ear is None:
            self._close_ears()
            ear = self._local.ear = Listener(self.folder)
            self._ears.append(ear)
        return ear

    def _close_ears(self) -> None:
        """Close those of this thread and of threads that ended; another may be waiting at its own."""
        mine = threading.current_thread()
        for ear in [ear for ear in self._ears if ear.owner is mine or not ear.owner.is_alive()]:
            with contextlib.suppress(ValueError):  # another thread was faster
                self._ears.remove(ear)
                ear.close()

    def look_after(self) -> None:
        """Settle what dead launchers and allocations left, at most once a second; anyone who waits does it."""
        now = time.monotonic()
        if now - self._last_care < _LOOK_S or not self._care.acquire(blocking=False):
            return
        try:
            self._last_care = now
            self._care_for_site()
        except StoreBusy:
            pass  # locked, or its disk is full: what is there can be read all the same
        finally:
            self._care.release()

    def _care_for_site(self) -> None:
        if work.unclosed_sessions(self.store.con):
            self._recovery.sweep()
        ensure(self.path, self.store)
        trash.ensure(self.path)
        if records.allocations(self.store.con, unended=True):
            ended = scheduler.reconcile(self.path, self.store)
            if self._start_waiting() or ended:
                self.bell.ring()

    def _start_waiting(self) -> list[int]:
        return [] if self.trouble else scheduler.start_waiting(self.path, self.store, self.settings)

    # -- allocations --------------------------------------------------------------------------------------

    def allocate(self, request: AllocationRequest) -> Allocation:
        checks.request(self, request)
        scheduler.reconcile(self.path, self.store)
        with self.store.transaction() as con:
            allocation_id = self.accounts.book(con, request)
        self._start_waiting()
        self.bell.ring()
        return records.allocation(self.store.con, allocation_id)

    def run_allocation(self, request: AllocationRequest, show: Callable[[str], None]) -> Allocation:
        checks.request(self, request)
        return foreground.run(self, request, show)

    def allocations(self) -> list[Allocation]:
        self.look_after()
        return records.allocations(self.store.con)

    def revoke(self, allocation_id: int, timeout: float = 60.0) -> bool:
        records.allocation(self.store.con, allocation_id)
        with self.store.transaction() as con:
            state = records.ask_deletion(con, allocation_id)
        self.bell.ring()
        ear, deadline = self._ear(), time.monotonic() + timeout
        while state == "pending_deletion":
            lock = try_lock(scheduler.lock_path(self.path, allocation_id))
            if lock is not None:
                os.close(lock)
                break
            if time.monotonic() > deadline:
                return False
            self.look_after()  # its launcher may be stopped
            ear.wait(0.05)  # the lock's release rings no bell
        scheduler.reconcile(self.path, self.store)
        while self._recovery.sweep(allocation_id, stopping=True, grace_s=self.settings.grace_period_s):
            if time.monotonic() > deadline:
                return False
            ear.wait(0.05)
        self._start_waiting()
        self.bell.ring()
        return True

    # -- what a job left ----------------------------------------------------------------------------------

    def _job(self, job_id: int) -> JobRow:
        found = self.jobs(Query(ids=(job_id,)))
        if not found:
            raise NotFound(f"There is no job {job_id} at the site {self.site.name!r}.")
        return found[0]

    def _workdir(self, job_id: int) -> Path:
        return self.path / "data" / self._job(job_id).workdir

    def read_file(self, job_id: int, path: str) -> bytes:
        return files.read(self._workdir(job_id), path)

    def file_exists(self, job_id: int, path: str) -> bool:
        return files.below(self._workdir(job_id), path).exists()

    def output(self, job_id: int, tail: int | None = None) -> str:
        return files.log_text(self._workdir(job_id), tail)

    def output_size(self, job_id: int) -> int:
        return files.log_size(self._workdir(job_id))

    def read_output(self, job_id: int, start: int, most: int) -> bytes:
        return files.log_piece(self._workdir(job_id), start, most)

    def command(self, job: JobRow) -> tuple[list[str], dict[str, str]]:
        checks.resources(self, job.resources)
        return byhand.command(self, job)

    def try_job(self, job_id: int, folder: Path, output: int, show: Callable[[str], None]) -> int:
        job = self._job(job_id)
        checks.resources(self, job.resources)
        return byhand.run(self, job, folder, output, show)

    def hooks(self) -> list[HookRun]:
        return underway.site_hooks(self.path, self.store)

    def usage(self) -> Usage:
        return self.accounts.usage()

    @property
    def service(self) -> ServiceControl:
        return ServiceControl(self)

    def check(self) -> list[Finding]:
        return upkeep.check(self.path, self.store)

    def vacuum(self) -> Vacuumed:
        return upkeep.vacuum(self.path, self.store)

    def close(self) -> None:
        self._close_ears()
        self._local = threading.local()
        self.bell.close()
        self.store.close()

"""One hand of the processor: carries a job through its stages, with a warm Python process for hooks."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ....disk import LOGS
from ....errors import SiteError
from ....models import AppRecord, JobRow, Resources
from .. import processes, trash
from ..site import Settings
from ..store import jobs
from ..store.flow import DUE_STATES, Step
from ..transfers import Stopped, TransferError, clean_up, stage
from .host import Host
from .underway import Note

if TYPE_CHECKING:
    from .__main__ import Processor

log = logging.getLogger("balsam_jupyter.processor")

_RETRY_S = 0.5  # between looks at settings that cannot be read
_HOOK = {
    # state: hook, the state it leads to by default, others it may choose
    "STAGED_IN": ("preprocess", "PREPROCESSED", ("FAILED",)),
    "RUN_DONE": ("postprocess", "POSTPROCESSED", ("RESTART_READY", "FAILED")),
    "RUN_ERROR": ("handle_error", "FAILED", ("RESTART_READY",)),
    "RUN_TIMEOUT": ("handle_timeout", "RESTART_READY", ("FAILED",)),
}


class Done(NamedTuple):
    """What a stage came to: the state reached, and what changes with it. `worked` is false if it had nothing to do."""

    state: str
    worked: bool = True
    changes: Mapping[str, Any] = {}
    edits: Mapping[str, Any] = {}
    note: Mapping[str, Any] = {}
    auto: bool = False


class Hand(threading.Thread):
    """Takes jobs from the processor, one at a time."""

    def __init__(self, processor: Processor, number: int) -> None:
        super().__init__(name=f"hand-{number}", daemon=True)
        self.processor, self.number = processor, number
        self.lock = threading.Lock()
        self.host: Host | None = None
        self.host_key: tuple[Any, ...] = ()
        self.hosts_made = 0
        self.note = Note(processor.session.folder, number)
        self.job = 0
        self.killer: threading.Thread | None = None  # ends the host for the sake of the current job
        self.killed = threading.Event()

    def run(self) -> None:
        while task := self.processor.next(self):
            row, app = task
            with self.lock:
                self.job = row.id
                self.killed.clear()
            try:
                self.carry(row, app)
            except Stopped:
                self.finish_killing()  # nothing of it is left when it is told
                if not self.processor.stopping:
                    self.processor.post(Step(row.id, (self.reached, "USER_KILLED")), {})
            except Exception as error:  # a fault of ours must not hold the job for ever
                log.exception("job %d", row.id)
                why = f"This job could not be processed: {type(error).__name__}: {error}"
                self.processor.post(Step(row.id, (self.reached, "FAILED"), {"error": why}, {"error": why}), {})
            with self.lock:
                self.job = 0
            self.finish_killing()
            self.processor.done(row.id)
        self.drop_host()

    def finish_killing(self) -> None:
        with self.lock:
            killer, self.killer = self.killer, None
        if killer is not None:
            killer.join()
            self.drop_host()  # it was ended, or is about to

    def carry(self, row: JobRow, app: AppRecord) -> None:
        """Through all stages up to the next run, or the end.

        Files are removed only when all that was read from them is stored: a job that has posted something is let go
        before that, and taken again from the store.
        """
        self.reached = row.state
        path = [row.state]
        posted = False
        while path[-1] in DUE_STATES:
            done = self.stage(path[-1], row, app)
            if self.killed.is_set():
                raise Stopped
            path.append(done.state)
            removal = done.state == "STAGED_OUT" and bool(row.scratch or app.cleanup_files)
            later = removal and (posted or done.worked)
            if done.worked or done.state not in DUE_STATES or later:
                step = Step(row.id, tuple(path), done.changes, done.note, done.auto, later)
                self.processor.post(step, done.edits)
                self.reached, posted = done.state, True
                path = [done.state]
            if later:
                return

    def stage(self, state: str, row: JobRow, app: AppRecord) -> Done:
        """Do what a job in this state waits for."""
        if state == "READY":
            return self.transfer("in", "STAGED_IN", row, app)
        if state == "POSTPROCESSED":
            return self.transfer("out", "STAGED_OUT", row, app)
        if state == "STAGED_OUT":
            if app.cleanup_files:
                theirs = jobs.workdirs_below(self.processor.store.con, row.workdir)
                clean_up(self.workdir(row), app.cleanup_files, theirs)
            if row.scratch:
                self.discard(row)
            return Done("JOB_FINISHED")
        hook, following, others = _HOOK[state]
        if hook in app.hooks or (hook == "preprocess" and "shell_preamble" in app.hooks):
            done = self.hook(hook, following, others, row, app)
        else:
            done = Done(following, worked=False, auto=state == "RUN_ERROR")
        reads = app.kind == "shell" or "postprocess" in app.hooks
        if done.state == "POSTPROCESSED" and app.outputs and reads:
            done = self.read_outputs(done, row, app)
        return done

    def discard(self, row: JobRow) -> None:
        """Remove a scratch job's directory, or what in it is not another job's."""
        theirs = jobs.workdirs_below(self.processor.store.con, row.workdir)
        try:
            if theirs:
                clean_up(self.workdir(row), ["**/*", *LOGS], theirs)
            else:
                trash.put(self.processor.site, self.workdir(row))
                self.processor.has_trash = True
        except (SiteError, OSError) as error:  # it has finished all the same
            log.error("job %d: %s", row.id, error)

    def workdir(self, row: JobRow) -> Path:
        return self.processor.site / "data" / row.workdir

    # -- transfers ----------------------------------------------------------------------------------------

    def transfer(self, direction: str, following: str, row: JobRow, app: AppRecord) -> Done:
        if not row.transfers:
            return Done(following, worked=False)
        workdir = self.workdir(row)
        try:
            locations = self.locations()
            workdir.mkdir(parents=True, exist_ok=True)
            worked = stage(direction, app.transfers, row.transfers, row.id, workdir, locations, self.is_stopped)
        except (TransferError, OSError) as error:
            return Done("FAILED", True, {"error": str(error)}, {}, {"error": str(error)})
        return Done(following, worked)

    def locations(self) -> Mapping[str, str]:
        """The site's transfer locations; while its settings cannot be read (half saved), this waits."""
        told = ""
        while not self.is_stopped():
            try:
                return Settings.read(self.processor.site / "settings.yml").transfer_locations
            except SiteError as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("job %d waits to transfer its files: %s", self.job, told)
            self.killed.wait(_RETRY_S)
        raise Stopped

    def is_stopped(self) -> bool:
        return self.killed.is_set() or bool(self.processor.stopping)

    # -- hooks --------------------------------------------------------------------------------------------

    def hook(self, hook: str, following: str, others: tuple[str, ...], row: JobRow, app: AppRecord) -> Done:
        details = {
            "id": row.id, "app_id": row.app_id, "app_name": row.app_name, "workdir": row.workdir, "tags": row.tags,
            "state": next(state for state, (name, *_) in _HOOK.items() if name == hook), "data": json.dumps(row.data),
            "parameters": row.parameters, "return_code": row.return_code, "batch_job_id": row.batch_job_id,
            "parent_ids": list(row.parent_ids), "transfers": row.transfers, "max_retries": row.max_retries,
            "resources": _plain(row.resources), "value": row.value, "error": row.error, "exception": row.exception,
            "preamble": hook == "preprocess" and "shell_preamble" in app.hooks,
        }  # fmt: skip
        self.note.write(row.id, hook)
        try:
            answer = self.ask(app, ("hook", app.id, hook, str(self.workdir(row)), details))
        finally:
            self.note.clear()
        before = row.error if hook == "handle_error" else ""  # why the run failed, which is what the user looks for
        if not isinstance(answer, tuple):
            return _failed(f"the process of {hook}() {answer} before it returned", {}, before)
        state, data, edits, note, trace, preamble = answer
        changes: dict[str, Any] = {} if data is None else {"data": data}
        if preamble is not None:
            changes["preamble"] = preamble
        if trace:
            return _failed(f"{hook}() raised\n{trace}", changes, before)
        if state not in (None, following, *others):
            allowed = ", ".join((following, *others))
            return _failed(f"{hook}() set the state {state!r}; it can be {allowed}", changes, before)
        said = json.loads(note)
        reached = state or following
        if reached == "FAILED":
            words = "; ".join(str(value) for value in said.values()) or f"{hook}() set the state FAILED"
            if hook in ("preprocess", "postprocess"):
                changes["error"] = words
            elif said:
                changes["error"] = f"{row.error}\n{hook}(): {words}".lstrip()
        elif reached == "RESTART_READY":
            changes |= {"value": None, "exception": None}
        edits = {**edits, "resources": Resources(**edits["resources"])} if "resources" in edits else edits
        return Done(reached, True, changes, edits, said, auto=hook == "handle_error" and state is None)

    def read_outputs(self, done: Done, row: JobRow, app: AppRecord) -> Done:
        """What the run and `postprocess` left, beside what a Python app returned."""
        answer = self.ask(app, ("outputs", app.id, str(self.workdir(row)), row.value))
        if isinstance(answer, tuple):
            value, note = answer
        else:
            value, note = row.value, f"the process that read the outputs {answer}"
        return done._replace(worked=True, changes={**done.changes, "value": value, "error": note or None})

    def ask(self, app: AppRecord, message: tuple[Any, ...]) -> Any:
        """The host's answer, or how it ended in words."""
        host = self.host_for(app)
        if host is None:
            raise Stopped
        if host.known.get(app.id) is not app:
            host.known[app.id] = app
            host.ask("app", app.id, (app.name, app.payload, app.sys_path, app.outputs))
        answer = host.ask(*message)
        if answer is None or answer[0]:  # it died, or wants to be replaced
            code = self.drop_host()
            if self.is_stopped():
                raise Stopped
            if answer is None:
                processes.end([host.mark], 0)  # children it left would go on in the job's directory
            if answer is None:
                return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return answer[1]

    def host_for(self, app: AppRecord) -> Host | None:
        """A warm process for the app's hooks; None when the job is to end."""
        key = app.python_exe, tuple(sorted(app.environment_variables.items()))
        if self.host is not None and self.host_key != key:
            self.drop_host()
        with self.lock:
            if self.is_stopped():
                return None
            if self.host is None:
                self.hosts_made += 1
                mark: dict[str, object] = {
                    "BALSAM_SESSION": self.processor.session.mark,
                    "BALSAM_HOOK": f"{self.number}.{self.hosts_made}",
                }
                env = {**self.processor.environment, **app.environment_variables}
                self.host, self.host_key = Host(app.python_exe or sys.executable, env, mark), key
            return self.host

    def drop_host(self) -> int:
        with self.lock:
            host, self.host = self.host, None
        return host.close() if host is not None else 0

    # -- kills --------------------------------------------------------------------------------------------

    def kill(self, job: int, wait_time: float | None) -> None:
        """End the current job's hook or copy (another thread's call); asked again, the later `wait_time` counts."""
        with self.lock:
            if self.job != job or (self.killer is not None and self.killer.is_alive()):
                return
            self.killed.set()
            if self.host is not None:
                arguments = ([self.host.mark], wait_time)
                self.killer = threading.Thread(target=processes.end, args=arguments, daemon=True)
                self.killer.start()

    def close(self) -> None:
        self.killed.set()


def _failed(why: str, changes: Mapping[str, Any] = {}, before: str = "") -> Done:
    return Done("FAILED", True, {**changes, "error": f"{before}\n{why}".lstrip()}, {}, {"error": why})


def _plain(resources: Resources) -> dict[str, Any]:
    return {**asdict(resources), "launch_params": dict(resources.launch_params)}

"""What a job starts with; and its app run once more by hand: in the foreground, in a directory of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...codec import decode
from ...errors import BadInput, NotFound
from ...models import AppRecord, JobRow
from . import transfers
from .launcher import ranks, spawner
from .launcher.placement import Nodes, environment, idle_nodes, need
from .launcher.prepare import App, Preparer, clean_environment, launch_words
from .site import Settings
from .store import flow, jobs, records
from .store.work import Work

if TYPE_CHECKING:
    from .engine import EmbeddedEngine

Show = Callable[[str], None]
_LONGEST = 500  # characters of a value that is shown


def command(engine: EmbeddedEngine, job: JobRow) -> tuple[list[str], dict[str, str]]:
    """The exact argument list and the added environment a job starts with; see `engines.base.Engine.command`."""
    record = _app(engine, job)
    if not job.id:  # of a dry run: what a submission would refuse is refused here, too
        transfers.check(record.name, record.transfers, job.transfers, _locations(engine))
        flow.unfinished_parents(engine.store.con, job.parent_ids, job.on_parent_failure == "wait")
    if record.kind == "python":
        return [*filter(None, [record.python_exe]), f"{record.name}.run"], dict(record.environment_variables)
    preparer = Preparer(clean_environment())
    argv = _argv(engine, preparer, preparer.app(record), job)
    return argv, {**record.environment_variables, "BALSAM_JOB_ID": str(job.id)}


def run(engine: EmbeddedEngine, job: JobRow, folder: Path, output: int, show: Show) -> int:
    """Run a job's app in the foreground; see `engines.base.Engine.try_job`."""
    record = _app(engine, job)
    if record.version != job.app_version:
        show(f"{record.name} has changed since this task ran: this is the app as it is now.")
    skipped = [hook for hook in ("preprocess", "postprocess", "handle_error") if hook in record.hooks]
    if skipped:
        show(f"Hooks are not run: {', '.join(skipped)}.")
    preparer = Preparer(clean_environment())
    app = preparer.app(record)
    folder = _fresh(folder)
    _bring_inputs(engine, preparer, app, job, folder)
    show(f"task {job.id} ({record.name}) in {folder}")
    env = _environment(engine, app, job)
    if record.kind == "shell":
        return _foreground(_argv(engine, preparer, app, job), folder, env, output)
    with tempfile.TemporaryDirectory(prefix="balsam-try-") as private:
        task = Path(private) / "task"
        code = _foreground(_python(engine, preparer, app, job, folder, task), folder, env, output)
        if code == 0 and not record.outputs and (outcome := ranks.read_outcome(task)) is not None:
            show(f"returned {_shown(outcome[0])}")
        return code


def _app(engine: EmbeddedEngine, job: JobRow) -> AppRecord:
    record = next((app for app in records.apps(engine.store.con, job.app_id)), None)
    if record is None:
        raise NotFound(f"There is no app {job.app_name!r} at the site {engine.site.name!r}; register it first.")
    return record


def _locations(engine: EmbeddedEngine) -> Mapping[str, str]:
    return Settings.read(engine.path / "settings.yml").transfer_locations


def _argv(engine: EmbeddedEngine, preparer: Preparer, app: App, job: JobRow) -> list[str]:
    """The command of a job, as a spawner gets it."""
    launch = launch_words(engine.settings.mpi_launcher, job.resources)
    lines = jobs.preamble(engine.store.con, job.id)
    _, _, _, argv, *_ = preparer.command(app, 0, job.id, 1, job.workdir, job.parameters, launch, lines)
    return [os.fsdecode(word) for word in argv]


def _python(engine: EmbeddedEngine, preparer: Preparer, app: App, job: JobRow, folder: Path, task: Path) -> list[str]:
    """The command that runs a Python app in a process of its own: as the launcher does it for one of several ranks."""
    work = Work(job.id, job.app_id, 0, job.state, job.parameters, str(folder), 1)
    info = {"tags": job.tags, "data": job.data}
    launch = launch_words(engine.settings.mpi_launcher, job.resources)
    _, _, _, argv, *_ = preparer.ranks(app, 0, work, str(folder), info, launch, task)
    return [os.fsdecode(word) for word in argv]


def _fresh(folder: Path) -> Path:
    folder = folder.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        used = any(folder.iterdir())
    except OSError as error:
        raise BadInput(f"{folder} cannot be a directory to run in ({error.strerror}).") from None
    if used:
        raise BadInput(f"{folder} is not empty; name a new directory, so that nothing in it is overwritten.")
    return folder


def _bring_inputs(engine: EmbeddedEngine, preparer: Preparer, app: App, job: JobRow, folder: Path) -> None:
    if job.transfers:
        slots = app.record.transfers
        try:
            transfers.stage("in", slots, job.transfers, job.id, folder, _locations(engine), lambda: False)
        except transfers.TransferError as error:
            raise BadInput(f"The inputs of task {job.id} cannot be brought: {error}") from None
    for name, source, content in preparer.files(app, decode(job.parameters)):
        try:
            spawner.write(str(folder / name), source, content)
        except OSError as error:
            raise BadInput(f"The input {name} of task {job.id} cannot be written: {error}") from None


def _environment(engine: EmbeddedEngine, app: App, job: JobRow) -> dict[str, str]:
    """As in a slot, on the first of the site's nodes that are idle when nothing else runs."""
    settings = engine.settings
    place = Nodes(idle_nodes(range(settings.nodes), settings)).place(need(job.resources, settings))
    told = environment(job.resources.threads_per_rank, place) if place is not None else {}
    mine = {name: value for name, value in app.environment.items() if name not in ranks.RANK_VARIABLES}
    return {**mine, **told, **app.record.environment_variables, "BALSAM_JOB_ID": str(job.id)}


def _shown(value: str | bytes | None) -> str:
    try:
        text = repr(decode(value))
    except Exception as error:  # of a class that only the app's own Python has
        text = f"a value that cannot be read here ({type(error).__name__}: {error})"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _foreground(argv: list[str], folder: Path, env: Mapping[str, str], output: int) -> int:
    """Its exit code; negative: the signal that ended it. Ctrl-C reaches the task, too, which may end as it likes."""
    sys.stdout.flush()
    how: dict[str, Any] = {"cwd": folder, "env": env, "stdin": subprocess.DEVNULL, "stdout": output}
    if output != 1:
        how["stderr"] = output
    try:
        process = subprocess.Popen(argv, **how)
    except OSError:  # not an executable: the shell says so, as it does for a spawner
        process = subprocess.Popen(["/bin/sh", "-c", 'exec "$0" "$@"', *argv], **how)
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            return process.wait()

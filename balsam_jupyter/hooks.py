"""A warm Python process that runs the hooks of apps, one after another; the embedded engine's processor starts it.

Started by path with the app's own Python, beside this very copy of the package. Frames on stdin and stdout are a
4-byte length and a marshalled value.

In:  (number, "app", app id, record), (number, "hook", app id, name, directory, job),
     (number, "outputs", app id, directory, value)
     record = (name, payload, sys_path, output specs)
Out: (number, retire, answer); number: of the request; retire: this process is not fit for another hook
     answer to "hook" = (state set, data as JSON, edits, state_data as JSON, traceback, preamble's lines as JSON); the
     first two and the last may be None
     answer to "outputs" = (encoded values, note)
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import json
import linecache
import logging
import marshal
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOG = "balsam.log"


class HookJob:
    """What a hook has as ``self.job``: the job, by Balsam's names.

    Attributes
    ----------
    id, app_id, return_code, batch_job_id : int
        As stored; the last two are None before there is one.
    app_name, error : str
        The app's name; the last lines of the log of a run that failed.
    state : str
        Set it to say what becomes of the job; left as it is, the hook's usual next state follows.
    state_data : dict
        Kept in the event of this change, and shown as the reason where the state is ``"FAILED"``.
    data : dict
        JSON data of the job; kept when it is assigned anew, and when it is changed in place.
    parameters, tags, num_nodes, ranks_per_node, threads_per_rank, … : various
        May be changed for the next run.
    workdir : pathlib.Path
        Below the site's ``data/``; the hook runs in it.
    parent_ids : set of int
        Its parents.
    transfers : dict
        Slot to ``"location:/path"``.
    """

    def __init__(self, details: dict[str, Any]) -> None:
        self.state_data: dict[str, Any] = {}
        plain = copy.deepcopy(details)  # what the hook changes is found by comparing
        self._value, self._exception = plain.pop("value"), plain.pop("exception")
        plain |= plain.pop("resources")
        plain["data"] = json.loads(plain["data"])
        plain["workdir"] = Path(plain["workdir"])
        plain["parent_ids"] = set(plain["parent_ids"])
        plain["parameters"] = _codec().decode(plain["parameters"])
        self.__dict__.update(plain)

    def get_parameters(self) -> dict[str, Any]:
        """The parameters."""
        return dict(self.parameters)

    def set_parameters(self, value: dict[str, Any]) -> None:
        """Replace the parameters."""
        self.parameters = dict(value)

    def resolve_workdir(self, data_path: str | os.PathLike[str]) -> Path:
        """The work directory below a site's data folder."""
        return Path(data_path, self.workdir)

    def parent_query(self) -> Any:
        """The parents, as a query of `balsam_jupyter.Job`."""
        from balsam_jupyter.api import Job

        return Job.objects.filter(id=sorted(self.parent_ids))

    def result_nowait(self) -> Any:
        """What the run yielded (None if nothing); re-raises what a Python app raised."""
        if self._exception is not None:
            raise _codec().decode(self._exception)
        return None if self._value is None else _codec().decode(self._value)

    result = result_nowait

    def __repr__(self) -> str:
        return f"<job {self.id} of {self.app_name}: {self.state}>"

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name != "state_data" and name not in self.__dict__:
            raise AttributeError(f"a job has no field {name!r}; keep what is yours in job.data")
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a job has no field {name!r}")


def _codec() -> Any:
    from balsam_jupyter import codec

    return codec


class Host:
    """Runs what the processor asks for."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        # Hooks may read stdin and write stdout: the frames move out of their way.
        self.inlet, self.outlet = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
        self.null = os.open(os.devnull, os.O_RDWR)
        self.pid = os.getpid()
        os.register_at_fork(after_in_child=self.let_go)
        self.records: dict[int, tuple[Any, ...]] = {}
        self.apps: dict[int, Any] = {}
        self.environment = dict(os.environ)
        os.dup2(self.null, 0)
        self.leave()

    def main(self) -> None:
        """Until the processor closes the pipe."""
        while len(head := self.inlet.read(4)) == 4:
            number, kind, app, *rest = marshal.loads(self.inlet.read(int.from_bytes(head, "little")))
            answer: Any = None
            if kind == "app":
                self.records[app] = rest[0]
                self.apps.pop(app, None)
            else:
                answer = self.hook(app, *rest) if kind == "hook" else self.read_outputs(app, *rest)
            retire = threading.active_count() > 1 or self.leave()  # threads a hook left end with the process
            frame = marshal.dumps((number, retire, answer))
            self.outlet.write(len(frame).to_bytes(4, "little") + frame)
            self.outlet.flush()
        if threading.active_count() > 1:
            os._exit(0)  # the interpreter's own end would wait for those threads

    def let_go(self) -> None:
        """In a child that a hook forked: the pipes are not its own, and end with the process they belong to."""
        for pipe in (self.inlet, self.outlet):
            os.dup2(self.null, pipe.fileno(), inheritable=False)

    def end_if_forked(self, error: BaseException | None = None) -> None:
        """End a child that a hook forked and that came back here: one process answers, the one that was asked."""
        if os.getpid() == self.pid:
            return
        code = getattr(error, "code", None) if isinstance(error, SystemExit) else 0 if error is None else 1
        os._exit(code & 255 if isinstance(code, int) else 0 if code is None else 1)

    def hook(self, app: int, name: str, directory: str, details: dict[str, Any]) -> tuple[Any, ...]:
        """Run one hook in the job's directory."""
        try:
            with in_directory(directory):
                print(f"#BALSAM {name} of job {details['id']}", flush=True)
                with_preamble = details.pop("preamble")
                job = HookJob(details)
                instance = self.app(app).cls()
                instance.job = job
                if hasattr(instance, name):  # there may be a preamble only
                    getattr(instance, name)()
                preamble = json.dumps(_preamble_lines(instance.shell_preamble())) if with_preamble else None
                self.end_if_forked()
                edits = _edits(job, details)
                return (_text(job.state, details["state"]), _json("job.data", job.data), edits,
                        _json("job.state_data", job.state_data or {}), "", preamble)  # fmt: skip
        except BaseException as error:
            text = _told(error)
            if os.getpid() == self.pid or not isinstance(error, SystemExit):
                with contextlib.suppress(OSError), open(Path(directory, LOG), "a") as log:
                    log.write(text)
            self.end_if_forked(error)
            return None, None, {}, "{}", text, None

    def read_outputs(self, app: int, directory: str, value: str | bytes | None) -> tuple[str | bytes | None, str]:
        """What the app's `outputs` find, beside the value there is."""
        try:
            outputs = self.app(app).outputs
            with in_directory(directory):
                found, note = self.worker.extract(directory, outputs)
            returned = None if value is None else self.worker.decode(value)
            if isinstance(returned, dict):
                found = {**returned, **found}
            elif returned is not None:
                found["value"] = returned
            result: tuple[str | bytes, str] = self.worker.userapp.encoded(found, note)
            return result
        except BaseException as error:
            self.end_if_forked(error)
            return value, f"{type(error).__name__}: {error}"

    def app(self, number: int) -> Any:
        """The app, put together at its first use."""
        if number not in self.apps:
            self.apps[number] = self.worker.userapp.App(*self.records[number])
            if "balsam_jupyter.api_job" in sys.modules:  # a hook names Job, whose other half is elsewhere
                importlib.import_module("balsam_jupyter.api")
        return self.apps[number]

    def leave(self) -> bool:
        """Undo what a hook did to the process; true if that cannot be done."""
        os.chdir("/")
        for fd in (1, 2):
            os.dup2(self.null, fd)
        if os.environ != self.environment:
            os.environ.clear()
            os.environ.update(self.environment)
        return sys.stdout is not sys.__stdout__ or sys.stderr is not sys.__stderr__


@contextlib.contextmanager
def in_directory(directory: str) -> Iterator[None]:
    """In the job's directory, with stdout and stderr at the end of its log."""
    os.makedirs(directory, exist_ok=True)
    os.chdir(directory)
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()


def _preamble_lines(given: Any) -> list[str]:
    from balsam_jupyter.appflow import preamble_lines

    try:
        return preamble_lines(given)
    except TypeError as error:
        raise TypeError(f"shell_preamble() gives {error}; give text or a list of text") from None


def _text(state: Any, before: str) -> str | None:
    """The state a hook set (Balsam has an enumeration of them, too); None if it set none."""
    state = getattr(state, "value", state)
    return None if state == before else str(state)


def _json(what: str, value: Any) -> str:
    try:
        return json.dumps(dict(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what} must be a dict of what JSON can hold: {error}") from None


def _edits(job: HookJob, details: dict[str, Any]) -> dict[str, Any]:
    """What the hook changed of the job for its next run, checked as any change of a job is, and encoded."""
    before = {"parameters": _codec().decode(details["parameters"]), "tags": details["tags"], **details["resources"]}
    changes = {name: getattr(job, name) for name, value in before.items() if not _same(getattr(job, name), value)}
    if not changes:
        return {}
    from balsam_jupyter.api import Job

    stored = Job.objects.get(id=job.id)
    edits = stored.checked_edits(changes)
    stored.site.engine.edit([], edits)  # of no job, only to be checked: this one is the processor's until it is done
    if "resources" in edits:
        edits["resources"] = {name: getattr(edits["resources"], name) for name in details["resources"]}
    return edits


def _same(value: Any, before: Any) -> bool:
    try:
        return bool(value == before)
    except Exception:  # arrays have no single answer
        return bool(_codec().encode(value) == _codec().encode(before))


def _told(error: BaseException) -> str:
    """The error with its traceback: of an error of this package only as far as the user's own code goes."""
    if type(error).__module__.startswith("balsam_jupyter."):
        package = str(Path(__file__).parent) + os.sep
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(package)]
        head = ["Traceback (most recent call last):\n", *traceback.format_list(own)] if own else []
        return "".join([*head, f"{type(error).__name__}: {error}\n"])
    return "".join(traceback.format_exception(type(error), error, _users(error.__traceback__)))


def _users(trace: Any) -> Any:
    """The traceback without this file's frames on top."""
    inner = trace
    while inner is not None and inner.tb_frame.f_code.co_filename == __file__:
        inner = inner.tb_next
    return inner or trace


class _ToStderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what stderr is at the time."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, _: Any) -> None:
        pass


def _worker() -> Any:
    file = Path(__file__).parent / "engines" / "embedded" / "launcher" / "worker.py"
    spec = importlib.util.spec_from_file_location("_balsam_jupyter_worker", file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.path.pop(0)  # the package's own folder, whose modules have names that others have too
    worker = _worker()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", handlers=[_ToStderr()]
    )
    linecache.checkcache()
    Host(worker).main()

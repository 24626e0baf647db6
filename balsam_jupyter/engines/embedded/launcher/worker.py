"""A slot's warm Python process: runs Python apps, and reads the outputs of commands.

Started by path with the app's own Python. Frames as in `spawner.py`:

In:  ("app", key, record), ("cores", [id, …]), ("run", [task, …]), ("drop", job id),
     ("extract", job id, directory, app key)
     record = (name, payload, sys_path, output specs)
     task = (job id, attempt, directory, app key, parameters, info, keep_log, files)
Out: (started, ends, returned, extracted)
     ends = [(job id, return code, start time, runtime in s, (value, error, exception, note)), …]
     extracted = [(job id, value, note), …]

The journal is the spawner's, with the outcome behind each end. A reader thread listens to the launcher
while the main thread is inside a user's function. A function that crashes the process, or calls
``os._exit``, fails its task alone: the launcher sees the end of the pipe and reads the journal.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import linecache
import marshal
import os
import pickle
import select
import signal
import sys
import threading
import time
import traceback
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FLUSH_S = 0.005
PATIENCE_S = 0.05
HANDLED = (signal.SIGTERM, signal.SIGALRM, signal.SIGINT, signal.SIGUSR1)
RETIRED = 83  # exit code of a worker that makes room for a fresh one
_OWN_THREADS = 3


def load(name: str, file: Path, folder: Path | None = None) -> Any:
    """Import by path: this very copy of the package, also in a Python where it is not installed."""
    places = None if folder is None else [str(folder)]
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=places)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_PACKAGE = Path(__file__).resolve().parents[3]
load("balsam_jupyter", _PACKAGE / "__init__.py", _PACKAGE)

from balsam_jupyter.codec import decode, encode  # noqa: E402
from balsam_jupyter.outputs import extract  # noqa: E402

files = load("_balsam_jupyter_spawner", Path(__file__).with_name("spawner.py"))


def encoded(values: dict[str, Any], note: str) -> tuple[str | bytes, str]:
    """Values as the store has them; NaN and a line in the note for one that cannot be pickled."""
    try:
        return encode(values), note
    except Exception:
        kept = {}
        for name, value in values.items():
            try:
                encode(value)
                kept[name] = value
            except Exception:
                kept[name] = float("nan")
                note = f"{note}\n{name}: a {type(value).__name__} cannot be pickled".strip()
        return encode(kept), note


class App:
    """The functions and attributes of a user's class, put together again as a plain class."""

    def __init__(self, name: str, payload: bytes | None, sys_path: list[str], outputs: dict[str, str | None]) -> None:
        sys.path.extend(entry for entry in sys_path if entry not in sys.path)
        parts: dict[str, dict[str, Any]] = pickle.loads(payload) if payload else {}
        for file, text in parts.get("sources", {}).items():  # cells of a notebook, for tracebacks to show
            linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file
        self.cls = type(name, (), {**parts.get("attributes", {}), **parts.get("functions", {})})
        self.outputs = {key: parts["outputs"][key] if spec is None else spec for key, spec in outputs.items()}

    def call(self, job: SimpleNamespace, parameters: dict[str, Any]) -> Any:
        instance = self.cls()
        instance.job = job
        return instance.run(**parameters)


class Worker:
    def __init__(self, journal: str, split_stderr: bool) -> None:
        self.woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGUSR1, lambda *_: None)  # others have taken over; heard also inside C code
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self.record = files.Record(journal)
        self.split_stderr = split_stderr
        # The user's functions may read stdin and write stdout: the frames move out of their way.
        self.inlet, self.outlet = os.dup(0), os.dup(1)
        self.null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(self.null, fd)
        # A child that a task forks must not keep the pipes open or the journal locked.
        os.register_at_fork(after_in_child=self.close_private)
        self.environment = dict(os.environ)
        self.handlers = {number: signal.getsignal(number) for number in HANDLED}
        self.records: dict[int, tuple[str, bytes | None, list[str], dict[str, str | None]]] = {}
        self.apps: dict[int, App] = {}
        self.queue: deque[Any] = deque()
        self.changed = threading.Condition()
        self.orphaned = self.record.fenced
        self.current: tuple[int, float, float] | None = None  # job id, start time, clock
        self.told = 0
        self.ends: list[Any] = []
        self.returned: list[int] = []
        self.extracted: list[Any] = []
        self.last_flush = 0.0

    def main(self) -> None:
        threading.Thread(target=self.listen, daemon=True).start()
        threading.Thread(target=self.keep_watch, daemon=True).start()
        self.flush(hello=True)
        while True:
            with self.changed:
                if threading.active_count() > _OWN_THREADS:
                    self.flush()
                    os._exit(RETIRED)  # threads a task left behind end with the process
                while not self.queue:
                    self.flush()
                    if self.orphaned:
                        return
                    self.changed.wait()
                if self.queue[0][0] == "run" and not self.room():
                    self.changed.wait(files.FULL_S)
                    continue
                item = self.queue.popleft()
                if item[0] == "run":
                    self.begin(item[1])
                    self.changed.notify_all()
            if item[0] == "run":
                self.run(item[1])
            else:
                self.read_outputs(*item[1:])

    def room(self) -> bool:
        """Whether a start and its end can be written: no task begins while the disk is full."""
        try:
            self.record.take_room(files.ROOM)
        except OSError as error:
            if not files.full(error):
                raise
            return False
        return True

    def listen(self) -> None:
        inbox = bytearray()
        while data := self.heard():
            inbox += data
            while len(inbox) >= 4 and len(inbox) >= (size := 4 + int.from_bytes(inbox[:4], "little")):
                self.obey(marshal.loads(inbox[4:size]))
                del inbox[:size]
        with self.changed:
            self.queue.clear()
            self.orphaned = True
            self.record.write(b"O\n")
            self.changed.notify_all()

    def heard(self) -> bytes:
        """What the launcher says next; nothing once it is gone, or others have taken over from it."""
        while True:
            ready, _, _ = select.select([self.inlet, self.woken], [], [])
            if self.woken in ready and signal.SIGUSR1 in os.read(self.woken, 4096):
                return b""
            if self.inlet in ready:
                return os.read(self.inlet, 1 << 16)

    def obey(self, message: Any) -> None:
        with self.changed:
            if message[0] == "run":
                self.queue.extend(("run", task) for task in message[1])
            elif message[0] == "app":
                self.records[message[1]] = message[2]
                self.apps.pop(message[1], None)
            elif message[0] == "cores":
                os.sched_setaffinity(os.getpid(), message[1])  # the main thread, which runs the tasks
            elif message[0] == "extract":
                self.queue.append(message)
            elif message[0] == "drop":
                self.give_back(message[1])
            self.changed.notify_all()

    def keep_watch(self) -> None:
        """Tell of a task that runs for a while, and give back what waits behind it."""
        while True:
            with self.changed:
                while self.current is None:
                    self.changed.wait()
                job, began, clock = self.current
                age = time.monotonic() - clock
                if age < PATIENCE_S:
                    self.changed.wait(PATIENCE_S - age if age >= FLUSH_S else FLUSH_S - age + 1e-4)
                    age = time.monotonic() - clock
                else:
                    self.changed.wait()
                if self.current is not None and self.current[0] == job and age >= FLUSH_S:
                    if age >= PATIENCE_S:
                        self.give_back(None)
                    started = None if self.told == job else (job, began)
                    self.told = job
                    if started or self.returned:
                        self.flush(started)

    def give_back(self, job: int | None) -> None:
        keep = [item for item in self.queue if item[0] != "run" or job not in (None, item[1][0])]
        self.returned += [item[1][0] for item in self.queue if item not in keep]
        self.queue = deque(keep)

    def flush(self, started: tuple[int, float] | None = None, hello: bool = False) -> None:
        if not (started or self.ends or self.returned or self.extracted or hello):
            return
        frame = marshal.dumps((started, self.ends, self.returned, self.extracted))
        self.ends, self.returned, self.extracted = [], [], []
        self.last_flush = time.monotonic()
        frame = len(frame).to_bytes(4, "little") + frame
        try:
            while frame:
                frame = frame[os.write(self.outlet, frame) :]
        except BrokenPipeError:
            pass  # the launcher is gone; the journal has it all

    def begin(self, task: Any) -> None:
        began, clock = time.time(), time.monotonic()
        self.record.write(b"S %d %d %.6f %.6f\n" % (task[0], task[1], began, clock))
        self.current = task[0], began, clock

    def run(self, task: Any) -> None:
        job, attempt, directory, key, parameters, info, keep_log, inputs = task
        assert self.current is not None
        _, began, clock = self.current
        outcome: tuple[Any, str, bytes | None, str] = (None, "", None, "")
        code = 0
        try:
            self.enter_when_there_is_room(directory, keep_log, inputs)
            outcome = self.call(job, directory, key, parameters, info)
        except SystemExit as stop:
            code = stop.code & 0xFF if isinstance(stop.code, int) else 0 if stop.code is None else 1
            if code:
                print(stop.code, file=sys.stderr)
                outcome = (None, f"SystemExit: {stop.code}", None, "")
        except BaseException as error:
            code = 1
            text = "".join(traceback.format_exception(type(error), error, _users(error.__traceback__)))
            print(text, file=sys.stderr)
            outcome = (None, text, _pickled(error), "")
        self.leave()
        runtime = time.monotonic() - clock
        written = base64.b64encode(marshal.dumps(outcome))
        self.record.wait_for_room(len(written) + files.ROOM)
        self.clean_up()
        with self.changed:
            self.record.write(b"E %d %d %d %.6f %.6f %b\n" % (job, attempt, code, began, runtime, written))
            self.current = None
            self.ends.append((job, code, began, runtime, outcome))
            if time.monotonic() - self.last_flush > FLUSH_S:
                self.flush()

    def enter_when_there_is_room(self, *given: Any) -> None:
        """A task does not fail because the disk is full before it began."""
        while True:
            try:
                return self.enter(*given)
            except OSError as error:
                if not files.full(error):
                    raise
                time.sleep(files.FULL_S)

    def enter(self, directory: str, keep_log: bool, inputs: list[tuple[str, str, bytes]]) -> None:
        files.make(directory)
        os.chdir(directory)
        if keep_log:
            files.rotate()
        for name, source, content in inputs:
            files.write(name, source, content)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        log = os.open("job.out", flags, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        if self.split_stderr:
            log = os.open("job.err", flags, 0o666)
            os.dup2(log, 2)
            os.close(log)

    def close_private(self) -> None:
        for fd in (self.inlet, self.outlet, self.record.fd):
            os.close(fd)

    def clean_up(self) -> None:
        """Undo what the task did to the process, so that the next one finds it as this one did."""
        self.leave()
        for fd in (0, 1, 2):  # also a descriptor the task has closed
            os.dup2(self.null, fd)
        if os.environ != self.environment:
            os.environ.clear()
            os.environ.update(self.environment)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self.handlers.items():
            if signal.getsignal(number) != handler:
                signal.signal(number, handler)
        for name, fd in (("stdout", 1), ("stderr", 2)):
            if getattr(sys, name) is not getattr(sys, f"__{name}__") or getattr(sys, name).closed:
                stream = open(fd, "w", buffering=1, closefd=False)  # noqa: SIM115
                setattr(sys, name, stream)
                setattr(sys, f"__{name}__", stream)
        os.chdir("/")

    def leave(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()

    def app(self, key: int) -> App:
        if key not in self.apps:
            self.apps[key] = App(*self.records[key])
        return self.apps[key]

    def call(
        self, job: int, directory: str, key: int, parameters: str | bytes, info: str
    ) -> tuple[Any, str, bytes | None, str]:
        app = self.app(key)
        given = decode(parameters)
        os.environ["BALSAM_JOB_ID"] = str(job)
        details = SimpleNamespace(id=job, workdir=Path(directory), parameters=given, **decode(info))
        value = app.call(details, given)
        note = ""
        if app.outputs:
            self.leave()
            found, note = extract(directory, app.outputs)
            value = {**found, **(value if isinstance(value, dict) else {} if value is None else {"value": value})}
        return (None if value is None else encode(value)), "", None, note

    def read_outputs(self, job: int, directory: str, key: int) -> None:
        try:
            values, note = extract(directory, self.app(key).outputs)
            value: str | bytes | None
            value, note = encoded(values, note)
        except BaseException as error:
            value, note = None, f"{type(error).__name__}: {error}"
        with self.changed:
            self.extracted.append((job, value, note))


def _users(trace: Any) -> Any:
    """The traceback without this file's frames on top."""
    inner = trace
    while inner is not None and inner.tb_frame.f_code.co_filename == __file__:
        inner = inner.tb_next
    return inner or trace


def _pickled(error: BaseException) -> bytes | None:
    try:
        import cloudpickle

        error = error.with_traceback(None)
        return bytes(cloudpickle.dumps(error))
    except Exception:
        return None  # the text of the traceback says it too


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Worker(sys.argv[1], sys.argv[2] == "1").main()

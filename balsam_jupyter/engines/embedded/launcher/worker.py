"""A slot's warm Python process: runs Python apps, and reads the outputs of commands.

Started by path with the app's own Python. Frames as in `spawner.py`:

In:  ("app", key, record), ("call", number, app key, tags), ("cores", [id, …]), ("run", [task, …]), ("drop", job id),
     ("extract", job id, directory, app key)
     record = (name, payload, sys_path, output specs), tags = JSON text
     task = (job id, attempt, directory, call number, parameters, data as JSON text or None, files, lone);
     a lone job has its directory from the beginning
Out: (started, ends, returned, extracted, done)
     ends = [(job id, return code, start time, runtime in s, (value, error, exception, note)), …]
     extracted = [(job id, value, note), …]
     done = [(job id, start time, runtime in s, value), …]: ends of which there is nothing else to say

The journal says what a spawner's says, with the outcome of each end; see `journal.py`. A reader thread listens to
the launcher while the main thread is inside a user's function. A function that crashes the process, or calls
``os._exit``, fails its task alone: the launcher sees the end of the pipe and reads the journal.
"""

from __future__ import annotations

import _thread
import contextlib
import importlib
import importlib.util
import marshal
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections import deque
from pathlib import Path
from typing import Any

_handler = importlib.import_module("_signal").getsignal  # signal.getsignal makes an enum of each, which is slow

FLUSH_S = 0.005
QUICK_S = 0.0001  # in less time no C library sets a timer or goes elsewhere
PATIENCE_S = 0.05
HANDLED = (signal.SIGTERM, signal.SIGALRM, signal.SIGINT, signal.SIGUSR1)
MANY = 100  # in so large a batch, looking which directories are there costs less than asking for each
RETIRED = 83  # exit code of a worker that makes room for a fresh one
_OWN_THREADS = 2  # beside the main one


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
userapp = load("_balsam_jupyter_userapp", Path(__file__).with_name("userapp.py"))
stages = load("_balsam_jupyter_stage", Path(__file__).with_name("stage.py"))


def entry(content: tuple[Any, ...]) -> bytes:
    """An entry of the journal."""
    said = marshal.dumps(content)
    return len(said).to_bytes(4, "little") + said + b"\n"


class Worker:
    def __init__(self, journal: str, split_stderr: bool) -> None:
        # The user's functions may read stdin and write stdout: the frames move out of their way.
        self.inlet, self.outlet = os.dup(0), os.dup(1)
        self.stage = stages.Stage(stages.name_of(journal), split_stderr)
        self.stage.hide(self.export)
        self.woken, self.wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGUSR1, self.taken_over)
        self.listen_in_c()
        self.record = files.Record(journal, entry((os.getpid(),)), entry(()))
        # A child that a task forks must not keep the pipes open or the journal locked.
        os.register_at_fork(after_in_child=self.close_private)
        self.variables: dict[bytes, bytes] = vars(os.environ)["_data"]  # the bytes of os.environ, quick to compare
        self.environment = dict(self.variables)
        self.exported = False  # BALSAM_JOB_ID is in the environment that processes inherit, too
        self.handlers = [(int(n), _handler(n)) for n in HANDLED]
        self.records: dict[int, tuple[str, bytes | None, list[str], dict[str, str | None]]] = {}
        self.apps: dict[int, Any] = {}
        self.calls: dict[int, tuple[int, str]] = {}
        self.lock = threading.Lock()  # holds what the threads share: all of the following
        self.changed = threading.Condition(self.lock)
        self.queue: deque[Any] = deque()
        self.orphaned = self.record.fenced
        self.current: tuple[int, float, float] | None = None  # job id, start time, clock
        self.parked = False  # the watch waits for the end of a long task
        self.ends: list[Any] = []
        self.done: list[Any] = []
        self.returned: list[int] = []
        self.extracted: list[Any] = []
        self.unwritten = b""  # the journal's record of the last end; the next start is written with it
        self.untold: tuple[Any, ...] = ()  # and what the launcher is told of it then
        self.last_flush = self.last_look = 0.0
        self.full = False  # the disk

    def main(self) -> None:
        threading.Thread(target=self.listen, daemon=True).start()
        threading.Thread(target=self.keep_watch, daemon=True).start()
        self.flush(hello=True)
        while True:
            item = self.take()
            if item is None:
                if not self.rest():
                    return
            elif item[0] == "extract":
                self.read_outputs(*item[1:])
            elif item[0] == "look":
                self.stage.look(item[1])
            else:
                self.run(*item)
                if _thread._count() > _OWN_THREADS:
                    self.finish()
                    os._exit(RETIRED)  # threads a task left behind end with the process

    def take(self) -> Any:
        """What to do next, for a task with the time and clock of its start; None if there is nothing, or no room.

        A start is written down in the same breath: what the launcher's successor finds not begun never begins.
        """
        with self.lock:
            if not self.queue or self.orphaned:
                return None
            item = self.queue[0]
            if item[0] not in ("extract", "look"):
                began, clock = time.time(), time.monotonic()
                self.full = not self.has_room(clock)
                if self.full:
                    return None
                self.note((item[0], began, clock), entry((item[0], item[1], began, clock)))
                item = item, began, clock
            self.queue.popleft()
            return item

    def has_room(self, clock: float) -> bool:
        """Whether a start and its end can be written: no task begins while the disk is full."""
        size = len(self.unwritten) + files.ROOM
        if clock - self.last_look < FLUSH_S and self.record.taken - self.record.size >= size:
            return True
        try:
            self.record.take_room(size)
        except OSError as error:
            if not files.full(error):
                raise
            return False
        self.last_look = clock
        return True

    def note(self, current: tuple[int, float, float] | None, begun: bytes = b"") -> None:
        """Write down the last end, with what begins now; the next flush tells of it. The lock is held."""
        if self.unwritten or begun:
            self.record.write(self.unwritten + begun)
        if self.unwritten:
            (self.done if len(self.untold) == 4 else self.ends).append(self.untold)
            self.unwritten = b""
        self.current = current
        if self.parked:
            self.changed.notify_all()

    def rest(self) -> bool:
        """Nothing can be done: tell what there is to tell, and wait. False once the launcher is gone."""
        self.finish()
        with self.changed:
            if self.full:
                self.changed.wait(files.FULL_S)
            while not self.queue and not self.orphaned:
                self.changed.wait()
            return not self.orphaned

    def finish(self) -> None:
        with self.lock:
            self.note(None)
        self.flush()
        self.stage.close()

    def listen_in_c(self) -> None:
        """Have SIGUSR1 heard also while the main thread is inside C code. A task may undo it (asyncio does)."""
        signal.set_wakeup_fd(self.wake, warn_on_full_buffer=False)

    def taken_over(self, *_: object) -> None:
        """Others have taken over from the launcher: it does not listen, and the pipe may be full."""
        os.dup2(self.stage.null, self.outlet)
        os.write(self.wake, bytes([signal.SIGUSR1]))

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
            self.record.write(self.record.gone)
            self.changed.notify_all()

    def heard(self) -> bytes:
        """What the launcher says next; nothing once it is gone, or others have taken over from it."""
        while True:
            ready, _, _ = select.select([self.inlet, self.woken], [], [])
            if self.woken in ready and signal.SIGUSR1 in os.read(self.woken, 4096):
                return b""
            if self.inlet in ready:
                return os.read(self.inlet, 1 << 18)

    def obey(self, message: Any) -> None:
        with self.changed:
            if message[0] == "run":
                self.queue.append(("look", message[1][0][2] if len(message[1]) >= MANY else ""))
                self.queue.extend(message[1])
            elif message[0] == "app":
                self.records[message[1]] = message[2]
                self.apps.pop(message[1], None)
            elif message[0] == "call":
                self.calls[message[1]] = message[2:]
            elif message[0] == "cores":
                os.sched_setaffinity(os.getpid(), message[1])  # the main thread, which runs the tasks
            elif message[0] == "extract":
                self.queue.append(message)
            elif message[0] == "drop":
                self.give_back(message[1])
            self.changed.notify_all()

    def keep_watch(self) -> None:
        """Tell of a task that runs for a while, give it its directory, and give back what waits behind it."""
        while True:
            with self.lock:
                while (current := self.current) is None:
                    self.park()
                age = time.monotonic() - current[2]
            if age < FLUSH_S:
                time.sleep(FLUSH_S - age + 1e-4)
                continue
            with contextlib.suppress(OSError):  # met again, and told, when the task ends
                self.stage.materialise()
            self.flush(current[:2])
            with self.lock:
                while self.current is current and (age := time.monotonic() - current[2]) < PATIENCE_S:
                    self.park(PATIENCE_S - age)
                if self.current is current:
                    self.give_back(None)
            self.flush()
            with self.lock:
                while self.current is current:
                    self.park()

    def park(self, timeout: float | None = None) -> None:
        """The watch waits until something else is current."""
        self.parked = True
        self.changed.wait(timeout)
        self.parked = False

    def give_back(self, job: int | None) -> None:
        keep: deque[Any] = deque()
        for item in self.queue:
            if item[0] in ("extract", "look") or job not in (None, item[0]):
                keep.append(item)
            else:
                self.returned.append(item[0])
        self.queue = keep

    def flush(self, started: tuple[int, float] | None = None, hello: bool = False) -> None:
        with self.lock:
            if not (started or self.ends or self.done or self.returned or self.extracted or hello):
                return
            frame = marshal.dumps((started, self.ends, self.returned, self.extracted, self.done))
            self.ends, self.returned, self.extracted, self.done = [], [], [], []
            self.last_flush = time.monotonic()
            frame = len(frame).to_bytes(4, "little") + frame
            try:
                while frame:
                    frame = frame[os.write(self.outlet, frame) :]
            except BrokenPipeError:
                pass  # the launcher is gone; the journal has it all

    def run(self, task: Any, began: float, clock: float) -> None:
        job, attempt, directory, number, parameters, data, inputs, lone = task
        if clock - self.last_flush > FLUSH_S:
            self.flush()
            self.listen_in_c()
        value: str | bytes | None = None
        error = note = ""
        exception: bytes | None = None
        code = 0
        try:
            if inputs or lone or not files.when_there_is_room(self.stage.enter, directory):
                files.when_there_is_room(self.enter_own, directory, attempt > 1, inputs)
            value, note = self.call(job, directory, number, parameters, data)
        except SystemExit as stop:
            code = stop.code & 0xFF if isinstance(stop.code, int) else 0 if stop.code is None else 1
            if code:
                print(stop.code, file=sys.stderr)
                error = f"SystemExit: {stop.code}"
        except BaseException as raised:
            code = 1
            error = "".join(traceback.format_exception(type(raised), raised, userapp.user_frames(raised.__traceback__)))
            print(error, file=sys.stderr)
            exception = userapp.pickled(raised)
        untouched = self.stage.untouched
        self.stage.flush()
        try:
            files.when_there_is_room(self.stage.leave)
        except OSError as trouble:
            code, value = 1, None
            error = f"{error}what this task wrote is in {self.stage.path}; it could not be moved: {trouble}"
        runtime = time.monotonic() - clock
        outcome = value, error, exception, note
        self.unwritten = entry((job, attempt, code, began, runtime, outcome))
        plain = code == 0 and not (error or note)
        self.untold = (job, began, runtime, value) if plain else (job, code, began, runtime, outcome)
        self.record.wait_for_room(len(self.unwritten) + files.ROOM // 2)
        if runtime > QUICK_S or not (untouched and self.stage.parent):
            self.clean_up()

    def enter_own(self, directory: str, keep_log: bool, inputs: list[tuple[str, str, bytes]]) -> None:
        files.make(directory)
        self.stage.enter_own(directory, files.rotate if keep_log else None)
        for name, source, content in inputs:
            files.write(name, source, content)

    def close_private(self) -> None:
        signal.set_wakeup_fd(-1)  # what the child gets is not for this process
        for fd in (self.inlet, self.outlet, self.woken, self.wake, self.record.fd, self.record.unlocked):
            os.close(fd)

    def export(self) -> None:
        """Have processes that the task starts inherit its mark. Seldom needed, and dear: so not done for each task."""
        if b"BALSAM_JOB_ID" in self.variables:
            os.putenv(b"BALSAM_JOB_ID", self.variables[b"BALSAM_JOB_ID"])
            self.exported = True

    def clean_up(self) -> None:
        """Undo what the task did to the process, so that the next one finds it as this one did."""
        if self.variables != self.environment:
            os.environ.clear()
            os.environ.update({os.fsdecode(name): os.fsdecode(value) for name, value in self.environment.items()})
        if self.exported:  # no task sees the mark of another
            os.unsetenv(b"BALSAM_JOB_ID")
            self.exported = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self.handlers:
            if _handler(number) is not handler:
                signal.signal(number, handler)
        self.stage.reset()

    def app(self, key: int) -> Any:
        if key not in self.apps:
            self.apps[key] = userapp.App(*self.records[key])
        return self.apps[key]

    def call(
        self, job: int, directory: str, number: int, parameters: str | bytes, data: str | None
    ) -> tuple[str | bytes | None, str]:
        key, tags = self.calls[number]
        app = self.app(key)
        given = decode(parameters)
        self.variables[b"BALSAM_JOB_ID"] = self.environment[b"BALSAM_JOB_ID"] = b"%d" % job
        self.stage.tripped = False
        value = app.call(userapp.Job(job, given, tags, data, directory), given)
        note = ""
        if app.outputs:
            self.stage.flush()
            self.stage.materialise()
            found, note = extract(directory, app.outputs)
            value = {**found, **(value if isinstance(value, dict) else {} if value is None else {"value": value})}
        return (None if value is None else encode(value)), note

    def read_outputs(self, job: int, directory: str, key: int) -> None:
        self.finish()
        try:
            values, note = extract(directory, self.app(key).outputs)
            value: str | bytes | None
            value, note = userapp.encoded(values, note)
        except BaseException as error:
            value, note = None, f"{type(error).__name__}: {error}"
        with self.lock:
            self.extracted.append((job, value, note))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Worker(sys.argv[1], sys.argv[2] == "1").main()

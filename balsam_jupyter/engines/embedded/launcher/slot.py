"""The launcher's side of a slot: a spawner for commands, and a warm worker for Python once one is needed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import marshal
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....shelltext import shell
from ..journal import Journal, journal_path, read
from ..sessions import Session
from .node import start
from .nodes import RemoteProcess
from .placement import Place, environment, place_file
from .prepare import App

if TYPE_CHECKING:
    from .lines import Line

_HERE = Path(__file__).parent
_PIPE = 1 << 16  # read at a time; a larger buffer costs more to allocate than it saves
_ROOM = 1 << 20  # so that a slot process is not held up while the launcher commits


Start = Callable[[list[str], Mapping[str, str]], "subprocess.Popen[bytes] | RemoteProcess"]
"""Starts a slot process with pipes to it: from here, or through the worker of its node."""


def local(argv: list[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return start(argv, env, subprocess.PIPE, subprocess.PIPE)


class Channel:
    """A slot process and the pipes to it. Writing never blocks: what does not fit is sent when it can be."""

    def __init__(self, kind: str, argv: list[str], env: Mapping[str, str], journal: Path, start: Start = local) -> None:
        self.kind = kind
        self.journal = journal
        self.process = start(argv, env)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.inlet, self.outlet = self.process.stdin.fileno(), self.process.stdout.fileno()
        for pipe in (self.inlet, self.outlet):
            with contextlib.suppress(OSError):  # the system may limit how much a user's pipes hold
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _ROOM)
        os.set_blocking(self.inlet, False)
        os.set_blocking(self.outlet, False)
        self.unsent = bytearray()
        self.received = bytearray()
        self.jobs: dict[int, None] = {}  # handed over and not reported back, in order
        self.known: dict[Any, int] = {}  # apps (and environments) the process was told of: their numbers there
        self.cores: tuple[int, ...] = ()  # its tasks are bound to
        self.extracting: set[int] = set()  # jobs whose outputs it reads
        self.ready = False  # it holds its journal's lock; nothing is handed over before
        self.slow = False  # its task takes long: it gave back what waited behind it
        self.killed = False  # it was ended for the sake of one job; others it held are not to blame

    @property
    def busy(self) -> bool:
        return bool(self.jobs or self.extracting)

    def send(self, message: tuple[Any, ...]) -> None:
        frame = marshal.dumps(message)
        self.unsent += len(frame).to_bytes(4, "little") + frame
        self.push()

    def push(self) -> None:
        """Send what waits, as far as the pipe takes it."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            while self.unsent:
                del self.unsent[: os.write(self.inlet, self.unsent)]

    def receive(self) -> tuple[list[tuple[Any, ...]], bool]:
        """The frames that have arrived, and whether the process is gone."""
        gone = False
        try:
            while data := os.read(self.outlet, _PIPE):
                self.received += data
                if len(data) < _PIPE:
                    break
            gone = not data
        except BlockingIOError:
            pass
        return self.frames(), gone

    def frames(self) -> list[tuple[Any, ...]]:
        """The whole frames among what was received."""
        frames = []
        while len(self.received) >= 4 and len(self.received) >= (
            size := 4 + int.from_bytes(self.received[:4], "little")
        ):
            frames.append(marshal.loads(self.received[4:size]))
            del self.received[:size]
        return frames

    def bury(self) -> tuple[int | None, Journal]:
        """Exit code (None: nobody knows) and journal of a process that is gone."""
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return code, read(self.journal)


class Slot:
    """Runs one task at a time, on the place it has."""

    def __init__(
        self,
        number: int,
        node: int,
        session: Session,
        environment: Mapping[str, str],
        split_stderr: bool,
        start: Start = local,
    ) -> None:
        self.number = number
        self.node = node
        self.start = start
        self.folder = session.folder
        self.environment = {**environment, "BALSAM_SESSION": session.mark, "BALSAM_SLOT": str(number)}
        self.split = "1" if split_stderr else "0"
        self.made = 0
        self.line: Line | None = None
        self.place = Place((), (), (), Fraction(0))
        self.resources: dict[str, str] = {}  # the place, as a task's environment says it
        self.spawner = self.start_spawner()
        self.worker: Channel | None = None
        self.worker_key: tuple[Any, ...] = ()
        self.retired: list[Channel] = []

    @property
    def channels(self) -> list[Channel]:
        return [self.spawner, *([self.worker] if self.worker else []), *self.retired]

    @property
    def slow(self) -> bool:
        return any(channel.slow for channel in self.channels)

    @property
    def handed(self) -> int:
        """Jobs handed over and not reported back."""
        return sum(len(channel.jobs) for channel in self.channels)

    def occupy(self, line: Line, place: Place) -> None:
        """Run this line's jobs on this place from now on."""
        if place != self.place:
            file = place_file(self.folder, self.number)
            fresh = file.with_suffix(".new")
            fresh.write_text(place.to_json())
            fresh.replace(file)  # never half of it, also on a full disk
            self.place = place
        self.line = line
        self.resources = environment(line.asked.threads_per_rank, place)

    def bind(self, channel: Channel) -> None:
        """Have the tasks of this process use the cores of the place only."""
        if channel.cores != self.place.cores and min(self.place.cores, default=-1) >= 0:
            channel.cores = self.place.cores
            channel.send(("cores", list(channel.cores)))

    def _journal(self, kind: str) -> Path:
        self.made += 1
        return journal_path(self.folder, self.number, self.made, kind)

    def start_spawner(self) -> Channel:
        journal = self._journal("spawner")
        argv = [sys.executable, "-I", "-S", "-X", "utf8", str(_HERE / "spawner.py"), str(journal), self.split]
        env = {**self.environment, "BALSAM_SPAWNER": journal.name}
        self.spawner = Channel("spawner", argv, env, journal, self.start)
        return self.spawner

    def worker_for(self, app: App, any_python: bool = False) -> Channel | None:
        """The warm process for this app, started if need be; None while the slot's worker is busy with another kind."""
        key = () if any_python else (*app.worker_key, *sorted(self.resources.items()))
        if self.worker is not None and (any_python or self.worker_key == key):
            return self.worker
        if self.worker is not None:
            if self.worker.busy:
                return None
            self.retire(self.worker)
        journal = self._journal("worker")
        python = app.record.python_exe or sys.executable
        argv = [python, "-u", str(_HERE / "worker.py"), str(journal), self.split]
        if app.record.preamble and not any_python:
            argv = [shell(), "-c", "\n".join([*app.record.preamble, 'exec "$0" "$@"']), *argv]
        env = {**app.environment, **self.environment, "BALSAM_WORKER": journal.name}
        if not any_python:
            env.update({**self.resources, **app.record.environment_variables})
        self.worker, self.worker_key = Channel("worker", argv, env, journal, self.start), key
        return self.worker

    def retire(self, channel: Channel) -> None:
        """Let a process end that is not needed any more; its end is seen like any other."""
        assert channel.process.stdin is not None
        channel.process.stdin.close()
        channel.inlet = -1
        channel.unsent.clear()
        self.worker = None
        self.retired.append(channel)

    def tell_call(self, channel: Channel, app: App, spec: int, tags: Mapping[str, str]) -> int:
        """Make known to a worker what all jobs of a spec share, once; its number there."""
        key = app.number, spec
        if key not in channel.known:
            channel.known[key] = len(channel.known)
            channel.send(("call", channel.known[key], self.tell(channel, app), json.dumps(tags, separators=(",", ":"))))
        return channel.known[key]

    def tell(self, channel: Channel, app: App) -> int:
        """Make an app (for a spawner: its environment on this place) known to the process, once; its number there."""
        if channel.kind == "worker":
            if app.number not in channel.known:
                channel.known[app.number] = app.number
                record = app.record
                channel.send(("app", app.number, (record.name, record.payload, record.sys_path, record.outputs)))
            return app.number
        key = app.number, *self.resources.values()
        if key not in channel.known:
            channel.known[key] = len(channel.known)
            variables = {**app.environment, **self.environment, **self.resources, **app.record.environment_variables}
            told = {os.fsencode(name): os.fsencode(value) for name, value in variables.items()}
            channel.send(("env", channel.known[key], told))
        return channel.known[key]

"""Where a warm worker's Python tasks run: one directory for many tasks, until one of them leaves something.

Most Python tasks return a value and write nothing, and making a directory and a log for each would cost more than
the task. So a task runs in the worker's stage, a hidden directory beside the task's own place: the log is there,
relative paths like ``../shared.dat`` mean what they should. When the task has written anything, or may be asked where
it is (it looks at its directory, starts a process, runs for a while), the stage is renamed to be the task's work
directory, with log and all, and a new one is made for the tasks after it. A task whose directory is there already
(a rerun, staged files), or that has input files, runs in it from the beginning.

Standard library only and no import from this package: a worker in another Python loads this file by its path.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

PREFIX = ".stage-"
LOGS = ("job.out", "job.err")
# What starts a process: it would see the path of the stage, and may outlive the task.
_SPAWNING = frozenset(
    {"subprocess.Popen", "os.fork", "os.forkpty", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn"}
)
# What changes the process for the next task, and raises no audit event.
_WIRED = [(os, name) for name in ("dup2", "close", "closerange")] + [
    (signal, name) for name in ("signal", "alarm", "setitimer")
]
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_getcwd, _getcwdb = os.getcwd, os.getcwdb


class Stage:
    """The stage of one worker.

    Parameters
    ----------
    name : str
        Name of the directory, unique at the site; it begins with a dot.
    split_stderr : bool
        Whether stderr has a log of its own.
    """

    def __init__(self, name: str, split_stderr: bool) -> None:
        self.name = name
        self.split_stderr = split_stderr
        self.null = os.open(os.devnull, os.O_RDWR)
        self.lock = threading.Lock()
        self.path = ""  # where the stage is; "" while there is none
        self.parent = ""
        self.cwd = ""  # the same as the system spells it
        self.mode = 0
        self.folder = self.out = self.err = -1  # descriptors of the stage and its logs
        self.looked = ""  # a folder of which it is known what is there
        self.there: frozenset[str] = frozenset()
        self.directory = ""  # of the task that runs here, as long as it has none of its own
        self.tripped = False  # a task may have changed something of the process
        self.stdin, self.stdout, self.stderr = sys.stdin, sys.stdout, sys.stderr
        self.close()

    def enter(self, directory: str) -> bool:
        """Begin a task in the stage; False if its directory is there already, then it has to run in that."""
        parent, _, name = directory.rpartition("/")
        if name in self.there if parent == self.looked else os.access(directory, os.F_OK):
            return False
        if parent != self.parent:
            self.close()
            self._open(parent)
        self.directory = directory
        return True

    def look(self, directory: str) -> None:
        """Read once what is beside the first directory of a batch, instead of asking for each; "": ask for each."""
        self.looked = os.path.dirname(directory)
        self.there = frozenset()
        with contextlib.suppress(OSError):
            self.there = frozenset(os.listdir(self.looked) if directory else ())

    def enter_own(self, directory: str, before: Callable[[], None] | None) -> None:
        """Begin a task in its own directory, which is there; `before` is called in it before the logs are opened."""
        self.close()
        os.chdir(directory)
        if before is not None:
            before()
        self._open_logs()

    def materialise(self) -> None:
        """Make the stage the work directory of the task that runs in it, if one does."""
        if not self.directory:
            return
        with self.lock:
            if self.directory:
                if keep(self.path, self.directory):
                    os.chdir(self.directory)
                self.path = self.parent = self.directory = ""

    def leave(self) -> None:
        """End a task: what it left becomes its work directory, an untouched stage stays for the next.

        Raises
        ------
        OSError
            If what it left cannot be moved to its place.
        """
        if self.directory and self._touched():
            self.materialise()
        with self.lock:
            self.directory = ""

    @property
    def untouched(self) -> bool:
        """Whether the process is as it was, as far as wires and audit events tell: they see whatever Python code does.

        C code trips no wire: after a task that ran long enough for such, all has to be looked at.
        """
        return (
            not self.tripped
            and self.parent != ""
            and sys.stdin is self.stdin
            and sys.stdout is self.stdout
            and sys.stderr is self.stderr
            and not (self.stdin.closed or self.stdout.closed or self.stderr.closed)
        )

    def reset(self) -> None:
        """Point the process's working directory and streams here again, wherever a task has put them."""
        if sys.stdout is not self.stdout or self.stdout.closed or sys.stderr is not self.stderr or self.stderr.closed:
            self._open_streams()
        os.dup2(self.null, 0)
        if not self.parent:
            self.close()
            return
        os.dup2(self.out, 1)
        os.dup2(self.err, 2)
        try:
            if _getcwd() != self.cwd:
                os.chdir(self.path)
        except OSError:
            self.close()

    def flush(self) -> None:
        """Have in the log what the task has printed."""
        for stream in (sys.stdout, sys.stderr):
            try:  # noqa: SIM105 (this runs for every task, and `suppress` costs more than the flush)
                stream.flush()
            except (OSError, ValueError):
                pass

    def _open_streams(self) -> None:
        for name, fd in (("stdout", 1), ("stderr", 2)):
            stream = open(fd, "w", buffering=1, closefd=False)  # noqa: SIM115
            setattr(self, name, stream)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)

    def close(self) -> None:
        """Leave and remove the stage, until the next task begins."""
        os.chdir("/")
        for fd in (0, 1, 2):
            os.dup2(self.null, fd)
        for fd in {self.folder, self.out, self.err} - {-1}:
            with contextlib.suppress(OSError):  # a task may have closed it
                os.close(fd)
        self.folder = self.out = self.err = -1
        if self.path:
            remove(self.path)
        self.path = self.parent = ""

    def _open(self, parent: str) -> None:
        self.path = f"{parent}/{self.name}"
        try:
            os.mkdir(self.path)
        except FileNotFoundError:
            os.makedirs(self.path)
        os.chdir(self.path)
        self._open_logs()
        self.cwd = _getcwd()
        self.folder = os.open(".", os.O_RDONLY)
        # A time that no change can have: every file made, removed or renamed in it sets another.
        os.utime(self.folder, (0, 0))
        self.mode = os.fstat(self.folder).st_mode
        self.parent = parent

    def _open_logs(self) -> None:
        self.out = os.open(LOGS[0], _CREATE, 0o666)
        self.err = os.open(LOGS[1], _CREATE, 0o666) if self.split_stderr else self.out
        os.dup2(self.out, 1)
        os.dup2(self.err, 2)

    def _touched(self) -> bool:
        if os.lseek(self.out, 0, os.SEEK_END) or (self.split_stderr and os.lseek(self.err, 0, os.SEEK_END)):
            return True
        now = os.fstat(self.folder)
        return now.st_mtime_ns != 0 or now.st_mode != self.mode

    # -- what a task can do to find out where it is ------------------------------------------------------

    def hide(self, before_spawn: Callable[[], None]) -> None:
        """Have whatever would show the stage to a task make it the task's directory first.

        `before_spawn` is called in addition when the task may be about to start a process.
        """
        self.before_spawn = before_spawn
        os.getcwd, os.getcwdb = _Where(self, _getcwd), _Where(self, _getcwdb)
        for module, name in _WIRED:
            setattr(module, name, _Wire(self, getattr(module, name)))
        accessor = getattr(sys.modules.get("pathlib"), "_NormalAccessor", None)  # Python 3.10 keeps the function there
        if accessor is not None:
            accessor.getcwd = os.getcwd
        sys.addaudithook(self._on_audit)
        os.register_at_fork(after_in_child=self._forget)

    def _on_audit(self, event: str, args: Any) -> None:
        self.tripped = True
        if event in _SPAWNING:
            self.before_spawn()
            self.materialise()

    def _forget(self) -> None:
        """In a child that a task forked: the stage is its parent's."""
        self.lock = threading.Lock()
        self.directory = self.path = ""


class _Wire:
    """A function that tells the stage when it is called."""

    def __init__(self, stage: Stage, real: Any) -> None:
        self.stage, self.real = stage, real

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.stage.tripped = True
        return self.real(*arguments, **named)


class _Where:
    """`os.getcwd` that first gives the task a directory. An object, as it may be kept as an attribute of a class."""

    def __init__(self, stage: Stage, real: Any) -> None:
        self.stage, self.real = stage, real

    def __call__(self) -> Any:
        self.stage.tripped = True
        self.stage.before_spawn()  # multiprocessing tells nobody before it spawns, but asks for this
        self.stage.materialise()
        return self.real()


def name_of(journal: str) -> str:
    """The name of the stage of the worker that writes this journal."""
    folder, _, file = journal.rpartition("/")
    return f"{PREFIX}{folder.rpartition('-')[2]}.{file.removesuffix('.worker')}"


def keep(stage: str, directory: str) -> bool:
    """Make a stage the work directory of a task. True if there is one by now: then the files are moved into it."""
    try:
        try:
            os.rename(stage, directory)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(directory), exist_ok=True)
            os.rename(stage, directory)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        for name in os.listdir(stage):
            os.replace(f"{stage}/{name}", f"{directory}/{name}")
        os.rmdir(stage)
        return True
    return False


def settle(journal: str, directory: str, in_flight: bool) -> None:
    """What the worker of this journal, which died, left in its stage becomes the work directory of its last task.

    An untouched stage, or that of a task that had ended, is removed.
    """
    stage = f"{os.path.dirname(directory)}/{name_of(journal)}"
    try:
        touched = os.stat(stage).st_mtime_ns != 0 or any(entry.stat().st_size for entry in os.scandir(stage))
    except FileNotFoundError:
        return
    if touched and in_flight:
        keep(stage, directory)
    else:
        remove(stage)


def remove(stage: str) -> None:
    """Remove a stage that holds nothing of a task."""
    with contextlib.suppress(OSError):
        for name in os.listdir(stage):
            os.unlink(f"{stage}/{name}")
        os.rmdir(stage)

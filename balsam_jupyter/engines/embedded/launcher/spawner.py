"""A slot's spawner: runs commands one after another, each in its directory with its log.

Started by path with ``python -I -S``; imports little, so that the process is small and starts quickly.
Frames on stdin and stdout are a 4-byte length and a marshalled value.

In:  ("env", number, {bytes: bytes}), ("cores", [id, …]), ("run", [task, …]), ("drop", job id)
     task = (job id, attempt, directory, argv, env number, files, keep_log), files = [(name, source, bytes)]
Out: (started, ends, returned)
     started = (job id, start time) of a task that has been running for a while, or None
     ends = [(job id, return code, start time, runtime in s[, outcome]), …], returned = [job id, …] not started

Journal: "P pid", "S id attempt time clock" before a start ("N id attempt" if it did not come to it), "E id attempt
code time runtime" after an end, "O" when the launcher is gone. See `journal.py`. SIGUSR1 says that others
have taken over from the launcher.

While the disk is full, the next task waits: it is not started, and nothing about it is told.
"""

from __future__ import annotations

import binascii
import errno
import fcntl
import marshal
import mmap
import os
import select
import signal
import sys
import time

FLUSH_S = 0.005  # a task that has run for so long is told to be running
GROUP_S = 0.02  # a result waits this long at most for company, while more tasks are queued
PATIENCE_S = 0.05  # tasks queued behind one that runs longer than this go back, for other slots to take
FULL_S = 0.5  # how often to look whether a full disk has room again
ROOM = 1 << 10  # bytes of the journal: a start, an end and "O" fit
LEAST = 1 << 16  # bytes: a disk with less is full
AHEAD, MOST_AHEAD = 1 << 14, 1 << 19  # and so many are taken at a time, the more the longer it is


TYPE_CHECKING = False  # typing itself is not imported: this process is to be small
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Task = tuple[int, int, str, list[bytes], int, list[tuple[str, str, bytes]], bool]


def full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def when_there_is_room(do: Callable[..., Any], *given: Any) -> Any:
    """Do it; again and again while the disk is full."""
    while True:
        try:
            return do(*given)
        except OSError as error:
            if not full(error):
                raise
        time.sleep(FULL_S)


class Record:
    """The journal as it is written, locked for as long as its process lives.

    Room is taken before a task starts, so that its end can be written although the disk is full by then. It is
    written through a mapping: what is there when the process is killed stays, and an entry costs no system call.
    """

    def __init__(self, path: str, pid: bytes, gone: bytes) -> None:
        self.gone = gone  # what to write when the launcher is gone
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        fcntl.flock(self.fd, fcntl.LOCK_EX)
        # A mapping keeps its file open, also in a child that a task forks, where it must not keep the lock.
        self.unlocked = os.open(path, os.O_RDWR)
        self.size = self.taken = 0
        self.wait_for_room(ROOM)
        self.write(pid)
        # Who takes over makes this file first and reads the journals then: one of us sees the other.
        self.fenced = os.path.exists(os.path.join(os.path.dirname(path), "fenced"))
        if self.fenced:
            self.write(gone)

    def take_room(self, size: int) -> None:
        """See to it that so many bytes can be written; raises OSError while the disk is full, also for a task."""
        disk = os.fstatvfs(self.fd)
        left = disk.f_bavail if os.geteuid() else disk.f_bfree
        if left * disk.f_frsize < LEAST and disk.f_blocks:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.taken - self.size < size:
            ahead = min(max(AHEAD, self.size), MOST_AHEAD)
            os.posix_fallocate(self.fd, self.size, size + ahead)
            self.map = mmap.mmap(self.unlocked, self.size + size + ahead)
            self.taken = len(self.map)

    def wait_for_room(self, size: int) -> None:
        if self.taken - self.size < size:
            when_there_is_room(self.take_room, size)

    def write(self, line: bytes) -> None:
        """Write where room was taken; the beginning last, since without it a reader takes nothing of the rest."""
        at, end = self.size, self.size + len(line)
        if end > self.taken:
            self.wait_for_room(len(line))
        self.map[at + 4 : end] = line[4:]
        self.map[at : min(at + 4, end)] = line[:4]
        self.size = end


class Spawner:
    def __init__(self, journal: str, split_stderr: bool) -> None:
        self.null = os.open(os.devnull, os.O_RDWR)
        self.telling = False
        self.rotated = (0, 0)
        signal.signal(signal.SIGUSR1, self.taken_over)
        self.record = Record(journal, b"P %d\n" % os.getpid(), b"O\n")
        create = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        log = [
            (os.POSIX_SPAWN_OPEN, 0, b"/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, b"job.out", create, 0o666),
        ]
        errors = (os.POSIX_SPAWN_OPEN, 2, b"job.err", create, 0o666) if split_stderr else (os.POSIX_SPAWN_DUP2, 1, 2)
        defaults = (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)
        self.how: dict[str, Any] = {"file_actions": [*log, errors], "setpgroup": 0, "setsigdef": defaults}
        self.environments: dict[int, dict[bytes, bytes]] = {}
        self.queue: list[Task] = []
        self.made: set[str] = set()  # directories made ahead
        self.inbox = bytearray()
        self.orphaned = self.record.fenced
        self.started: tuple[int, float] | None = None
        self.ends: list[tuple[Any, ...]] = []
        self.returned: list[int] = []
        self.last_flush = 0.0
        self.woken, wake = os.pipe()
        os.set_blocking(self.woken, False)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        os.set_blocking(0, False)
        self.poll = select.poll()
        self.poll.register(0, select.POLLIN)
        self.both = select.poll()
        self.both.register(0, select.POLLIN)
        self.both.register(self.woken, select.POLLIN)
        self.child = select.poll()
        self.child.register(self.woken, select.POLLIN)

    def main(self) -> None:
        self.flush(hello=True)
        while True:
            if not self.queue:
                self.flush()
                if self.orphaned:
                    return
                self.poll.poll()
                self.hear()
            elif self.poll.poll(0):
                self.hear()
            if self.queue and not self.orphaned:
                self.run(self.queue.pop(0))

    def hear(self) -> None:
        """Take in what the launcher sent, or notice that it is gone."""
        try:
            data = os.read(0, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            self.orphaned = True
            self.queue.clear()
            self.record.write(self.record.gone)
            return
        self.inbox += data
        while len(self.inbox) >= 4:
            size = int.from_bytes(self.inbox[:4], "little")
            if len(self.inbox) < 4 + size:
                return
            message = marshal.loads(self.inbox[4 : 4 + size])
            del self.inbox[: 4 + size]
            kind = message[0]
            if kind == "run":
                self.queue.extend(message[1])
            elif kind == "env":
                self.environments[message[1]] = message[2]
            elif kind == "cores":
                os.sched_setaffinity(0, message[1])  # what it spawns inherits it
            elif kind == "drop":
                self.give_back([task for task in self.queue if task[0] == message[1]])

    def give_back(self, tasks: list[Task]) -> None:
        for task in tasks:
            self.queue.remove(task)
            self.returned.append(task[0])

    def flush(self, hello: bool = False) -> None:
        if not (self.ends or self.returned or self.started or hello):
            return
        frame = marshal.dumps((self.started, self.ends, self.returned))
        self.started, self.ends, self.returned = None, [], []
        self.last_flush = time.monotonic()
        frame = len(frame).to_bytes(4, "little") + frame
        self.telling = True
        while frame:
            try:
                frame = frame[os.write(1, frame) :]
            except BrokenPipeError:  # the launcher is gone; the journal has it all
                break
        self.telling = False

    def taken_over(self, *_: object) -> None:
        """The launcher counts as gone from now on: the end of its pipe is seen at the next look."""
        os.dup2(self.null, 0)
        if self.telling:  # it does not listen, and the pipe may be full
            os.dup2(self.null, 1)

    def run(self, task: Task) -> None:
        job, attempt, directory, argv, env, files, keep_log = task
        environment = self.environments[env]
        environment[b"BALSAM_JOB_ID"] = b"%d" % job
        began = time.time()
        clock = time.monotonic()
        why, begun = "", False
        try:
            self.record.take_room(ROOM)
            if directory in self.made:
                self.made.discard(directory)
            else:
                make(directory)
            os.chdir(directory)
            if keep_log and self.rotated != (job, attempt):
                rotate()
                self.rotated = job, attempt
            for name, source, content in files:
                write(name, source, content)
            self.record.write(b"S %d %d %.6f %.6f\n" % (job, attempt, began, clock))
            begun = True
            pid = self.spawn(argv, environment)
        except (OSError, ValueError) as error:
            if full(error):
                if begun:
                    self.record.write(b"N %d %d\n" % (job, attempt))
                return self.stay(task)
            code, why = 126, f"this task could not be started: {error}"
        else:
            self.make_ahead()
            code = self.wait(job, pid, began, clock)
        runtime = time.monotonic() - clock
        line = b"E %d %d %d %.6f %.6f" % (job, attempt, code, began, runtime)
        if why:
            outcome = (None, why, None, "")
            line += b" " + binascii.b2a_base64(marshal.dumps(outcome), newline=False)
            self.record.wait_for_room(len(line))
            self.ends.append((job, code, began, runtime, outcome))
        else:
            self.ends.append((job, code, began, runtime))
        self.record.write(line + b"\n")
        if self.started is not None and self.started[0] == job:
            self.started = None
        if clock + runtime - self.last_flush > GROUP_S:
            self.flush()

    def stay(self, task: Task) -> None:
        """The disk is full: this task stays the next one, what is behind it goes back; look again in a while."""
        self.give_back(self.queue[:])
        self.queue.append(task)
        self.flush()
        if self.poll.poll(FULL_S * 1000):
            self.hear()

    def spawn(self, argv: list[bytes], environment: dict[bytes, bytes]) -> int:
        how = self.how
        try:
            return os.posix_spawn(argv[0], argv, environment, **how)
        except OSError:
            # Not an executable: let the shell say so, in the task's log and with the code users know.
            return os.posix_spawn(b"/bin/sh", [b"/bin/sh", b"-c", b'exec "$0" "$@"', *argv], environment, **how)

    def make_ahead(self) -> None:
        if self.queue:
            directory = self.queue[0][2]
            if directory not in self.made:
                try:
                    make(directory)
                    self.made.add(directory)
                except OSError:
                    pass  # met again, and told, when the task starts

    def wait(self, job: int, pid: int, began: float, clock: float) -> int:
        """Until the command has ended; meanwhile pass on results, and listen."""
        told = False
        while True:
            done = -1
            while done not in (0, pid):  # others are what tasks left behind: this process inherits it
                done, status = os.waitpid(-1, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            age = time.monotonic() - clock
            if age >= FLUSH_S:
                if not told:
                    told, self.started = True, (job, began)
                if age >= PATIENCE_S:
                    self.give_back(self.queue[:])
                self.flush()
            patience = FLUSH_S - age if age < FLUSH_S else PATIENCE_S - age if age < PATIENCE_S else None
            for fd, _ in (self.child if self.orphaned else self.both).poll(
                None if patience is None else patience * 1000 + 1
            ):
                if fd == self.woken:
                    os.read(self.woken, 4096)
                else:
                    self.hear()


def make(directory: str) -> None:
    try:
        os.mkdir(directory)
    except FileExistsError:
        pass
    except FileNotFoundError:
        os.makedirs(directory, exist_ok=True)


def rotate() -> None:
    """A rerun keeps the log of the run before: job.out.1 is the first one's."""
    for log in ("job.out", "job.err"):
        if os.path.exists(log):
            number = 1
            while os.path.exists(f"{log}.{number}"):
                number += 1
            os.rename(log, f"{log}.{number}")


def write(name: str, source: str, content: bytes) -> None:
    folder = os.path.dirname(name)
    if folder:
        os.makedirs(folder, exist_ok=True)
    if source:
        with open(source, "rb") as file:
            content = file.read()
    with open(name, "wb") as file:
        file.write(content)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Spawner(sys.argv[1], sys.argv[2] == "1").main()

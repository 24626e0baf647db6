"""The launcher's side of its node workers in job mode serial; their side is `node.py`."""

from __future__ import annotations

import contextlib
import logging
import marshal
import os
import secrets
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from ....shelltext import shell
from ....templates import render_text
from ..doorbell import readable
from .node import PACKET, same_user

log = logging.getLogger("balsam_jupyter.launcher")

TICK_S = 1.0  # so often is looked whether a launch has ended that no socket tells of
ENDING_S = 0.01  # and so often, whether one that was killed has
FIRST_PAUSE_S, LAST_PAUSE_S = 0.2, 2.0  # between a launch that ended and the next
HOPELESS = 5  # launches in a row that brought up no worker: the command must be wrong
SILENT_S = 60.0  # so long may a worker take to say hello
STEADY_S = 10.0  # a launch that lasted so long was a good one: the next comes after the first pause again
_EXIT_S = 5.0


class RemoteProcess:
    """A slot process that a node worker starts, or has started: what a `Channel` needs of `subprocess.Popen`.

    Attributes
    ----------
    node : int
        The virtual node.
    stdin, stdout : file
        Our ends of its pipes, there from the beginning. `stdout` comes to its end when the process has ended, and also
        when it never began, as its node worker died at that moment.
    pid : int or None
        None until the node worker has said it; for good if the node worker died before.
    returncode : int or None
        As Popen's; 127 if the program could not be started (the launcher's log says why). None until the node
        worker has said it; for good if the node worker died first: nobody else can know.
    lost : bool
        Its node worker has died. The process itself lives on if it had begun.
    """

    def __init__(self, workers: NodeWorkers, node: int, number: int) -> None:
        self.workers, self.node, self.number = workers, node, number
        self.pid: int | None = None
        self.returncode: int | None = None
        self.lost = False
        self.doomed = False  # it is to be killed once its process id is known
        child_in, ours_in = os.pipe()
        ours_out, child_out = os.pipe()
        self.stdin, self.stdout = FileIO(ours_in, "wb"), FileIO(ours_out, "rb")
        self.theirs = [child_in, child_out]

    def wait(self, timeout: float = 1.0) -> int | None:
        """The return code of a process whose stdout has ended or whose stdin was closed.

        None where it cannot be known: the node worker has died, or is stopped and says nothing for `timeout` s. A
        process that the node worker was not yet asked for is not started any more.
        """
        self.workers.forget(self)
        deadline = time.monotonic() + timeout
        while self.returncode is None and not self.lost and (left := deadline - time.monotonic()) > 0:
            readable(left, self.workers.fileno())
            self.workers.serve()
        return self.returncode

    def kill(self) -> None:
        """SIGKILL, if it has not ended; at once if it is known, else as soon as it is, or it is not started at all."""
        if self.pid is None:
            self.doomed = True
            self.workers.forget(self)
            return
        if self.returncode is not None or self.stdout.closed:
            return
        poll = select.poll()
        poll.register(self.stdout, 0)
        if not poll.poll(0):  # a process that holds its stdout is there, so its id is no other's
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class _Launch:
    """One command that brings up the workers of some nodes: of one, or by MPI of all."""

    def __init__(self, nodes: Sequence[int], command: Callable[[list[str]], list[str]]) -> None:
        self.nodes, self.command = nodes, command
        self.process: subprocess.Popen[bytes] | None = None
        self.token = ""
        self.links: dict[int, _Link] = {}  # by node
        self.broken = False  # one of its workers has died; it is ended, and all come anew
        self.began = self.due = 0.0
        self.pause = FIRST_PAUSE_S
        self.heard = False  # a worker of this start has said hello
        self.failures = 0  # starts in a row that brought up none


class _Link:
    """The connection of a node worker; of an unknown one until it has said hello."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.launch: _Launch | None = None
        self.node = -1
        self.processes: dict[int, RemoteProcess] = {}
        self.full = False  # a request waits until the socket takes it


class NodeWorkers:
    """Keeps a worker alive on every virtual node, and has them start slot processes.

    One file descriptor (`fileno`) is readable whenever `serve` has something to do; `serve` has also to be called
    after `patience` s without. Nothing blocks, whatever a node worker does. When a worker dies, or the command
    that started it, that launch is ended as a whole and started again, after 0.2 s, 0.4 s … 2 s; slot processes live
    on, requests that no worker has taken wait for the next.

    Parameters
    ----------
    count : int
        Virtual nodes.
    environment : mapping
        Of the node workers; slot processes get their own.
    worker_launch : str
        The site's setting of this name.
    mpi : sequence of str
        The words before the program (`mpi.launch_line`) of one MPI launch with a rank for each node; empty: each
        worker is started by itself.
    """

    def __init__(
        self, count: int, environment: Mapping[str, str], worker_launch: str = "", mpi: Sequence[str] = ()
    ) -> None:
        self.environment = dict(environment)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self.listener.bind("")  # the kernel finds a name, which is gone when we are
        self.listener.listen(count + 8)
        self.epoll = select.epoll()
        self.epoll.register(self.listener, select.EPOLLIN)
        self.links: dict[int, _Link] = {}  # by file descriptor
        self.waiting: list[deque[tuple[RemoteProcess, list[int]]]] = [deque() for _ in range(count)]
        self.numbers = 0
        self.served = 0.0
        if mpi:
            self.launches = [_Launch(range(count), lambda worker: [*mpi, *worker])]
        elif worker_launch:
            self.launches = [_Launch([node], _by_template(worker_launch, node)) for node in range(count)]
        else:
            self.launches = [_Launch([node], list) for node in range(count)]
        self.serve()

    @property
    def hopeless(self) -> bool:
        """Whether on some node no worker comes up, however often it is started."""
        return any(launch.failures >= HOPELESS for launch in self.launches)

    def fileno(self) -> int:
        """Readable when `serve` has something to do."""
        return self.epoll.fileno()

    def patience(self) -> float:
        """Seconds after which `serve` has to be called, even if nothing is readable; 0: now."""
        due = (
            self.served + (ENDING_S if each.broken else TICK_S) if each.process is not None else each.due
            for each in self.launches
        )
        return max(0.0, min(due) - time.monotonic())

    def pids(self) -> list[int]:
        """Process ids of the launches that run: node workers, or the MPI launcher."""
        return [launch.process.pid for launch in self.launches if launch.process is not None]

    def start(self, node: int, argv: Sequence[str], env: Mapping[str, str]) -> RemoteProcess:
        """Have a slot process started on a node; at once, or when the node has a worker again.

        Its stderr is ours. It leads a session of its own, and is the reaper of what its tasks leave behind.
        """
        self.numbers += 1
        process = RemoteProcess(self, node, self.numbers)
        file = os.memfd_create("request")  # a packet has its limit, an environment has none
        with open(file, "wb", closefd=False) as whole:
            whole.write(marshal.dumps((list(argv), dict(env))))
        self.waiting[node].append((process, [*process.theirs, file]))
        for link in self.links.values():
            if link.node == node:
                self._send(link)
        return process

    def forget(self, process: RemoteProcess) -> None:
        """Do not start a process that no node worker was asked for yet."""
        queue = self.waiting[process.node]
        for entry in queue:
            if entry[0] is process:
                queue.remove(entry)
                _close(entry[1])
                process.lost = True
                return

    def serve(self) -> None:
        """Take in what node workers say, send what waits, start launches that are due."""
        self.served = time.monotonic()
        for fd, events in self.epoll.poll(0):
            if fd == self.listener.fileno():
                self._accept()
            elif fd in self.links:
                link = self.links[fd]
                if events & ~select.EPOLLOUT:
                    self._hear(link)
                if events & select.EPOLLOUT:
                    self._send(link)
        for launch in self.launches:
            self._look_after(launch)

    def close(self) -> None:
        """Let the node workers end; slot processes are not touched."""
        self.listener.close()
        for queue in self.waiting:
            while queue:
                self.forget(queue[0][0])
        for link in list(self.links.values()):
            self._drop(link)
        for launch in self.launches:
            if launch.process is not None:
                try:
                    launch.process.wait(_EXIT_S)
                except subprocess.TimeoutExpired:
                    _kill(launch.process)
                    launch.process.wait()
        self.epoll.close()

    # -- launches -----------------------------------------------------------------------------------------

    def _look_after(self, launch: _Launch) -> None:
        now = time.monotonic()
        process = launch.process
        if process is None:
            if now >= launch.due:
                self._begin(launch, now)
        elif process.poll() is not None:
            log.warning(
                "the worker of node %s ended (%s); it is started again", _span(launch.nodes), process.returncode
            )
            launch.process = None
            left = process.returncode == 0 and now - launch.began < STEADY_S  # its workers are not its children
            launch.failures = launch.failures + 1 if left or not launch.heard else 0
            for link in list(launch.links.values()):  # they may have outlived an MPI launcher; now they end too
                self._drop(link)
            launch.pause = FIRST_PAUSE_S if now - launch.began > STEADY_S else launch.pause
            launch.due = now + launch.pause
            launch.pause = min(2 * launch.pause, LAST_PAUSE_S)
            launch.broken = False
        elif launch.broken:
            _kill(process)
        elif not launch.heard and now - launch.began > SILENT_S:
            log.warning("the worker of node %s says nothing for %g s", _span(launch.nodes), SILENT_S)
            launch.broken = True

    def _begin(self, launch: _Launch, now: float) -> None:
        launch.token, launch.began, launch.heard = secrets.token_hex(8), now, False
        address = self.listener.getsockname()[1:].hex()
        worker = [sys.executable, "-I", "-S", str(Path(__file__).with_name("node.py")), address, launch.token]
        command = launch.command(worker)
        try:
            launch.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, env=self.environment, start_new_session=True
            )
        except OSError as error:
            log.warning("the worker of node %s could not be started: %s", _span(launch.nodes), error)
            launch.due = now + LAST_PAUSE_S
            launch.failures += 1

    # -- connections --------------------------------------------------------------------------------------

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = self.listener.accept()
                if not same_user(connection):
                    connection.close()
                    continue
                connection.setblocking(False)
                self.links[connection.fileno()] = _Link(connection)
                self.epoll.register(connection, select.EPOLLIN)

    def _hear(self, link: _Link) -> None:
        try:
            while packet := link.socket.recv(PACKET):
                self._heard(link, *marshal.loads(packet))
        except BlockingIOError:
            return
        except ConnectionResetError:
            pass
        if link.launch is not None:
            link.launch.broken = link.launch.process is not None
        self._drop(link)

    def _heard(self, link: _Link, kind: str, *said: Any) -> None:
        if kind == "hello":
            launch = next((each for each in self.launches if each.token == said[0] and each.process is not None), None)
            free = [node for node in launch.nodes if node not in launch.links] if launch is not None else []
            if launch is not None and free:
                link.launch, link.node, launch.heard = launch, free[0], True
                launch.links[link.node] = link
                self._send(link)
            else:  # of a launch that has ended meanwhile
                link.socket.shutdown(socket.SHUT_RDWR)
        elif kind == "started":
            process = link.processes[said[0]]
            process.pid = said[1]
            if process.doomed:
                process.kill()
        elif kind == "exited":
            link.processes.pop(said[0]).returncode = said[1]

    def _send(self, link: _Link) -> None:
        """Pass on the requests that wait for the node, as far as the socket takes them."""
        queue = self.waiting[link.node]
        with contextlib.suppress(OSError):  # it is full, or its worker is gone and we shall hear so
            while queue:
                process, fds = queue[0]
                packet = marshal.dumps(("start", process.number))
                socket.send_fds(link.socket, [packet], [fds[0], fds[1], 2, fds[2]])
                queue.popleft()
                _close(fds)
                link.processes[process.number] = process
        if link.full != bool(queue):
            link.full = bool(queue)
            self.epoll.modify(link.socket, select.EPOLLIN | (select.EPOLLOUT if queue else 0))

    def _drop(self, link: _Link) -> None:
        del self.links[link.socket.fileno()]
        self.epoll.unregister(link.socket)
        link.socket.close()
        for process in link.processes.values():
            process.lost = True
        if link.launch is not None:
            del link.launch.links[link.node]


def _by_template(template: str, node: int) -> Callable[[list[str]], list[str]]:
    return lambda worker: [shell(), "-c", render_text(template, {"node": node, "worker": shlex.join(worker)})]


def _span(nodes: Sequence[int]) -> str:
    return str(nodes[0]) if len(nodes) == 1 else f"{nodes[0]} to {nodes[-1]}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a launch with what it has in its process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)

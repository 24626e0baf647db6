"""The worker of one virtual node in job mode serial: starts the node's slot processes for the launcher.

Started by path (``python -I -S node.py ADDRESS TOKEN``), by `nodes.NodeWorkers` or by an MPI launcher it started. It
connects to the launcher's socket (abstract, SOCK_SEQPACKET) and says TOKEN and its process id. Then, one packet each:

In:  ("start", number) with four descriptors: stdin, stdout and stderr of the slot process, and a file that holds
     (argv, environment)
Out: ("started", number, process id), ("exited", number, return code)

Slot processes lead sessions of their own and talk to the launcher over their own pipes, so they live on when this
process dies, or the MPI launcher that started it. When the launcher closes the socket, this process ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import marshal
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any

PACKET = 4096
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None)  # loaded here, so that nothing is between fork and exec but the call


def start(
    argv: Sequence[str],
    env: Mapping[str, str],
    stdin: int | IO[bytes] | None,
    stdout: int | IO[bytes] | None,
    stderr: int | IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a slot process: in a session of its own, and as the reaper of whatever its tasks leave behind.

    A child of a task that leaves its group and session and clears its environment becomes a child of the slot process,
    not of process 1, and so can still be found.
    """
    adopt = functools.partial(_LIBC.prctl, _PR_SET_CHILD_SUBREAPER, *map(ctypes.c_ulong, (1, 0, 0, 0)))
    return subprocess.Popen(
        argv, stdin=stdin, stdout=stdout, stderr=stderr, env=dict(env), start_new_session=True, preexec_fn=adopt
    )


def same_user(connection: socket.socket) -> bool:
    """Whether who is at the other end of a Unix socket is of our user."""
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(uid == os.getuid())


class NodeWorker:
    def __init__(self, address: bytes, token: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(address)
        if not same_user(self.socket):  # our launcher has ended, and the address is another's now
            raise PermissionError("the socket of the launcher belongs to another user")
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.woken, wake = os.pipe()
        for fd in (self.woken, wake):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self.say("hello", token, os.getpid())

    def main(self) -> None:
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        poll.register(self.woken, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self.woken:
                    os.read(fd, 4096)
                    self.look_for_ends()
                elif not self.hear():
                    return

    def hear(self) -> bool:
        """Take in one request; False when the launcher has closed the socket."""
        try:
            packet, fds, _, _ = socket.recv_fds(self.socket, PACKET, 4, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:  # with something we said unread
            return False
        if not packet:
            return False
        _, number = marshal.loads(packet)
        try:
            process = self.start(*fds)
        finally:
            for fd in fds:  # before a word: who hears that it has started may rely on its pipes being its alone
                os.close(fd)
        if process is None:
            self.say("exited", number, 127)
        else:
            self.processes[number] = process
            self.say("started", number, process.pid)
        return True

    def start(self, stdin: int, stdout: int, stderr: int, file: int) -> subprocess.Popen[bytes] | None:
        argv, env = marshal.loads(os.pread(file, os.fstat(file).st_size, 0))
        try:
            return start(argv, env, stdin, stdout, stderr)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            os.write(stderr, f"{argv[0]} could not be started: {error}\n".encode())
            return None

    def look_for_ends(self) -> None:
        for number, process in list(self.processes.items()):
            if process.poll() is not None:
                del self.processes[number]
                self.say("exited", number, process.returncode)

    def say(self, *message: Any) -> None:
        # Where the launcher has closed the socket, the end of what it sent comes next.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.send(marshal.dumps(message))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    NodeWorker(b"\0" + bytes.fromhex(sys.argv[1]), sys.argv[2]).main()

"""Waking each other: a Unix datagram socket for every listener of a site, rung after a commit.

Ringing is a hint and may get lost; every listener also looks at the store once a second.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import threading
from pathlib import Path

_numbers = itertools.count()


def site_mark(site: Path) -> str:
    """Names a site's directory on this machine: the same through links and after a move, another for a copy."""
    there = site.stat()
    return f"{there.st_dev:x}.{there.st_ino:x}"


def runtime_folder(site: Path) -> Path:
    """A short folder for the sockets of a site (a socket's path has 108 bytes at most)."""
    # Not TMPDIR: it may differ between a login shell and Jupyter, and both must meet here.
    parent = Path("/tmp") / f"balsam-jupyter-{os.getuid()}"
    folder = parent / site_mark(site)
    for each in (parent, folder):
        each.mkdir(mode=0o700, exist_ok=True)
        if each.stat().st_uid != os.getuid():
            raise PermissionError(f"{each} belongs to another user")
    return folder


def readable(timeout: float, *descriptors: int) -> list[int]:
    """Those with something to read, waited for so many seconds; unlike `select` it takes any number."""
    poll = select.poll()
    for each in descriptors:
        poll.register(each, select.POLLIN)
    return [fd for fd, _ in poll.poll(max(0.0, timeout) * 1000)]


class Listener:
    """One ear. `wait` returns at the next ring; several rings before it count as one."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{os.getpid()}.{next(_numbers)}"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self.socket.bind(str(self.path))
        self.owner = threading.current_thread()
        self.pid = os.getpid()

    def fileno(self) -> int:
        return self.socket.fileno()

    def drain(self) -> bool:
        """Forget the rings so far; true if there were any."""
        rung = False
        with contextlib.suppress(BlockingIOError):
            while self.socket.recv(16):
                rung = True
        return rung

    def wait(self, timeout: float) -> bool:
        return bool(readable(timeout, self.fileno())) and self.drain()

    def close(self) -> None:
        self.socket.close()
        if self.pid == os.getpid():  # else it is the parent's, which goes on listening
            self.path.unlink(missing_ok=True)


class Bell:
    """Rings every listener of a site but those given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

    def ring(self, but: Listener | None = None) -> None:
        for entry in os.scandir(self.folder):
            if but is not None and entry.name == but.path.name:
                continue
            try:
                self.socket.sendto(b"!", entry.path)
            except BlockingIOError:
                pass  # its queue is full of rings already
            except (ConnectionRefusedError, FileNotFoundError):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)  # its owner died

    def close(self) -> None:
        self.socket.close()

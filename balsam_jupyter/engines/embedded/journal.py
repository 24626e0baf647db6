"""What slot processes write down and takeovers read: an entry for each start and each end.

A spawner writes lines: ``P pid`` first, ``S id attempt time clock``, ``N id attempt`` (a start taken back), ``E id
attempt code time runtime [outcome]``, ``O``. A worker writes a length (4 bytes), a marshalled tuple and a byte that
ends it: (pid,) first, (id, attempt, time, clock), (id, attempt, code, time, runtime, outcome), ().

Entries live in the page cache the moment they are written, so they survive SIGKILL of any process. One without its
last byte was never written down. Room taken in advance, so that an end can be written on a full disk, is zeros behind
the last entry. A slot process holds `flock` on its journal for as long as it lives, and writes ``O`` (or the empty
tuple) when it has seen that its launcher is gone and will start nothing more.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import marshal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TORN = (ValueError, TypeError, LookupError, EOFError)
"""What an entry raises of which the machine, when it died, had written only some pages to its disk."""


@dataclass
class Journal:
    """One slot process's journal as read: jobs by (id, attempt)."""

    path: Path
    pid: int = 0
    alive: bool = False
    orphaned: bool = False
    starts: dict[tuple[int, int], float] = field(default_factory=dict)
    clocks: dict[tuple[int, int], float] = field(default_factory=dict)
    """CLOCK_MONOTONIC at the starts: the time of day may be set back."""
    ends: dict[tuple[int, int], tuple[int, float, float, Any]] = field(default_factory=dict)
    """Return code, start time, runtime (s), and what a Python app came to: (value, error, exception)."""

    def ran_s(self, key: tuple[int, int]) -> float:
        """For how long a task that has no end here may have run, until now."""
        return max(0.0, time.monotonic() - self.clocks[key])


def journal_path(session_folder: Path, slot: int, number: int, kind: str) -> Path:
    return session_folder / f"{slot}.{number}.{kind}"


def read(path: Path) -> Journal:
    journal = Journal(path, alive=is_locked(path))
    if not path.exists():  # its process ended before it wrote anything
        return journal
    if path.suffix == ".worker":
        _read_worker(journal, path.read_bytes())
        return journal
    for line in path.read_bytes().split(b"\n")[:-1]:  # a line without its end was never written down
        with contextlib.suppress(*_TORN):
            _read_line(journal, *line.split(b" "))
    return journal


def _read_line(journal: Journal, kind: bytes, *words: bytes) -> None:
    if kind == b"O":
        journal.orphaned = True
    elif kind == b"P":
        journal.pid = int(words[0])
    elif kind in (b"S", b"N", b"E"):
        key = int(words[0]), int(words[1])
        if kind == b"S":
            journal.starts[key], journal.clocks[key] = float(words[2]), float(words[3])
        elif kind == b"N":
            del journal.starts[key]
        else:
            outcome = marshal.loads(base64.b64decode(words[5])) if len(words) > 5 else None
            journal.ends[key] = int(words[2]), float(words[3]), float(words[4]), outcome


def _read_worker(journal: Journal, content: bytes) -> None:
    at = 0
    while size := int.from_bytes(content[at : at + 4], "little"):
        start, end = at + 4, at + 4 + size
        at = end + 1
        if content[end:at] != b"\n":
            return
        try:
            entry = marshal.loads(content[start:end])
        except _TORN:
            return
        if len(entry) == 6:
            journal.ends[entry[0], entry[1]] = entry[2:]
        elif len(entry) == 4:
            journal.starts[entry[0], entry[1]], journal.clocks[entry[0], entry[1]] = entry[2:]
        elif entry:
            journal.pid = entry[0]
        else:
            journal.orphaned = True


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock on this file."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that look must not mistake each other for it
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False

"""What slot processes write down and takeovers read: an entry for each start and each end.

A spawner writes lines: ``S id attempt time``, ``E id attempt code time runtime [outcome]``, ``O``. A worker writes a
length (4 bytes) and a marshalled tuple: (id, attempt, time), (id, attempt, code, time, runtime, outcome), ().

Entries live in the page cache the moment they are written, so they survive SIGKILL of any process.
A slot process holds `flock` on its journal for as long as it lives, and writes ``O`` (or the empty tuple) when it has
seen that its launcher is gone and will start nothing more.
"""

from __future__ import annotations

import base64
import fcntl
import marshal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Journal:
    """One slot process's journal as read: jobs by (id, attempt)."""

    path: Path
    alive: bool = False
    orphaned: bool = False
    starts: dict[tuple[int, int], float] = field(default_factory=dict)
    ends: dict[tuple[int, int], tuple[int, float, float, Any]] = field(default_factory=dict)
    """Return code, start time, runtime (s), and what a Python app came to: (value, error, exception)."""


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
        kind, *words = line.split(b" ")
        if kind == b"O":
            journal.orphaned = True
        elif kind == b"S":
            journal.starts[int(words[0]), int(words[1])] = float(words[2])
        elif kind == b"E":
            outcome = marshal.loads(base64.b64decode(words[5])) if len(words) > 5 else None
            journal.ends[int(words[0]), int(words[1])] = int(words[2]), float(words[3]), float(words[4]), outcome
    return journal


def _read_worker(journal: Journal, content: bytes) -> None:
    at = 0
    while (start := at + 4) <= len(content):
        at = start + int.from_bytes(content[at:start], "little")
        if at > len(content):  # never written to its end
            return
        entry = marshal.loads(content[start:at])
        if len(entry) == 3:
            journal.starts[entry[0], entry[1]] = entry[2]
        elif entry:
            journal.ends[entry[0], entry[1]] = entry[2:]
        else:
            journal.orphaned = True


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock on this file."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False

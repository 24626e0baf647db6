"""Which hooks a processor runs now: noted beside its lock, so that others can tell, and blame one if it dies of it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

from ....models import HookRun
from ..sessions import session_folder
from ..store import Store, work

_ROOM = 100  # bytes of a note: written over in one call


class Note:
    """What one hand runs."""

    def __init__(self, folder: Path, hand: int) -> None:
        self.path = folder / f"hand.{hand}"

    def write(self, job: int, hook: str) -> None:
        self._put(json.dumps([job, hook, time.time()]))

    def clear(self) -> None:
        self._put("null")

    def _put(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a full disk is no reason not to run it
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.pwrite(fd, text.ljust(_ROOM).encode(), 0)
            finally:
                os.close(fd)


def read(folder: Path) -> list[HookRun]:
    """The hooks that run, or ran when their processor died; the one that began first first."""
    found = []
    for path in folder.glob("hand.*"):
        with contextlib.suppress(OSError, ValueError):
            noted = json.loads(path.read_text() or "null")
            found += [HookRun(*noted)] if noted else []
    return sorted(found, key=lambda one: one.since)


def site_hooks(site: Path, store: Store) -> list[HookRun]:
    """The hooks that run now at a site."""
    processors = [number for number, batch_job_id in work.unclosed_sessions(store.con) if batch_job_id is None]
    return [run for number in processors for run in read(session_folder(site, number))]

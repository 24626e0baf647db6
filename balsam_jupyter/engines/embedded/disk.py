"""How much work directories hold, and having them cleaned."""

from __future__ import annotations

import contextlib
import heapq
import os
import re
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

from ...disk import DiskUse, FilesLike, RowDisk
from ...models import Query
from . import trash
from .doorbell import Listener
from .store import Store, jobs
from .store.jobs import Workdir

_LARGEST = 5
_FEW_KINDS = 20  # with more, names that occur once are grouped by their suffix
_MOST_KINDS = 10_000
_NUMBER = re.compile(r"\d+(?![A-Za-z\d])|(?<![A-Za-z\d])\d+")


class DiskCalls:
    """What the engine does with work directories. See `engines.base.Engine` for what the calls do."""

    path: Path
    store: Store
    _ear: Callable[[], Listener]
    look_after: Callable[[], None]

    def disk(self, query: Query) -> DiskUse:
        return measured(self.path / "data", jobs.workdirs(self.store.con, query))

    def clean(self, query: Query, keep: Iterable[str]) -> tuple[str, int]:
        data = self.path / "data"
        finished = Query(**{**vars(query), "states": ("JOB_FINISHED",)})
        found = _there(data, jobs.workdirs(self.store.con, finished))
        if not found:
            return "", 0
        return trash.order(self.path, [(one.job_id, one.attempts) for one in found], list(keep)), len(found)

    def cleaned(self, order: str, timeout: float = 0.0) -> bool:
        deadline = time.monotonic() + timeout
        ear = self._ear()
        while order and trash.is_pending(self.path, order):
            self.look_after()  # the remover may have died
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            ear.wait(left)
        return True


def _there(data: Path, found: list[Workdir]) -> list[Workdir]:
    """Those whose directory exists; reads each directory above them once. Symbolic links do not count."""
    known: dict[str, set[str]] = {}

    def exists(workdir: str) -> bool:
        above, _, name = workdir.rpartition("/")
        if above not in known:
            known[above] = set()
            with contextlib.suppress(OSError), os.scandir(data / above) as entries:
                known[above] = {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
        return name in known[above]

    return [one for one in found if exists(one.workdir)]


def measured(data: Path, found: list[Workdir]) -> DiskUse:
    """Add up what is in these directories."""
    began = time.monotonic()
    kinds: dict[str, list[int]] = {}
    largest: list[tuple[int, int, RowDisk]] = []
    total = files = directories = unreadable = 0
    for job, row, _, workdir in _there(data, found):
        size = number = 0
        pending = [f"{data}/{workdir}"]
        while pending:
            try:
                with os.scandir(pending.pop()) as entries:
                    directories += 1
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(entry.path)
                            continue
                        with contextlib.suppress(FileNotFoundError):
                            one = entry.stat(follow_symlinks=False).st_size
                            kind = kinds.setdefault(_kind(entry.name, len(kinds) >= _MOST_KINDS), [0, 0])
                            kind[0], kind[1] = kind[0] + 1, kind[1] + one
                            number, size = number + 1, size + one
            except FileNotFoundError:
                continue
            except OSError:
                unreadable += 1
        total, files = total + size, files + number
        item = (size, -job, RowDisk(row, job, workdir, number, size))
        if len(largest) < _LARGEST:
            heapq.heappush(largest, item)
        elif item > largest[0]:
            heapq.heapreplace(largest, item)
    rows = tuple(one for _, _, one in sorted(largest, reverse=True))
    return DiskUse(total, files, directories, _grouped(kinds), rows, unreadable, time.monotonic() - began)


@lru_cache(1 << 16)
def _kind(name: str, coarse: bool) -> str:
    """What a file's name is like: its numbers do not count, except in the suffix (``.h5``)."""
    stem, _, suffix = name.rpartition(".")
    if coarse:
        return f"*.{suffix}" if stem else "(other)"
    if stem and not suffix.isdecimal():
        return f"{_NUMBER.sub('*', stem)}.{suffix}"
    return _NUMBER.sub("*", name)


def _grouped(kinds: dict[str, list[int]]) -> tuple[FilesLike, ...]:
    groups: dict[str, list[int]] = {}
    for kind, (files, size) in kinds.items():
        name = _kind(kind, True) if files == 1 and len(kinds) > _FEW_KINDS else kind
        group = groups.setdefault(name, [0, 0])
        group[0], group[1] = group[0] + files, group[1] + size
    found = [FilesLike(name, files, size) for name, (files, size) in groups.items()]
    return tuple(sorted(found, key=lambda one: (-one.bytes, -one.files, one.pattern)))

"""The trash of a site: what is to be removed, and orders to clean directories. A background process does the work.

To remove a directory is to rename it into ``data/.trash``, which takes microseconds; removing many at once would slow
down, for minutes, every task that makes a directory on the same disk. The trash is in ``data/``, so that it is on the
file system of the directories also where ``data`` is a link to a scratch disk. In it are

- directories and files with a fresh name: rubbish;
- ``clean-N``: orders (JSON) to clean the directories of jobs;
- ``hold-JOB-ATTEMPTS``: what was moved out of a job's directory, rubbish unless the job was begun again meanwhile;
- ``stuck-N``: what cannot be removed, which is not tried again; ``new-N``: an order being written.

Nothing is ever removed but what was renamed into the trash before, and no symbolic link is followed below ``data/``.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from ...errors import SiteError
from . import detached
from .store.directories import TRASH

ORDER, HOLD, STUCK, NEW = "clean-", "hold-", "stuck-", "new-"
_NEW_S = 3600.0  # an order that has been written for so long never will be
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LEAST = 0o700


def fresh(prefix: str = "") -> str:
    """A name that nothing in the trash has."""
    return prefix + secrets.token_hex(8)


def place(site: Path) -> Path:
    """Where the trash of a site is."""
    return site / "data" / TRASH


@contextlib.contextmanager
def opened(site: Path) -> Iterator[int]:
    """A descriptor of the trash, which is made if need be."""
    there = place(site)
    try:
        try:
            fd = os.open(there, _FOLDER)
        except FileNotFoundError:
            there.mkdir(mode=_LEAST, exist_ok=True)
            fd = os.open(there, _FOLDER)
    except OSError as error:
        raise SiteError(f"{there} must be a directory ({error.strerror}): remove what is there.") from None
    try:
        yield fd
    finally:
        os.close(fd)


def open_folder(name: str, at: int) -> int:
    """A descriptor of a directory in another one, with the permission to empty it if that can be had.

    Raises OSError for what is none, a symbolic link included.
    """
    try:
        fd = os.open(name, _FOLDER, dir_fd=at)
    except PermissionError:
        there = os.open(name, _FOLDER | os.O_PATH, dir_fd=at)
        try:
            os.chmod(f"/proc/self/fd/{there}", _LEAST)
        finally:
            os.close(there)
        fd = os.open(name, _FOLDER, dir_fd=at)
    with contextlib.suppress(PermissionError):
        if (mode := os.fstat(fd).st_mode) & _LEAST != _LEAST:
            os.fchmod(fd, mode & 0o7777 | _LEAST)
    return fd


def open_below(top: int, path: str) -> int:
    """A descriptor of a directory some levels below another one; no link is followed on the way."""
    fd = os.dup(top)
    for name in path.split("/") if path else ():
        try:
            inner = os.open(name, _FOLDER, dir_fd=fd)
        finally:
            os.close(fd)
        fd = inner
    return fd


def move(name: str, source: int, to: str, target: int) -> None:
    """Rename; a directory may have to be made writable for it."""
    try:
        os.rename(name, to, src_dir_fd=source, dst_dir_fd=target)
    except PermissionError:
        os.close(open_folder(name, source))
        os.rename(name, to, src_dir_fd=source, dst_dir_fd=target)


def discard(site: Path, folder: Path) -> None:
    """Put a directory into the trash, and have it removed in the background. Raises as `put`."""
    put(site, folder)
    ensure(site)


def put(site: Path, folder: Path) -> None:
    """Put a directory below ``data/`` into the trash; who puts in the last of many calls `ensure`.

    One rename, whatever is in it; where nothing is there, nothing happens. If it is a symbolic link, the link goes.

    Raises
    ------
    ValueError
        If it is not below the site's ``data/``.
    SiteError
        If it cannot be moved: a mount point, or the directory above it is not writable.
    """
    words = folder.relative_to(site / "data").parts
    if not words or ".." in words or words[0] == TRASH:
        raise ValueError(f"{folder} is not a directory below {site / 'data'}")
    try:
        data = os.open(site / "data", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            above = open_below(data, "/".join(words[:-1]))
        finally:
            os.close(data)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SiteError(f"{folder} cannot be removed ({error.strerror}); remove it yourself.") from None
    try:
        with opened(site) as trash:
            move(words[-1], above, fresh(), trash)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise SiteError(f"{folder} cannot be removed ({error.strerror}); remove it yourself.") from None
    finally:
        os.close(above)


def order(site: Path, jobs: Sequence[tuple[int, int]], keep: Collection[str]) -> str:
    """Have the directories of these jobs (id, attempts) cleaned in the background; its name, for `is_pending`."""
    name, draft = fresh(ORDER), fresh(NEW)
    with opened(site) as trash:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=trash)
        with open(fd, "w") as file:
            json.dump({"keep": list(keep), "jobs": list(jobs)}, file)
            file.flush()
            os.fsync(fd)
        os.rename(draft, name, src_dir_fd=trash, dst_dir_fd=trash)
    ensure(site)
    return name


def is_pending(site: Path, order: str) -> bool:
    """Whether an order has not been carried out."""
    return (place(site) / order).exists()


def is_due(entry: os.DirEntry[str]) -> bool:
    """Whether something in the trash waits for the remover."""
    if entry.name.startswith(NEW):
        with contextlib.suppress(OSError):
            return time.time() - entry.stat(follow_symlinks=False).st_mtime > _NEW_S
        return False
    return not entry.name.startswith(STUCK)


def has_work(site: Path) -> bool:
    """Whether anything is in the trash for the remover; reads no more of it than the first such entry."""
    try:
        with os.scandir(place(site)) as entries:
            return any(map(is_due, entries))
    except OSError:
        return False


def stuck(site: Path) -> list[str]:
    """What could not be removed, relative to the site."""
    with contextlib.suppress(OSError):
        return [f"data/{TRASH}/{name}" for name in sorted(os.listdir(place(site))) if name.startswith(STUCK)]
    return []


def ensure(site: Path) -> None:
    """Start the site's remover if there is work for it and none is there."""
    if has_work(site):
        idle = ["ionice", "-c", "3"] if shutil.which("ionice") else []
        detached.start(site, "remover", ["nice", "-n", "19", *idle])

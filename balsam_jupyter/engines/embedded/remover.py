"""The remover of a site: ``python -m balsam_jupyter.engines.embedded.remover --site PATH``. See `trash`.

One process for each site while there is something in its trash, at the lowest priority, and resting most of the time.
It can be killed at any moment: each of its steps is one rename or removal inside the trash, or a rename into it, and
the next one begins where the trash says.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ...disk import is_kept
from . import detached, trash
from .doorbell import Bell, runtime_folder
from .launcher.__main__ import forget_python_path
from .sessions import try_lock
from .store import Store, jobs
from .store.directories import TRASH

log = logging.getLogger("balsam_jupyter.remover")

LINGER_S = 3.0  # it ends when the trash has been empty for so long
_LOOK_S = 0.1
_BURST_S, _REST_S = 0.02, 0.08  # it works for so long, then rests
_CHUNK = 1000
_ROUNDS = 50  # chunks of one directory at most before others have their turn
_DEEPEST = 100  # levels of a job's directory


class Pace:
    """Lets others have the disk and the cores."""

    def __init__(self) -> None:
        self.since = time.monotonic()

    def step(self) -> None:
        if time.monotonic() - self.since > _BURST_S:
            time.sleep(_REST_S)
            self.since = time.monotonic()


class Remover:
    """Empties the trash of a site. `trash` and `data` are descriptors: what moves or is replaced is not mistaken."""

    def __init__(self, site: Path, store: Store, data: int, trash_fd: int) -> None:
        self.site, self.store, self.data, self.trash = site, store, data, trash_fd
        self.pace = Pace()

    def run(self) -> None:
        """Until there has been nothing to do for a while."""
        idle_since = time.monotonic()
        while time.monotonic() - idle_since < LINGER_S:
            if self.collect() or self.obey_all():
                idle_since = time.monotonic()
            else:
                time.sleep(_LOOK_S)

    # -- rubbish ------------------------------------------------------------------------------------------

    def collect(self) -> bool:
        """Remove all rubbish; whether there was any."""
        found = False
        while names := [name for name in self.due() if not name.startswith(trash.ORDER)]:
            found = True
            for name in names:
                if name.startswith(trash.HOLD):
                    self.settle(name)
                else:
                    self.remove(name)
        return found

    def due(self) -> list[str]:
        with os.scandir(self.trash) as entries:
            return [entry.name for entry in islice(filter(trash.is_due, entries), _CHUNK)]

    def remove(self, name: str) -> None:
        """Remove one entry of the trash. Directories inside it become entries of their own, so there is no depth."""
        try:
            try:
                fd = trash.open_folder(name, self.trash)
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                os.unlink(name, dir_fd=self.trash)
                return
            try:
                for _ in range(_ROUNDS):
                    if not self.empty(fd):
                        os.rmdir(name, dir_fd=self.trash)
                        return
            finally:
                os.close(fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:  # somebody still writes there: another time
                self.give_up(name, error)
        finally:
            self.pace.step()

    def empty(self, fd: int) -> bool:
        """Remove some of what is in a directory; False if nothing is. Raises OSError if nothing of it can be."""
        with os.scandir(fd) as entries:
            some = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in islice(entries, _CHUNK)]
        refused: list[OSError] = []
        for name, is_folder in some:
            try:
                if is_folder:
                    self.lift(name, fd)
                else:
                    os.unlink(name, dir_fd=fd)
            except FileNotFoundError:
                pass
            except OSError as error:
                refused.append(error)
            self.pace.step()
        if refused and len(refused) == len(some):
            raise refused[0]
        return bool(some)

    def lift(self, name: str, fd: int) -> None:
        """Remove a directory if it is empty, else make it an entry of the trash. A mount point refuses both."""
        try:
            os.rmdir(name, dir_fd=fd)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            trash.move(name, fd, trash.fresh(), self.trash)

    def give_up(self, name: str, error: Exception) -> None:
        there = trash.fresh(trash.STUCK)
        log.error("data/%s/%s cannot be removed: %s; remove it yourself", TRASH, there, error)
        os.rename(name, there, src_dir_fd=self.trash, dst_dir_fd=self.trash)

    # -- cleaning -----------------------------------------------------------------------------------------

    def obey_all(self) -> bool:
        """Carry out the orders; whether there were any."""
        orders = [name for name in self.due() if name.startswith(trash.ORDER)]
        for name in orders:
            self.obey(name)
        return bool(orders)

    def obey(self, name: str) -> None:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.trash)
            with open(fd) as file:
                order = json.load(file)
        except (OSError, ValueError) as error:
            self.give_up(name, error)
            return
        for number, (job, attempts) in enumerate(order["jobs"]):
            self.clean(job, attempts, order["keep"])
            if number % _CHUNK == _CHUNK - 1:
                self.collect()
        self.collect()
        os.unlink(name, dir_fd=self.trash)
        log.info("cleaned %d directories", len(order["jobs"]))
        with contextlib.closing(Bell(runtime_folder(self.site))) as bell:
            bell.ring()

    def clean(self, job: int, attempts: int, keep: list[str]) -> None:
        """Move what is not kept out of a finished job's directory, unless it has run again since that was asked for."""
        now = jobs.whereabouts(self.store.con, job)
        if now is None or (now.state, now.attempts) != ("JOB_FINISHED", attempts):
            return
        try:
            top = trash.open_below(self.data, now.workdir)
        except FileNotFoundError:
            return
        except OSError as error:
            log.error("data/%s is not cleaned: %s", now.workdir, error)
            return
        try:
            spared = jobs.workdirs_below(self.store.con, now.workdir)
            paths, _ = _rubbish(top, "", keep, spared)
            if paths:
                self.take(top, paths, f"{trash.HOLD}{job}-{attempts}")
        except OSError as error:
            log.error("data/%s is not cleaned whole: %s", now.workdir, error)
        finally:
            os.close(top)
            self.pace.step()

    def take(self, top: int, paths: list[str], hold: str) -> None:
        """Move these out of a directory, and look again whether they may go."""
        try:
            os.mkdir(hold, 0o700, dir_fd=self.trash)
        except FileExistsError:  # of a remover that was killed
            self.settle(hold)
            os.mkdir(hold, 0o700, dir_fd=self.trash)
        try:
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    self.move_out(top, path, hold)
                self.pace.step()
        finally:
            self.settle(hold)

    def move_out(self, top: int, path: str, hold: str) -> None:
        above, _, name = path.rpartition("/")
        source = trash.open_below(top, above)
        try:
            with _made(self.trash, f"{hold}/{above}") as target:
                trash.move(name, source, name, target)
        finally:
            os.close(source)

    def settle(self, hold: str) -> None:
        """What was moved out of a job's directory is rubbish, or goes back if the job was begun again before."""
        job, attempts = (int(word) for word in hold.removeprefix(trash.HOLD).split("-"))
        now = jobs.whereabouts(self.store.con, job)
        if now is not None and (now.state, now.attempts) != ("JOB_FINISHED", attempts):
            with contextlib.suppress(FileNotFoundError):
                _put_back(trash.open_below(self.trash, hold), trash.open_below(self.data, now.workdir))
        os.rename(hold, trash.fresh(), src_dir_fd=self.trash, dst_dir_fd=self.trash)


def _names(fd: int) -> list[str]:
    with os.scandir(fd) as entries:
        return [entry.name for entry in entries]


def _rubbish(fd: int, path: str, keep: list[str], spared: set[str], depth: int = 0) -> tuple[list[str], bool]:
    """What may go of a directory (relative to the job's), and whether all of it may."""
    if depth > _DEEPEST:
        return [], False
    found: list[str] = []
    whole = True
    with os.scandir(fd) as entries:
        some = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in some:
        below = f"{path}{name}"
        if below in spared or (not is_folder and is_kept(below, keep)):
            whole = False
        elif is_folder:
            inner = trash.open_below(fd, name)
            try:
                parts, all_of_it = _rubbish(inner, f"{below}/", keep, spared, depth + 1)
            finally:
                os.close(inner)
            found += [below] if all_of_it else parts
            whole = whole and all_of_it
        else:
            found.append(below)
    return found, whole


@contextlib.contextmanager
def _made(top: int, path: str) -> Iterator[int]:
    """A directory some levels below another one, made where it is missing."""
    fd = os.dup(top)
    for name in path.rstrip("/").split("/"):
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=fd)
        try:
            inner = trash.open_folder(name, fd)
        finally:
            os.close(fd)
        fd = inner
    try:
        yield fd
    finally:
        os.close(fd)


def _put_back(source: int, target: int) -> None:
    """Move what is in one directory to where it was in another, except where something is now."""
    try:
        there = set(_names(target))
        for name in _names(source):
            if name not in there:
                trash.move(name, source, name, target)
            else:
                with contextlib.suppress(NotADirectoryError):
                    _put_back(trash.open_below(source, name), trash.open_below(target, name))
    finally:
        os.close(source)
        os.close(target)


def main() -> int:
    parser = argparse.ArgumentParser(prog="remover", description=__doc__)
    parser.add_argument("--site", type=Path, required=True)
    site = parser.parse_args().site
    forget_python_path()
    lock: int | None = detached.inherited_lock()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s", stream=sys.stderr)
    data = os.open(site / "data", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    store = Store(site / "balsam.db")
    with trash.opened(site) as trash_fd:
        while lock is not None:
            Remover(site, store, data, trash_fd).run()
            os.close(lock)  # what comes after the last look finds no remover, unless it is seen now
            lock = try_lock(detached.lock_path(site, "remover")) if trash.has_work(site) else None
    store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

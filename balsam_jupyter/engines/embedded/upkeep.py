"""Checking a site, and tidying it up."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from ...errors import SiteError, listing, many
from ...models import Finding, Vacuumed
from . import scheduler, trash
from .sessions import session_folder, try_lock
from .site import Settings
from .store import Store
from .store import upkeep as sql

_SHOWN = 5
_SESSION = re.compile(r"session-(\d+)")
_SPAN = re.compile(r"\d+-\d+")
_VACUUM = "balsam-jupyter site vacuum"


def check(site: Path, store: Store) -> list[Finding]:
    """What is wrong, with what to do; of many things of a kind only the first are named."""
    damage = sql.integrity(store.con)
    if damage:
        todo = "stop the site's launchers, copy the file, and restore it from a backup or with sqlite3's .recover"
        return [Finding(f"{store.path} is damaged: {listing(damage, 2)}", todo)]
    found: list[Finding] = []
    try:
        Settings.read(site / "settings.yml")
    except SiteError as error:
        found.append(Finding(str(error), "nothing is launched before it is corrected"))
    try:
        scheduler.check_template(site)
    except SiteError as error:
        found.append(Finding(str(error), "correct the template, or delete it to get the default again"))
    for kind, number, first in sql.broken(store.con):
        found.append(
            Finding(
                f"{many(number, 'job')} ({listing(first, _SHOWN)}) have no {kind}",
                "they cannot run; delete them: balsam-jupyter job rm " + " ".join(map(str, first)),
            )
        )
    if lost := sql.lost(store.con):
        what = f"{many(len(lost), 'job')} ({listing(lost, _SHOWN)}) are held by a session that is no more"
        found.append(Finding(what, f"make them runnable again: {_VACUUM}"))
    found += _sessions(site, store)
    orphans = list(_orphans(site, store))
    if orphans:
        what = f"{many(len(orphans), 'directory')} in data/ belong to no job: {listing(orphans, _SHOWN)}"
        found.append(Finding(what, "their jobs were deleted; remove what you do not need", fault=False))
    if stuck := trash.stuck(site):
        what = f"{many(len(stuck), 'directory')} in the trash could not be removed: {listing(stuck, _SHOWN)}"
        found.append(Finding(what, "log/remover.log says why; remove what you do not need", fault=False))
    parts = list(_parts(site, store))
    if parts:
        what = f"{many(len(parts), 'file')} of ended jobs were not transferred whole: {listing(parts, _SHOWN)}"
        found.append(Finding(what, "retry the job to transfer it, or remove the file"))
    if litter := _litter(site, store):
        what = f"run/ holds {many(len(litter), 'folder')} of closed sessions"
        found.append(Finding(what, f"remove them: {_VACUUM}", fault=False))
    return found


def _sessions(site: Path, store: Store) -> Iterator[Finding]:
    """Sessions that nobody owns but that are not settled, and owners that stand still."""
    for session in sql.sessions(store.con):
        whose = "" if session.batch_job_id is None else f" of allocation {session.batch_job_id}"
        who = f"session {session.id} ({session.kind}{whose}, process {session.pid})"
        lock = _try_lock(session_folder(site, session.id) / "lock")
        if lock is None:
            if _process_state(session.pid) in ("T", "t"):
                yield Finding(f"{who} is stopped", f"let it go on: kill -CONT {session.pid}; or end it: kill -KILL …")
        else:
            os.close(lock)
            if session.state == "open":
                yield Finding(f"{who} has died and is not settled", "open the site again: whoever opens it settles it")


def _try_lock(path: Path) -> int | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    return try_lock(path)


def _process_state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return ""


def _orphans(site: Path, store: Store) -> Iterator[str]:
    """Directories below ``data/`` that are no job's, with nothing of a job below them."""
    data = site / "data"
    known = sql.ensembles(store.con)
    for top in _folders(data):
        if top in known:
            there = sql.rows(store.con, known[top])
            for name in _rows(data, top):
                number = name.rpartition("/")[2]
                if not (number.isdecimal() and int(number) < len(there) and there[int(number)]):
                    yield f"data/{name}"
        else:
            yield from _lone_orphans(data, store, top)


def _rows(data: Path, top: str) -> Iterator[str]:
    """The directories of an ensemble's rows; 5,000 rows at most are in one folder."""
    for name in _folders(data / top):
        if _SPAN.fullmatch(name):
            yield from (f"{top}/{name}/{row}" for row in _folders(data / top / name))
        else:
            yield f"{top}/{name}"


def _lone_orphans(data: Path, store: Store, directory: str) -> Iterator[str]:
    kind = sql.owner(store.con, directory)
    if kind == "":
        yield f"data/{directory}"
    elif kind == "above":
        for name in _folders(data / directory):
            yield from _lone_orphans(data, store, f"{directory}/{name}")


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        folders = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    return sorted(name for name in folders if not name.startswith("."))  # a launcher's own are hidden


def _parts(site: Path, store: Store) -> Iterator[str]:
    """What an interrupted transfer left in the directory of an ended job."""
    for _, workdir in sql.transferred(store.con):
        for path in sorted((site / "data" / workdir).glob("**/*.part")):
            yield str(path.relative_to(site))


def _litter(site: Path, store: Store) -> list[Path]:
    """Folders in ``run/`` of sessions that are closed (or unknown)."""
    live = {session.id for session in sql.sessions(store.con)}
    found = [(name, _SESSION.fullmatch(name)) for name in _folders(site / "run")]
    return [site / "run" / name for name, match in found if match and int(match[1]) not in live]


def vacuum(site: Path, store: Store) -> Vacuumed:
    """Make the store small, make lost jobs runnable, remove what closed sessions left.

    Raises
    ------
    SiteError
        While a launcher runs: it would be kept out of its store for too long.
    """
    for session in sql.sessions(store.con):
        lock = _try_lock(session_folder(site, session.id) / "lock")
        if lock is None and session.kind == "launcher":
            raise SiteError(
                f"Allocation {session.batch_job_id} runs, and a vacuum would keep it waiting: "
                f"let it end, or end it with: balsam-jupyter queue rm {session.batch_job_id}"
            )
        if lock is not None:
            os.close(lock)
    before = _size(store.path)
    with store.transaction() as con:
        jobs = sql.give_back(con)
        litter = _litter(site, store)  # here, where no launcher can be opening its session
    for folder in litter:
        shutil.rmtree(folder, ignore_errors=True)
    sql.vacuum(store.con)
    return Vacuumed(before, _size(store.path), len(litter), jobs)


def _size(path: Path) -> int:
    files = (path, path.with_name(path.name + "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())

"""Files that come from a location of the site before a run, and go there after it: checked, then copied.

A copy goes to a ``.part`` file beside its target, whose name tells which state of the source it is of; one that was
stopped goes on there as long as the source is the same. The whole file is renamed, so nobody sees half of one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ...disk import LOGS
from ...errors import BadInput, BalsamJupyterError, listing, nearest

_CHUNK = 4 << 20
_LONGEST_NAME = 255  # bytes, on every Linux file system
Slots = Mapping[str, Mapping[str, Any]]


class TransferError(BalsamJupyterError):
    """A file that could not be copied; the text says which, and why."""


class Stopped(Exception):
    """The job is to be killed: the copy was left where it was."""


# -- what a job gives for its app's slots -----------------------------------------------------------------------------


def check(app: str, slots: Slots, given: Mapping[str, str], locations: Mapping[str, str]) -> None:
    """Refuse transfers that cannot work, before the job is stored.

    Raises
    ------
    BadInput
        If a required slot is empty, a slot or a location unknown, a path leaves its location or cannot be a path, what
        is to come in is a directory and the slot not recursive, or two slots write the same file.
    """
    for name in given:
        if name not in slots:
            raise BadInput(
                f"App {app} has no transfer slot {name!r}; its slots: {listing(slots)}.{nearest(name, slots)}"
            )
    missing = [name for name, slot in slots.items() if slot["required"] and not given.get(name)]
    if missing:
        example = f'transfers={{"{missing[0]}": "LOCATION:/path"}}'
        raise BadInput(f"App {app} needs its transfer slot {listing(missing)} filled: {example}.")
    taken: dict[tuple[bool, Path], str] = {}
    for name, text in given.items():
        remote, slot = place(f"transfers[{name!r}]", text, locations), slots[name]
        incoming = slot["direction"] == "in"
        try:
            a_directory = remote.is_dir()
        except OSError as error:
            raise BadInput(f"transfers[{name!r}]: {error}.") from None
        if incoming and not slot["recursive"] and a_directory:
            raise BadInput(
                f"transfers[{name!r}]: {remote} is a directory; name a file, or make the slot of {app} recursive."
            )
        if incoming:
            target = Path(slot["local_path"], remote.name if _keeps_name(slot) else "")
        elif not slot["recursive"] and (a_directory or text.endswith("/")):
            target = remote / Path(slot["local_path"]).name
        else:
            target = remote
        other = taken.setdefault((incoming, target), name)
        if other != name:
            raise BadInput(
                f"transfers[{other!r}] and transfers[{name!r}] both write {target}"
                f"{' of the work directory' if incoming else ''}; give each a name of its own."
            )


def place(what: str, text: str, locations: Mapping[str, str]) -> Path:
    """The path that ``"location:/path"`` means: below the directory of that location."""
    location, colon, path = text.partition(":")
    if not colon or not location or not path.strip("/") or "\0" in path:
        raise BadInput(f'{what} must be "location:/path", not {text!r}.')
    if location not in locations:
        how = "" if locations else " Add `transfer_locations: {NAME: DIRECTORY}` to the site's settings.yml."
        raise BadInput(
            f"{what}: there is no location {location!r}; the site has {listing(locations)}."
            f"{nearest(location, locations)}{how}"
        )
    if ".." in path.split("/"):
        raise BadInput(f"{what}: {path!r} may not have '..': it is below the directory of {location!r}.")
    if (most := max(len(part.encode(errors="replace")) for part in path.split("/"))) > _LONGEST_NAME:
        raise BadInput(f"{what} has a name of {most} bytes; a file's name has {_LONGEST_NAME} at most.")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise BadInput(f"{what} has a character that no path can have ({error.object[error.start]!r}).") from None
    folder = Path(locations[location])
    if not folder.is_dir():
        raise BadInput(f"{what}: the directory of {location!r}, {folder}, is not there; see the site's settings.yml.")
    return folder / path.lstrip("/")


# -- copying ----------------------------------------------------------------------------------------------------------


def stage(
    direction: str,
    slots: Slots,
    given: Mapping[str, str],
    job: int,
    workdir: Path,
    locations: Mapping[str, str],
    stopped: Callable[[], bool],
) -> bool:
    """Copy what a job gave for its slots of this direction (``{id}`` is its id); whether there was anything to copy.

    Raises
    ------
    TransferError
        With a text that says what could not be copied, and why.
    Stopped
        When `stopped()` became true in between.
    """
    found = False
    for name, text in given.items():
        slot = slots.get(name)
        if slot is None or slot["direction"] != direction:
            continue
        found = True
        try:
            remote = place(f"transfers[{name!r}]", text.replace("{id}", str(job)), locations)
            _transfer(direction, slot, remote, workdir, stopped, into=text.endswith("/"))
        except (OSError, TransferError, BadInput) as error:
            raise TransferError(f"Stage {direction} of {name!r} ({text}): {error}") from None
    return found


def _keeps_name(slot: Mapping[str, Any]) -> bool:
    """Whether what comes in goes by its own name into the directory that the slot names."""
    return slot["local_path"] == "." or bool(slot["local_path"].endswith("/"))


def _transfer(
    direction: str, slot: Mapping[str, Any], remote: Path, workdir: Path, stopped: Callable[[], bool], into: bool
) -> None:
    """Copy for one slot; `into`: the path given ends with a slash, so it means a directory."""
    local = workdir / slot["local_path"]
    if direction == "in":
        source, target = remote, local / remote.name if _keeps_name(slot) else local
    else:
        source, target = local, remote
    if not source.exists():
        did = "there is nothing at" if direction == "in" else "the task left no"
        raise TransferError(f"{did} {source}")
    if source.is_dir() and not slot["recursive"]:
        raise TransferError(f"{source} is a directory; name a file, or make the slot recursive")
    if source.is_file() and (target.is_dir() or (direction == "out" and into)):
        target = target / source.name
    if source.is_dir() and source.resolve() in (target.resolve(), *target.resolve().parents):
        raise TransferError(f"{target} lies inside {source}, so it would be copied into itself; choose another place")
    for one, there in _files(source, target):
        copy(one, there, stopped)


def _files(source: Path, target: Path) -> Iterator[tuple[Path, Path]]:
    """Files to copy, and links; makes the directories."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        for entry in sorted(os.scandir(source), key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path), target / entry.name)
            else:
                yield Path(entry.path), target / entry.name
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield source.resolve(), target  # a link that is named is followed, one inside a directory stays one


def copy(source: Path, target: Path, stopped: Callable[[], bool]) -> None:
    """Copy one file, going on where an earlier copy of the same source was stopped; its times and mode go along."""
    if source.is_symlink():
        _link(os.readlink(source), target)
        return
    with open(os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as reader:
        before = os.fstat(reader.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise TransferError(f"{source} is neither a file nor a directory")
        with contextlib.suppress(FileNotFoundError):
            there = os.stat(target, follow_symlinks=False)
            if (there.st_size, there.st_mtime_ns, stat.S_ISREG(there.st_mode)) == (*_state(before), True):
                return  # copied before
        part = _part(source, target, before)
        with open(part, "ab", buffering=0) as writer:
            if writer.tell() > before.st_size:
                writer.truncate(0)
            reader.seek(writer.seek(0, os.SEEK_END))
            while data := reader.read(min(_CHUNK, before.st_size - writer.tell())):  # it may be growing
                if stopped():
                    raise Stopped
                while data:
                    data = data[writer.write(data) :]
            os.fsync(writer.fileno())
        if _state(os.fstat(reader.fileno())) != _state(before):
            part.unlink()
            raise TransferError(f"{source} changed while it was copied; retry the job when it is whole")
    shutil.copystat(source, part)
    os.replace(part, target)


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _part(source: Path, target: Path, status: os.stat_result) -> Path:
    """Where the copy is made; parts of an earlier state of the source are removed."""
    stem = os.fsdecode(os.fsencode(f".{target.name}")[:200]) + f".{_digest(str(source))}."
    part = target.with_name(f"{stem}{_digest(str(_state(status)))}.part")
    for old in os.scandir(target.parent):
        if old.name.startswith(stem) and old.name.endswith(".part") and old.name != part.name:
            os.unlink(old.path)
    return part


def _digest(text: str) -> str:
    return blake2b(os.fsencode(text), digest_size=6).hexdigest()


def _link(to: str, target: Path) -> None:
    fresh = target.with_name(f".{target.name[:200]}.part")
    fresh.unlink(missing_ok=True)
    os.symlink(to, fresh)
    os.replace(fresh, target)


# -- cleaning up ------------------------------------------------------------------------------------------------------


def clean_up(workdir: Path, globs: list[str], others: Collection[str] = ()) -> None:
    """Remove the files the globs match below `workdir`; logs only where one is named exactly.

    Nothing is removed in `others`, the directories of other jobs inside it.
    """
    top = workdir.resolve()
    spared = {top / other for other in others}
    for glob in globs:
        for path in list(workdir.glob(glob)):
            inside = path.parent.resolve()
            named = path.name not in LOGS or glob == path.name
            ours = top in (inside, *inside.parents) and spared.isdisjoint((inside, *inside.parents))
            if ours and named and (path.is_symlink() or path.is_file()):
                path.unlink(missing_ok=True)

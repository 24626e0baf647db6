"""The site directory: where it is, what is in it, and its validated settings."""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ...errors import BadInput, NotFound, SiteError, listing, nearest
from ...templates import render_text
from .site_files import JOB_TEMPLATE, SETTINGS_TEMPLATE

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
SORT_ORDERS = ("large_first", "small_first", "long_large_first")
_PATIENCE_S = 5.0
FOLDERS = ("data", "log", "qsubmit", "run")
MPI_LAUNCHERS = ("mpiexec", "mpirun", "srun")
"""Looked for in this order."""


@dataclass(frozen=True)
class Settings:
    """What ``settings.yml`` may say, with defaults filled in."""

    nodes: int = 1
    cores_per_node: int = 0
    gpus_per_node: int = -1
    node_packing_count: int = 0
    exclusive_nodes: bool = False
    sort_by: str = "large_first"
    mpi_launcher: str = ""
    worker_launch: str = ""
    serial_via_mpi: bool = False
    idle_time_s: float = 600.0
    grace_period_s: float = 10.0
    stopped_after_s: float = 30.0
    split_stderr: bool = False
    max_node_hours: float = math.inf
    transfer_locations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Settings:
        """Read and validate; every mistake names the file, the key and what is allowed.

        Raises
        ------
        SiteError
            If the file is not YAML, or holds an unknown key or a value of the wrong kind.
        """
        try:
            given = yaml.safe_load(path.read_text()) or {}
        except FileNotFoundError:
            given = {}
        except (OSError, UnicodeDecodeError) as error:
            raise SiteError(f"{path} cannot be read ({error}). Correct or delete it.") from None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            why = (mark and getattr(error, "problem", None)) or str(error).splitlines()[0]
            line = f" in line {mark.line + 1}" if mark else ""
            raise SiteError(f"{path} is not valid YAML{line}: {why}. Correct or delete it.") from None
        if not isinstance(given, dict):
            raise SiteError(f"{path} must hold lines 'key: value'.")
        known = {f.name: f.default for f in fields(cls)}
        values: dict[str, Any] = {}
        for key, value in given.items():
            if key not in known:
                raise SiteError(f"{path}: unknown setting {key!r}; known: {listing(known)}.{nearest(str(key), known)}")
            values[key] = (
                _locations(path, value) if key == "transfer_locations" else _checked(path, key, value, known[key])
            )
        settings = cls(**values)
        _check_worker_launch(path, settings)
        cores = settings.cores_per_node or max(1, usable_cores() // settings.nodes)
        gpus = settings.gpus_per_node if settings.gpus_per_node >= 0 else detected_gpus() // settings.nodes
        mpi = settings.mpi_launcher or detected_mpi()
        if settings.serial_via_mpi and not mpi:
            raise SiteError(
                f"{path}: serial_via_mpi needs an MPI launcher, and none was found; name it as mpi_launcher."
            )
        return cls(**{**values, "cores_per_node": cores, "gpus_per_node": gpus, "mpi_launcher": mpi})


def _locations(path: Path, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise SiteError(f"{path}: transfer_locations must be lines 'name: directory', not {value!r}.")
    found = {}
    for name, directory in value.items():
        folder = os.path.expanduser(directory) if isinstance(directory, str) else ""
        if not isinstance(name, str) or not name or ":" in name or "/" in name:
            raise SiteError(f"{path}: {name!r} cannot name a transfer location: use a word without ':' and '/'.")
        if not os.path.isabs(folder):
            hint = " This engine copies between directories of this machine." if "://" in str(directory) else ""
            raise SiteError(
                f"{path}: the transfer location {name!r} must be an absolute directory, not {directory!r}.{hint}"
            )
        found[name] = folder
    return found


def _checked(path: Path, key: str, value: Any, default: Any) -> Any:
    lowest = {"nodes": 1, "cores_per_node": 1, "stopped_after_s": 1}
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise SiteError(f"{path}: {key} must be true or false, not {value!r}.")
    elif isinstance(default, str):
        if not isinstance(value, str):
            raise SiteError(f"{path}: {key} must be text, not {value!r}.")
        if key == "sort_by" and value not in SORT_ORDERS:
            raise SiteError(f"{path}: sort_by is {', '.join(SORT_ORDERS)}, not {value!r}.{nearest(value, SORT_ORDERS)}")
    else:
        kinds = (int,) if isinstance(default, int) else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not lowest.get(key, 0) <= value < 1e9:
            kind = "a whole number" if isinstance(default, int) else "a number"
            raise SiteError(f"{path}: {key} must be {kind} of at least {lowest.get(key, 0)}, not {value!r}.")
    return value


def _check_worker_launch(path: Path, settings: Settings) -> None:
    if not settings.worker_launch:
        return
    if settings.serial_via_mpi:
        raise SiteError(f"{path}: worker_launch and serial_via_mpi exclude each other; remove one.")
    try:
        rendered = render_text(settings.worker_launch, {"node": 0, "worker": "WORKER COMMAND"})
    except BadInput as error:
        raise SiteError(f"{path}: worker_launch knows only {{{{ node }}}} and {{{{ worker }}}}: {error}") from None
    if "WORKER COMMAND" not in rendered:
        raise SiteError(f"{path}: worker_launch must hold {{{{ worker }}}}, not {settings.worker_launch!r}.")


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def detected_gpus() -> int:
    """NVIDIA GPUs that have a device file (no driver call, which could take seconds)."""
    try:
        return sum(bool(re.fullmatch(r"nvidia\d+", name)) for name in os.listdir("/dev"))
    except OSError:
        return 0


def detected_mpi() -> str:
    """The first MPI launcher on the PATH or beside this Python; "" if there is none."""
    folders = os.pathsep.join([os.environ.get("PATH", ""), os.path.dirname(sys.executable)])
    found = (shutil.which(name, path=folders) for name in MPI_LAUNCHERS)
    return next((path for path in found if path), "")


def home() -> Path:
    """Where the list of sites and the sites without a path of their own live."""
    from platformdirs import user_data_path

    return Path(os.environ.get("BALSAM_JUPYTER_HOME") or user_data_path("balsam-jupyter")).expanduser().resolve()


def _registered() -> dict[str, dict[str, Any]]:
    """The sites by name. Read without a lock: the file is only ever replaced as a whole."""
    file = home() / "sites.json"
    try:
        sites: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
        known = [(entry["id"], Path(entry["path"])) for entry in sites.values()]
        assert len({number for number, _ in known}) == len(known)
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
        raise SiteError(f"{file} is damaged; correct or delete it, then open sites by path=… again.") from None
    return sites


@contextmanager
def _registry() -> Iterator[dict[str, dict[str, Any]]]:
    """The sites by name, under a lock; what the block changes is written back."""
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "sites.lock", "w")  # noqa: SIM115
    except OSError as error:
        raise SiteError(
            f"{folder} is not writable ({error.strerror}); set BALSAM_JUPYTER_HOME to one that is."
        ) from None
    with lock:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise SiteError(
                        f"{lock.name} has been locked for {_PATIENCE_S:g} s, perhaps by a process that is stopped; "
                        f"find it with: fuser {lock.name}"
                    ) from None
                time.sleep(0.01)
        sites = _registered()
        before = json.dumps(sites)
        yield sites
        if json.dumps(sites) != before:
            file = folder / "sites.json"
            fresh = file.with_suffix(".new")
            try:
                fresh.write_text(json.dumps(sites, indent=1))
                fresh.replace(file)
            except OSError as error:
                raise SiteError(
                    f"{file} cannot be written ({error.strerror}); make room there and try again."
                ) from None


def known_sites() -> dict[str, tuple[int, Path]]:
    """Id and directory of every registered site, by name."""
    return {name: (entry["id"], Path(entry["path"])) for name, entry in _registered().items()}


def locate(name: str | None, path: str | None) -> tuple[int, str, Path]:
    """Id, name and directory of the site meant; registers it, and creates its directory, if it is new.

    Raises
    ------
    BadInput
        If the name cannot be a site's name, or belongs to another directory.
    SiteError
        If the directory cannot be written to.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise BadInput(
            f"{name!r} cannot name a site: use letters, digits, '.', '_' and '-', beginning with one of the first two."
        )
    sites = _registered()
    before = json.dumps(sites)
    found = _place(sites, name, path)
    if json.dumps(sites) == before:  # known: no need to wait for who registers another
        create(found[2])
        return found
    with _registry() as sites:
        found = _place(sites, name, path)
        create(found[2])
        return found


def _place(sites: dict[str, dict[str, Any]], name: str | None, path: str | None) -> tuple[int, str, Path]:
    """Id, name and directory of the site meant; puts it among the sites if it is new or has moved."""
    folder = Path(path).expanduser().resolve() if path is not None else None
    if name is None and folder is not None:
        name = next((n for n, e in sites.items() if Path(e["path"]) == folder), None)
        name = name or re.sub(r"[^A-Za-z0-9._-]+", "-", folder.name).strip("-.") or "site"
    name = name or "default"
    known = sites.get(name)
    if known and not Path(known["path"]).exists():  # moved or deleted: never begin an empty one unasked
        if folder is None:
            raise SiteError(
                f"The site {name!r} was at {known['path']}, which is gone: give its new place with path=…, "
                "or that old path to begin a new site there."
            )
        known["path"] = str(folder)
    if known and folder is not None and Path(known["path"]) != folder:
        raise BadInput(f"The site {name!r} is at {known['path']}; choose another name for {folder}.")
    folder = folder or (Path(known["path"]) if known else home() / "sites" / name)
    if not known:
        known = sites[name] = {"id": 1 + max((e["id"] for e in sites.values()), default=0), "path": str(folder)}
    return known["id"], name, folder


def find(site: int | str) -> str:
    """The name of a registered site given by id or name.

    Raises
    ------
    NotFound
        If there is no such site; the message lists the sites.
    """
    sites = known_sites()
    for name, (number, folder) in sites.items():
        if site in (name, number):
            around(folder)
            return name
    raise NotFound(f"There is no site {site!r}; the sites: {listing(sites)}.{nearest(str(site), sites)}")


def around(folder: Path) -> Path | None:
    """The site that `folder` is, or lies in.

    Raises
    ------
    SiteError
        If it is a registered one whose store is missing.
    """
    names = {path: name for name, (_, path) in known_sites().items()}
    for one in (folder, *folder.parents):
        if (one / "balsam.db").is_file():
            return one
        if one in names and one.is_dir():  # never begin an empty one unasked, nor take another one
            raise SiteError(
                f"The store of the site {names[one]!r} is missing ({one}/balsam.db): restore it from a backup, or "
                f"begin an empty one with: balsam-jupyter site init {one}"
            )
    return None


def create(folder: Path) -> None:
    """Make the site's folders and files where they are missing."""
    try:
        for sub in FOLDERS:
            (folder / sub).mkdir(parents=True, exist_ok=True)
        settings, template = folder / "settings.yml", folder / "job-template.sh"
        if not settings.exists():
            text = SETTINGS_TEMPLATE.format(
                cores=usable_cores(), gpus=detected_gpus(), mpi=detected_mpi() or "none found"
            )
            settings.write_text(text)
        if not template.exists():
            template.write_text(JOB_TEMPLATE)
        probe = folder / "run" / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        why = error.strerror or str(error)
        raise SiteError(
            f"The site directory {folder} cannot be written to ({why}); choose another with path=…"
        ) from None

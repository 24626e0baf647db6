"""Where an ensemble came from: who submitted what, when, from which notebook, with which code and packages.

Kept in the ensemble's record. No values of environment variables are kept, apart from the name of the user and of the
notebook.
"""

from __future__ import annotations

import ast
import contextlib
import datetime
import functools
import getpass
import os
import platform
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from html import escape
from pathlib import Path
from types import ModuleType
from typing import Any

from . import __version__
from .errors import listing
from .models import AppRecord, EnsembleRecord, JobCommon, Resources
from .usercode import is_user_module

_MOST = 50
"""Submissions that are kept of each ensemble: the first, and the latest."""
_SOURCES = 10
_PACKAGES = 60
_GIT_S = 1.0  # longer than this a submission does not wait for git
_GIT_AGE_S = 30.0
_DEFAULTS = asdict(Resources())


def noted(record: EnsembleRecord, app: AppRecord, common: JobCommon, new: int, kept: int) -> EnsembleRecord:
    """The record with one more submission.

    Parameters
    ----------
    record : EnsembleRecord
        As it was.
    app : AppRecord
        The app, as submitted.
    common : JobCommon
        Resources, tags and options of the rows.
    new, kept : int
        Rows that the submission added, and that were there.
    """
    before = record.provenance
    submissions = [dict(one) for one in before.get("submissions", ())]
    environments = list(before.get("environments", ()))
    if not new and submissions and not submissions[-1]["new"]:
        submissions.pop()  # "Run all cells" again and again tells nothing but the last time
    now = _environment(app)
    if now not in environments:
        environments.append(now)
    wants = {name: value for name, value in asdict(common.resources).items() if value != _DEFAULTS[name]}
    submissions.append({
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "user": _user(),
        "new": new,
        "kept": kept,
        "app_version": app.version,
        "resources": wants,
        "tags": dict(common.tags),
        "max_retries": common.max_retries,
        "notebook": notebook(),
        "git": git_revision(_folder()),
        "environment": environments.index(now),
    })  # fmt: skip
    del submissions[1 : 1 - _MOST]  # a callback that adds rows may make hundreds
    used = sorted({one["environment"] for one in submissions})
    for one in submissions:
        one["environment"] = used.index(one["environment"])
    sources = {**before.get("sources", {}), app.version: app.source}
    kept_sources = dict(list(sources.items())[-_SOURCES:])
    now_known = {
        "submissions": submissions,
        "environments": [environments[at] for at in used],
        "sources": kept_sources,
    }
    return replace(record, provenance={**before, **now_known})


class Provenance(Mapping[str, Any]):
    """Where an ensemble came from. A mapping; `dict(…)` of it is plain data that JSON can hold.

    Keys: `ensemble`, `generation`, `app`, `app_version`, `created` (UTC, ISO 8601), `sources` (the app as written, by
    version), and `submissions`, oldest first: each with `time`, `user`, `host`, `python`, `platform`, `packages`,
    `notebook`, `directory`, `git` (`revision`, `branch`, `dirty`), `new` and `kept` rows, `resources` (what differs
    from one core of a node), `tags`, `max_retries` and `app_version`. What could not be known is None.
    """

    def __init__(self, record: EnsembleRecord) -> None:
        kept = record.provenance
        created = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        self._known: dict[str, Any] = {
            "ensemble": record.name,
            "generation": record.generation,
            "app": record.app_name,
            "app_version": record.app_version,
            "created": created.isoformat(timespec="seconds"),
            "sources": dict(kept.get("sources", {})),
            "submissions": [_whole(one, kept["environments"]) for one in kept.get("submissions", [])],
        }

    def __getitem__(self, key: str) -> Any:
        return self._known[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def __repr__(self) -> str:
        head = (
            f"{self['ensemble']} (generation {self['generation']}) of {self['app']}, version {self['app_version'][:8]}"
        )
        lines = [f"{head}, begun {self['created']}"]
        for one in self["submissions"]:
            lines.append("  " + ", ".join(text for _, text in _shown(one)))
        source = self["sources"].get(self["app_version"], "")
        return "\n".join([*lines, *(f"  | {line}" for line in source.rstrip().splitlines())])

    def _repr_html_(self) -> str:
        head = f"<b>{escape(self['ensemble'])}</b>, generation {self['generation']} of {escape(self['app'])}"
        submissions = [dict(_shown(one)) for one in self["submissions"]]
        left = 'style="text-align:left"'
        titles = [
            title
            for title in ("time", "who", "rows", "notebook", "git", "packages")
            if any(one.get(title) for one in submissions)
        ]
        rows = "".join(
            "<tr>" + "".join(f"<td {left}>{escape(one.get(title, ''))}</td>" for title in titles) + "</tr>"
            for one in submissions
        )
        table = f"<table><tr>{''.join(f'<th {left}>{title}</th>' for title in titles)}</tr>{rows}</table>"
        sources = "".join(
            f"<details><summary>{escape(self['app'])}, version {escape(version[:8])}</summary>"
            f"<pre>{escape(source)}</pre></details>"
            for version, source in self["sources"].items()
            if source
        )
        return f"<div>{head}, begun {self['created']}{table}{sources}</div>"


def _whole(one: Mapping[str, Any], environments: list[dict[str, Any]]) -> dict[str, Any]:
    return {**{key: value for key, value in one.items() if key != "environment"}, **environments[one["environment"]]}


def _shown(one: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A submission in words."""
    git = one["git"]
    revision = f"git {git['revision'][:10]}{' with changes' if git['dirty'] else ''}" if git else ""
    packages = {"Python": one["python"], **one["packages"]}
    shown = [
        ("time", one["time"]),
        ("who", f"{one['user']} on {one['host']}"),
        ("rows", f"{one['new']:,} new, {one['kept']:,} kept"),
        ("notebook", os.path.basename(one["notebook"] or "")),
        ("git", revision),
        ("packages", listing(f"{name} {version}" for name, version in packages.items())),
    ]
    return [(title, text) for title, text in shown if text]


def _environment(app: AppRecord) -> dict[str, Any]:
    """Host, folder, Python and packages: what is most often the same for all submissions of an ensemble."""
    return {
        "host": socket.gethostname(),
        "directory": str(_folder()),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": packages(app.source),
    }


def _folder() -> Path:
    try:
        return Path.cwd()
    except OSError:  # it was deleted
        return Path(os.sep)


@functools.lru_cache(maxsize=1)
def _user() -> str:
    try:
        return getpass.getuser()
    except Exception:  # a container without a name for its user
        return str(os.getuid()) if hasattr(os, "getuid") else ""


def notebook() -> str | None:
    """The notebook (or script) that runs, where it is known: from Jupyter's environment, VS Code, or Python itself."""
    main = sys.modules.get("__main__")
    names = (
        os.environ.get("JPY_SESSION_NAME"),
        getattr(main, "__vsc_ipynb_file__", None),
        getattr(main, "__session__", None),
        getattr(main, "__file__", None) if "ipykernel" not in sys.modules else None,
    )
    return next((str(name) for name in names if name), None)


def packages(source: str = "") -> dict[str, str]:
    """Versions of the packages that the notebook has imported by name, or that a source imports, and of this one.

    Parameters
    ----------
    source : str
        Of the app.
    """
    found = {"balsam_jupyter": __version__}
    for name in sorted(_main_imports() | _imports(source)):
        if len(found) < _PACKAGES and (version := _version(name)):
            found[name] = version
    return found


def _main_imports() -> set[str]:
    """Top-level packages of the modules, functions and classes that the notebook's names stand for."""
    found = set()
    for value in list(vars(sys.modules.get("__main__", ModuleType("none"))).values()):
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str):
            found.add(name.partition(".")[0])
    return found


@functools.lru_cache(maxsize=32)
def _imports(source: str) -> frozenset[str]:
    """Top-level packages that a source imports anywhere."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return frozenset()  # a command's template, or a cell with magics
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
    return frozenset(found)


@functools.lru_cache(maxsize=512)
def _version(name: str) -> str:
    """The version of an installed package by its import name; "" for the user's own modules and the standard library.

    What the module itself says is free; else the folder's list of what is installed costs a look at the disk.
    (`importlib.metadata` would read and parse a file for each, and takes 10 ms to be imported.)
    """
    if name in sys.stdlib_module_names or name in ("__main__", "balsam_jupyter"):
        return ""
    said = vars(sys.modules[name]).get("__version__") if name in sys.modules else None
    if isinstance(said, str):
        return said
    if name in sys.modules and is_user_module(name):
        return ""
    return _distributions().get(name.lower(), "")


@functools.lru_cache(maxsize=1)
def _distributions() -> dict[str, str]:
    """Versions of what is installed beside this Python, by name in small letters with "_" for "-"."""
    found = {}
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        with contextlib.suppress(OSError):
            for entry in os.listdir(folder):
                if entry.endswith(".dist-info"):
                    name, _, version = entry.removesuffix(".dist-info").partition("-")
                    found[name.lower().replace("-", "_").replace(".", "_")] = version
    return found


_git_known: dict[Path, tuple[float, dict[str, Any] | None]] = {}


def git_revision(folder: Path) -> dict[str, Any] | None:
    """Revision, branch and whether tracked files were changed, of the repository around a folder; None without one.

    Asked at most twice a minute, of a repository that is there; one that takes over a second to answer is left out.
    """
    if not any((one / ".git").exists() for one in (folder, *folder.parents)):
        return None
    asked, known = _git_known.get(folder, (float("-inf"), None))
    if time.monotonic() - asked < _GIT_AGE_S:
        return known
    _git_known[folder] = (time.monotonic(), _ask_git(folder))
    return _git_known[folder][1]


def _ask_git(folder: Path) -> dict[str, Any] | None:
    # A repository's settings must not make git run a program of theirs, nor may it write there.
    words = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.quotePath=true", "status",
             "--porcelain=v2", "--branch", "--untracked-files=no", "--ignore-submodules=all"]  # fmt: skip
    try:
        done = subprocess.run(
            words, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=_GIT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.decode(errors="replace").splitlines()
    heads = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# ") and " " in line[2:])
    revision = heads.get("branch.oid", "")
    if not revision or revision.startswith("("):  # nothing was committed yet
        return None
    dirty = any(not line.startswith("#") for line in lines)
    return {"revision": revision, "branch": heads.get("branch.head", ""), "dirty": dirty}

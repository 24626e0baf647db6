"""What a class declares to be done before and after a run: hooks, transfer slots, files to clean up."""

from __future__ import annotations

import inspect
import posixpath
import re
from collections.abc import Mapping
from types import FunctionType
from typing import Any

from .errors import BadInput, listing, nearest

HOOKS = ("preprocess", "postprocess", "handle_error", "handle_timeout")
RESERVED_FILES = re.compile(r"job\.(out|err)(\.\d+)?|balsam\.log")
_SLOT_KEYS = ("required", "direction", "local_path", "description", "recursive")


def hooks(app: str, attrs: Mapping[str, Any]) -> list[str]:
    """The hooks among the attributes a class declares itself."""
    found = [name for name in HOOKS if attrs.get(name) is not None]
    for name in found:
        hook = attrs[name]
        if not isinstance(hook, FunctionType) or inspect.iscoroutinefunction(hook):
            raise BadInput(f"`{name}` of app {app} must be a plain method: def {name}(self).")
        try:
            inspect.signature(hook).bind(None)
        except TypeError:
            raise BadInput(
                f"{name}{inspect.signature(hook)} of app {app} is called with `self` alone: def {name}(self). "
                "What it needs is in self.job (parameters, data)."
            ) from None
    return found


def preamble_lines(given: Any) -> list[str]:
    """What a `shell_preamble` gives, as lines; TypeError with what is wrong of it."""
    lines = list(given) if isinstance(given, (list, tuple)) else [given] if given else []
    for line in lines:
        if not isinstance(line, str) or "\0" in line:
            raise TypeError(repr(line))
    return [line for line in lines if line.strip()]


def transfers(app: str, given: Any) -> dict[str, dict[str, Any]]:
    """The transfer slots, whole: Balsam's keys, with their defaults."""
    if not isinstance(given, Mapping):
        slip = "; is there a comma too many behind its closing brace?" if isinstance(given, tuple) else "; give a dict."
        raise BadInput(f"The transfers of app {app} are a {type(given).__name__}{slip}")
    return {str(name): _slot(f"Transfer slot {name!r} of app {app}", name, one) for name, one in given.items()}


def _slot(what: str, name: Any, one: Any) -> dict[str, Any]:
    if not isinstance(name, str) or not name or not isinstance(one, Mapping):
        raise BadInput(f'{what}: give a dict, such as {{"direction": "in", "local_path": "input.dat"}}.')
    for key in one:
        if key not in _SLOT_KEYS:
            raise BadInput(f"{what} has no {key!r}; it has {listing(_SLOT_KEYS)}.{nearest(str(key), _SLOT_KEYS)}")
    direction = getattr(one.get("direction"), "value", one.get("direction"))  # Balsam has an enumeration, too
    if direction not in ("in", "out"):
        raise BadInput(f'{what}: its direction is "in" or "out", not {direction!r}.')
    for key in ("required", "recursive"):
        if not isinstance(one.get(key, False), bool):
            raise BadInput(f"{what}: `{key}` is True or False, not {one[key]!r}.")
    recursive = one.get("recursive", False)
    path = str(one.get("local_path", ""))
    name_in_job = posixpath.normpath(path)
    if not path or "\0" in path or name_in_job.startswith("/") or ".." in path.split("/"):
        raise BadInput(f"{what}: its local_path must be a path below the work directory, not {path!r}.")
    if direction == "in" and RESERVED_FILES.fullmatch(name_in_job):
        raise BadInput(f"{what}: its local_path is the name of a log of the task; choose another.")
    if direction == "out" and name_in_job == "." and not recursive:
        raise BadInput(f'{what}: local_path "." is the whole work directory; add "recursive": True, or name a file.')
    keep = "/" if path.endswith("/") and name_in_job != "." else ""
    return {
        "required": one.get("required", True),
        "direction": direction,
        "local_path": name_in_job + keep,
        "description": str(one.get("description") or ""),
        "recursive": recursive,
    }


def cleanup_files(app: str, given: Any) -> list[str]:
    """The globs of files that are removed from the work directory of a finished job."""
    if isinstance(given, str) or not isinstance(given, list | tuple | set | frozenset):
        raise BadInput(f'The cleanup_files of app {app} are {given!r}; give a list of globs, such as ["*.tmp"].')
    for glob in given:
        parts = glob.split("/") if isinstance(glob, str) else [".."]
        if (
            not glob
            or ".." in parts
            or glob != glob.strip()
            or glob.startswith(("/", "~"))
            or "\0" in glob
            or set(parts) <= {".", ""}
        ):
            raise BadInput(
                f"cleanup_files of app {app}: {glob!r} must be a glob of files below the work directory, without '..'."
            )
        if parts[-1] in ("**", ""):
            raise BadInput(
                f"cleanup_files of app {app}: {glob!r} matches only directories, and files are removed; "
                f"write {glob.rstrip('/') + '/*'!r}."
            )
    return list(given)

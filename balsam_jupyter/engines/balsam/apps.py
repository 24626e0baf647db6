"""Apps: a class declared anywhere becomes a pickle that a stock Balsam site loads, and is found again in it."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import logging
import pickle
import sys
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ... import errors as errors_module
from ... import outputs, shelltext, templates
from ...codec import decode, encode
from ...errors import BadInput, NoAnswer, listing
from ...models import AppRecord, Parameter
from ..embedded.store import records
from . import pythons
from .mirror import Mirror, of_apps
from .rest import Rest

log = logging.getLogger(__name__)

_LARGEST_INPUT = 1 << 20  # bytes of an input file that travels with its app
_LARGEST_CLASS = 1_300_000  # characters; a Python app's class goes into an argument list, which has 2 MB
_NEEDS = {"templates": ["shelltext", "errors"], "shelltext": ["errors"]}
_MAKE = (
    "lambda source, *given: (lambda names: (exec(compile(__import__('zlib').decompress(source), '<balsam-jupyter>', "
    "'exec'), names), names['application'](*given))[1])({'__name__': '_balsam_jupyter'})"
)
_OF = "balsam-jupyter"


class _Call:
    """Pickles as a call of a function; the function may be such a call, too."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments

    def __call__(self) -> None:
        """Only what can be called is pickled as a function."""


@lru_cache(maxsize=1)
def _source() -> bytes:
    return zlib.compress(Path(__file__).with_name("remote.py").read_bytes(), 9)


@lru_cache(maxsize=8)
def _text(name: str) -> str:
    if name == "cloudpickle":
        found = importlib.util.find_spec("cloudpickle.cloudpickle")
        assert found is not None and found.origin is not None
        return Path(found.origin).read_text(encoding="utf-8")
    module = {"templates": templates, "shelltext": shelltext, "errors": errors_module, "outputs": outputs}[name]
    return Path(str(module.__file__)).read_text(encoding="utf-8")


def serialized(app: AppRecord, site_id: int) -> str:
    """The class of an app as the service keeps it.

    Raises
    ------
    BadInput
        If an input file is too large to travel with the app, or all of it is.
    """
    inputs = {name: _input(app, name, given) for name, given in app.inputs.items()}
    needed = ["templates"] if app.kind == "shell" or any("template" in one for one in inputs.values()) else []
    needed += ["outputs"] if app.outputs else []
    needed += ["cloudpickle"] if app.payload else []
    names = dict.fromkeys(one for name in needed for one in [name, *_NEEDS.get(name, ())])
    defaults = {name: one.default for name, one in app.parameters.items() if not one.required}
    spec = {
        "site": site_id,
        "name": app.name,
        "kind": app.kind,
        "python": pythons.HERE,
        "description": app.description,
        "command_template": app.command_template,
        "parameters": parameters(app),
        "defaults": {name: value for name, value in defaults.items() if _is_json(value)},
        "environment_variables": app.environment_variables,
        "python_exe": "" if app.python_exe == sys.executable else app.python_exe,
        "preamble": app.preamble,
        "hooks": app.hooks,
        "inputs": inputs,
        "outputs": app.outputs,
        "transfers": app.transfers,
        "cleanup_files": app.cleanup_files,
        "sys_path": app.sys_path,
        "needs": _NEEDS,
    }
    texts = {name: _text(name) for name in names}
    made = _Call(_Call(eval, _MAKE), _source(), json.dumps(spec, sort_keys=True), app.payload, texts)
    kept = zlib.compress(pickle.dumps((_OF, _plain(app), app.payload is not None), protocol=4), 9)
    # The record is a part of what the class is made from, so that whoever reads the app has all of it.
    whole = _Call(_Call(eval, "lambda made, kept: made"), made, kept)
    text = base64.b64encode(_squeezed(whole)).decode("ascii")
    if len(text) > _LARGEST_CLASS:
        raise BadInput(
            f"App {app.name} has {len(text):,} characters as a pickle, too many to be passed on there: read large "
            "data in run() from a file instead of a global."
        )
    return text


def _squeezed(whole: _Call) -> bytes:
    """The pickle, as a pickle of its compressed bytes."""
    inner = zlib.compress(pickle.dumps(whole, protocol=4), 9)
    load = "lambda stored: __import__('pickle').loads(__import__('zlib').decompress(stored))"
    return pickle.dumps(_Call(_Call(eval, load), inner), protocol=4)


def _input(app: AppRecord, name: str, given: Mapping[str, str]) -> dict[str, str]:
    """An input file as the site writes it: a file of this machine goes along as text."""
    if "path" not in given:
        return dict(given)
    file = Path(given["path"])
    try:
        if file.stat().st_size <= _LARGEST_INPUT:
            return {"text": file.read_text(encoding="utf-8")}
        why = f"it is larger than {_LARGEST_INPUT >> 20} MB"
    except (OSError, UnicodeDecodeError) as error:
        why = f"it cannot be read as text ({type(error).__name__})"
    raise BadInput(
        f"Input {name!r} of app {app.name} is the file {file}, which is on this machine, and {why}: bring it there "
        "with a transfer slot instead (transfers)."
    )


def _is_json(value: Any) -> bool:
    return isinstance(encode(value), str)


def parameters(app: AppRecord) -> dict[str, dict[str, Any]]:
    """Parameters as the service has them: defaults are text there."""
    return {
        name: {
            "required": one.required,
            "default": None if one.required else str(one.default),
            "help": one.help or one.type,
        }
        for name, one in app.parameters.items()
    }


def _plain(app: AppRecord) -> dict[str, Any]:
    plain = {field.name: getattr(app, field.name) for field in fields(app)}
    plain.pop("payload")
    plain.pop("id")
    # encoded, so that a default of a class that is not here hides no app
    plain["parameters"] = {
        name: {**asdict(one), "default": encode(one.default)} for name, one in app.parameters.items()
    }
    return plain


def body(app: AppRecord, site_id: int) -> dict[str, Any]:
    """The app as the service takes it."""
    return {
        "site_id": site_id,
        "name": app.name,
        "serialized_class": serialized(app, site_id),
        "source_code": app.source,
        "description": app.description,
        "parameters": parameters(app),
        "transfers": {name: dict(slot) for name, slot in app.transfers.items()},
    }


class _Kept(Exception):
    """Carries what was kept in a class that this package made."""


class _Finder(pickle.Unpickler):
    """Finds the record in a class's pickle, and runs nothing of it."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("builtins", "eval"), ("__builtin__", "eval")):
            return lambda text: _take if text.startswith("lambda stored") else _keep
        raise pickle.UnpicklingError(f"{module}.{name}: not made by this package")


def _take(stored: bytes) -> Any:
    return _Finder(io.BytesIO(zlib.decompress(stored))).load()


def _keep(*given: Any) -> Any:
    if len(given) == 2:
        raise _Kept(given[1], given[0])
    return given[2]  # what the class is made from: its payload


def record(row: Mapping[str, Any]) -> AppRecord:
    """An app as the service gives it. Of one that Balsam's own client made, what can be told of it."""
    number, stored = int(row["id"]), str(row["serialized_class"])
    try:
        _Finder(io.BytesIO(base64.b64decode(stored))).load()
    except _Kept as found:
        kept, payload = found.args
        try:
            of, plain, _ = _Plain(io.BytesIO(zlib.decompress(kept))).load()
        except Exception:  # of a newer version of this package
            of, plain = "", {}
        if of == _OF:
            given = {name: {**one, "default": decode(one["default"])} for name, one in plain["parameters"].items()}
            known = {field.name for field in fields(AppRecord)}
            plain = {name: value for name, value in plain.items() if name in known}
            plain["parameters"] = {name: Parameter(**one) for name, one in given.items()}
            return AppRecord(**plain, payload=payload, id=number)
    except Exception:
        pass
    return AppRecord(
        name=row["name"],
        kind="python",  # nothing is known of its command, so nothing of it is checked
        version=blake2b(stored.encode(), digest_size=16).hexdigest(),
        parameters={
            name: Parameter(one["required"], one.get("default"), one.get("help") or "")
            for name, one in (row["parameters"] or {}).items()
        },
        description=row["description"] or "",
        transfers={name: dict(slot) for name, slot in (row["transfers"] or {}).items()},
        source=row["source_code"] or "",
        id=number,
    )


class _Plain(pickle.Unpickler):
    """Builtin values only."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}")


def read(rest: Rest, store: Mirror, site_id: int) -> None:
    """Read the site's apps."""
    for rows in rest.all("/apps/", [("site_id", site_id)]):
        for row in rows:
            put(store, record(row))


def put(store: Mirror, app: AppRecord) -> None:
    """Take an app into the mirror, under its id."""
    with store.transaction() as con:
        found = con.execute("SELECT name FROM app WHERE id = ?", (app.id,)).fetchone()
        if found is None:
            other = con.execute("SELECT id FROM app WHERE name = ?", (app.name,)).fetchone()
            if other is not None:  # deleted and made again at the service
                con.execute("UPDATE app SET name = name || '~' || id WHERE id = ?", other)
            con.execute(
                "INSERT INTO app(id, name, version, record) VALUES(?, ?, ?, '')", (app.id, app.name, app.version)
            )
        elif found[0] != app.name:
            con.execute("UPDATE app SET name = ? WHERE id = ?", (app.name, app.id))
        records.put_app(con, app)


def same(known: AppRecord, app: AppRecord) -> bool:
    """Whether an app is as it is known already."""
    return replace(known, id=0) == replace(app, id=0)


def with_id(app: AppRecord, number: int) -> AppRecord:
    return replace(app, id=number)


def create(rest: Rest, given: Mapping[str, Any]) -> dict[str, Any]:
    """Make a new app, once, whatever becomes of the answer."""
    for _ in range(3):
        try:
            row: dict[str, Any] = rest.create("/apps/", given)
            return row
        except NoAnswer as error:
            last = error
            _, found = rest.page("/apps/", [("site_id", given["site_id"]), ("name", given["name"])])
            if found:
                updated: dict[str, Any] = rest.set("PUT", f"/apps/{found[0]['id']}", given)
                return updated
    raise last


def with_inputs(store: Mirror, known: Iterable[AppRecord], ids: Iterable[int]) -> set[int]:
    """Those of these jobs whose apps write input files: before a retry they are written anew."""
    return {*of_apps(store.con, (app.id for app in known if app.inputs), ids)}


def tell_of_update(store: Mirror, app: AppRecord) -> None:
    """Say that what runs keeps the app as it was."""
    live = [one.id for one in records.allocations(store.con, unended=True) if one.state == "running"]
    if live:
        log.warning(
            "App %s is updated. Allocation %s, where it has run it, goes on with it as it was, also with what is "
            "retried; a new one takes it as it is now: %%balsam_revoke %s, then %%balsam_allocate.",
            app.name, listing(live), live[0] if len(live) == 1 else "ID",
        )  # fmt: skip

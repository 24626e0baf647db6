"""Applications: what a user declares once and runs many times. The class contract is Balsam's."""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from . import appflow, appversion, usercode
from .appspec import Declaration, read_class
from .errors import BadInput, listing, nearest
from .models import AppRecord, Parameter
from .templates import CommandTemplate, argument

if TYPE_CHECKING:
    from .api import Job

_declared_at: WeakKeyDictionary[type, tuple[str, int]] = WeakKeyDictionary()
_loaded: WeakKeyDictionary[type, tuple[AppRecord, dict[str, Any]]] = WeakKeyDictionary()


class _AppType(type):
    """Checks an app's class when its ``class`` statement ends."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any) -> _AppType:
        redefines = "command_template" in namespace or "run" in namespace
        if bases and redefines:  # as in Balsam, parameters belong to the template or run() beside them
            namespace.setdefault("parameters", {})
        cls = super().__new__(mcls, name, bases, namespace, **kwargs)
        # Only a class statement sets this; a class that is being unpickled is still empty here.
        if bases and "__qualname__" in namespace:
            found = read_class(cls, final=False)
            cls.parameters = _as_dicts(found.parameters)  # type: ignore[attr-defined]
            if found.command_template:
                cls.command_template = found.command_template  # type: ignore[attr-defined]
            frame = sys._getframe(1)
            _declared_at[cls] = (frame.f_code.co_filename, frame.f_lineno)
        return cls


class ApplicationDefinition(metaclass=_AppType):
    """Base class of applications: subclass it with either a `command_template` or a `run` method.

    Attributes
    ----------
    site : int, str or Site, optional
        Where it runs; None is the site opened last.
    command_template : str
        A shell command; ``{{ name }}`` stands for a parameter, whose value arrives in the program exactly.
    run : method
        ``def run(self, …)``: its arguments are the parameters; what it returns is the task's value. It runs in
        another process: `self.job` has `id`, `workdir`, `parameters`, `tags` and `data`.
    parameters : dict
        ``{name: {"required": bool, "default": value, "help": text}}``; each key may be left out, and so may
        a parameter that is required.
    environment_variables : dict of str to str
        Added to a task's environment.
    python_exe : str
        The Python of a `run` app.
    inputs : dict
        ``{file name: text or Path}``, written into the work directory before the run. Text with ``{{`` or ``{%``,
        or a file with the suffix ``.j2``, is a Jinja2 template of the parameters.
    outputs : dict
        ``{name: spec}``: a regular expression with one group searched in the log, ``"file.json:key"``, or a function
        of the work directory, read after `postprocess`.
    preprocess, postprocess, handle_error, handle_timeout : method
        Balsam's hooks, called with `self` alone before the run, after one that ended well, after one that failed, and
        after one that the end of its allocation stopped. They run in the work directory, log to ``balsam.log``, and see
        the job as `self.job`; they may set `self.job.state` (to "PREPROCESSED", "POSTPROCESSED", "RESTART_READY" or
        "FAILED", where it makes sense), `self.job.data` and, before a rerun, parameters and resources, and may make
        jobs. One that raises fails its job. After a crash of the machine or of their process they may run again.
    transfers : dict
        Slots for files that come from elsewhere before a run, or go there after it: ``{slot: {"direction": "in" or
        "out", "local_path": path in the work directory, "required": bool, "recursive": bool, "description": text}}``.
    cleanup_files : list of str
        Globs of files in the work directory that are removed when the job finishes; ``job.out`` only if named.

    Raises
    ------
    BadInput
        At the end of the class statement, if something in it cannot be right.
    """

    site: Any = None
    command_template: str
    run: Callable[..., Any] | None = None
    parameters: dict[str, Any] = {}  # noqa: RUF012 (Balsam's names and form)
    environment_variables: dict[str, str] = {}  # noqa: RUF012
    python_exe: str = sys.executable
    inputs: dict[str, str | Path] = {}  # noqa: RUF012
    outputs: dict[str, str | Callable[[Path], Any]] = {}  # noqa: RUF012
    transfers: dict[str, dict[str, Any]] = {}  # noqa: RUF012
    cleanup_files: list[str] = []  # noqa: RUF012

    def __init__(self, job: Any) -> None:
        self.job = job

    def shell_preamble(self) -> str | list[str]:
        """Shell lines to run before the command. They are read once, at registration."""
        return []

    @classmethod
    def sync(cls) -> int:
        """Register the app at its site, or update it there; returns its id."""
        from . import api

        return api.sync_app(cls)

    @classmethod
    def submit(cls, workdir: str | Path, **kwargs: Any) -> Job:
        """Make a Job of this app and save it.

        Parameters
        ----------
        workdir : str or Path
            Its directory below the site's ``data/``.
        **kwargs
            Parameters of the app, and fields of the job by Balsam's names (`tags`, `num_nodes`,
            `ranks_per_node`, …); ``save=False`` leaves it to `Job.objects.bulk_create`.
        """
        from . import api

        return api.submit_app(cls, str(workdir), **kwargs)

    @staticmethod
    def load_by_site(site: Any) -> dict[str, type]:
        """The apps of a site (its id, name or Site), by name."""
        from . import api

        return api.load_apps(site)

    @staticmethod
    def load_by_name(app_name: str, site_name: str | None = None) -> type:
        """One app, of the site named or the one opened last."""
        from . import api

        return api.load_app(app_name, site_name)


def _as_dicts(parameters: Mapping[str, Parameter]) -> dict[str, dict[str, Any]]:
    """Parameters in the form of Balsam's attribute."""
    return {
        name: {"required": one.required, "default": one.default, "help": one.help or one.type}
        for name, one in parameters.items()
    }


def app_record(cls: type) -> AppRecord:
    """The app of a class as an engine stores it.

    Parameters
    ----------
    cls : type
        A subclass of this package's ApplicationDefinition, or of Balsam's, or any class of that shape. Only its
        attributes and functions are taken.

    Raises
    ------
    BadInput
        If the class breaks the contract, an input file is missing, or its functions cannot be pickled.
    """
    if not isinstance(cls, type):
        raise BadInput(f"An app is a class, not a {type(cls).__name__}; give a subclass of ApplicationDefinition.")
    if cls in _loaded:
        stored, as_loaded = _loaded[cls]
        if _as_it_was(cls, as_loaded):  # its source is elsewhere, so only this keeps its version
            return replace(stored)
    found = read_class(cls, final=True)
    preamble = _preamble(cls, found)
    return AppRecord(
        name=found.name,
        kind=found.kind,
        version=appversion.version(found, preamble),
        parameters=found.parameters,
        command_template=found.command_template,
        description=(cls.__doc__ or "").strip(),
        environment_variables=found.environment_variables,
        python_exe=found.python_exe,
        preamble=preamble,
        inputs=found.inputs,
        outputs=found.outputs,
        sys_path=usercode.user_folders(),
        hooks=found.hooks,
        transfers=found.transfers,
        cleanup_files=found.cleanup_files,
        source=appversion.source(cls, _declared_at.get(cls)),
        payload=_payload(found),
    )


def app_version(cls: type) -> str:
    """Hash of what the app does: equal in every process, other when its code, constants, template or files change."""
    return app_record(cls).version


class _NoJob(Exception):
    """A preamble asked for the job."""


def _no_job(_: Any) -> Any:
    raise _NoJob


def _preamble(cls: type, found: Declaration) -> list[str]:
    lines = found.preamble or []
    if not isinstance(lines, (str, list, tuple)):
        instance = type(cls.__name__, (), {**usercode.declared(cls), "job": property(_no_job)})()
        try:
            lines = instance.shell_preamble()
        except _NoJob:
            if found.kind == "python":
                raise BadInput(
                    f"shell_preamble() of app {found.name} uses self.job, but a run() shares its process with those of "
                    "other jobs: do in run() what it does."
                ) from None
            found.hooks.append("shell_preamble")  # asked for each job, behind its preprocess()
            found.functions["shell_preamble"] = found.preamble
            return []
        except Exception as error:
            raise BadInput(f"shell_preamble() of app {found.name} fails: {type(error).__name__}: {error}.") from error
    try:
        return appflow.preamble_lines(lines)
    except TypeError as error:
        raise BadInput(f"shell_preamble() of app {found.name} gives {error}; give text or a list of text.") from None


def _payload(found: Declaration) -> bytes | None:
    """The pickle of what the app's worker calls."""
    if found.kind == "shell" and not found.hooks:
        if not found.output_functions:
            return None
        return usercode.pickled(found.name, {"functions": {}, "attributes": {}, "outputs": found.output_functions})
    for name, function in found.functions.items():
        code = getattr(getattr(function, "__func__", function), "__code__", None)
        if code is not None and "__class__" in code.co_freevars:
            raise BadInput(
                f"{name}() of app {found.name} uses super(), which is not there when it runs; "
                f"call the other class's function by name: Base.{name}(self, …)."
            )
    parts = {"functions": found.functions, "attributes": found.attributes, "outputs": found.output_functions}
    return usercode.pickled(found.name, parts)


def app_from_record(record: AppRecord) -> type:
    """A class made again from what an engine stored. Its `site` is for the caller to set.

    Parameters
    ----------
    record : AppRecord
        From `Engine.apps`. Its payload is unpickled, so it must come from a site of one's own.

    Raises
    ------
    BadInput
        If its functions cannot be loaded in this Python.
    """
    parts: dict[str, dict[str, Any]] = {}
    if record.payload:
        try:
            parts = pickle.loads(record.payload)
        except Exception as error:
            raise BadInput(
                f"The functions of app {record.name} cannot be loaded here: {type(error).__name__}: {error}. "
                "Declare the app again in this notebook."
            ) from error
    functions = parts.get("outputs", {})
    namespace: dict[str, Any] = {
        **parts.get("attributes", {}),
        **parts.get("functions", {}),
        "__doc__": record.description or None,
        "__module__": "__main__",
        "parameters": _as_dicts(record.parameters),
        "environment_variables": dict(record.environment_variables),
        "inputs": {key: _input(one) for key, one in record.inputs.items()},
        "outputs": {key: functions[key] if spec is None else spec for key, spec in record.outputs.items()},
        "transfers": {name: dict(slot) for name, slot in record.transfers.items()},
        "cleanup_files": list(record.cleanup_files),
    }
    namespace.setdefault("shell_preamble", lambda self: list(record.preamble))
    if record.kind == "shell":
        namespace["command_template"] = record.command_template
    if record.python_exe:
        namespace["python_exe"] = record.python_exe
    cls = _AppType(record.name, (ApplicationDefinition,), namespace)
    _loaded[cls] = (record, usercode.declared(cls))
    return cls


def _input(stored: Mapping[str, str]) -> str | Path:
    return Path(stored["path"]) if "path" in stored else stored.get("template", stored.get("text", ""))


def _as_it_was(cls: type, before: Mapping[str, Any]) -> bool:
    now = {name: value for name, value in usercode.declared(cls).items() if name != "site"}
    return now.keys() == before.keys() and all(value is before[name] for name, value in now.items())


_command = lru_cache(maxsize=256)(CommandTemplate)
_NO_TEXT = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, partial)
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+>")
_NUMBERS = frozenset({int, float, bool, type(None)})
_SHORT = 100_000


def check_parameters(record: AppRecord, params: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of one run, in the app's order, with its defaults.

    Parameters
    ----------
    record : AppRecord
        The app.
    params : mapping of str to object
        What the user gave.

    Raises
    ------
    BadInput
        If a name is not the app's (names the nearest), one is missing, or a value cannot be put on a command line.
    """
    known = record.parameters
    full = {}
    for name, one in known.items():
        if name in params:
            full[name] = params[name]
        elif one.required:
            _refuse_unknown(record, params)
            missing = [name for name, one in known.items() if one.required and name not in params]
            raise BadInput(f"App {record.name} needs a value for {listing(missing)}; its parameters: {listing(known)}.")
        else:
            full[name] = one.default
    if not known.keys() >= params.keys():
        _refuse_unknown(record, params)
    if record.kind == "shell":
        for name, value in full.items():
            kind = type(value)
            if kind in _NUMBERS or (kind is str and len(value) < _SHORT and value.isascii() and "\0" not in value):
                continue
            command = _command(record.command_template)
            if name in command.names:  # input files can hold anything
                if name in command.placeholders:
                    _refuse_collection(name, value)
                _check_argument(name, value)
    return full


def _refuse_unknown(record: AppRecord, params: Mapping[str, Any]) -> None:
    for name in params:
        if name not in record.parameters:
            hint = nearest(str(name), record.parameters)
            raise BadInput(
                f"App {record.name} has no parameter {name!r}; its parameters: {listing(record.parameters)}.{hint}"
            )


def _check_argument(name: str, value: Any) -> None:
    if isinstance(value, (list, tuple)):  # for a {% for %}
        for one in value:
            _check_argument(name, one)
        return
    kind: Any = type(value)
    if isinstance(value, _NO_TEXT) or (kind.__repr__ is object.__repr__ and kind.__str__ is object.__str__):
        _refuse_object(name, value)
    try:
        text = argument(value, name)
    except BadInput:
        raise
    except Exception as error:  # its own __str__
        raise BadInput(f"The value of {name!r} cannot be turned into text: {error}.") from error
    if not isinstance(value, str) and _ADDRESS.search(text):
        _refuse_object(name, value)


def _refuse_object(name: str, value: Any) -> None:
    """Its text would be an address in this process's memory, other in each run."""
    kind = "class" if isinstance(value, type) else type(value).__name__
    what = f" {value.__name__}" if isinstance(value, _NO_TEXT) and hasattr(value, "__name__") else ""
    raise BadInput(f"The value of {name!r} is the {kind}{what}, which has no text of its own; give text or a number.")


def _refuse_collection(name: str, value: Any) -> None:
    if isinstance(value, Mapping):
        raise BadInput(
            f"The value of {name!r} is a {type(value).__name__}, but {{{{ {name} }}}} is one argument of the command; "
            "give a parameter for each of its entries, or a file as `inputs`."
        )
    if isinstance(value, (list, tuple, set, frozenset)) or getattr(value, "ndim", None):
        raise BadInput(
            f"The value of {name!r} is a {type(value).__name__}, but {{{{ {name} }}}} is one argument of the command; "
            f"give text or a number, or write {{% for x in {name} %}}{{{{ x }}}} {{% endfor %}} in the template."
        )

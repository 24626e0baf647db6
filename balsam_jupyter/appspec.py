"""What a class declares about an app, read and checked, without running any of it."""

from __future__ import annotations

import difflib
import inspect
import os
import posixpath
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import EnumMeta
from functools import cached_property
from pathlib import Path
from types import FunctionType, GenericAlias, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from . import appflow
from .codec import encode
from .errors import BadInput, listing, nearest
from .models import Parameter
from .outputs import problem
from .templates import CommandTemplate, text_names
from .usercode import ATTRIBUTE_OPS, declared, is_ours, names

CONTRACT = frozenset({
    "site", "command_template", "run", "parameters", "environment_variables", "python_exe", "transfers",
    "cleanup_files", "inputs", "outputs", "shell_preamble", *appflow.HOOKS,
})  # fmt: skip
"""Attributes with a meaning of their own; all others belong to the user's functions."""

_PARAMETER_KEYS = ("required", "default", "help")


@dataclass
class Declaration:
    """An app's class, taken apart."""

    name: str
    kind: str
    parameters: dict[str, Parameter]
    command_template: str = ""
    environment_variables: dict[str, str] = field(default_factory=dict)
    python_exe: str = ""
    inputs: dict[str, dict[str, str]] = field(default_factory=dict)
    outputs: dict[str, str | None] = field(default_factory=dict)
    output_functions: dict[str, Callable[..., Any]] = field(default_factory=dict)
    functions: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    preamble: Any = None
    hooks: list[str] = field(default_factory=list)
    transfers: dict[str, dict[str, Any]] = field(default_factory=dict)
    cleanup_files: list[str] = field(default_factory=list)


def read_class(cls: type, final: bool) -> Declaration:
    """Take a class apart and check it.

    Parameters
    ----------
    cls : type
        Any class of the shape of Balsam's ApplicationDefinition.
    final : bool
        False at the class's creation, when input files need not exist yet.

    Raises
    ------
    BadInput
        If the class breaks the contract.
    """
    attrs = declared(cls)
    name = cls.__name__
    if is_ours(cls):
        _refuse_misspelt(cls)
    template, run = attrs.get("command_template"), attrs.get("run")
    if (template is None) == (run is None):
        which = "neither" if run is None else "both"
        raise BadInput(f"App {name} has {which} of `command_template` and `run`; give exactly one of them.")
    is_function = {key: isinstance(value, _FUNCTIONS) for key, value in attrs.items()}
    found = Declaration(
        name,
        kind="shell" if run is None else "python",
        parameters={},
        environment_variables=_environment(name, attrs.get("environment_variables") or {}),
        python_exe=os.fspath(attrs.get("python_exe") or ""),
        functions={key: value for key, value in attrs.items() if is_function[key] and key not in CONTRACT - _CALLED},
        attributes={key: value for key, value in attrs.items() if not is_function[key] and key not in CONTRACT},
        preamble=attrs.get("shell_preamble"),
        hooks=appflow.hooks(name, attrs),
        transfers=appflow.transfers(name, attrs.get("transfers") or {}),
        cleanup_files=appflow.cleanup_files(name, attrs.get("cleanup_files") or []),
    )
    found.inputs, complete = _inputs(name, attrs.get("inputs") or {}, final)
    _read_outputs(found, attrs.get("outputs") or {})
    given = _given_parameters(name, attrs.get("parameters") or {})
    in_files = {p for one in found.inputs.values() if "template" in one for p in _names_in(name, one["template"])}
    if run is None:
        if not isinstance(template, str):
            raise BadInput(f"The command_template of app {name} is a {type(template).__name__}; give text.")
        command = _with_app(name, CommandTemplate, template)
        found.command_template = command.text
        used = _in_order(command.names, command.text) + sorted(in_files - command.names)
        if complete:
            _refuse_unused(name, given, used, "its command_template and inputs")
        found.parameters = given | {key: Parameter() for key in used if key not in given}
    else:
        found.parameters = _run_parameters(name, run, given)
        unknown = in_files.difference(found.parameters)
        if unknown:
            lacks = listing(sorted(unknown))
            raise BadInput(f"The inputs of app {name} use {lacks}, which run() does not take; add it there.")
    for key, parameter in found.parameters.items():
        _with_app(name, encode, parameter.default, f"default of {key!r}: ")
    return found


_CALLED = frozenset({"run", *appflow.HOOKS})
_FUNCTIONS = (FunctionType, staticmethod, classmethod, property, cached_property)


def _refuse_misspelt(cls: type) -> None:
    """Refuse attributes of the class body that look like a slip in a name of the contract."""
    codes = [getattr(getattr(one, "__func__", one), "__code__", None) for one in vars(cls).values()]
    used = {word for code in codes if code is not None for word in names(code, ATTRIBUTE_OPS)}
    for key in vars(cls):
        # What the class's own functions use, such as a helper called process(), is meant as it is.
        if key.startswith("_") or key in CONTRACT or key in used:
            continue
        close = difflib.get_close_matches(key, sorted(CONTRACT), n=1, cutoff=0.8)
        if close:
            raise BadInput(
                f"App {cls.__name__} has `{key}`: did you mean `{close[0]}`? An attribute of your own needs a name "
                "that is less like it."
            )


def _with_app(app: str, function: Callable[[Any], Any], value: Any, what: str = "") -> Any:
    try:
        return function(value)
    except BadInput as error:
        raise BadInput(f"App {app}: {what}{error}") from None


def _names_in(app: str, template: str) -> set[str]:
    names: set[str] = _with_app(app, text_names, template)
    return names


def _in_order(names: set[str], text: str) -> list[str]:
    """Names in the order in which they first stand in the text."""

    def place(name: str) -> int:
        match = re.search(rf"{{[{{%][^}}]*\b{re.escape(name)}\b", text)
        return match.end() if match else len(text)

    return sorted(sorted(names), key=place)


def _given_parameters(app: str, parameters: Any) -> dict[str, Parameter]:
    """The `parameters` attribute; Balsam's keys, each of which may be left out."""
    if not isinstance(parameters, Mapping):
        raise BadInput(f"The parameters of app {app} are a {type(parameters).__name__}; give a dict of dicts.")
    found = {}
    for key, one in parameters.items():
        if isinstance(one, Parameter):
            found[key] = one
            continue
        if not isinstance(key, str) or not isinstance(one, Mapping):
            raise BadInput(f'Parameter {key!r} of app {app}: give a dict, such as {{"required": False, "default": 1}}.')
        for word in one:
            if word not in _PARAMETER_KEYS:
                hint = nearest(str(word), _PARAMETER_KEYS)
                raise BadInput(f"Parameter {key!r} of app {app} has no {word!r}; it has required, default, help.{hint}")
        required = bool(one.get("required", "default" not in one))
        if not required and "default" not in one:
            raise BadInput(f"Parameter {key!r} of app {app} is not required and has no default; give a 'default'.")
        found[key] = Parameter(required, None if required else one["default"], str(one.get("help") or ""))
    return found


def _refuse_unused(app: str, given: Mapping[str, Any], used: list[str], where: str) -> None:
    for key in given:
        if key not in used:
            raise BadInput(f"Parameter {key!r} of app {app} is not used in {where}.{nearest(key, used)}")


def _run_parameters(app: str, run: Any, given: dict[str, Parameter]) -> dict[str, Parameter]:
    """Parameters from run's signature, with the helps the class gives."""
    if not isinstance(run, FunctionType) or inspect.iscoroutinefunction(run):
        raise BadInput(f"`run` of app {app} must be a plain method: def run(self, …).")
    signature = inspect.signature(run)
    names = list(signature.parameters)
    if names[:1] != ["self"]:
        raise BadInput(f"run{signature} of app {app} lacks the `self` argument; put it first.")
    found = {}
    for key in names[1:]:
        one = signature.parameters[key]
        if one.kind not in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
            raise BadInput(f"run{signature} of app {app}: write out each parameter by name instead of {one}.")
        default = None if one.default is one.empty else one.default
        kind = _type_name(one.annotation)
        help_text = given[key].help if key in given else ""
        if help_text in (kind, "_empty"):  # what Balsam makes of an annotation
            help_text = ""
        choices = _choices(_resolved(one.annotation, run))
        found[key] = Parameter(one.default is one.empty, default, help_text, kind, choices)
    _refuse_unused(app, given, list(found), "run()")
    return found


def _type_name(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, type) and not isinstance(annotation, GenericAlias):
        return annotation.__name__
    return str(annotation).replace("typing.", "")


def _resolved(annotation: Any, run: FunctionType) -> Any:
    """An annotation that is text (``from __future__ import annotations``) as what it means, if that can be told."""
    if isinstance(annotation, str):
        with suppress(Exception):  # any expression, of the user's own
            return eval(annotation, run.__globals__)
    return annotation


def _choices(annotation: Any) -> tuple[Any, ...]:
    """The values that an annotation lists, None among them if it is optional; none if it does not list them."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if isinstance(annotation, EnumMeta):
        members: tuple[Any, ...] = tuple(annotation)
        with suppress(BadInput):  # what cannot be stored is not offered
            encode(list(members))
            return members
    if get_origin(annotation) in (Union, UnionType):
        parts = [one for one in get_args(annotation) if one is not NoneType]
        listed = _choices(parts[0]) if len(parts) == 1 else ()
        return (*listed, None) if listed else ()
    return ()


def _environment(app: str, variables: Any) -> dict[str, str]:
    if not isinstance(variables, Mapping):
        raise BadInput(f"The environment_variables of app {app} are a {type(variables).__name__}; give a dict.")
    found = {}
    for key, value in variables.items():
        if not isinstance(key, str) or not key or "=" in key or "\0" in key:
            raise BadInput(f"App {app}: {key!r} cannot be the name of an environment variable.")
        if not isinstance(value, (str, int, float, os.PathLike)) or "\0" in str(value):
            raise BadInput(f"App {app}: the environment variable {key} is {value!r}; give text.")
        found[key] = str(value)
    return found


def _inputs(app: str, inputs: Any, final: bool) -> tuple[dict[str, dict[str, str]], bool]:
    """The input files, and whether all of them could be looked at."""
    if not isinstance(inputs, Mapping):
        kind = type(inputs).__name__
        raise BadInput(f'The inputs of app {app} are a {kind}; give a dict {{"file name": text or Path}}.')
    found: dict[str, dict[str, str]] = {}
    complete = True
    for key, value in inputs.items():
        name = _file_name(app, key)
        if name in found:
            raise BadInput(f"App {app} has two inputs called {name!r}.")
        if isinstance(value, str):
            found[name] = {"template" if "{{" in value or "{%" in value else "text": value}
        elif isinstance(value, Path):
            path = value.expanduser().absolute()
            if not path.is_file():
                if final:
                    what = "is not a file" if path.exists() else "does not exist"
                    raise BadInput(f"Input {key!r} of app {app}: {path} {what}; give the path of a file.")
                complete = False
            elif path.suffix == ".j2":
                found[name] = {"template": _read(app, path)}
            else:
                found[name] = {"path": str(path)}
        else:
            raise BadInput(f"Input {key!r} of app {app} is a {type(value).__name__}; give its text, or a pathlib.Path.")
    return found, complete


def _read(app: str, path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"App {app}: cannot read the template {path} ({error}); it must be UTF-8 text.") from None


def _file_name(app: str, key: Any) -> str:
    if not isinstance(key, str) or not key or "\0" in key:
        raise BadInput(f"App {app}: {key!r} cannot be the name of an input file.")
    name = posixpath.normpath(key)
    if name.startswith("/") or ".." in key.split("/") or name == "." or key.endswith("/"):
        raise BadInput(f"Input {key!r} of app {app} must be a file name below the work directory, without '..'.")
    if appflow.RESERVED_FILES.fullmatch(name):
        raise BadInput(f"Input {key!r} of app {app} has the name of the task's log; choose another.")
    return name


def _read_outputs(found: Declaration, outputs: Any) -> None:
    if not isinstance(outputs, Mapping):
        raise BadInput(f"The outputs of app {found.name} are a {type(outputs).__name__}; give a dict.")
    for key, value in outputs.items():
        if not isinstance(key, str) or not key:
            raise BadInput(f"App {found.name}: {key!r} cannot be the name of an output; give text.")
        value = value.__func__ if isinstance(value, staticmethod) else value
        wrong = problem(value) or _not_unary(value)
        if wrong:
            raise BadInput(f"Output {key!r} of app {found.name} {wrong}.")
        found.outputs[key] = value if isinstance(value, str) else None
        if not isinstance(value, str):
            found.output_functions[key] = value


def _not_unary(value: Any) -> str:
    if isinstance(value, str):
        return ""
    try:
        inspect.signature(value).bind(None)
    except TypeError:
        return "is a function that does not take one argument; it is called with the work directory (a Path)"
    except ValueError:  # a builtin without a signature
        return ""
    return ""

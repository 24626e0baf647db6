"""An app as the text of a Python file: its class, and what its functions reach, as written where that can be found."""

from __future__ import annotations

import ast
import builtins
import inspect
import linecache
import pickle
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from .apps import ApplicationDefinition
from .appversion import definition, first_line, source
from .models import AppRecord, Parameter
from .usercode import ATTRIBUTE_OPS, GLOBAL_OPS, is_user_module, names

_LONGEST = 5_000  # characters of a constant that is written out
_KINDS = (
    (staticmethod, "staticmethod"),
    (classmethod, "classmethod"),
    (property, "property"),
    (cached_property, "cached_property"),
)


RESERVED = ("_HERE", "_pathlib", "_pickle", "_NAME", "_COLUMNS", "_SUBMISSIONS", "_value", "_rows", "_main")
"""Names of the file's own, beside those of the app."""


class Script:
    """The text of an app, put together piece by piece.

    Attributes
    ----------
    class_name : str
        Of the app's class in it.
    values : dict of str to object
        What has no text (an array, a function without source): to be pickled as ``values.pickle`` beside it.
    modules : dict of str to Path
        Modules of the user's that it imports, to be copied beside it: file or folder, by name.
    input_files : dict of str to Path
        Input files to be copied into ``inputs/`` beside it.

    Raises
    ------
    Clash
        If two things of one name are reached; `as_values` puts all functions among the values instead.
    """

    def __init__(self, record: AppRecord, as_values: bool = False) -> None:
        self._as_values = as_values
        self.values: dict[str, Any] = {}
        self.modules: dict[str, Path] = {}
        self.input_files: dict[str, Path] = {}
        self.class_name = re.sub(r"\W", "_", record.name)
        if not self.class_name.isidentifier():
            self.class_name = f"App_{self.class_name}"
        self._imports: dict[str, None] = {}
        self._constants: list[str] = []
        self._definitions: list[str] = []
        self._there: dict[str, Any] = {**dict.fromkeys(RESERVED), "ApplicationDefinition": ApplicationDefinition}
        parts: dict[str, dict[str, Any]] = pickle.loads(record.payload) if record.payload else {}
        for file, text in parts.get("sources", {}).items():
            if file not in linecache.cache:  # a cell of another kernel
                linecache.cache[file] = (len(text), None, text.splitlines(True), file)
        self._class = self._class_text(record, parts)

    def imports(self) -> list[str]:
        """The lines that import what the text needs."""
        return sorted({"from balsam_jupyter import ApplicationDefinition", *self._imports})

    def text(self) -> str:
        """Constants, functions and the class, without imports; ``_HERE`` is to be the file's folder."""
        blocks = ["\n".join(self._constants), *self._definitions, self._class]
        return "\n\n\n".join(block for block in blocks if block)

    # -- the class ----------------------------------------------------------------------------------------------------

    def _class_text(self, record: AppRecord, parts: Mapping[str, Mapping[str, Any]]) -> str:
        body: list[str] = []
        if record.description:
            body.append(_docstring(record.description))
        if record.kind == "shell":
            body.append(_assign("command_template", record.command_template))
        told = [one for one in record.parameters.values() if one.help or (record.kind == "shell" and not one.required)]
        if told:
            body.append(self._attribute("parameters", {name: _said(one) for name, one in record.parameters.items()}))
        for name, value in (
            ("environment_variables", record.environment_variables),
            ("transfers", record.transfers),
            ("cleanup_files", record.cleanup_files),
        ):
            if value:
                body.append(_assign(name, value))
        if record.inputs:
            body.append(self._inputs(record.inputs))
        if record.outputs:
            shown: list[str] = []
            for name, spec in record.outputs.items():
                text = self._named(f"_output_{len(shown)}", parts["outputs"][name]) if spec is None else repr(spec)
                shown.append(f"{name!r}: {text}")
            body.append(f"outputs = {{{', '.join(shown)}}}")
        if record.preamble:
            body.append(f"def shell_preamble(self):\n    return {record.preamble!r}")
        body += [self._attribute(name, value) for name, value in parts.get("attributes", {}).items()]
        body += [self._method(name, value) for name, value in parts.get("functions", {}).items()]
        inside = textwrap.indent("\n\n".join(body), "    ")
        return f"class {self.class_name}(ApplicationDefinition):\n{inside}"

    def _attribute(self, name: str, value: Any) -> str:
        if _is_plain(value):
            return _assign(name, value)
        return f"{name} = {self._named(f'_{name}', value)}"

    def _inputs(self, inputs: Mapping[str, Mapping[str, str]]) -> str:
        shown = []
        for name, given in inputs.items():
            if "path" in given:
                self.input_files[name] = Path(given["path"])
                shown.append(f"    {name!r}: _HERE / 'inputs' / {name!r},")
            else:
                shown.append(f"    {name!r}: {given.get('template', given.get('text', ''))!r},")
        return "\n".join(["inputs = {", *shown, "}"])

    def _method(self, name: str, value: Any) -> str:
        """A function of the class: its text, or a name that stands for it."""
        function = inspect.unwrap(_plain(value)) if callable(_plain(value)) else value
        node = self._definition(function)
        kind = next((word for kind, word in _KINDS if isinstance(value, kind)), "")
        written = isinstance(node, ast.FunctionDef) and node.name == name
        as_kind = isinstance(node, ast.FunctionDef) and bool(kind) == bool(node.decorator_list)
        if node is not None and written and as_kind and self._reach(function, node):
            return _text(node, function.__code__, "    ")
        inner = self._named(f"_{name}", function if kind else value)
        return f"{name} = {kind}({inner})" if kind else f"{name} = {inner}"

    # -- what it reaches ----------------------------------------------------------------------------------------------

    def _definition(self, function: Any) -> ast.AST | None:
        found = isinstance(function, FunctionType) and not self._as_values
        return definition(function.__code__) if found else None

    def _named(self, name: str, value: Any) -> str:
        """Make a value known by this name, or by its own where it has one; returns that."""
        own = getattr(value, "__name__", "")
        if isinstance(value, FunctionType) and own.isidentifier() and own != "<lambda>" and own not in self._there:
            name = own
        self._need(name, value)
        return name

    def _need(self, name: str, value: Any) -> None:
        """Make a global of a function known to the script."""
        if name == self.class_name and isinstance(value, type):
            return  # the app itself
        if name in self._there:
            if self._there[name] is not value and not _equal(self._there[name], value):
                raise Clash(name)
            return
        self._there[name] = value
        if isinstance(value, ModuleType):
            self._import_module(name, value)
        elif _is_plain(value):
            self._constants.append(_assign(name, value))
        elif isinstance(value, Path):
            self._imports["from pathlib import Path"] = None
            self._constants.append(f"{name} = Path({str(value)!r})")
        elif not (self._import_from(name, value) or self._define(name, value)):
            self.values[name] = value

    def _import_module(self, name: str, module: ModuleType) -> None:
        full = module.__name__
        if is_user_module(full):
            top = sys.modules.get(full.partition(".")[0], module)
            file = Path(getattr(top, "__file__", None) or "")
            self.modules[top.__name__] = file.parent if file.name == "__init__.py" else file
        self._imports[f"import {full}" if name == full else f"import {full} as {name}"] = None

    def _import_from(self, name: str, value: Any) -> bool:
        module, own = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        if not isinstance(module, str) or not isinstance(own, str) or is_user_module(module):
            return False
        if getattr(sys.modules.get(module), own, None) is not value:
            return False
        self._imports[f"from {module} import {own}" + ("" if own == name else f" as {name}")] = None
        return True

    def _define(self, name: str, value: Any) -> bool:
        """The text of a function or class of the user's; false if it cannot be had."""
        if isinstance(value, type):
            return self._define_class(name, value)
        function = inspect.unwrap(value) if callable(value) else value
        node = self._definition(function)
        if node is None or not self._reach(function, node):
            return False
        text = _text(node, function.__code__)
        if isinstance(node, ast.Lambda):
            text = f"{name} = {text}"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name != name:
            if node.name in self._there:
                return False
            self._there[node.name] = value
            text += f"\n\n\n{name} = {node.name}"
        self._definitions.append(text)
        return True

    def _define_class(self, name: str, cls: type) -> bool:
        text = "" if self._as_values else source(cls, None)
        functions = [one for one in map(_plain, vars(cls).values()) if isinstance(one, FunctionType)]
        if not text or cls.__name__ != name or not functions:
            return False
        spaces = [function.__globals__ for function in functions]
        for base in cls.__bases__:
            if base is not object:
                self._need(base.__name__, base)
        for function in functions:
            if (node := definition(function.__code__)) is not None and not self._reach(function, node):
                return False
        if not self._resolve(_loaded(ast.parse(text)), spaces, certain=False):
            return False
        self._definitions.append(text.rstrip())
        return True

    def _reach(self, function: FunctionType, node: ast.AST) -> bool:
        """Make all that a function uses known; false if some name of its definition cannot be found."""
        code, space = function.__code__, function.__globals__
        attributes = set(names(code, ATTRIBUTE_OPS))
        for name in sorted(set(names(code, GLOBAL_OPS))):
            if name in space:
                self._need(name, space[name])
                if isinstance(space[name], ModuleType):
                    self._import_parts(space[name].__name__, attributes)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
            try:
                self._need(name, cell.cell_contents)
            except ValueError:  # an empty cell
                return False
        outside: list[ast.AST] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            outside += [*node.args.defaults, *(one for one in node.args.kw_defaults if one)]
            outside += [] if isinstance(node, ast.Lambda) else node.decorator_list
        return self._resolve({name for one in outside for name in _loaded(one)}, [space], certain=True)

    def _import_parts(self, module: str, attributes: set[str]) -> None:
        """Modules inside a package that are used as its attributes, as in ``scipy.optimize.brentq``."""
        for name in attributes:
            if f"{module}.{name}" in sys.modules:
                self._imports[f"import {module}.{name}"] = None
                self._import_parts(f"{module}.{name}", attributes - {name})

    def _resolve(self, wanted: Iterable[str], spaces: list[dict[str, Any]], certain: bool) -> bool:
        """Make names of a definition known; of `certain` ones each must be found."""
        main = vars(sys.modules.get("__main__", ModuleType("none")))
        for name in sorted(wanted):
            found = next((space[name] for space in [*spaces, main] if name in space), _NOTHING)
            if found is not _NOTHING:
                self._need(name, found)
            elif certain and not hasattr(builtins, name):
                return False
        return True


class Clash(Exception):
    """Two things of one name are reached, in different modules."""


_NOTHING = object()


def _said(one: Parameter) -> dict[str, Any]:
    """A parameter as a class says it."""
    said = {"required": one.required} if one.required else {"required": False, "default": one.default}
    return {**said, "help": one.help} if one.help else said


def _plain(value: Any) -> Any:
    """The function in a method, property or wrapper."""
    if isinstance(value, cached_property):
        return value.func
    return getattr(value, "__func__", None) or getattr(value, "fget", None) or value


def _loaded(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load)}


def _is_plain(value: Any) -> bool:
    """Whether its repr is its text in Python."""
    text = repr(value)
    if len(text) > _LONGEST:
        return False
    try:
        again = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return False
    return type(again) is type(value) and repr(again) == text


def _equal(one: Any, other: Any) -> bool:
    return type(one) is type(other) and _is_plain(one) and repr(one) == repr(other)


def _assign(name: str, value: Any) -> str:
    return f"{name} = {value!r}"


def _docstring(text: str) -> str:
    return repr(text) if '"""' in text or "\\" in text or text.endswith('"') else f'"""{text}"""'


def _text(node: ast.AST, code: CodeType, depth: str = "") -> str:
    """A definition as written, to stand at a depth; as the parser understood it where moving it changes a string."""
    lines = linecache.getlines(code.co_filename)
    if isinstance(node, ast.Lambda):
        return ast.get_source_segment("".join(lines), node) or ast.unparse(node)
    text = textwrap.dedent("".join(lines[first_line(node) - 1 : node.end_lineno or 0])).rstrip()  # type: ignore[attr-defined]
    try:
        tree: Any = ast.parse(f"if True:\n{textwrap.indent(text, depth)}" if depth else text)
    except SyntaxError:
        return ast.unparse(node)
    same = ast.dump(tree.body[0].body[0] if depth else tree.body[0]) == ast.dump(node)
    return text if same else ast.unparse(node)

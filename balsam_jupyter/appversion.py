"""The version of an app: a hash of what it does, equal in every process; and its source as written."""

from __future__ import annotations

import ast
import json
import linecache
import sys
import textwrap
from collections.abc import Mapping
from functools import cached_property, lru_cache, partial
from hashlib import blake2b
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from .appspec import Declaration
from .codec import canonical
from .errors import BadInput
from .usercode import ATTRIBUTE_OPS, GLOBAL_OPS, is_framework, is_user_module, names

_LARGEST_INPUT = 64 << 20


def version(found: Declaration, preamble: list[str]) -> str:
    """A hash of everything that decides what a task of the app does, apart from its parameters."""
    digest = _Digest()
    parts: list[Any] = [
        found.kind,
        found.command_template,
        sorted(found.environment_variables.items()),
        preamble,
        [[name, sorted(one.items()), _content(one)] for name, one in sorted(found.inputs.items())],
        sorted((name, spec or "") for name, spec in found.outputs.items()),
        [[name, digest.of(function)] for name, function in sorted(found.output_functions.items())],
    ]
    if found.transfers or found.cleanup_files:
        parts += [found.transfers, found.cleanup_files]
    if found.kind == "python" or found.hooks:
        parts += [[name, digest.of(value)] for name, value in sorted(found.functions.items())]
        parts += [[name, digest.of(value)] for name, value in sorted(found.attributes.items())]
    return blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _content(given: Mapping[str, str]) -> str:
    """Hash of a copied input file, so that an edited file makes a new version (by size alone if it is large)."""
    if "path" not in given:
        return ""
    path = Path(given["path"])
    size = path.stat().st_size
    return str(size) if size > _LARGEST_INPUT else blake2b(path.read_bytes(), digest_size=16).hexdigest()


class _Digest:
    """Turns functions, and what they reach through globals and closures, into JSON."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}
        self.kept: list[Any] = []  # ids stay valid while the objects live

    def of(self, value: Any, depth: int = 0) -> Any:
        """JSON of a value. What has been met before is a reference; what is not plain is its type's name."""
        if isinstance(value, (staticmethod, classmethod)):
            return [type(value).__name__, self.of(value.__func__, depth)]
        if isinstance(value, property):
            return ["property", *(self.of(one, depth) for one in (value.fget, value.fset) if one)]
        if isinstance(value, cached_property):
            return ["property", self.of(value.func, depth)]
        if not isinstance(value, (FunctionType, type, ModuleType)):
            try:
                return ["value", canonical({"": value}).decode()]
            except BadInput:
                pass
        if id(value) in self.seen:
            return ["again", self.seen[id(value)]]
        self.seen[id(value)] = len(self.seen)
        self.kept.append(value)
        if isinstance(value, FunctionType):
            return self._function(value, depth)
        if isinstance(value, ModuleType):
            return ["module", value.__name__]
        if isinstance(value, type):
            return self._class(value, depth)
        if isinstance(value, partial):
            return ["partial", *(self.of(one, depth + 1) for one in (value.func, value.args, value.keywords))]
        if isinstance(value, (list, tuple)) and depth < 8:
            return ["list", *(self.of(one, depth + 1) for one in value)]
        if isinstance(value, Mapping) and depth < 8:
            return ["map", *([str(key), self.of(one, depth + 1)] for key, one in value.items())]
        return self._object(value, depth)

    def _object(self, value: Any, depth: int) -> Any:
        kind = type(value)
        parts: list[Any] = ["object", kind.__module__, kind.__qualname__]
        if is_user_module(kind.__module__) and depth < 8:
            parts.append(self.of(kind, depth + 1))
            parts += [[name, self.of(one, depth + 1)] for name, one in sorted(getattr(value, "__dict__", {}).items())]
        return parts

    def _class(self, cls: type, depth: int) -> Any:
        if not is_user_module(cls.__module__) or is_framework(cls):
            return ["class", cls.__module__, cls.__qualname__]
        bases = [self.of(base, depth + 1) for base in cls.__bases__]
        # Python's own attributes tell of the place, or differ between processes.
        own = {name: one for name, one in vars(cls).items() if isinstance(one, FunctionType) or name[:2] != "__"}
        return ["class", bases, *([name, self.of(one, depth + 1)] for name, one in sorted(own.items()))]

    def _function(self, function: FunctionType, depth: int) -> Any:
        if not is_user_module(function.__module__):
            return ["function", function.__module__, function.__qualname__]
        code = function.__code__
        parts: list[Any] = ["function", _syntax(code) or _code(code)]
        for defaults in (function.__defaults__, function.__kwdefaults__):
            parts.append(self.of(defaults, depth + 1) if defaults else None)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
            try:
                parts.append([name, self.of(cell.cell_contents, depth + 1)])
            except ValueError:  # an empty cell
                parts.append([name])
        attributes = set(names(code, ATTRIBUTE_OPS))
        for name in sorted(set(names(code, GLOBAL_OPS))):
            if name not in function.__globals__:
                continue
            value = function.__globals__[name]
            parts.append([name, self.of(value, depth + 1)])
            if isinstance(value, ModuleType) and is_user_module(value.__name__):
                reached = sorted(attributes.intersection(vars(value)))
                parts += [[f"{name}.{one}", self.of(vars(value)[one], depth + 1)] for one in reached]
        return parts


def _code(code: CodeType) -> Any:
    """Code without its place, for functions whose source is gone."""
    constants = [_code(one) if isinstance(one, CodeType) else _constant(one) for one in code.co_consts]
    return ["code", code.co_code.hex(), constants, code.co_names, code.co_varnames, code.co_freevars]


def _constant(value: Any) -> Any:
    if isinstance(value, frozenset):
        return ["set", *sorted(map(repr, value))]  # a set's own order differs between processes
    if isinstance(value, tuple):
        return ["tuple", *map(_constant, value)]
    return repr(value)


def _syntax(code: CodeType) -> str:
    """The syntax tree of a function without positions; "" if its source cannot be found for certain."""
    node = definition(code)
    return "" if node is None else ast.dump(node)


def definition(code: CodeType) -> ast.AST | None:
    """The node of a function in the syntax tree of its file or cell; None if it cannot be found for certain."""
    tree, compiled = _parsed(code.co_filename, "".join(linecache.getlines(code.co_filename)))
    if tree is None or _outline(code) not in compiled:
        return None  # no source, or a file edited after its import
    nodes = [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.Lambda, ast.FunctionDef, ast.AsyncFunctionDef))
        and getattr(node, "name", "<lambda>") == code.co_name
        and first_line(node) == code.co_firstlineno
    ]
    return nodes[0] if len(nodes) == 1 else None  # not of two lambdas on a line


def first_line(node: Any) -> int:
    """The number of the line a definition begins on, decorators included."""
    return min([int(node.lineno), *(int(one.lineno) for one in getattr(node, "decorator_list", ()))])


@lru_cache(maxsize=32)
def _parsed(filename: str, text: str) -> tuple[ast.Module | None, frozenset[str]]:
    """The syntax tree of a file, and the outlines of all its functions."""
    try:
        tree = ast.parse(text)
        codes = [compile(tree, filename, "exec", dont_inherit=True)]
    except (SyntaxError, ValueError, RecursionError):
        return None, frozenset()
    for code in codes:  # grows while it is walked
        codes += [one for one in code.co_consts if isinstance(one, CodeType)]
    return tree, frozenset(map(_outline, codes))


def _outline(code: CodeType) -> str:
    """What code compiled from the same text has in common, whatever way it was compiled (IPython's differs)."""
    plain = [one for one in code.co_consts if one is not None and not isinstance(one, CodeType)]
    constants = sorted({json.dumps(_constant(one)) for one in plain})
    place = [code.co_name, code.co_firstlineno]
    return json.dumps([*place, code.co_varnames, code.co_freevars, sorted(code.co_names), constants])


def source(cls: type, declared_at: tuple[str, int] | None) -> str:
    """The text of a class as written, "" if it cannot be found. Works for notebook cells too.

    Parameters
    ----------
    cls : type
        The class.
    declared_at : tuple of (str, int), optional
        File and line of its ``class`` statement, where known.
    """
    places: list[tuple[str, int | None]] = [declared_at] if declared_at else []
    for value in vars(cls).values():
        code = getattr(getattr(value, "__func__", value), "__code__", None)
        if code is not None:
            places.append((code.co_filename, code.co_firstlineno))
    places.append((getattr(sys.modules.get(cls.__module__), "__file__", None) or "", None))
    for filename, line in places:
        lines = linecache.getlines(filename)
        tree, _ = _parsed(filename, "".join(lines))
        for node in ast.walk(tree) if tree is not None else ():
            if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
                first, last = first_line(node), node.end_lineno or 0
                if line is None or first <= line <= last:
                    return textwrap.dedent("".join(lines[first - 1 : last]))
    return ""

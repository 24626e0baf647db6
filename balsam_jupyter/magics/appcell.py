"""``%%balsam_app``: from a cell to an ApplicationDefinition."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..api import Site
from ..apps import ApplicationDefinition, app_record
from ..errors import BadInput
from ..models import AppRecord
from .mistakes import pointed
from .report import Report


def parameters(given: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The ``--param name[=default]`` options as an app's `parameters`; a default is a literal or else text."""
    found: dict[str, dict[str, Any]] = {}
    for text in given:
        name, equals, default = text.partition("=")
        if not name.isidentifier():
            raise BadInput(f"--param {text}: {name!r} is not a Python identifier.")
        found[name] = {"required": False, "default": _literal(default)} if equals else {"required": True}
    return found


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def input_files(given: Iterable[str]) -> dict[str, Path]:
    """The ``--input FILE`` options as an app's `inputs`, under the files' own names."""
    found: dict[str, Path] = {}
    for text in given:
        path = Path(text).expanduser().absolute()
        if not path.is_file():
            raise BadInput(f"--input {text}: there is no file {path}.")
        name = path.name.removesuffix(".j2")  # a template, filled in with the parameters
        if name in found:
            raise BadInput(f"--input {text}: two inputs are called {name!r}; rename one.")
        found[name] = path
    return found


def register(site: Site, name: str, body: dict[str, Any], source: str) -> Report:
    """Make the class and register it, with the cell as its source; returns how it is called."""
    body = {**body, "site": site.name, "__module__": "__main__", "__qualname__": name}
    record = app_record(type(name, (ApplicationDefinition,), body))
    record.source = source
    site.register(record)
    yields = f" -> {', '.join(record.outputs)}" if record.outputs else ""
    return Report(f"App at site {site.name!r}: {name}({signature(record)}){yields}")


def signature(app: AppRecord) -> str:
    """An app's parameters with their defaults, as those of a function."""
    return ", ".join(key if one.required else f"{key}={one.default!r}" for key, one in app.parameters.items())


def define(shell: Any, cell: str) -> Any:
    """Run a cell's text in the user's namespace, and return the function its last ``def`` made."""
    tree = _run(shell, cell)
    last = next((node for node in reversed(tree.body) if isinstance(node, ast.FunctionDef)), None)
    if last is None:
        raise BadInput("The cell defines no function: write 'def …' in it, or leave out --python for a command.")
    return _method(shell, last)


def _run(shell: Any, cell: str) -> ast.Module:
    try:
        code = shell.transform_cell(cell)
        # Through IPython's cache, so that tracebacks and inspect.getsource find the lines.
        filename = shell.compile.cache(code, shell.execution_count, raw_code=cell)
        tree: ast.Module = ast.parse(code, filename)
        compiled = shell.compile(tree, filename, "exec")
    except SyntaxError as error:  # a traceback would show only our own lines
        where = f" in line {error.lineno + 1} of the cell" if error.lineno else ""  # its first is the magic's own
        lines = [*cell.splitlines(), ""]
        text = error.text or lines[min((error.lineno or len(lines)) - 1, len(lines) - 1)]
        start = max((error.offset or 1) - 1, 0)
        shown = f"\n{pointed(text.rstrip(), start, start + 1)}" if text.strip() else ""
        raise BadInput(f"{type(error).__name__}{where}: {error.msg}{shown}") from None
    exec(compiled, shell.user_ns)
    return tree


def _method(shell: Any, function: ast.FunctionDef) -> Any:
    """The function as a method `run`: itself if it takes `self`, else one with its signature that calls it."""
    arguments = function.args
    everyone = [*arguments.posonlyargs, *arguments.args]
    if everyone and everyone[0].arg == "self":
        return shell.user_ns[function.name]
    if arguments.vararg is not None:
        raise BadInput(f"{function.name}(*{arguments.vararg.arg}): an app's parameters have names; write them out.")
    if function.name in {one.arg for one in [*everyone, *arguments.kwonlyargs]}:
        raise BadInput(f"{function.name}() has a parameter of its own name, so the app cannot call it; rename one.")
    shown = ast.unparse(arguments).replace("/, ", "").replace(", /", "")
    by_position = ", ".join(one.arg for one in arguments.posonlyargs)
    by_name = ", ".join(f"{one.arg}={one.arg}" for one in [*arguments.args, *arguments.kwonlyargs])
    rest = f"**{arguments.kwarg.arg}" if arguments.kwarg else ""
    passed = ", ".join(text for text in (by_position, by_name, rest) if text)
    source = f"def run(self{', ' if shown else ''}{shown}):\n    return {function.name}({passed})\n"
    filename = shell.compile.cache(source, shell.execution_count)
    made: dict[str, Any] = {}
    exec(shell.compile(ast.parse(source, filename), filename, "exec"), shell.user_ns, made)
    made["run"].__doc__ = ast.get_docstring(function)
    return made["run"]

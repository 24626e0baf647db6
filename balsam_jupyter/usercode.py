"""Which code is the user's, and how it travels to a worker: by value, as one pickle.

Workers import this module, so it imports little.
"""

from __future__ import annotations

import dis
import io
import linecache
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import lru_cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

from .errors import BadInput

GLOBAL_OPS = frozenset({"LOAD_GLOBAL", "LOAD_NAME"})
ATTRIBUTE_OPS = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_NAMELESS = "<dynamic-code>"  # what cloudpickle puts in the place of a file's name
_PACKAGE = __name__.partition(".")[0]
_FRAMEWORKS = ("balsam", "balsam_jupyter")
_ADDED_BY_BALSAM = frozenset({
    "_app_type", "_default_params", "_site_id", "_client", "_serialized_class", "_app_name_cache", "_app_id_cache",
    "__app_id__",
})  # fmt: skip


def is_framework(cls: type) -> bool:
    """Whether a class is the base ApplicationDefinition of this package or of Balsam."""
    return cls.__name__ == "ApplicationDefinition" and cls.__module__.partition(".")[0] in _FRAMEWORKS


def is_ours(cls: type) -> bool:
    """Whether a class derives from this package's ApplicationDefinition, not from Balsam's."""
    return any(is_framework(base) and base.__module__.partition(".")[0] == _PACKAGE for base in cls.__mro__)


def declared(cls: type) -> dict[str, Any]:
    """Attributes and functions of a class and its bases, without those of ApplicationDefinition and object."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base is object or is_framework(base) or base.__module__ in ("abc", "typing"):
            continue
        for name, value in vars(base).items():
            dunder = name.startswith("__") and name.endswith("__")
            if not dunder and name not in _ADDED_BY_BALSAM and not name.startswith("_abc_"):
                found[name] = value
    return found


def names(code: CodeType, operations: frozenset[str]) -> Iterator[str]:
    """Names that code, and the functions inside it, use by these operations."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in operations:
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names(constant, operations)


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    """Folders of the standard library and of installed packages."""
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {sysconfig.get_path(kind) for kind in kinds} | {os.path.dirname(os.__file__)}
    return tuple(os.path.realpath(folder) for folder in folders if folder)


@lru_cache(maxsize=4096)
def _is_installed(folder: str) -> bool:
    real = os.path.realpath(folder)
    parts = real.split(os.sep)
    if "site-packages" in parts or "dist-packages" in parts:
        return True
    return any(real == one or real.startswith(one + os.sep) for one in _installed())


def is_user_module(name: str | None) -> bool:
    """Whether a module is ``__main__`` or a file of the user's, rather than installed or built in."""
    if name == "__main__":
        return True
    if name is None:
        return False
    top = name.partition(".")[0]
    if top == _PACKAGE or top in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and not _is_installed(os.path.dirname(file))


def user_folders() -> list[str]:
    """The entries of ``sys.path`` that are the user's, absolute."""
    found: dict[str, None] = {}
    for entry in sys.path:
        folder = os.path.abspath(entry or os.curdir)
        if os.path.isdir(folder) and not _is_installed(folder):
            found[folder] = None
    return list(found)


def pickled(app: str, parts: dict[str, dict[str, Any]]) -> bytes:
    """One pickle of an app's functions; those of the user's modules go in whole, so workers need not find them.

    Parameters
    ----------
    app : str
        Its name, for the message.
    parts : dict
        The payload of an `AppRecord`. In the pickle it also has ``sources``: the text of the notebook cells that
        its functions are of, by file name, so that a worker's tracebacks can show their lines.

    Raises
    ------
    BadInput
        If something in it cannot be pickled; names it.
    """
    functions = [*parts["functions"].values(), *parts["outputs"].values()]
    modules = _near(functions)
    own = [sys.modules[name] for name in _modules_of(functions) if name != "__main__" and is_user_module(name)]
    for by_value in (modules, own):  # a helper module as a whole may be more than can travel
        sources: dict[str, str] = {}
        try:
            # It stands last: what is pickled before it fills it.
            return _dumps({**parts, "sources": sources}, by_value, sources)
        except Exception as error:
            failure = error
    what = _culprit(parts, own) or str(failure)
    raise BadInput(
        f"App {app} cannot be sent to a worker: {what}. Create it inside run(), or import it there."
    ) from failure


def pickled_whole(values: dict[str, Any]) -> bytes:
    """One pickle of values and all that they reach in modules of the user's, so that it can be read elsewhere."""
    own = [
        module
        for name, module in list(sys.modules.items())
        if name not in ("__main__", "__mp_main__") and getattr(module, "__name__", "") == name and is_user_module(name)
    ]
    return _dumps(values, own)


def fill_class(cls: type, attributes: dict[str, Any]) -> None:
    """Complete a class that is being unpickled (a class's functions may name the class)."""
    for name, value in attributes.items():
        setattr(cls, name, value)


def _add_source(sources: dict[str, str], filename: str) -> None:
    """Keep the text of a file that is in this process alone, as a notebook's cell is."""
    if filename not in sources and not os.path.exists(filename) and (lines := linecache.getlines(filename)):
        sources[filename] = "".join(lines)


def _dumps(value: Any, by_value: Iterable[ModuleType], sources: dict[str, str] | None = None) -> bytes:
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, value: Any) -> Any:
            """Send an app's class that a function names as a plain one: its base and metaclass stay here."""
            if sources is not None and isinstance(value, FunctionType):
                _add_source(sources, value.__code__.co_filename)
            if isinstance(value, type) and not is_framework(value) and any(map(is_framework, value.__mro__)):
                state = {name: one for name, one in declared(value).items() if name != "site"}
                return type, (value.__name__, (), {"__module__": value.__module__}), state, None, None, fill_class
            if isinstance(value, CodeType):  # newer cloudpickles leave out its file, where tracebacks find their lines
                make, given = self.dispatch_table[CodeType](value)
                return make, tuple(value.co_filename if one == _NAMELESS else one for one in given)
            return super().reducer_override(value)

    already = cloudpickle.list_registry_pickle_by_value()
    ours = [module for module in by_value if module.__name__ not in already]
    for module in ours:
        cloudpickle.register_pickle_by_value(module)
    try:
        file = io.BytesIO()
        Pickler(file).dump(value)
        return file.getvalue()
    finally:
        for module in ours:
            cloudpickle.unregister_pickle_by_value(module)


def _plain_function(value: Any) -> Any:
    return getattr(value, "__func__", None) or getattr(value, "fget", None) or getattr(value, "func", None) or value


def _modules_of(functions: Iterable[Any]) -> set[str]:
    found = {getattr(_plain_function(one), "__module__", None) for one in functions}
    return {name for name in found if name in sys.modules}


_real = lru_cache(maxsize=4096)(os.path.realpath)


def _near(functions: list[Any]) -> list[ModuleType]:
    """The user's modules in the folders of these functions, of the script and of the process."""
    files = [getattr(sys.modules[name], "__file__", None) for name in _modules_of(functions)]
    roots = {os.path.realpath(os.path.dirname(file)) for file in files if file} | {os.path.realpath(os.curdir)}
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not file or name in ("__main__", "__mp_main__") or getattr(module, "__name__", "") != name:
            continue
        folder = _real(os.path.dirname(file))
        if any(folder == root or folder.startswith(root + os.sep) for root in roots) and is_user_module(name):
            found.append(module)
    return found


def _culprit(parts: dict[str, dict[str, Any]], modules: list[ModuleType]) -> str:
    """What in the payload cannot be pickled, in words."""
    for group in parts.values():
        for name, value in group.items():
            if _fails(value, modules):
                return _inside(name, value, modules, set())
    return ""


def _fails(value: Any, modules: list[ModuleType]) -> bool:
    try:
        _dumps(value, modules)
    except Exception:
        return True
    return False


def _inside(name: str, value: Any, modules: list[ModuleType], seen: set[int]) -> str:
    """Follow what fails through globals, closures and defaults to the innermost thing that does."""
    function = _plain_function(value)
    if not isinstance(function, FunctionType) or id(function) in seen:
        return f"{name} ({type(value).__module__}.{type(value).__qualname__}) cannot be pickled"
    seen.add(id(function))
    code = function.__code__
    space = function.__globals__
    used = {f"the global {one!r}": space[one] for one in names(code, GLOBAL_OPS) if one in space}
    for one, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            used[f"the variable {one!r}"] = cell.cell_contents
        except ValueError:
            continue
    used |= {f"the default {one!r}": one for one in function.__defaults__ or ()}
    for what, one in used.items():
        if _fails(one, modules):
            inner = _inside(what, one, modules, seen)
            return inner if inner.startswith("in ") or not name.isidentifier() else f"in {name}(), {inner}"
    return f"{name} cannot be pickled"

"""Values as Python source, and texts as words of a magic's line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from keyword import iskeyword
from typing import Any
from unicodedata import normalize

WIDE = 88
"""Longer code goes on several lines."""

_BARE = re.compile(r"[A-Za-z0-9_./:@%+,=][A-Za-z0-9_./:@%+,=-]*")
_MAGIC_NAME = re.compile(r"[^\W\d]\w*")
_FILLED = re.compile(r"[{}$]")  # an IPython magic puts variables there


def source(value: Any) -> str:
    """A value as the Python expression that makes it again, on one line, without white space outside of brackets."""
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, float):
        return repr(value) if value - value == 0 else f"float({str(value)!r})"
    if isinstance(value, complex):
        return f"complex({source(value.real)}, {source(value.imag)})"
    if isinstance(value, list):
        return f"[{', '.join(map(source, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(source, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, set):
        return f"{{{', '.join(sorted(map(source, value)))}}}" if value else "set()"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{source(key)}: {source(one)}' for key, one in value.items())}}}"
    return repr(value)


def executor(name: str, kind: str) -> tuple[str, str]:
    """The import and the expression of an executor at a site, in any kernel."""
    if kind == "embedded":
        return "from balsam_jupyter import BalsamExecutor", f"BalsamExecutor({source(name)})"
    opened = f"open_site({source(name)}, engine={source(kind)})"
    return "from balsam_jupyter import BalsamExecutor, open_site", f"BalsamExecutor({opened})"


def imported(choices: Sequence[Any]) -> str:
    """The import that choices of an Enum need; "" if they need none, or the notebook has them."""
    kinds = [type(one) for one in choices if isinstance(one, Enum) and type(one).__module__ != "__main__"]
    return f"from {kinds[0].__module__} import {kinds[0].__qualname__.partition('.')[0]}" if kinds else ""


def word(text: str) -> str | None:
    """A text as one word of a magic's line, quoted if need be; None if no word of a line is that text."""
    if _BARE.fullmatch(text):
        return text
    if _FILLED.search(text) or not all(char.isprintable() for char in text):
        return None
    if "'" not in text:
        return f"'{text}'"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def is_magic_name(name: str) -> bool:
    """Whether ``name=`` can stand on a magic's line."""
    return _MAGIC_NAME.fullmatch(name) is not None


def arguments(values: Mapping[str, str]) -> list[str]:
    """Named arguments of a call, from the sources of their values; those that Python cannot name are unpacked."""
    named = {name: text for name, text in values.items() if _is_python_name(name)}
    others = [f"{name!r}: {text}" for name, text in values.items() if name not in named]
    unpacked = [f"**{{{', '.join(others)}}}"] if others else []
    return [f"{name}={text}" for name, text in named.items()] + unpacked


def _is_python_name(name: str) -> bool:
    return name.isidentifier() and not iskeyword(name) and normalize("NFKC", name) == name


def call(function: str, given: Iterable[str]) -> str:
    """A call, on one line if it is short, else with each argument on a line of its own."""
    parts = list(given)
    flat = f"{function}({', '.join(parts)})"
    if len(flat) <= WIDE and "\n" not in flat:
        return flat
    inside = "".join(f"    {part},\n" for part in parts)
    return f"{function}(\n{inside})"


def mapping(values: Mapping[str, str]) -> str:
    """A dict of names to the sources of values, one below the other."""
    return "{\n" + "".join(f"    {name!r}: {text},\n" for name, text in values.items()) + "}"

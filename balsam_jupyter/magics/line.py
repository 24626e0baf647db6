"""The words of a magic's line. Expressions stay whole, and nothing goes through a shell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ..errors import BadInput

_CLOSES = {"(": ")", "[": "]", "{": "}"}


def chunks(line: str) -> list[str]:
    """The parts of `line` between white space, where brackets and quotes hold a part together.

    Raises
    ------
    BadInput
        If a bracket or a quote is never closed.
    """
    parts: list[str] = []
    open_brackets: list[str] = []
    quote = ""
    start: int | None = None
    at = 0
    while at < len(line):
        char = line[at]
        if quote:
            if char == "\\":
                at += 1
            elif char == quote:
                quote = ""
        elif char.isspace() and not open_brackets:
            if start is not None:
                parts.append(line[start:at])
            start = None
        else:
            start = at if start is None else start
            if char in "\"'":
                quote = char
            elif char in _CLOSES:
                open_brackets.append(char)
            elif open_brackets and char == _CLOSES[open_brackets[-1]]:
                open_brackets.pop()
        at += 1
    if quote or open_brackets:
        raise BadInput(f"{quote or open_brackets[-1]} is never closed in: {line.strip()}")
    if start is not None:
        parts.append(line[start:])
    return parts


def words(line: str) -> list[str]:
    """The words of `line` as a POSIX shell would split them, with nothing expanded.

    Raises
    ------
    BadInput
        If a quote is never closed.
    """
    try:
        return shlex.split(line)
    except ValueError as error:
        why = str(error).replace("No closing quotation", "A quote is never closed")
        raise BadInput(f"{why} in: {line.strip()}") from None


def assignments(line: str, options: Mapping[str, bool]) -> tuple[list[str], dict[str, str]]:
    """Split ``NAME T=[1, 2] P=a + b --name scan`` into the words for argparse and the expressions.

    An expression goes on until the next ``name=`` or ``--option``. `options` says of each option whether
    it takes a value.
    """
    parts = chunks(line)
    plain: list[str] = []
    found: dict[str, str] = {}
    current = ""
    at = 0
    while at < len(parts):
        part = parts[at]
        following = parts[at + 1] if at + 1 < len(parts) else ""
        name, equals, rest = part.partition("=")
        if part.startswith("--") and part[2:3].isalpha():
            current = ""
            plain.append(_unquoted(part))
            if options.get(part, False) and following:
                plain.append(_unquoted(following))
                at += 1
        elif name.isidentifier() and ((equals and not rest.startswith("=")) or (not equals and _is_equals(following))):
            if name in found:
                raise BadInput(f"{name} is given twice.")
            if not equals:
                rest = following[1:]
                at += 1
            current = name
            found[current] = rest
        elif current:
            found[current] = f"{found[current]} {part}".strip()
        else:
            plain.append(_unquoted(part))
        at += 1
    return plain, found


def _is_equals(part: str) -> bool:
    return part.startswith("=") and not part.startswith("==")


def _unquoted(part: str) -> str:
    return "".join(words(part))


def evaluate(name: str, expression: str, namespace: dict[str, Any]) -> Any:
    """The value of a Python expression in the user's namespace.

    Raises
    ------
    BadInput
        If it is not an expression, or if it raises; the message has its text.
    """
    if not expression:
        raise BadInput(f"{name}= has no value.")
    try:
        code = compile(expression, f"<{name}=>", "eval")
    except (SyntaxError, ValueError) as error:
        why = error.msg if isinstance(error, SyntaxError) else error
        raise BadInput(f"{name}={expression}: not a Python expression ({why}).") from None
    try:
        return eval(code, namespace)
    except NameError as error:
        hint = f" Text needs quotes: {name}={expression!r}." if expression.isidentifier() else ""
        raise BadInput(f"{name}={expression}: {error}.{hint}") from None
    except Exception as error:
        raise BadInput(f"{name}={expression}: {type(error).__name__}: {error}") from None


def is_dimension(value: Any) -> bool:
    """Whether a value is a list of a sweep's values, rather than one fixed value (a scalar, a text, a mapping)."""
    one = isinstance(value, str | bytes | bytearray | Mapping) or getattr(value, "ndim", 1) == 0
    return not one and hasattr(value, "__iter__")


def pair(text: str, option: str) -> tuple[str, str]:
    """``name=value`` in two.

    Raises
    ------
    BadInput
        If there is no ``=`` or no name.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise BadInput(f"{option} {text}: write {option} name=value.")
    return name, value

"""What is typed into a field, as a value: by the field's kind, and never more than a literal."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import BadInput
from ...models import Parameter
from .written import source

TEXT, WHOLE, NUMBER, CHOICE, ANY = "text", "whole", "number", "choice", "any"
_NOT_PYTHON = (SyntaxError, ValueError, TypeError, MemoryError, RecursionError, OverflowError)
_CLOSES = {"(": ")", "[": "]", "{": "}"}
_LONG = 1000
_CELL = 60
_BEFORE_QUOTES = ("", *"([{,:=")
_WHOLE = re.compile(r"[+-]?[0-9]+(_[0-9]+)*")
_OPTIONAL = re.compile(r"Optional\[(.*)\]")
_KINDS = {"int": WHOLE, "float": NUMBER, "str": TEXT}
_SPECIAL = {"nan": math.nan, "inf": math.inf}


@dataclass(frozen=True)
class Field:
    """One field of a form.

    `kind` says how its text is read; `optional`, that None is one of its values; `choices`, of which one is chosen by
    its number. What is left empty is `default` (in words; "" where it must be given).
    """

    name: str
    kind: str = TEXT
    label: str = ""
    help: str = ""
    type: str = ""
    required: bool = False
    default: str = ""
    optional: bool = False
    choices: tuple[Any, ...] = ()

    def read(self, text: str) -> Any:
        """The value of a text.

        Raises
        ------
        BadInput
            Says what is read here instead.
        """
        text = text.strip()
        if self.optional and text == "None":
            return None
        if self.kind == CHOICE:
            if text.isascii() and text.isdecimal() and int(text) < len(self.choices):
                return self.choices[int(text)]
            raise BadInput(f"Choose one of {', '.join(map(shown, self.choices))}.")
        if self.kind == WHOLE:
            return whole(text)
        if self.kind == NUMBER:
            return number(text)
        return literal(text) if self.kind == ANY else plain(text)

    def as_dict(self) -> dict[str, Any]:
        """What the page is told."""
        return {
            "name": self.name,
            "kind": self.kind,
            "label": self.label or self.name,
            "help": self.help,
            "type": self.type,
            "required": self.required,
            "default": self.default,
            "choices": [shown(value) for value in self.choices],
        }


def field_of(name: str, parameter: Parameter) -> Field:
    """The field of an app's parameter."""
    inner = _OPTIONAL.fullmatch(parameter.type.strip())
    words = {part.strip() for part in (inner[1] if inner else parameter.type).split("|")}
    optional = inner is not None or "None" in words
    words -= {"None"}
    choices = parameter.choices
    if not choices and (words == {"bool"} or (not parameter.type and isinstance(parameter.default, bool))):
        choices = (True, False, None) if optional else (True, False)
    kind = CHOICE if choices else _KINDS.get(next(iter(words)), ANY) if len(words) == 1 else ANY
    if words == {"int", "float"}:
        kind = NUMBER
    default = "" if parameter.required else shown(parameter.default) if choices else cut(source(parameter.default))
    type_ = "" if parameter.choices else parameter.type  # which would say them once more
    return Field(
        name, kind, name, parameter.help, type_, parameter.required, default, optional and not choices, choices
    )


def shown(value: Any) -> str:
    """A choice in words."""
    return value if isinstance(value, str) and value.strip() == value != "" else source(value)


def cut(text: str) -> str:
    """A text as it fits into a cell of a table."""
    line = " ".join(text.split())
    return line if len(line) <= _CELL else line[: _CELL - 1] + "…"


def whole(text: str) -> int:
    """A whole number."""
    if not _WHOLE.fullmatch(text):
        raise BadInput(f"A whole number, not {_short(text)}.")
    try:
        return int(text)
    except ValueError:
        raise BadInput(f"A whole number of fewer digits: this one has {len(text):,}.") from None


def number(text: str) -> int | float:
    """A number; one that is written as a whole number is one."""
    if _WHOLE.fullmatch(text):
        return whole(text)
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"A number, not {_short(text)}.") from None


def plain(text: str) -> str:
    """A text: as it is, or between quotes, as Python reads it."""
    if len(text) > 1 and text[0] in "'\"" and text[-1] == text[0]:
        try:
            value = ast.literal_eval(text)
        except _NOT_PYTHON:
            return _storable(text)
        if isinstance(value, str):
            return _storable(value)
    return _storable(text)


def literal(text: str) -> Any:
    """A Python literal (nan and inf are numbers), else the text as it is."""
    if len(text) > _LONG and _WHOLE.fullmatch(text):
        return whole(text)
    try:
        value = ast.literal_eval(_Numbers().visit(ast.parse(text, mode="eval")))
        source(value)  # one of more digits, or deeper, than Python prints
    except _NOT_PYTHON:
        if text[:1] in _CLOSES or text[:1] in ("'", '"'):
            raise BadInput(f"Not a Python value: {_short(text)}. Text that begins so needs quotes around it.") from None
        return _storable(text)
    return value


class _Numbers(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.copy_location(ast.Constant(_SPECIAL[node.id]), node) if node.id in _SPECIAL else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """``float('nan')`` as a form writes it."""
        match node:
            case ast.Call(ast.Name("float"), [ast.Constant(str(text))], []) if text.lstrip("-") in _SPECIAL:
                return ast.copy_location(ast.Constant(float(text)), node)
        return node


def pieces(text: str) -> Sequence[str]:
    """The parts of a list, between commas or line ends that are outside of quotes and brackets.

    Brackets around the whole list may be there or not.
    """
    found = _split(text)
    if len(found) == 1 and found[0][:1] in ("[", "(") and _closes_at_end(found[0]):
        found = _split(found[0][1:-1])
    return found


def _split(text: str) -> list[str]:
    found, start, at = [""], 0, 0
    opened: list[str] = []
    while at < len(text):
        char = text[at]
        if char in "'\"" and text[start:at].rstrip()[-1:] in _BEFORE_QUOTES:
            at = _behind_quoted(text, at) - 1
        elif char in _CLOSES:
            opened.append(_CLOSES[char])
        elif opened and char == opened[-1]:
            opened.pop()
        elif char in ",\n" and not opened:
            found[-1] = text[start:at].strip()
            found.append("")
            start = at + 1
        at += 1
    found[-1] = text[start:].strip()
    return [one for one in found if one]


def _behind_quoted(text: str, at: int) -> int:
    """Behind the quoted text that begins here; behind the quote if it is never closed."""
    quote, end = text[at], at + 1
    while end < len(text) and text[end] != quote:
        end += 2 if text[end] == "\\" else 1
    return end + 1 if end < len(text) else at + 1


def _closes_at_end(text: str) -> bool:
    try:
        return isinstance(ast.parse(text, mode="eval").body, ast.List | ast.Tuple)
    except _NOT_PYTHON:
        # A list of words: [Ar, Ne]; anything else is one piece.
        return text[-1] == _CLOSES[text[0]] and not set(text[1:-1]) & {*_CLOSES, *_CLOSES.values()}


def _storable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInput("A text that can be stored; this one has half a character in it.") from None
    return text


def _short(text: str) -> str:
    return repr(text) if len(text) <= 40 else f"{text[:39]!r}…"

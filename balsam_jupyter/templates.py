"""Jinja2 templates of commands and of input files.

In a command every value arrives in the program's argument list exactly as it is, whatever it holds.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import lru_cache
from itertools import zip_longest
from typing import Any

import jinja2
import jinja2.meta
from jinja2 import nodes

from .errors import BadInput, listing
from .shelltext import MARK, quote, shell, split_shell, split_simple

_LONGEST = 131_071
"""Bytes of one argument at most (Linux's MAX_ARG_STRLEN less its NUL)."""

_ALLOWED = (nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign, nodes.Expr, nodes.Helper)
_VALUES = "\0values"

_Plan = tuple[list[list[str]] | None, list[str | int] | None]


@jinja2.pass_context
def _mark(context: jinja2.runtime.Context, value: Any) -> str:
    """Jinja's `finalize`: keep the value aside and leave a mark in the text."""
    context[_VALUES].append(argument(value))
    return MARK


def natural(value: Any) -> Any:
    """What stands for a value in text: an enum's value, a time in ISO 8601; any other is its own ``str()``.

    So values with one identity (`codec.canonical`) are one text, with every version of Python.
    """
    if isinstance(value, Enum):
        return natural(value.value)
    return value.isoformat() if isinstance(value, datetime.datetime) else value


_COMMANDS = jinja2.Environment(undefined=jinja2.StrictUndefined, finalize=_mark)
_COMMANDS.globals = {"range": range}
_TEXTS = jinja2.Environment(undefined=jinja2.StrictUndefined, finalize=natural, keep_trailing_newline=True)


class CommandTemplate:
    """A Jinja2 template of a shell command.

    A placeholder ``{{ name }}`` may stand outside quotes, in double or in single quotes; in each place the
    value is taken as it is. ``{% if %}``, ``{% for %}`` and ``{% set %}`` are allowed. Lines are commands, one after
    the other; a backslash at a line's end continues it.

    Parameters
    ----------
    text : str
        The template; white space around it is dropped.

    Raises
    ------
    BadInput
        If it is empty, is not a template, or has a placeholder that is not an identifier or cannot be quoted.
    """

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        if not self.text:
            raise BadInput("The command template is empty: give a command such as 'echo {{ name }}'.")
        if MARK in self.text:
            raise BadInput("The command template holds a NUL character; remove it.")
        tree = _parse(_COMMANDS, self.text, "command template")
        placeholders = {name for node in _walk(tree) for name in _check(node)}
        self.names: set[str] = jinja2.meta.find_undeclared_variables(tree) | (placeholders & {"range"})
        """Names of the parameters."""
        self.placeholders = self.names & placeholders
        """Those of them that stand in a ``{{ name }}``, so that each has to be one text."""
        self._template: jinja2.Template | None = None
        self._order: list[str] = []
        self._plan: Callable[[str], _Plan] = lru_cache(maxsize=256)(_plan)
        if all(isinstance(node, nodes.Output) for node in tree.body):
            parts = [part for node in tree.body for part in node.nodes]  # type: ignore[attr-defined]
            self._order = [part.name for part in parts if isinstance(part, nodes.Name)]
            self._marked = "".join(MARK if isinstance(part, nodes.Name) else part.data for part in parts).strip()
            self._words = self._plan(self._marked)[0]
        else:
            self._template = _COMMANDS.from_string(self.text)
            self._words = None
        self._steps = [_step(word, names) for word, names in _with_names(self._words, self._order)]

    def __repr__(self) -> str:
        return f"CommandTemplate({self.text!r})"

    @property
    def needs_shell(self) -> bool:
        """Whether a shell may be needed; False is certain for all values."""
        return self._words is None

    def argv(self, values: Mapping[str, Any]) -> list[str]:
        """The argument list to start.

        Parameters
        ----------
        values : mapping
            A value for each of `names`; others are ignored. Values are turned into text by ``str(natural(value))``.

        Returns
        -------
        list of str
            The program and its arguments where no shell is needed, else ``[shell, "-c", text]``.

        Raises
        ------
        BadInput
            If a value is missing, or cannot be an argument (a NUL character, not encodable, over 128 KiB).
        """
        if self._words is not None:
            try:
                return [step if step.__class__ is str else step(values) for step in self._steps]  # type: ignore[operator]
            except KeyError:
                self._complain(values)
        marked, given = self._render(values)
        words, pieces = self._plan(marked)
        if words is not None:
            it = iter(given)
            return [argument("".join(_woven(word, it))) for word in words]
        return [shell(), "-c", argument(_joined(pieces, given))]

    def shell_text(self, values: Mapping[str, Any]) -> str:
        """The command as shell text, for a script that has more lines than this one. Raises as `argv` does."""
        marked, given = self._render(values)
        pieces = self._plan(marked)[1]
        return _joined(split_shell(marked) if pieces is None else pieces, given)

    def _render(self, values: Mapping[str, Any]) -> tuple[str, list[str]]:
        """The text with a mark for each value, and the values."""
        if not self.names.issubset(values):
            self._complain(values)
        if self._template is None:
            return self._marked, [argument(values[name], name) for name in self._order]
        given: list[str] = []
        try:
            marked = self._template.render({**values, _VALUES: given}).strip()
        except BadInput:
            raise
        except Exception as error:
            raise BadInput(f"The command template cannot be rendered: {_reason(error)}.") from error
        if not marked:
            raise BadInput("The command template gives an empty command with these parameters.")
        return marked, given

    def _complain(self, values: Mapping[str, Any]) -> None:
        missing = sorted(self.names.difference(values))
        raise BadInput(f"No value for {listing(missing)} of the command template; give one.")


def _plan(marked: str) -> _Plan:
    words = split_simple(marked)
    return (words, None) if words is not None else (None, split_shell(marked))


def _joined(pieces: list[str | int] | None, given: list[str]) -> str:
    it = iter(given)
    return "".join([piece if isinstance(piece, str) else quote(next(it), piece) for piece in pieces or ()])


def _woven(word: list[str], values: Iterator[str]) -> Iterator[str]:
    yield word[0]
    for piece in word[1:]:
        yield next(values)
        yield piece


def _with_names(words: list[list[str]] | None, order: list[str]) -> Iterator[tuple[list[str], list[str]]]:
    start = 0
    for word in words or ():
        end = start + len(word) - 1
        yield word, order[start:end]
        start = end


def _step(word: list[str], names: list[str]) -> str | Callable[[Mapping[str, Any]], str]:
    """A word ready to use, or what makes it from the values."""
    if not names:
        return word[0]
    name = names[0]
    if word == ["", ""]:
        return lambda values: argument(values[name], name)
    if len(names) == 1:
        before, after = word
        return lambda values: argument(f"{before}{argument(values[name], name)}{after}", name)

    def several(values: Mapping[str, Any]) -> str:
        given = [argument(values[name], name) for name in names]
        return argument("".join([a + b for a, b in zip_longest(word, given, fillvalue="")]), name)

    return several


def argument(value: Any, name: str = "") -> str:
    """`value` as text that can be passed to a program; `name` is for the message.

    Raises
    ------
    BadInput
        If it holds a NUL character, cannot be encoded or is longer than 128 KiB.
    """
    text = value if value.__class__ is str else str(natural(value))
    if "\0" not in text and (len(text) <= _LONGEST if text.isascii() else _encodable(text)):
        return text
    what = f"The value of {name!r}" if name else "A value (or the whole command)"
    if "\0" in text:
        raise BadInput(f"{what} holds a NUL character, which no program argument can; pass it in an input file.")
    if text.isascii() or _encodable(text, any_length=True):
        raise BadInput(f"{what} is longer than a program argument can be (128 KiB); pass it in an input file.")
    raise BadInput(f"{what} holds a character that cannot be encoded for a program argument: {text[:40]!a}.")


def _encodable(text: str, any_length: bool = False) -> bool:
    try:
        return len(os.fsencode(text)) <= _LONGEST or any_length
    except UnicodeEncodeError:
        return False


def _parse(environment: jinja2.Environment, text: str, what: str) -> nodes.Template:
    try:
        return environment.parse(text)
    except jinja2.TemplateSyntaxError as error:
        message = (error.message or "syntax error").rstrip(".")
        raise BadInput(f"Syntax error in the {what}, line {error.lineno}: {message}.") from None


def _walk(node: nodes.Node) -> Iterator[nodes.Node]:
    for child in node.iter_child_nodes():
        yield child
        yield from _walk(child)


def _check(node: nodes.Node) -> list[str]:
    """Refuse what cannot be quoted; give the names of the placeholders of an output node."""
    if not isinstance(node, _ALLOWED):
        raise BadInput(
            f"Line {node.lineno} of the command template: {{% {type(node).__name__.lower()} %}} is not supported; "
            "use {% if %}, {% for %} and {% set name = value %}."
        )
    if not isinstance(node, nodes.Output):
        return []
    for part in node.nodes:
        if not isinstance(part, (nodes.TemplateData, nodes.Name)):
            raise BadInput(
                f"Line {part.lineno} of the command template: a {{{{ … }}}} does not hold a parameter name. It must be "
                "one Python identifier, as in {{ temperature }}; for an expression write {% set x = … %} and {{ x }}."
            )
    return [part.name for part in node.nodes if isinstance(part, nodes.Name)]


def _reason(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


@lru_cache(maxsize=64)
def _text_template(text: str) -> jinja2.Template:
    _parse(_TEXTS, text, "input template")
    return _TEXTS.from_string(text)


def text_names(template: str) -> set[str]:
    """Names of the parameters of an input file's template.

    Raises
    ------
    BadInput
        If it has a syntax error; says the line.
    """
    return jinja2.meta.find_undeclared_variables(_parse(_TEXTS, template, "input template"))


def render_text(template: str, values: Mapping[str, Any]) -> str:
    """The text of an input file, with the values inserted as `natural` text.

    Parameters
    ----------
    template : str
        Any Jinja2 template; its last newline is kept.
    values : mapping
        A value for each name in it; others are ignored.

    Raises
    ------
    BadInput
        If a value is missing or the template fails.
    """
    try:
        return _text_template(template).render(values)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"An input template cannot be rendered: {_reason(error)}.") from error

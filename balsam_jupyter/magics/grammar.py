"""The one grammar of all magics: what each takes, as data, for the parser, the help, docs/magics.md and completion.

A line is words between white space. Quotes keep white space in a word; nothing is expanded by a shell. Behind ``name=``
(for magics that take parameters) or an option for an expression comes a Python expression: up to the next ``name=`` or
``--option``; brackets and quotes in it are Python's.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import listing, nearest

TEXT, WHOLE, NUMBER, PAIR, ROWS, FLAG, EXPRESSION, PARAMETERS = (
    "text", "whole", "number", "pair", "rows", "flag", "expression", "parameters",
)  # fmt: skip
HELP = ("-h", "--help")
_FEW = 3
"""So many options are listed in a message, too."""


@dataclass(frozen=True)
class Argument:
    """One argument of a magic, or one option (its `flags` begin with a dash).

    Attributes
    ----------
    to : str
        Its name in `Asked`.
    help : str
        What it is, for people.
    kind : str
        How its words are read.
    flags : tuple of str
        ``("-n", "--nodes")`` for an option.
    metavar : str
        What stands for it in the usage.
    default : object
        What it is when it is left out.
    needed : bool
        Whether it must be given.
    many : bool
        Whether it takes several words, or, for an option, may be given several times.
    greedy : bool
        Whether an option takes all words up to the next option.
    completes : str
        What kind of name it is ("app", "ensemble", …), for tab completion.
    choices : sequence of str
        The only words there are.
    """

    to: str
    help: str
    kind: str = TEXT
    flags: tuple[str, ...] = ()
    metavar: str = ""
    default: Any = None
    needed: bool = False
    many: bool = False
    greedy: bool = False
    completes: str = ""
    choices: Sequence[str] = ()

    @property
    def shown(self) -> str:
        """It as it stands in the usage."""
        more = " …" if self.greedy or (self.many and not self.flags) else ""
        if not self.flags:
            return self.metavar + more
        return self.flags[0] if self.kind == FLAG else f"{self.flags[0]} {self.metavar}{more}"

    def read(self, text: str) -> Any:
        """The value of a word.

        Raises
        ------
        ValueError
            With what is wrong, in a sentence that says which argument it is.
        """
        if self.choices and text not in self.choices:
            raise ValueError(f"{self._name} is {listing(self.choices)}, not {text!r}.{nearest(text, self.choices)}")
        if self.kind == WHOLE:
            return self._whole(text)
        if self.kind == NUMBER:
            return self._number(text)
        if self.kind == PAIR:
            name, equals, value = text.partition("=")
            if not equals or not name:
                raise ValueError(f"{self._name} {text}: write {self._name} name=value.")
            return name, value
        return self._rows(text) if self.kind == ROWS else text

    @property
    def _name(self) -> str:
        return self.flags[-1] if self.flags else self.metavar

    def _whole(self, text: str) -> int:
        digits = text.removeprefix("-").removeprefix("+")
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 19):  # what a store can hold
            raise ValueError(f"{self._name} takes a whole number, not {text!r}.")
        return int(text)

    def _number(self, text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"{self._name} takes a number, not {text!r}.")
        return number

    def _rows(self, text: str) -> range:
        first, dash, last = text.partition("-")
        ends = [
            part for part in (first, last if dash else first) if part.isascii() and part.isdecimal() and len(part) < 9
        ]
        if len(ends) < 2 or int(ends[0]) > int(ends[1]):
            raise ValueError(f"{text!r} is no row: write numbers and ranges of rows, as in 3 7-9.")
        return range(int(ends[0]), int(ends[1]) + 1)


def argument(to: str, help: str, metavar: str = "", **others: Any) -> Argument:
    """An argument by its place; needed, unless `default` is given or it takes parameters."""
    needed = "default" not in others and others.get("kind") != PARAMETERS
    return Argument(to, help, metavar=metavar or to.upper(), **{"needed": needed, **others})


def option(flags: str, help: str, to: str = "", kind: str = TEXT, metavar: str = "", **others: Any) -> Argument:
    """An option, from its flags in one text: ``option("-n --nodes", …)``."""
    names = tuple(flags.split())
    long = names[-1].lstrip("-")
    shown = metavar or {WHOLE: "N", NUMBER: "X", PAIR: "KEY=VALUE", EXPRESSION: "EXPR", ROWS: "ROW"}.get(
        kind, long.upper()
    )
    default = False if kind == FLAG else None
    return Argument(to or long.replace("-", "_"), help, kind, names, shown, **{"default": default, **others})


@dataclass(frozen=True)
class Grammar:
    """What one magic takes, and what it says about itself."""

    name: str
    summary: str
    body: str
    examples: str
    arguments: tuple[Argument, ...]
    cell: str = field(default="")
    """What the cell below the line is; "" for a magic of one line."""
    line: bool = True
    fills: bool = True

    @classmethod
    def of(cls, function: Callable[..., Any], arguments: Sequence[Argument], **others: Any) -> Grammar:
        """The grammar of a magic's function; its docstring is the help, and ends with the examples."""
        text = inspect.getdoc(function) or ""
        told, _, examples = text.partition("\n\nExample")
        summary, _, body = told.partition("\n\n")
        shown = inspect.cleandoc(examples.partition("::\n\n")[2])
        return cls(function.__name__, " ".join(summary.split()), body, shown, tuple(arguments), **others)

    @property
    def called(self) -> str:
        """How it is written: ``%name``, or ``%%name`` for a magic that must have a cell."""
        return ("%" if self.line else "%%") + self.name

    @property
    def positional(self) -> list[Argument]:
        """The arguments by place."""
        return [one for one in self.arguments if not one.flags and one.kind != PARAMETERS]

    @property
    def options(self) -> list[Argument]:
        """The options."""
        return [one for one in self.arguments if one.flags]

    @property
    def parameters(self) -> Argument | None:
        """The ``name=expression`` parts, where it takes any."""
        return next((one for one in self.arguments if one.kind == PARAMETERS), None)

    def option(self, flag: str) -> Argument | None:
        """The option of that flag."""
        return next((one for one in self.options if flag in one.flags), None)

    @property
    def flags(self) -> list[str]:
        """All flags, those for help last."""
        return [flag for one in self.options for flag in one.flags] + list(HELP)

    def usage(self) -> str:
        """The usage, in a line."""
        words = [
            one.shown if one.needed else f"[{one.shown}]{'…' if one.flags and one.many else ''}"
            for one in self.arguments
        ]
        return " ".join([self.called, *words])

    def short_usage(self) -> str:
        """The usage for a message: of many options, only that there are some."""
        if len(self.options) <= _FEW:
            return self.usage()
        words = [one.shown if one.needed else f"[{one.shown}]" for one in self.arguments if not one.flags]
        return " ".join([self.called, *words, "[options]"])

    def rows(self) -> list[tuple[str, str]]:
        """Each argument and option as it is written, with its help."""
        rows = []
        for one in self.arguments:
            values = "" if one.kind == FLAG or not one.flags else f" {one.metavar}{' …' if one.greedy else ''}"
            rows.append((", ".join(one.flags) + values if one.flags else one.shown, one.help))
        return rows

    def help(self) -> str:
        """All of it as text, for ``--help`` and ``%magic?``."""
        rows = [*self.rows(), (", ".join(HELP), "show this")]
        wide = min(28, max(len(name) for name, _ in rows))
        shown = []
        for name, help in rows:
            shown += (
                [f"  {name.ljust(wide)}  {help}"] if len(name) <= wide else [f"  {name}", f"  {' ' * wide}  {help}"]
            )
        examples = ["Examples::" if "\n" in self.examples else "Example::", _indented(self.examples)]
        parts = [self.usage(), self.summary, self.body, "\n".join(shown), *examples]
        return "\n\n".join(part for part in parts if part)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())

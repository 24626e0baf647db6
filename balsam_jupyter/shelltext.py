"""Where values stand in shell text: a scanner that finds the quoting around each, so that each arrives exactly.

A value's place in the text is marked by one NUL character, which neither a template nor a value can hold.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from functools import lru_cache
from shutil import which
from typing import NoReturn

from .errors import BadInput

MARK = "\0"
PLAIN, SINGLE, DOUBLE, COMMENT = range(4)
"""Contexts of a value: outside quotes, inside single or double quotes, inside a comment."""

_NEED_SHELL = frozenset("|&;<>()$`*?[{}~\n")
_BOUNDARY = frozenset(" \t\n;&|()<>")
# fmt: off
_SHELL_WORDS = frozenset((
    "!", ".", ":", "[[", "alias", "bg", "bind", "break", "builtin", "caller", "case", "cd", "command", "compgen",
    "complete", "compopt", "continue", "coproc", "declare", "dirs", "disown", "do", "done", "elif", "else",
    "enable", "esac", "eval", "exec", "exit", "export", "fc", "fg", "fi", "for", "function", "getopts", "hash",
    "help", "history", "if", "in", "jobs", "let", "local", "logout", "mapfile", "popd", "pushd", "read",
    "readarray", "readonly", "return", "select", "set", "shift", "shopt", "source", "suspend", "then", "time",
    "times", "trap", "type", "typeset", "ulimit", "umask", "unalias", "unset", "until", "wait", "while",
))
# fmt: on


@lru_cache(maxsize=1)
def shell() -> str:
    """Path of the shell that runs commands: bash if there is one, else sh."""
    return which("bash") or which("sh") or "/bin/sh"


def as_read(argv: Sequence[str]) -> str:
    """A command line as people read it, and as a shell takes it: of a script that a shell runs, the script."""
    if len(argv) == 3 and argv[0] == shell() and argv[1] == "-c":
        return argv[2]
    return shlex.join(argv)


def split_simple(text: str) -> list[list[str]] | None:
    """The words of a command that needs no shell, else None.

    Each word is a list of literal pieces between which the values stand: ``["--t=", ""]`` is ``--t=<value>``.

    Raises
    ------
    BadInput
        If a quote is not closed.
    """
    words: list[list[str]] = []
    word: list[str] | None = None
    i, n = 0, len(text)
    while i < n:
        char = text[i]
        i += 1
        if char in " \t":
            if word is not None:
                words.append(word)
                word = None
            continue
        if char in _NEED_SHELL or (char == "#" and word is None):
            return None
        if char == "\\":
            if text[i : i + 1] == "\n":  # a continued line
                i += 1
                continue
            if i == n:
                return None
            char = text[i]
            if char == MARK:  # an escaped value is the value
                continue
            i += 1
            word = word or [""]
            word[-1] += char
        elif char in "'\"":
            end = _end_of_quote(text, i, char)
            inner = text[i:end]
            i = end + 1
            if char == '"':
                if "$" in inner or "`" in inner:
                    return None
                inner = re.sub(r'\\(["\\\n])', lambda match: match[1].replace("\n", ""), inner)
            first, *rest = inner.split(MARK)
            word = word or [""]
            word[-1] += first
            word += rest
        elif char == MARK:
            word = [*(word or [""]), ""]
        else:
            word = word or [""]
            word[-1] += char
    if word is not None:
        words.append(word)
    if not words or (len(words[0]) == 1 and words[0][0] in _SHELL_WORDS) or "=" in words[0][0]:
        return None
    return words


def _end_of_quote(text: str, start: int, quote: str) -> int:
    i = start
    while i < len(text):
        if text[i] == quote:
            return i
        i += 2 if quote == '"' and text[i] == "\\" and text[i + 1 : i + 2] != MARK else 1
    line = text.count("\n", 0, start) + 1
    raise BadInput(f"The command template has a {quote} on line {line} that is not closed.")


def split_shell(text: str) -> list[str | int]:
    """Shell text in pieces: literals, and the context of each value.

    Raises
    ------
    BadInput
        If a value stands where no quoting is safe; names the line and the way round.
    """
    return _Scanner(text).pieces


def quote(value: str, context: int) -> str:
    """`value` as shell text that adds exactly its characters to the word it stands in."""
    if context == PLAIN:
        return "'" + value.replace("'", "'\\''") + "'"
    if context == SINGLE:
        return value.replace("'", "'\\''")
    if context == DOUBLE:  # the double quotes are closed and opened again around it
        return "\"'" + value.replace("'", "'\\''") + "'\""
    return ""


class _Done(Exception):
    """The last value has been placed; the rest of the text is kept as it is."""


class _Scanner:
    """Walks shell text (POSIX and bash) up to the last value."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.pieces: list[str | int] = []
        self.last = text.rfind(MARK)
        self.kept = 0  # text before it is in pieces
        self.pos = 0
        self.heredocs: list[tuple[str, bool, bool]] = []
        self.forbidden: tuple[str, str] | None = None
        try:
            while True:
                self._commands(nested=False)
        except _Done:
            self.pieces.append(text[self.kept :])

    def _take(self) -> str:
        """The character at `pos`, stepping over it."""
        if self.pos > self.last:
            raise _Done
        self.pos += 1
        return self.text[self.pos - 1]

    def _peek(self, length: int = 1) -> str:
        return self.text[self.pos : self.pos + length]

    def _place(self, context: int, before: str | None = None) -> None:
        """Put the value whose mark was just taken; `before` replaces the character before it."""
        if self.forbidden:
            self._refuse(*self.forbidden)
        if before is None:
            self.pieces += [self.text[self.kept : self.pos - 1], context]
        else:
            self.pieces += [self.text[self.kept : self.pos - 2] + before, context]
        self.kept = self.pos

    def _refuse(self, where: str, cure: str) -> NoReturn:
        line = self.text.count("\n", 0, self.pos) + 1
        raise BadInput(
            f"A parameter stands {where} on line {line} of the command template, where it cannot be quoted; {cure}."
        )

    def _commands(self, nested: bool) -> None:
        """Text outside quotes, to the end or (nested) to the parenthesis that closes ``$(``."""
        depth = 0
        start_of_word = True
        while True:
            char = self._take()
            was_start, start_of_word = start_of_word, char in _BOUNDARY
            if char == MARK:
                self._place(PLAIN)
            elif char == "\\":
                start_of_word = was_start and self._peek() == "\n"
                self._escape(double=False)
            elif char == "'":
                while (char := self._take()) != "'":
                    if char == MARK:
                        self._place(SINGLE)
            elif char == '"':
                self._double()
            elif char == "$":
                self._dollar(double=False)
            elif char == "`":
                self._opaque("`", "inside backticks", "write $( … ) instead")
            elif char == "#" and was_start:
                while (char := self._take()) != "\n":
                    if char == MARK:
                        self._place(COMMENT)
                self.pos -= 1
                start_of_word = True
            elif char == "<" and self._peek() == "<":
                self._heredoc()
            elif char == "\n" and self.heredocs:
                self._heredoc_bodies()
            elif char == "(":
                if self._peek() == "(":
                    self._arithmetic(command=True)
                else:
                    depth += 1
            elif char == ")":
                if nested and depth == 0:
                    return
                depth = max(0, depth - 1)
            elif nested and was_start and char == "c" and re.match(r"ase\s", self._peek(4)):
                self._refuse("after a `case` inside $( … )", "move the `case` out of the $( … )")

    def _escape(self, double: bool) -> None:
        """After a backslash. One before a value would escape our quote: it is dropped, or made literal in quotes."""
        if self._take() == MARK:
            self._place(DOUBLE if double else PLAIN, before="\\\\" if double else "")

    def _double(self) -> None:
        while (char := self._take()) != '"':
            if char == MARK:
                self._place(DOUBLE)
            elif char == "\\":
                self._escape(double=True)
            elif char == "$":
                self._dollar(double=True)
            elif char == "`":
                self._opaque("`", "inside backticks", "write $( … ) instead")

    def _dollar(self, double: bool) -> None:
        following = self._peek()
        if following and following in "$#?!*@-0123456789":  # a parameter of one character
            self.pos += 1
            if following == "$" and self._peek() and self._peek() in "({['\"":
                self._refuse("after $$ and a bracket or quote", "write ${$} for the $$")  # bash reads it in two ways
        elif following == MARK:
            self._refuse("right after a $", "put a backslash before the $ if it is a dollar sign")
        elif self._peek(2) == "((":
            self.pos += 1
            self._arithmetic(command=False)
        elif following == "(":
            self.pos += 1
            outer, self.heredocs = self.heredocs, []
            self._commands(nested=True)
            self.heredocs = outer
        elif following == "{":
            self.pos += 1
            self._braces(double)
        elif following == "[":
            self._refuse("inside or after $[ … ]", "write $(( … )) instead")
        elif following == "'" and not double:
            self.pos += 1
            self._opaque("'", "inside or after an intricate $'…'", "use plain quotes")

    def _opaque(self, end: str, where: str, cure: str) -> None:
        while (char := self._take()) != end:
            if char == MARK:
                self._refuse(where, cure)
            if char == "\\" and self._take() in (MARK, "'"):  # dash ends $'\' at this quote, bash does not
                self._refuse(where, cure)

    def _braces(self, double: bool) -> None:
        """Inside ``${ … }``. Bash's rules for quotes in there depend on the operator, so an odd one ends the scan."""
        where, cure = "inside or after an intricate ${ … }", "assign it to a variable first: x={{ x }}"
        while (char := self._take()) != "}":
            if char == MARK or (double and char in "'\""):
                self._refuse(where, cure)
            if char == "\\":
                if self._take() == MARK:
                    self._refuse(where, cure)
            elif char == "'":
                self._opaque_single(where, cure)
            elif char == '"':
                self._refuse_marks(self._double, where, cure)
            elif char == "`":
                self._opaque("`", "inside backticks", "write $( … ) instead")
            elif char == "$" and self._peek() == "'":
                self._refuse(where, cure)
            elif char == "$":
                self._refuse_marks(lambda: self._dollar(double), where, cure)

    def _opaque_single(self, where: str, cure: str) -> None:
        while (char := self._take()) != "'":
            if char == MARK:
                self._refuse(where, cure)

    def _refuse_marks(self, scan: Callable[[], None], where: str, cure: str) -> None:
        before, self.forbidden = self.forbidden, (where, cure)
        scan()
        self.forbidden = before

    def _arithmetic(self, command: bool) -> None:
        """At the second parenthesis of ``((``; goes past the pair that closes them.

        What is not arithmetic in every shell is refused: ``( (`` may be two subshells.
        """
        where, cure = "inside or after an intricate (( … ))", "assign it to a variable first: n={{ n }}"
        start, depth = self.pos, 1
        while depth:
            char = self._take()
            if char == MARK or char in "'\"`\\":  # quotes could hide a parenthesis
                self._refuse(where, cure)
            depth += {"(": 1, ")": -1}.get(char, 0)
        inner = self.text[start : self.pos]
        if not inner.endswith("))") or (command and re.search("<<|#", inner)):
            self._refuse(where, cure)

    def _heredoc(self) -> None:
        if self._peek(2) == "<<":  # a here-string
            self.pos += 2
            return
        match = re.compile(r"<(-?)[ \t]*((?:\\.|'[^']*'|\"[^\"]*\"|[^\s;&|()<>'\"\\])+)").match(self.text, self.pos)
        if match is None or MARK in match[2]:
            self._refuse("in or after an intricate <<", "write the text as an input file of the app (inputs)")
        self.pos = match.end()
        delimiter = re.sub(r"['\"\\]", "", match[2])
        self.heredocs.append((delimiter, match[1] == "-", delimiter != match[2]))

    def _heredoc_bodies(self) -> None:
        for delimiter, tabs, verbatim in self.heredocs:
            while True:
                if self.pos > self.last:
                    raise _Done
                end = self.text.find("\n", self.pos)
                line = self.text[self.pos : end if end >= 0 else len(self.text)]
                self.pos += len(line) + 1
                if (line.lstrip("\t") if tabs else line) == delimiter:
                    break
                if MARK in line or (line.endswith("\\") and not verbatim):  # which joins the delimiter to it
                    self.pos -= 1
                    self._refuse("inside or after a here-document", "write the text as an input file (inputs)")
        self.heredocs = []

"""The parser of all magics: from a line to what was asked for. See `grammar` for what a line is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import nearest
from .expressions import Expression, filled
from .grammar import EXPRESSION, FLAG, HELP, PAIR, Argument, Grammar
from .mistakes import Mistake, Place

_CLOSES = {"(": ")", "[": "]", "{": "}"}
_ASSIGNED = re.compile(r"([^\W\d]\w*)\s*=(?!=)\s*")
_LONG = re.compile(r"--[A-Za-z][\w-]*")
_NEXT_OPTION = re.compile(r"--[A-Za-z]")


@dataclass(frozen=True)
class Word:
    """A word of a line: its text without quotes, and where it is."""

    text: str
    start: int
    end: int


class Asked:
    """What a line asks for: an attribute for each argument of the grammar, and where its words are."""

    def __init__(self, grammar: Grammar, line: str, namespace: dict[str, Any]) -> None:
        self.line, self.namespace = line, namespace
        self.help = False
        self._words: dict[str, list[Word]] = {}
        self._flags = {one.to: one.flags for one in grammar.arguments}
        self.parameters: dict[str, Expression] = {}
        for one in grammar.arguments:
            setattr(self, one.to, [] if one.many else one.default)

    def __getattr__(self, name: str) -> Any:  # all are set by __init__; this tells mypy so
        raise AttributeError(name)

    def put(self, one: Argument, word: Word, value: Any) -> None:
        """Take a word as the value of an argument, or one more of its values."""
        self._words.setdefault(one.to, []).append(word)
        if one.many:
            getattr(self, one.to).append(value)
        else:
            setattr(self, one.to, value)

    def given(self, to: str) -> bool:
        """Whether the line has this argument."""
        return to in self._words

    def wrong(self, to: str, message: str, at: int = 0) -> Mistake:
        """The mistake that the word of an argument is (of several, the one at `at`)."""
        if to in self.parameters:
            part = self.parameters[to]
            return Mistake(message, part.start - len(part.label), part.end)
        word = self._words[to][at]
        return Mistake(message, word.start, word.end)

    def places(self) -> Iterator[Place]:
        """The words that an error from below may be about."""
        for name, part in self.parameters.items():
            yield Place(name, (), part.start - len(part.label), part.end)
        for to, words in self._words.items():
            for word in words:
                yield Place(word.text, (to, *self._flags[to]), word.start, word.end)


def parse(grammar: Grammar, line: str, namespace: dict[str, Any]) -> Asked:
    """What `line` asks for.

    Raises
    ------
    Mistake
        Points at the word that is wrong.
    """
    return _Parser(grammar, line, namespace).parse()


class _Parser:
    def __init__(self, grammar: Grammar, line: str, namespace: dict[str, Any]) -> None:
        self.grammar, self.line, self.namespace = grammar, line, namespace
        self.at = 0
        self.asked = Asked(grammar, line, namespace)

    def parse(self) -> Asked:
        plain: list[Word] = []
        while self._skip_space():
            if self.line.startswith("-", self.at) and self._option():
                if self.asked.help:
                    return self.asked
            elif self.grammar.parameters and (found := _ASSIGNED.match(self.line, self.at)):
                self._parameter(found)
            else:
                plain.append(self._word())
        self._place(plain)
        return self.asked

    def _parameter(self, found: re.Match[str]) -> None:
        name = found[1]
        if name in self.asked.parameters:
            raise Mistake(f"{name} is given twice.", found.start(), found.end(1))
        self.at = found.end()
        empty = self.line[found.end() - 1].isspace() and self._next_part()
        text = "" if empty else self._expression()
        self.asked.parameters[name] = Expression(text, found.end(), self.line[found.start() : found.end()])

    def _option(self) -> bool:
        """Take an option and its value; false where there is none."""
        start = self.at
        long = _LONG.match(self.line, start)
        flag = long[0] if long else self.line[start : start + 2]
        one = self.grammar.option(flag)
        if flag in HELP:
            self.asked.help = True
            return True
        if one is None:
            if long is None and not flag[1:].isalpha():
                return False  # a dash alone, or a number
            word = self._word()
            hint = nearest(flag, self.grammar.flags) or f" Its options: {', '.join(self.grammar.flags)}."
            raise Mistake(f"{self.grammar.called} has no option {flag}.{hint}", start, min(word.end, start + len(flag)))
        end = self.at = start + len(flag)
        attached = self.line.startswith("=", end) or (long is None and not self._ends(end))
        if one.kind == FLAG:
            if not self._ends(end):
                raise Mistake(f"{flag} takes no value.", start, self._word().end)
            self.asked.put(one, Word(flag, start, end), True)
            return True
        if long and not attached and not self._ends(end):
            raise Mistake(f"{self.grammar.called} has no option {self._word_from(start).text}.", start, self.at)
        if attached:
            self.at += self.line.startswith("=", end)
        else:
            self._skip_space()
        self._value(one, flag, start, end)
        return True

    def _value(self, one: Argument, flag: str, start: int, end: int) -> None:
        if one.kind == EXPRESSION:
            begin = self.at
            text = self._expression() if not self._next_part() else ""
            if not text:
                raise Mistake(f"{flag} needs an expression.", start, end)
            self.asked.put(one, Word(text, begin, begin + len(text)), Expression(text, begin, f"{flag} "))
            return
        if self.at >= len(self.line) or self._is_option():
            raise Mistake(f"{flag} needs a value: {flag} {one.metavar}.", start, end)
        self._put(one, self._word())
        while one.greedy and self._skip_space() and not self._is_option():
            self._put(one, self._word())

    def _place(self, plain: list[Word]) -> None:
        """Give the plain words to the arguments, by their places."""
        for one in self.grammar.positional:
            taken, plain = (plain, []) if one.many else (plain[:1], plain[1:])
            if one.needed and not taken:
                end = len(self.line.rstrip())
                raise Mistake(f"Give {one.metavar}: {self.grammar.short_usage()}", end + 1, end + 1)
            for word in taken:
                self._put(one, word)
        for word in plain:
            if self.grammar.parameters:
                app = self.asked.app if self.asked.given("app") else "the app"
                raise Mistake(f"{word.text}: write name=expression for each parameter of {app}.", word.start, word.end)
            raise Mistake(f"{word.text!r} is one word too many: {self.grammar.short_usage()}", word.start, word.end)

    def _put(self, one: Argument, word: Word) -> None:
        if one.flags and not one.many and self.asked.given(one.to):
            raise Mistake(f"{one.flags[-1]} is given twice.", word.start, word.end)
        try:
            word.text.encode()
            value = one.read(word.text)
        except UnicodeEncodeError:
            raise Mistake(f"{word.text!r} is no text that can be stored.", word.start, word.end) from None
        except ValueError as error:
            raise Mistake(str(error), word.start, word.end) from None
        if one.kind == PAIR and value[0] in dict(getattr(self.asked, one.to)):
            raise Mistake(f"{one.flags[-1]} {value[0]} is given twice.", word.start, word.end)
        if "\0" in word.text:
            raise Mistake(f"{word.text!r} has a NUL in it.", word.start, word.end)
        self.asked.put(one, word, value)

    def _skip_space(self) -> bool:
        """Go to the next part; false at the end, or where only a comment is left."""
        while self.at < len(self.line) and (self.line[self.at].isspace() or self.line[self.at] == "#"):
            comment = self.line.find("\n", self.at) if self.line[self.at] == "#" else self.at
            self.at = len(self.line) if comment < 0 else comment + 1
        return self.at < len(self.line)

    def _ends(self, at: int) -> bool:
        return at >= len(self.line) or self.line[at].isspace()

    def _is_option(self) -> bool:
        """Whether an option of this magic (or what looks like one) begins here."""
        word = re.match(r"[^\s=]+", self.line[self.at :])
        return word is not None and (bool(_NEXT_OPTION.match(word[0])) or word[0] in self.grammar.flags)

    def _next_part(self) -> bool:
        """Whether an expression ends before what begins here: an option, or the next parameter."""
        if _NEXT_OPTION.match(self.line, self.at):
            return True
        return self.grammar.parameters is not None and bool(_ASSIGNED.match(self.line, self.at))

    def _word_from(self, start: int) -> Word:
        self.at = start
        return self._word()

    def _word(self) -> Word:
        """The word that begins here. Quotes are a shell's: in double ones a backslash keeps a quote or a backslash."""
        line, start = self.line, self.at
        text: list[str] = []
        quote = ""
        opened = start
        while self.at < len(line) and (quote or not line[self.at].isspace()):
            char = line[self.at]
            following = line[self.at + 1 : self.at + 2]
            if char == "\\" and following and quote != "'" and (not quote or following in '"\\'):
                text.append(following)
                self.at += 1
            elif char == quote:
                quote = ""
            elif not quote and char in "\"'":
                quote, opened = char, self.at
            elif char == "{" and self.grammar.fills and (end := self._braces()):
                text.append(line[self.at : end])
                self.at = end - 1
            else:
                text.append(char)
            self.at += 1
        if quote:
            raise Mistake(f"The quote {quote} is never closed.", opened, opened + 1)
        word = "".join(text)
        if self.grammar.fills:
            word = filled(word, start, self.at, self.namespace)
        return Word(word, start, self.at)

    def _braces(self) -> int:
        """Behind the brace that closes the one here; 0 if none does."""
        try:
            return self._bracketed(self.at)
        except Mistake:
            return 0

    def _expression(self) -> str:
        """The Python expression that begins here, up to the next part of the line."""
        start = end = self.at
        while self._skip_space() and not (self.at > start and self._next_part()):
            self.at = end = self._chunk(self.at)
        self.at = max(end, start)
        return self.line[start:end]

    def _chunk(self, at: int) -> int:
        """Where what begins at `at` ends: at the next white space outside of brackets and quotes."""
        while at < len(self.line) and not self.line[at].isspace():
            at = self._bracketed(at)
        return at

    def _bracketed(self, at: int) -> int:
        """Behind the bracket, the quoted text or the character at `at`."""
        line = self.line
        opened: list[int] = []
        while at < len(line):
            char = line[at]
            if char in "\"'":
                at = self._quoted(at)
            else:
                if char in _CLOSES:
                    opened.append(at)
                elif opened and char == _CLOSES[line[opened[-1]]]:
                    opened.pop()
                at += 1
            if not opened:
                return at
        raise Mistake(f"The bracket {line[opened[-1]]} is never closed.", opened[-1], opened[-1] + 1)

    def _quoted(self, at: int) -> int:
        """Behind the Python text that begins at `at`."""
        start, char = at, self.line[at]
        quote = char * 3 if self.line.startswith(char * 3, at) else char
        at += len(quote)
        while at < len(self.line):
            if self.line[at] == "\\":
                at += 2
            elif self.line.startswith(quote, at):
                return at + len(quote)
            else:
                at += 1
        raise Mistake(f"The quote {quote} is never closed.", start, start + len(quote))

"""A user's mistake on a magic's line: what is wrong, the line, and a caret under the word that is wrong."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import BadInput

MOST_COLUMNS = 100
"""Of a longer line only the part around the word is shown."""
_QUOTED = re.compile(r"""(?<!\w)(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")""")


class Mistake(BadInput):
    """A mistake in one line, of which the place is known: from `start` to `end`, in the magic's line or in its cell."""

    def __init__(self, message: str, start: int, end: int, in_cell: bool = False) -> None:
        super().__init__(_plain(message))
        self.start, self.end, self.in_cell = start, end, in_cell


@dataclass(frozen=True)
class Place:
    """A word of the line that an error may be about: by the text a user wrote, or by one of its names."""

    text: str
    names: tuple[str, ...]
    start: int
    end: int


def place_of(message: str, places: Iterable[Place]) -> Place | None:
    """The word an error's message is about: one it quotes, else one whose option or argument it names."""
    places = list(places)
    for place in places:
        if any(f"{name} {place.text}" in message for name in place.names if place.text and name.startswith("-")):
            return place
    about = message.partition("Did you mean")[0]
    quoted = sorted(_QUOTED.finditer(about), key=lambda found: not about[: found.start()].endswith(" not "))
    texts = [found[1] or found[2] or "" for found in quoted if not about[: found.start()].lower().endswith("site ")]
    for heads in (False, True):  # KEY of KEY=VALUE, MODE of MODE:NODES
        for text in texts:
            for place in places:
                shown = re.split("[=:]", place.text)[0] if heads else place.text
                if shown and text in (shown, shown.encode("unicode_escape").decode()):
                    return place
    for place in places:
        for name in place.names:
            telling = name.startswith("-") or "_" in name or message.startswith(name)
            if telling and re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", message):
                return place
    return None


def pointed(text: str, start: int, end: int, head: str = "") -> str:
    """The line of `text` that has the word from `start` to `end`, behind `head`, and a caret under the word."""
    begin = text.rfind("\n", 0, start) + 1
    stop = text.find("\n", start)
    line = text[begin : len(text) if stop < 0 else stop]
    word = line[start - begin : max(end, start) - begin]
    before = (head if begin == 0 else "") + line[: start - begin]
    after = line[start - begin + len(word) :]
    if _width(before + word + after) > MOST_COLUMNS:
        word = _cut(word, 40)
        before = before if _width(before) <= 40 else "…" + before[-39:]
        after = _cut(after, 20)
    shown = _plain(before + word + after).rstrip()
    return f"    {shown}\n    {' ' * _width(before)}{'^' * max(1, _width(word.rstrip()))}"


def one_line(error: BaseException) -> str:
    """Type and message of an exception of the user's own code, in one line."""
    try:
        message = str(error)
    except Exception:  # an exception may have any __str__
        message = ""
    first = next((line for line in message.splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _plain(text: str) -> str:
    """Each character as one that a screen can show in a line."""
    return "".join(
        " " if char.isspace() else char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def _width(text: str) -> int:
    """Columns of a text on a screen."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in _plain(text)
    )

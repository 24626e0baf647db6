"""Tab completion on the lines of the magics: names of the site, options and their values. Silent whatever happens."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from IPython.core.completer import SimpleCompletion, context_matcher

from ..api_check import JOB_MODES
from ..api_site import current_site
from ..engines import base
from ..models import JOB_STATES, TASK_STATES
from ..submission import newest
from .every import MAGICS
from .grammar import EXPRESSION, FLAG, Argument, Grammar

if TYPE_CHECKING:
    from .session import Session

_LINE = re.compile(r"\s*(?:[^\W\d][^=%]*=\s*)?%{1,2}(balsam_\w+)\s+(.*)", re.DOTALL)
_ASSIGNED = re.compile(r"([^\W\d]\w*)=(?!=)")
_IN_TEXT = re.compile(r"""['"](\w*)$""")
_LIVE = ("pending_submission", "queued", "running")
_NAME = "balsam_jupyter"
"""By which the matcher is found again."""


class Seen:
    """What the part of a line before the cursor has: enough to say what may come next."""

    def __init__(self, grammar: Grammar, before: str) -> None:
        self.given: set[str] = set()
        self.plain: list[str] = []
        self.waiting: Argument | None = None
        """The option whose value comes next."""
        self.expression: str | None = None
        """The parameter or option in whose expression the cursor is, perhaps at its end."""
        for word in before.split():
            self._take(grammar, word)

    def _take(self, grammar: Grammar, word: str) -> None:
        waiting, self.waiting = self.waiting, None
        one = grammar.option(word)
        assigned = _ASSIGNED.match(word) if grammar.parameters else None
        if waiting and not (waiting.greedy and one):
            self.waiting = waiting if waiting.greedy else None
        elif one:
            self.given.add(one.to)
            self.expression = one.to if one.kind == EXPRESSION else None
            self.waiting = one if one.kind not in (EXPRESSION, FLAG) else None
        elif assigned:
            self.given.add(assigned[1])
            self.expression = assigned[1]
        elif self.expression is None:
            self.plain.append(word)


class Completer:
    """Completes the lines of the magics in one IPython."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._kinds: dict[str, Callable[[], Iterable[str]]] = {
            "site": lambda: [record.name for kind in base.KINDS for record in base.sites(kind)],
            "app": lambda: [app.name for app in current_site().engine.apps()],
            "ensemble": lambda: reversed(newest(current_site().engine.ensembles())),
            "task": lambda: reversed(newest(current_site().engine.ensembles())),
            "allocation": lambda: [*_live_allocations(), "all"],
            "mode": lambda: JOB_MODES,
            "partition": lambda: [f"{mode}:" for mode in JOB_MODES],
            "queue": lambda: current_site().engine.accounts.queues(),
            "project": lambda: current_site().engine.accounts.projects() or ["local"],
            "engine": lambda: base.KINDS,
        }

    def attach(self, ipython: Any) -> None:
        """Take part in an IPython's completion (before IPython 8.6 there is no place for it)."""

        @context_matcher(identifier=_NAME, priority=100)  # type: ignore[untyped-decorator]
        def matcher(context: Any) -> Any:
            *above, line = context.full_text.split("\n")[: context.cursor_line + 1]
            line = line[: context.cursor_position]
            while above and above[-1].endswith("\\"):  # a line that was continued
                line = f"{above.pop()[:-1]} {line}"
            fragment, found = self.complete(line)
            return {
                "completions": [SimpleCompletion(text=text, type="balsam") for text in found],
                "matched_fragment": fragment,
                "ordered": True,
                "suppress": True,
            }

        matchers = getattr(ipython.Completer, "custom_matchers", None)
        if matchers is not None:
            matchers.append(matcher)

    def complete(self, line: str) -> tuple[str, list[str]]:
        """What may stand for the end of a line up to the cursor: that end, and the words."""
        found = _LINE.fullmatch(line)
        magic = MAGICS.get(found[1]) if found else None
        if found is None or magic is None:
            return "", []
        try:
            return self._words(magic.grammar, found[2])
        except Exception:  # no error may come between a person and the key they pressed
            return "", []

    def _words(self, grammar: Grammar, line: str) -> tuple[str, list[str]]:
        fragment = re.split(r"\s", line)[-1]
        seen = Seen(grammar, line[: len(line) - len(fragment)])
        flag, equals, value = fragment.partition("=")
        if equals and (one := grammar.option(flag)):
            seen.waiting, fragment = one, value
        return self._in_expression(seen, line, fragment) or (fragment, self._next(grammar, seen, fragment))

    def _in_expression(self, seen: Seen, line: str, fragment: str) -> tuple[str, list[str]] | None:
        """Within a text of an expression, states; within its brackets, nothing: IPython knows Python's names."""
        if seen.expression is None:
            return None
        text = _IN_TEXT.search(line)
        if text and line.count(text[0][0]) % 2:
            return text[1], _beginning(text[1], [*TASK_STATES, *JOB_STATES])
        opened = sum(map(line.count, "([{")) - sum(map(line.count, ")]}"))
        return (fragment, []) if opened > 0 else None

    def _next(self, grammar: Grammar, seen: Seen, fragment: str) -> list[str]:
        if seen.waiting is not None and not (seen.waiting.greedy and fragment.startswith("-")):
            return self._values(seen.waiting, fragment)
        flags = [
            flag
            for flag in grammar.flags
            if flag.startswith("--") and ((one := grammar.option(flag)) is None or one.many or one.to not in seen.given)
        ]
        if fragment.startswith("-"):
            return _beginning(fragment, flags)
        places = grammar.positional
        if seen.expression is None and places and (len(seen.plain) < len(places) or places[-1].many):
            return self._values(places[min(len(seen.plain), len(places) - 1)], fragment)
        found = []
        if grammar.parameters and seen.plain:
            app = next((app for app in current_site().engine.apps() if app.name == seen.plain[0]), None)
            found = [f"{name}=" for name in (app.parameters if app else ()) if name not in seen.given]
        return _beginning(fragment, found) or _beginning(fragment, flags)

    def _values(self, one: Argument, fragment: str) -> list[str]:
        if one.completes == "path":
            return _paths(fragment)
        known = self._kinds.get(one.completes)
        return _beginning(fragment, one.choices or (known() if known else ()))


def detach(ipython: Any) -> None:
    """Take no part in an IPython's completion any more."""
    matchers = getattr(ipython.Completer, "custom_matchers", [])
    matchers[:] = [one for one in matchers if getattr(one, "matcher_identifier", "") != _NAME]


def _live_allocations() -> list[str]:
    return [str(one.id) for one in current_site().engine.allocations() if one.state in _LIVE]


def _paths(start: str) -> list[str]:
    """The files and directories whose paths begin so; a ``~`` stays as it is."""
    whole = os.path.expanduser(start)
    found = sorted(glob.glob(f"{glob.escape(whole)}*"))
    return [start + path[len(whole) :] + "/" * os.path.isdir(path) for path in found]


def _beginning(start: str, words: Iterable[str]) -> list[str]:
    """The words that begin so, or, where none does, those that do but for the case."""
    words = list(words)
    return [word for word in words if word.startswith(start)] or [
        word for word in words if word.lower().startswith(start.lower())
    ]

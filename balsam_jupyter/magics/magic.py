"""What makes a function a magic: its grammar, one parser, help, and mistakes as short errors with a caret."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import needs_local_scope, no_var_expand

from ..errors import BadInput, BalsamJupyterError, NotFound, SiteError, Unsupported
from .grammar import Argument, Grammar
from .line import Asked, parse
from .mistakes import Mistake, place_of, pointed
from .report import Log

if TYPE_CHECKING:
    from .session import Session

Function = Callable[..., Any]
_OF_A_WORD = (BadInput, NotFound, Unsupported, SiteError)
"""Errors that a word of the line may be to blame for; for an interrupt or a timeout none is."""


class Magic:
    """A magic: its grammar, and the function that gets the notebook's session and what was asked for.

    The function of a cell magic gets the cell, too; that of one that is both gets None for the line alone.
    """

    def __init__(self, grammar: Grammar, function: Function) -> None:
        self.grammar, self._function = grammar, function

    @property
    def kind(self) -> str:
        """What IPython calls it: "line", "cell" or "line_cell"."""
        return "line" if not self.grammar.cell else "line_cell" if self.grammar.line else "cell"

    def bound(self, session: Session) -> Function:
        """The function for IPython, which fills in no variables: the parser does, word by word.

        In a function of the user, its names come before those of the notebook.
        """

        def run(line: str, cell: str | None = None, local_ns: dict[str, Any] | None = None) -> Any:
            own = {} if local_ns is session.namespace else local_ns
            return self(session, line, cell, {**session.namespace, **own} if own else session.namespace)

        run.__name__ = run.__qualname__ = self.grammar.name
        run.__doc__ = self.grammar.help()
        function: Function = needs_local_scope(no_var_expand(run))
        return function

    def __call__(self, session: Session, line: str, cell: str | None, namespace: dict[str, Any]) -> Any:
        """Run it. A user's mistake is IPython's short ``UsageError: …``; "run all" stops at it all the same."""
        asked: Asked | None = None
        try:
            asked = parse(self.grammar, line, namespace)
            if asked.help:
                return Log(self.grammar.help())
            given = (asked, cell) if self.grammar.cell else (asked,)
            return self._function(session, *given)
        except BalsamJupyterError as error:
            raise UsageError(self._said(error, line, cell, asked)) from None

    def _said(self, error: BalsamJupyterError, line: str, cell: str | None, asked: Asked | None) -> str:
        """The error's message; the line with a caret under the word it is about, if that can be told."""
        if isinstance(error.__cause__, Mistake):  # of an expression that was called from below
            error = error.__cause__
        message = str(error)
        if isinstance(error, Mistake):
            if error.in_cell:
                return f"{message}\n{pointed(cell or '', error.start, error.end)}"
            return f"{message}\n{pointed(line, error.start, error.end, self._head(cell))}"
        of_a_word = asked is not None and isinstance(error, _OF_A_WORD)
        place = place_of(message, asked.places()) if asked and of_a_word else None
        return f"{message}\n{pointed(line, place.start, place.end, self._head(cell))}" if place else message

    def _head(self, cell: str | None) -> str:
        return f"{'%' if cell is None else '%%'}{self.grammar.name} "


MAGICS: dict[str, Magic] = {}
"""All magics by their names."""


def magic(*arguments: Argument, cell: str = "", line: bool = True, fills: bool = True) -> Callable[[Function], Magic]:
    """Make a function ``balsam_…(session, asked)`` the magic of that name.

    Parameters
    ----------
    *arguments : Argument
        What it takes; see `grammar`.
    cell : str
        What the cell below it is, for one that takes a cell; the function gets the cell as its third argument.
    line : bool
        Whether it works without a cell.
    fills : bool
        Whether ``{expression}`` in a word is filled in from the notebook.
    """

    def decorate(function: Function) -> Magic:
        made = Magic(Grammar.of(function, arguments, cell=cell, line=line, fills=fills), function)
        MAGICS[made.grammar.name] = made
        return made

    return decorate

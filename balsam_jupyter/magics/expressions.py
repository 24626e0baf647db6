"""Python expressions on a magic's line: evaluated in the notebook's namespace, and never through a shell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import TYPE_CHECKING, Any

from IPython.utils.text import DollarFormatter

from .mistakes import Mistake, one_line

if TYPE_CHECKING:
    from ..task import BalsamTask

# What compile() and eval() raise of a text that anybody may have typed.
_NOT_PYTHON = (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError)
FAILS = (Exception, SystemExit)
"""What an expression of the user may raise, and an interrupt does not."""


@dataclass(frozen=True)
class Expression:
    """A Python expression: its text, where it begins in the line (or cell), and what is before it, as ``T=``."""

    text: str
    start: int
    label: str = ""
    in_cell: bool = False

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.start + len(self.text)

    def wrong(self, why: str, start: int | None = None, end: int | None = None) -> Mistake:
        """The mistake that this expression is, or a part of it."""
        begin = self.start if start is None else start
        return Mistake(why, begin, self.end if end is None else end, self.in_cell)

    def raised(self, error: BaseException) -> Mistake:
        """The mistake for what the expression raised when it was evaluated, or its value when it was used."""
        said = str(error) if isinstance(error, NameError) else one_line(error)
        hint = f". Text needs quotes: {self.label}{self.text!r}." if _is_word(error, self.text) else ""
        return self.wrong(f"{self._shown()}: {said}{hint}")

    def compiled(self) -> CodeType:
        """The expression as code (`Mistake` points at the column where it is none)."""
        if not self.text:
            raise Mistake(f"{self.label} has no value.", self.start - len(self.label), self.start, self.in_cell)
        try:
            return compile(self.text, f"<{self.label or 'expression'}>", "eval")
        except _NOT_PYTHON as error:
            why = (error.msg if isinstance(error, SyntaxError) else str(error)) or type(error).__name__
            start, end = self._span(error)
            raise self.wrong(f"{self._shown()}: not a Python expression ({why}).", start, end) from None

    def evaluate(self, namespace: dict[str, Any]) -> Any:
        """Its value in the user's namespace.

        Raises
        ------
        Mistake
            If it is not an expression, or if it raises.
        """
        code = self.compiled()
        try:
            return eval(code, namespace)
        except FAILS as error:
            raise self.raised(error) from None

    def predicate(self, namespace: dict[str, Any]) -> Callable[[BalsamTask], bool]:
        """A function of a task: the expression with the task's parameters as names, and `task`.

        If the expression's value is a function, it is called with the task.
        """
        code = self.compiled()
        names = dict(namespace)

        def holds(task: BalsamTask) -> bool:
            own = {**(task.process.parameters if task.process else {}), "task": task}
            try:
                # One mapping, because the nested scopes of an expression do not see eval's locals.
                value = eval(code, {**names, **own})
                return bool(value(task) if callable(value) else value)
            except FAILS as error:
                raise self.raised(error) from None

        return holds

    def _shown(self) -> str:
        first, *more = self.text.splitlines() or [""]
        return self.label + (f"{first[:60]}…" if more or len(first) > 60 else first)

    def _span(self, error: BaseException) -> tuple[int, int]:
        if not isinstance(error, SyntaxError) or error.offset is None:
            return self.start, self.end
        if error.offset == 0:  # something is missing at the end
            return self.end, self.end
        lines = self.text.splitlines(keepends=True)
        at = (error.lineno or 1) - 1
        if at >= len(lines) or lines[at].strip() != (error.text or "").strip():  # a part of an f-string, on its own
            return self.start, self.end
        start = min(self.start + sum(map(len, lines[:at])) + error.offset - 1, self.end)
        same_line = error.end_lineno == error.lineno and (error.end_offset or 0) > error.offset
        length = (error.end_offset or 0) - error.offset if same_line else 1
        return start, max(start, min(start + length, self.end))


def _is_word(error: BaseException, text: str) -> bool:
    return isinstance(error, NameError) and text.isidentifier()


def filled(text: str, start: int, end: int, namespace: dict[str, Any]) -> str:
    """A word with ``{expression}`` (and ``$name``) filled in from the notebook, as IPython does for all its magics.

    Raises
    ------
    Mistake
        If an expression in braces raises.
    """
    if "{" not in text and "$" not in text:
        return text
    try:
        return str(DollarFormatter().vformat(text, (), namespace))
    except ValueError:  # braces that enclose nothing that could be filled in
        return text
    except FAILS as error:
        if "{" not in text:
            return text
        said = str(error) if isinstance(error, NameError) else one_line(error)
        raise Mistake(f"{text}: {said}", start, end) from None


def is_dimension(value: Any) -> bool:
    """Whether a value is a list of a sweep's values, rather than one fixed value (a scalar, a text, a mapping)."""
    one = isinstance(value, str | bytes | bytearray | Mapping) or getattr(value, "ndim", 1) == 0
    return not one and hasattr(value, "__iter__")

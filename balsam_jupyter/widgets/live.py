"""A widget of ours: one comm, whatever it shows. Python pushes what is new; the page asks for what it looks at."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import anywidget

from ..errors import BalsamJupyterError

_ESM = Path(__file__).parent / "esm"
_IMPORT = re.compile(r"""^import\s[^;]*?from\s+["']\./([\w-]+\.js)["'];\n""", re.MULTILINE)
_EXPORT = re.compile(r"^export (?!default)", re.MULTILINE)

log = logging.getLogger(__name__)

Answer = Callable[..., Any]
"""Answers a question of the page, in the kernel's thread: named arguments in, something that JSON can hold out."""


def module(name: str) -> str:
    """A module of ``esm/`` with all it imports, as the one text that anywidget loads.

    Each is a whole ES module, for editors and Node; here they are laid one after the other, each once, so their
    top-level names must differ.
    """
    texts: dict[str, str] = {}

    def take(file: str) -> None:
        if file not in texts:
            texts[file] = ""
            text = (_ESM / file).read_text()
            for imported in _IMPORT.findall(text):
                take(imported)
            del texts[file]  # so that it stands after what it imports
            texts[file] = _IMPORT.sub("", text)

    take(name)
    return "\n".join(text if file == name else _EXPORT.sub("", text) for file, text in texts.items())


def style(*names: str) -> str:
    """Style sheets of ``esm/`` as one text, with what makes them follow VS Code's theme."""
    return "\n".join((_ESM / name).read_text() for name in (*names, "vscode.css"))


class Live(anywidget.AnyWidget):
    """The Python side of a view; subclasses name their module with ``_esm`` and their style with ``_css``.

    Parameters
    ----------
    answers : mapping of str to callable
        What the page may ask, by name. An error of this package reaches the page as its text.
    """

    _esm: ClassVar[str | Path]

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        super().__init__()
        self._answers = dict(answers)
        self.on_msg(self._asked)

    def close(self) -> None:
        """Take it out of the kernel and the page, with the layout that every widget has."""
        layout = self.layout
        super().close()
        layout.close()

    def push(self, kind: str, value: Any = None, buffers: list[Any] | None = None) -> None:
        """Send something to all pages that show this; from any one thread."""
        self.send({"push": kind, "value": value}, buffers)

    def _asked(self, _: Any, content: Any, buffers: list[Any]) -> None:
        number, what = content.get("ask"), content.get("what")
        answer = self._answers.get(what)
        try:
            if answer is None:
                raise BalsamJupyterError(f"This view cannot answer {what!r}.")
            reply = {"value": answer(**content.get("arguments", {}))}
        except BalsamJupyterError as error:
            reply = {"error": str(error)}
        except Exception as error:  # a page that waits for ever tells nobody
            log.exception("the answer to %r failed", what)
            reply = {"error": f"{type(error).__name__}: {error}"}
        self.send({"answer": number, **reply})

"""Showing a widget so that the saved notebook shows a picture: both are displayed, one below the other.

A saved notebook keeps what was displayed, but no widgets: JupyterLab then says "model not found" in their place. So
the picture is an output of its own, with a few rules of style: it is hidden while the widget below it is alive, and
what stands in the place of a widget that is gone is hidden while the picture is shown. The picture is brought up to
date in its place; nothing has to be done when the kernel dies, or when a page is closed.
"""

from __future__ import annotations

import contextvars
import secrets
from collections.abc import Callable
from typing import Any, ClassVar

OUTPUT = ".jp-OutputArea-child"


class Pair:
    """A widget and the picture that stands for it, displayed by the cell that is running.

    Parameters
    ----------
    widget : ipywidgets.DOMWidget
        What is shown while the kernel lives; given a class of its own here.
    close : callable
        Called when the cell is run again, and what it showed is gone.
    """

    _of_cells: ClassVar[dict[str, tuple[str, list[Pair]]]] = {}

    def __init__(self, widget: Any, close: Callable[[], object]) -> None:
        self.widget, self._close = widget, close
        self.closed = False
        self._id = f"balsam-{secrets.token_hex(4)}"
        self._handles: list[tuple[Any, contextvars.Context]] = []
        self._bundle: dict[str, str] = {}
        widget.add_class(self._id)

    def display(self, bundle: dict[str, str]) -> None:
        """Show it in the running cell: the picture (a MIME bundle with text and HTML), and the widget."""
        from IPython.display import display

        self._bundle = bundle
        handle = display(self._picture(), raw=True, display_id=True)  # type: ignore[no-untyped-call]
        shown = {**self.widget._repr_mimebundle_(), "text/plain": ""}
        display(shown, raw=True)  # type: ignore[no-untyped-call]
        self._handles.append((handle, contextvars.copy_context()))
        self._replace_in_cell()

    def update(self, bundle: dict[str, str]) -> None:
        """Show another picture where this one is; from any one thread."""
        if bundle == self._bundle:
            return
        self._bundle = bundle
        # Each in the context of the cell that showed it: from a bare thread it would be taken for output of
        # whichever cell ran last.
        for handle, context in self._handles:
            context.run(handle.update, self._picture(), raw=True)

    def close(self) -> None:
        """Take the widget out of the kernel and the page: what is left is the picture."""
        self.closed = True
        layout = self.widget.layout
        self.widget.close()
        layout.close()  # it is a widget, too
        self._handles.clear()

    def _picture(self) -> dict[str, str]:
        alive, picture = f".{self._id}", f"{OUTPUT}:has(.{self._id}-picture)"
        style = (
            f"{picture}:has(+ {OUTPUT} {alive}){{display:none}}"
            f"{picture} + {OUTPUT}:has(.jupyter-widgets):not(:has({alive})){{display:none}}"
            f".cell_container:has({alive}) {alive}-picture{{display:none}}"  # VS Code
            f".cell_container:has({alive}-picture) .output:has(.no-renderer-error){{display:none}}"
        )
        html = f'<div class="{self._id}-picture"><style>{style}</style>{self._bundle["text/html"]}</div>'
        return {**self._bundle, "text/html": html}

    def _replace_in_cell(self) -> None:
        """Close what an earlier run of the same cell has shown: its outputs are gone, and nobody would."""
        cell, run = _running_cell()
        if not cell:
            return
        before, pairs = self._of_cells.get(cell, ("", []))
        if before != run:
            for pair in pairs:
                if pair is not self and not pair.closed:
                    pair._handles.clear()
                    pair._close()
            pairs = []
        self._of_cells[cell] = run, [*pairs, self]


def _running_cell() -> tuple[str, str]:
    """The id of the cell that runs and that of its run; empty where the front end does not say."""
    from IPython.core.getipython import get_ipython

    kernel: Any = getattr(get_ipython(), "kernel", None)
    parent = kernel.get_parent() if kernel is not None else {}
    return str(parent.get("metadata", {}).get("cellId", "")), str(parent.get("header", {}).get("msg_id", ""))


def in_kernel() -> bool:
    """Whether a notebook may show widgets."""
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None

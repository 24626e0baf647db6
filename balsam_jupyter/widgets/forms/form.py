"""The forms as widgets: one comm each, the model's answers behind it."""

from __future__ import annotations

import contextvars
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .. import cells
from ..live import Live, module, style
from ..static import STYLE
from .models import AllocationModel, Answer, Form, State, SweepModel

if TYPE_CHECKING:
    from ...executor import BalsamExecutor

_KEPT = 20
"""So many submissions stay in the copy."""


class FormView(Live):
    """A form in a notebook. Beside it stands a copy that the saved notebook keeps: what was submitted, as code.

    Attributes
    ----------
    form : Form
        Its model; `form.result` is what the last click on the button gave.
    """

    _esm: ClassVar[str | Path] = module("forms.js")
    _css: ClassVar[str] = style("forms.css")

    def __init__(self, form: Form, line: str) -> None:
        super().__init__({"open": form.open, "read": form.read, "estimate": form.estimate, "submit": self._submit})
        self.form, self._line = form, line
        self._done: list[tuple[str, str]] = []
        self._copies: list[tuple[Any, contextvars.Context]] = []

    @property
    def result(self) -> Any:
        """What the last submission gave: the ensemble or the allocation; None before."""
        return self.form.result

    def __repr__(self) -> str:
        done = [f"{code}\n{said}" for code, said in self._done]
        told = f"where no form is shown, write: {self._line}"
        return "\n".join([f"<{type(self).__name__}: {self.form.title}; {told}>", *done])

    def _ipython_display_(self, **_: object) -> None:
        from IPython.core.getipython import get_ipython
        from IPython.display import display

        if getattr(get_ipython(), "kernel", None) is None:
            raise NotImplementedError  # IPython then shows the text
        if self.comm is None:  # it was forgotten
            self.__dict__.pop("_repr_mimebundle_", None)  # which a closed widget has set to None
            self.layout.open()
            self.open()
        handle = display(self._copy(), raw=True, display_id=True)  # type: ignore[no-untyped-call]
        self._copies.append((handle, contextvars.copy_context()))
        shown: Any = self._repr_mimebundle_()
        live = shown[0] if isinstance(shown, tuple) else shown
        # Without text of its own, so that what cannot show it shows the copy alone.
        display({**live, "text/plain": ""}, raw=True)  # type: ignore[no-untyped-call]
        cells.shown(self, cells.cell())

    def follow(self) -> None:
        """What cells do, a form does not show."""

    def forget(self) -> None:
        """The cells that showed it have run again: the page has taken it away."""
        self._copies.clear()
        self.close()

    def _copy(self) -> dict[str, str]:
        done = "".join(f"<pre>{escape(code)}</pre><div>{escape(said)}</div>" for code, said in self._done)
        again = "Run this cell again to open the form."
        html = f'{STYLE}<div class="bj-still"><b>{escape(self.form.title)}</b><div>{again}</div>{done}</div>'
        return {"text/plain": repr(self), "text/html": html}

    def _submit(self, state: State) -> Answer:
        code = self.form.read(state)
        answer = self.form.submit(state)
        if "said" in answer:
            self._done = [*self._done, (code["magic"] or code["python"], answer["said"])][-_KEPT:]
            for handle, context in self._copies:
                # In the context of the cell that showed the form, as that cell's output.
                context.run(handle.update, self._copy(), raw=True)
        return answer


class AppForm(FormView):
    """A form that submits one task of an app; its fields are the app's parameters.

    Parameters
    ----------
    executor : BalsamExecutor
        Submits it.
    app_name : str
        The app.
    """

    def __init__(self, executor: BalsamExecutor, app_name: str) -> None:
        model = SweepModel(executor, app_name, sweep=False)
        super().__init__(model, f"%balsam_submit {model.app.name} {_assigned(model, '…')}".rstrip())


class SweepForm(FormView):
    """A form that builds a sweep of an app, parameter by parameter, with its size, a preview and its price.

    Parameters
    ----------
    executor : BalsamExecutor
        Submits it.
    app_name : str
        The app.
    """

    def __init__(self, executor: BalsamExecutor, app_name: str) -> None:
        model = SweepModel(executor, app_name)
        super().__init__(model, f"%balsam_submit {model.app.name} {_assigned(model, '[…]')} --name NAME")


class AllocationForm(FormView):
    """A form that asks for an allocation, with its price before the click.

    Parameters
    ----------
    executor : BalsamExecutor
        Asks for it, at its site.
    """

    def __init__(self, executor: BalsamExecutor) -> None:
        super().__init__(AllocationModel(executor), "%balsam_allocate -n NODES -t MINUTES")


def _assigned(model: SweepModel, value: str) -> str:
    return " ".join(f"{one.name}={value}" for one in model.fields)

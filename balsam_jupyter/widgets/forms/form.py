"""The forms as widgets: one comm each, the model's answers behind it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..live import Live, module
from .models import AllocationModel, Form, SweepModel

if TYPE_CHECKING:
    from ...executor import BalsamExecutor

_ESM = Path(__file__).parent.parent / "esm"


class FormView(Live):
    """A form in a notebook.

    Attributes
    ----------
    form : Form
        Its model; `form.result` is what the last click on the button gave.
    """

    _esm: ClassVar[str | Path] = module("forms.js")
    _css: ClassVar[str | Path] = (_ESM / "forms.css").read_text()

    def __init__(self, form: Form, line: str) -> None:
        super().__init__({"open": form.open, "read": form.read, "estimate": form.estimate, "submit": form.submit})
        self.form, self._line = form, line

    @property
    def result(self) -> Any:
        """What the last submission gave: the ensemble or the allocation; None before."""
        return self.form.result

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.form.title}; where no form is shown, write: {self._line}>"


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

"""What is opened from the handles and shown in a notebook: dashboards, plots, forms.

The views live above the line and are loaded when one is asked for, so that a script needs no Jupyter. They are given
the plain things they show (a site, an ensemble's name and generation), and know nothing of who asked.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .api import Site
from .errors import Unsupported


def face(module: str) -> Any:
    """A module of the notebook's face, by its name in ``balsam_jupyter.widgets``.

    Raises
    ------
    Unsupported
        If a package that views need is not installed.
    """
    try:
        return import_module(f"balsam_jupyter.widgets.{module}")
    except ImportError as error:
        raise Unsupported(f"Views need more packages ({error}): pip install 'balsam-jupyter[notebook]'") from error


class EnsembleViews:
    """The views of an ensemble."""

    _site: Site
    name: str
    generation: int

    def watch(self, plotly: bool = False) -> Any:
        """A live dashboard of this ensemble: progress, states over time, failures, tasks, and what can be done.

        Shown by a cell that ends with it, it follows the ensemble in the background; in a terminal it is text.

        Parameters
        ----------
        plotly : bool
            Show only the tasks' states over time, as a plotly figure to hover, zoom and export.

        Raises
        ------
        Unsupported
            If ipywidgets, anywidget or plotly is missing.
        """
        return face("watch").watch(self._site, self.name, self.generation, plotly=plotly)

    @property
    def plot(self) -> Any:
        """Plots of the results, which grow as results arrive.

        ``plot(x, y, color)`` is a scatter plot of two columns of `to_dataframe`, ``plot.parallel()`` one axis for each
        parameter and value, ``plot.heatmap(x, y, z)`` a value over two parameters. A point shows its task.
        """
        return face("plots").Plots(self)


class ExecutorViews:
    """The views of a site."""

    site: Site

    def dashboard(self, plotly: bool = False) -> Any:
        """A live dashboard of the whole site; as `Ensemble.watch`, of all its tasks."""
        return face("watch").watch(self.site, plotly=plotly)

    def app_form(self, app_name: str) -> Any:
        """A form that submits one task of an app, made from the app's parameters."""
        return face("forms").AppForm(self, app_name)

    def sweep_form(self, app_name: str) -> Any:
        """A form that builds a sweep of an app, parameter by parameter, with its size, a preview and its price."""
        return face("forms").SweepForm(self, app_name)

    def allocation_form(self) -> Any:
        """A form that asks for an allocation: the site's queues, limits and projects."""
        return face("forms").AllocationForm(self)

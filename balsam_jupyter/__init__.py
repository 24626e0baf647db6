"""Run sweeps of jobs from a notebook, on this machine or through Balsam.

The public names are imported when first used, so that importing the package is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; the names are the same as below
    from .api import App, BatchJob, EventLog, Job, Site, current_site, open_site
    from .apps import ApplicationDefinition
    from .ensemble import Ensemble
    from .errors import BalsamJupyterError, TaskFailed, TimeoutExpired
    from .executor import BalsamExecutor
    from .monitor import Monitor
    from .status import explain
    from .sweep import Sweep
    from .task import BalsamTask

__version__ = "0.1.0"

_HOME = {
    "App": "api",
    "ApplicationDefinition": "apps",
    "BalsamExecutor": "executor",
    "BalsamJupyterError": "errors",
    "BalsamTask": "task",
    "BatchJob": "api",
    "Ensemble": "ensemble",
    "EventLog": "api",
    "Job": "api",
    "Monitor": "monitor",
    "Site": "api",
    "Sweep": "sweep",
    "TaskFailed": "errors",
    "TimeoutExpired": "errors",
    "current_site": "api",
    "explain": "status",
    "open_site": "api",
}

__all__ = [
    "App",
    "ApplicationDefinition",
    "BalsamExecutor",
    "BalsamJupyterError",
    "BalsamTask",
    "BatchJob",
    "Ensemble",
    "EventLog",
    "Job",
    "Monitor",
    "Site",
    "Sweep",
    "TaskFailed",
    "TimeoutExpired",
    "current_site",
    "explain",
    "open_site",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value  # found without this function next time
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


def load_ipython_extension(ipython: Any) -> None:
    """``%load_ext balsam_jupyter``: the magics."""
    import_module(".magics", __name__).load_ipython_extension(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """``%unload_ext balsam_jupyter``."""
    import_module(".magics", __name__).unload_ipython_extension(ipython)

"""Sweeps: rows of parameters for one app, and the distributions they are drawn from."""

from .designs import Sweep
from .distributions import choice, integers, loguniform, normal, uniform

__all__ = ["Sweep", "choice", "integers", "loguniform", "normal", "uniform"]

"""All magics: importing the rooms that define them fills the table."""

from __future__ import annotations

from . import act, declare, forms, look, spend
from .magic import MAGICS

__all__ = ["MAGICS", "act", "declare", "forms", "look", "spend"]

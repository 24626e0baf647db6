"""The embedded engine: one machine, nothing to set up, and it outlives the kernel."""

from .engine import EmbeddedEngine

__all__ = ["EmbeddedEngine"]

"""The site's SQLite file. All SQL of the embedded engine is in this folder."""

from .schema import Store

__all__ = ["Store"]

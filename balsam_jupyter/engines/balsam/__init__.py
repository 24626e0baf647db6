"""The Balsam engine: jobs on the sites of a Balsam service, over its REST API. The package `balsam` is never imported."""

from .engine import BalsamEngine

__all__ = ["BalsamEngine"]

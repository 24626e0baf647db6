"""The Balsam engine: jobs on the sites of a Balsam service, over its REST API, without the package `balsam`."""

from .engine import BalsamEngine

__all__ = ["BalsamEngine"]

"""Starting a site's processor when there is work for it and none is there."""

from __future__ import annotations

from pathlib import Path

from .. import detached
from ..store import Store, flow


def ensure(site: Path, store: Store) -> None:
    """Start the site's processor, detached, if a job waits for one and none is there. Cheap when none does."""
    if flow.any_due(store.con):
        detached.start(site, "processor")

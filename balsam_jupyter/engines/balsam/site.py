"""The sites of a service, and what can be known of one: its record there, and its directory where it is here."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from ...errors import NotFound, listing, nearest
from ...models import SiteRecord
from ..embedded.site import home, usable_cores
from .mirror import Mirror
from .rest import Rest

# Cores and GPUs of a node of the kinds that Balsam ships (balsam/platform/compute_node).
_NODES = {"PolarisNode": (32, 4), "ThetaGPUNode": (128, 8), "AuroraNode": (104, 12), "CooleyNode": (12, 2),
          "ThetaKNLNode": (64, 0)}  # fmt: skip


def find(rest: Rest, ref: str | int | None) -> dict[str, Any]:
    """The record of a site, by name or id; the only one, if none is named.

    Raises
    ------
    NotFound
        Lists the sites.
    """
    _, rows = rest.page("/sites/", [("limit", 1000)])
    known = {row["name"]: row for row in rows}
    if ref is None and len(rows) == 1:
        return rows[0]
    chosen = [row for row in rows if ref in (row["name"], row["id"], str(row["id"]))]
    if len(chosen) == 1:
        return chosen[0]
    if not rows:
        raise NotFound(f"You have no sites at {rest.address}: `balsam site init DIRECTORY` on the machine makes one.")
    if ref is None:
        raise NotFound(f"Which site? You have {listing(known)} at {rest.address}.")
    raise NotFound(f"You have no site {ref!r} at {rest.address}; you have {listing(known)}.{nearest(str(ref), known)}")


def all_sites() -> list[SiteRecord]:
    """The sites that were opened on this machine; nobody is asked."""
    found = []
    for file in sorted((home() / "services").glob("*/site-*.db")):
        store = Mirror(file)
        if row := store.note("site"):
            found.append(describe(row))
        store.close()
    return found


def mirror_path(address: str, site_id: int) -> Path:
    """Where what is known here of a site is kept."""
    host = re.sub(r"[^A-Za-z0-9.]+", "-", urlsplit(address).netloc or address)
    digest = hashlib.blake2b(address.encode(), digest_size=3).hexdigest()
    return home() / "services" / f"{host}-{digest}" / f"site-{site_id}.db"


def known_here(address: str, ref: str | int | None) -> Mirror | None:
    """What is known of a site while its service is silent; None if it was never opened here."""
    folder = mirror_path(address, 0).parent
    found = []
    for file in sorted(folder.glob("site-*.db")):
        store = Mirror(file)
        row = store.note("site")
        if row and (ref is None or ref in (row["name"], row["id"], str(row["id"]))):
            found.append(store)
        else:
            store.close()
    return found[0] if len(found) == 1 else None


def is_here(row: dict[str, Any]) -> bool:
    """Whether the site's directory can be seen from this machine."""
    try:
        return Path(row["path"], ".balsam-site").read_text().strip() == str(row["id"])
    except (OSError, UnicodeDecodeError):
        return False


def describe(row: dict[str, Any]) -> SiteRecord:
    """A site in our words. Cores and GPUs are 0 where the site does not tell."""
    queues = row.get("allowed_queues") or {}
    nodes = max((queue["max_nodes"] for queue in queues.values()), default=1)
    here = is_here(row)
    cores, gpus = _node(Path(row["path"])) if here else (0, 0)
    return SiteRecord(row["id"], row["name"], row["path"], nodes, cores, gpus, here)


def _node(path: Path) -> tuple[int, int]:
    """Cores and GPUs of a node, by its kind in the site's settings."""
    try:
        settings = yaml.safe_load((path / "settings.yml").read_text())
        kind = str(settings["launcher"]["compute_node"]).rpartition(".")[2]
        local = "Local" in str(settings["scheduler"]["scheduler_class"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return 0, 0
    if kind == "DefaultNode" and local:
        return os.cpu_count() or usable_cores(), 0
    return _NODES.get(kind, (0, 0))

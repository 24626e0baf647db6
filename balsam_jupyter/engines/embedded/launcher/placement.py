"""Where jobs run: virtual nodes with their idle cores, idle GPUs and occupancy, as Balsam counts them.

Source: Balsam's documentation, "Defining compute resources" in docs/user-guide/jobs.md (argonne-lcf/balsam).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from ....models import Resources
from ..site import Settings, usable_cores


class Need(NamedTuple):
    """What one job takes: `nodes`; on each of them cores, GPUs and a share of the occupancy; whole nodes if several."""

    nodes: int
    ranks: int
    """On each node."""
    cores: int
    gpus: int
    packing: int
    """Jobs of this kind at most on one node: each takes 1/packing of its occupancy."""
    minutes: int


def need(asked: Resources, settings: Settings) -> Need:
    """What a job takes at a site.

    A job that does not say its `node_packing_count` gets the site's default; where the site has none (0), as many
    run on a node as its cores allow.
    """
    cores = max(1, asked.ranks_per_node * asked.threads_per_rank // asked.threads_per_core)
    count = asked.node_packing_count or settings.node_packing_count or max(1, settings.cores_per_node // cores)
    return Need(
        asked.num_nodes,
        asked.ranks_per_node,
        cores,
        math.ceil(asked.ranks_per_node * asked.gpus_per_rank),
        1 if settings.exclusive_nodes else count,
        asked.wall_time_min,
    )


def footprint(wants: Resources, settings: Settings) -> float:
    """Nodes' worth of one job: whole nodes for one of several, else the largest share of a node it takes."""
    what = need(wants, settings)
    if what.nodes > 1:
        return float(what.nodes)
    shares = [1 / what.packing, what.cores / settings.cores_per_node, what.gpus / max(1, settings.gpus_per_node)]
    return min(1.0, max(shares))


class Place(NamedTuple):
    """What a running job has: nodes by number, and on one node its cores and GPUs by id."""

    nodes: tuple[int, ...]
    cores: tuple[int, ...]
    gpus: tuple[str, ...]
    share: Fraction

    def to_json(self) -> str:
        return json.dumps([self.nodes, self.cores, self.gpus, str(self.share)])

    @classmethod
    def from_json(cls, text: str) -> Place:
        nodes, cores, gpus, share = json.loads(text)
        return cls(tuple(nodes), tuple(cores), tuple(gpus), Fraction(share))


class Node:
    """A virtual node."""

    def __init__(self, number: int, cores: Iterable[int], gpus: Iterable[str]) -> None:
        self.number = number
        self.all_cores, self.all_gpus = list(cores), list(gpus)
        self.cores, self.gpus = list(self.all_cores), list(self.all_gpus)  # that idle
        self.occupancy = Fraction(0)
        self.reserved = False  # kept free for a job that needs more than is idle now

    def fits(self, what: Need) -> bool:
        idle = len(self.cores) >= what.cores and len(self.gpus) >= what.gpus
        return idle and self.occupancy + Fraction(1, what.packing) <= 1


class Nodes:
    """The nodes of one partition of an allocation."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = list(nodes)

    def capacity(self, what: Need) -> int:
        """How many jobs of this kind run at a time when nothing else does; 0: it can never run here."""
        if what.nodes > 1:
            return len(self.nodes) // what.nodes
        each = (
            min(
                what.packing,
                len(node.all_cores) // what.cores,
                len(node.all_gpus) // what.gpus if what.gpus else what.packing,
            )
            for node in self.nodes
        )
        return sum(each)

    def fits(self, what: Need) -> bool:
        """Whether it could start now."""
        return bool(self._choose(what))

    def place(self, what: Need) -> Place | None:
        """Take what a job needs; None if it is not idle now."""
        chosen = self._choose(what)
        if not chosen:
            return None
        whole = what.nodes > 1
        place = Place(
            tuple(node.number for node in chosen),
            tuple(core for node in chosen for core in (node.cores if whole else node.cores[: what.cores])),
            tuple(gpu for node in chosen for gpu in (node.gpus if whole else node.gpus[: what.gpus])),
            Fraction(1) if whole else Fraction(1, what.packing),
        )
        self.take(place)
        return place

    def _choose(self, what: Need) -> list[Node]:
        usable = [node for node in self.nodes if not node.reserved]
        if what.nodes == 1:
            return next(([node] for node in usable if node.fits(what)), [])
        empty = [node for node in usable if not node.occupancy]
        return empty[: what.nodes] if len(empty) >= what.nodes else []

    def take(self, place: Place) -> None:
        """Mark what a place has as busy; nodes that are not here are left out."""
        for node in self.nodes:
            if node.number in place.nodes:
                node.occupancy += place.share
                node.cores = [core for core in node.cores if core not in place.cores]
                node.gpus = [gpu for gpu in node.gpus if gpu not in place.gpus]

    def release(self, place: Place) -> None:
        for node in self.nodes:
            if node.number in place.nodes:
                node.occupancy -= place.share
                node.cores = [core for core in node.all_cores if core in node.cores or core in place.cores]
                node.gpus = [gpu for gpu in node.all_gpus if gpu in node.gpus or gpu in place.gpus]

    def reserve(self, what: Need, jobs: int) -> None:
        """Keep nodes free for so many jobs of this kind, as far as they would fit now."""
        if what.nodes == 1:
            for node in [node for node in self.nodes if node.fits(what)][:jobs]:
                node.reserved = True
        else:
            for node in self._choose(what):
                node.reserved = True

    def reserved(self, place: Place) -> bool:
        return any(node.reserved and node.number in place.nodes for node in self.nodes)

    def reserve_none(self) -> None:
        for node in self.nodes:
            node.reserved = False


def idle_nodes(numbers: Iterable[int], settings: Settings) -> list[Node]:
    """The site's nodes of these numbers with their ids of cores and GPUs.

    Cores have ids (to bind tasks to) only where the machine has enough of them for all nodes; else they are
    counted by negative numbers, which nothing is bound to.
    """
    each, every = settings.cores_per_node, settings.nodes * settings.cores_per_node
    real = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    ids = real if every <= usable_cores() and real else range(-1, -every - 1, -1)
    visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    gpus = visible if len(visible) >= settings.nodes * settings.gpus_per_node else None
    nodes = []
    for number in numbers:
        first = number * settings.gpus_per_node
        own = range(first, first + settings.gpus_per_node)
        nodes.append(
            Node(number, list(ids[number * each : (number + 1) * each]), [gpus[i] if gpus else str(i) for i in own])
        )
    return nodes


def environment(threads: int, place: Place) -> dict[str, str]:
    """What a task's environment says about its resources."""
    told = {"OMP_NUM_THREADS": str(threads)}
    if place.gpus:
        ids = ",".join(place.gpus)
        told |= {"CUDA_VISIBLE_DEVICES": ids, "HIP_VISIBLE_DEVICES": ids, "ZE_AFFINITY_MASK": ids}
    return told


ORDERS: dict[str, Callable[[Need], tuple[int, ...]]] = {
    "large_first": lambda n: (-n.nodes, -n.minutes),
    "small_first": lambda n: (n.nodes, -n.packing, -n.minutes),
    "long_large_first": lambda n: (-n.minutes, -n.nodes, -n.packing),
}
"""What `sort_by` may be, and the sort key of each; within equals, first submitted first."""


def place_file(session_folder: Path, slot: int) -> Path:
    """Where a slot's place is written down, for who takes over."""
    return session_folder / f"{slot}.place"

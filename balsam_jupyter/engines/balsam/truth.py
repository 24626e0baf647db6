"""What Balsam cannot do, or accepts and never does: refused here, with the way round."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ...accounts import duration
from ...errors import BadInput, Unsupported, listing, nearest
from ...models import AllocationRequest, JobSpec, Resources
from ..embedded.store import records
from . import pythons, wire

if TYPE_CHECKING:
    from .engine import BalsamEngine

SILENT_S = 120.0
"""A site whose agent gave no sign of life for so long is not started, or cut off."""
_LARGEST = 512_000
_LONGEST_WORKDIR = 256
_WORD = re.compile(r"[\w@%+,./-]*")  # tags of an allocation go into its job script as they are
DEFAULTS = ("local", "")
"""Queue and project of a request that names none."""


def job(engine: BalsamEngine, spec: JobSpec) -> None:
    """Refuse jobs that the service would take and no launcher ever run."""
    common = spec.common
    resources(engine, common.resources)
    if common.scratch:
        raise Unsupported(
            "scratch=True is for the embedded engine: at a Balsam site declare cleanup_files in the app, "
            'e.g. cleanup_files = ["**/*"].'
        )
    app, slots = records.slots(engine.store.con, common.app_id)
    transfers(engine, app, slots, spec.transfers or {})
    pythons.warn(engine, app)
    tags(common.tags)
    for key, word in common.tags.items():
        if not isinstance(word, str):
            raise BadInput(f"Tag {key!r} must be text, not {word!r}.")
    place(spec)


def tags(names: Iterable[str]) -> None:
    """Refuse names of tags that say which row a job is."""
    for name in names:
        if name.startswith("bj_"):
            raise BadInput(f"Tags that begin with 'bj_' are this package's own; call {name!r} something else.")


def place(spec: JobSpec) -> None:
    """Refuse a directory outside of the site's, and parameters that are too large."""
    if spec.workdir.startswith("/") or ".." in spec.workdir.split("/"):
        raise BadInput(
            f"workdir {spec.workdir!r} must be a relative path without '..'; it is below the site's data folder."
        )
    if len(spec.workdir) > _LONGEST_WORKDIR:
        raise BadInput(
            f"workdir {spec.workdir[:40]!r}… has {len(spec.workdir):,} characters, and Balsam takes {_LONGEST_WORKDIR}."
        )
    if len(spec.parameters) > _LARGEST * 3 // 4:
        raise BadInput(
            f"The parameters of a task take {len(spec.parameters):,} bytes, and Balsam takes {_LARGEST * 3 // 4:,}: "
            "pass large data in files (a transfer slot, or a file at the site)."
        )


def resources(engine: BalsamEngine, asked: Resources) -> None:
    """Refuse what can never fit at this site."""
    numbers = ("num_nodes", "ranks_per_node", "threads_per_rank", "threads_per_core")
    for name in numbers:
        if getattr(asked, name) < 1:
            raise BadInput(f"{name} is {getattr(asked, name)}; give at least 1.")
    if asked.node_packing_count is not None and asked.node_packing_count < 1:
        raise BadInput(f"node_packing_count is {asked.node_packing_count}; give at least 1, or leave it out.")
    if asked.gpus_per_rank < 0 or asked.wall_time_min < 0:
        raise BadInput("gpus_per_rank and wall_time_min cannot be negative.")
    queues = engine.queues()
    if queues:
        most = max(queue["max_nodes"] for queue in queues.values())
        if asked.num_nodes > most:
            raise BadInput(
                f"{asked.num_nodes} nodes are too many: the queues of {engine.site.name!r} have {most} at most; ask "
                "for fewer."
            )
        longest = max(queue["max_walltime"] for queue in queues.values())
        if asked.wall_time_min > longest:
            raise BadInput(
                f"wall_time_min={asked.wall_time_min} is longer than any allocation at {engine.site.name!r} "
                f"({longest} min): such a task would wait for ever; split it, or give less."
            )
    cores = engine.site.cores_per_node
    wanted = max(1, asked.ranks_per_node * asked.threads_per_rank // asked.threads_per_core)
    if cores and wanted > cores:
        raise BadInput(
            f"{wanted} ranks or threads on a node are too many: a node of {engine.site.name!r} has {cores} cores."
        )


def transfers(engine: BalsamEngine, app: str, slots: Mapping[str, Mapping[str, Any]], given: Mapping[str, str]) -> None:
    """Refuse transfers the app has no slot for, or from where the site knows nothing."""
    locations = engine.remote_site().get("transfer_locations") or {}
    for slot, where in given.items():
        if slot not in slots:
            raise BadInput(f"App {app} has no transfer slot {slot!r}; it has {listing(slots)}.{nearest(slot, slots)}")
        location, _, path = where.partition(":")
        if location not in locations:
            raise BadInput(
                f"Site {engine.site.name!r} has no transfer location {location!r} (slot {slot!r}); it has "
                f"{listing(locations)}.{nearest(location, locations)}"
            )
        if not path.startswith("/"):
            raise BadInput(f"transfers[{slot!r}]: write location:/absolute/path, not {where!r}.")
    missing = [name for name, slot in slots.items() if slot.get("required", True) and name not in given]
    if missing:
        raise BadInput(
            f"App {app} needs a place for its transfer slots {listing(missing)}: transfers={{slot: 'location:/path'}}."
        )


def request(engine: BalsamEngine, asked: AllocationRequest) -> dict[str, Any]:
    """An allocation as the service takes it; refused is what the site would refuse later."""
    if asked.wf_filter:
        raise Unsupported(
            f"A Balsam site cannot look for {asked.wf_filter!r} in the names of ensembles: name one whole, by its tag: "
            f"filter_tags={{'workflow': NAME}} (--tag workflow=NAME)."
        )
    queues = engine.queues()
    projects = engine.accounts.projects()
    queue, project = asked.queue, asked.project
    if queue in DEFAULTS and queue not in queues and len(queues) == 1:
        (queue,) = queues
    if project in DEFAULTS and project not in projects and len(projects) == 1:
        (project,) = projects
    for what, option, one, known in (("queue", "-q", queue, queues), ("project", "-A", project, projects)):
        if one in DEFAULTS and known and one not in known:
            raise BadInput(
                f"Which {what}? Site {engine.site.name!r} has {listing(known)}: {option} NAME, or {what}=NAME."
            )
    if queues and queue not in queues:
        raise BadInput(
            f"Site {engine.site.name!r} has no queue {queue!r}; it has {listing(queues)}.{nearest(queue, queues)}"
        )
    if projects and project not in projects:
        raise BadInput(
            f"Project {project!r} cannot be charged at {engine.site.name!r}; there is {listing(projects)}."
            f"{nearest(project, projects)}"
        )
    for wanted in (asked.filter_tags, *(part["filter_tags"] for part in asked.partitions)):
        for word in (word for pair in wanted.items() for word in pair):
            if not _WORD.fullmatch(word):
                raise BadInput(
                    f"A Balsam site cannot look for the tag {word!r}, which would not pass through its job script: "
                    "give the tasks one of letters, digits and . _ - / @ % + ,"
                )
    minutes = math.ceil(asked.wall_time_min)
    limits = queues.get(queue, {})
    if asked.num_nodes > limits.get("max_nodes", asked.num_nodes):
        raise BadInput(f"{asked.num_nodes} nodes are too many: queue {queue!r} has {limits['max_nodes']} at most.")
    if minutes > limits.get("max_walltime", minutes):
        raise BadInput(f"{minutes} minutes are too long: queue {queue!r} has {limits['max_walltime']} at most.")
    optional = engine.remote_site().get("optional_batch_job_params") or {}
    for name in asked.optional_params:
        if name not in optional:
            raise BadInput(
                f"The job template of {engine.site.name!r} has no parameter {name!r}; it has {listing(optional)}."
                f"{nearest(name, optional)}"
            )
    return {
        "site_id": engine.site.id,
        "num_nodes": asked.num_nodes,
        "wall_time_min": minutes,
        "job_mode": asked.job_mode,
        "queue": queue,
        "project": project,
        "optional_params": dict(asked.optional_params),
        "filter_tags": dict(asked.filter_tags),
        "partitions": [dict(part) for part in asked.partitions] or None,
    }


def silent(engine: BalsamEngine) -> str:
    """Why nothing can happen at the site, as far as its agent is concerned; "" while it gives signs of life."""
    record = engine.remote_site()
    seen = wire.seconds(record.get("last_refresh"))
    now = engine.rest.clock or time.time()
    if seen is None or now - seen < SILENT_S:
        return ""
    return (
        f"the agent of site {engine.site.name!r} has given no sign of life for {duration(now - seen)}: is it started? "
        f"(balsam site start, in {record.get('path', 'its directory')} on its machine)"
    )


def why_waiting(engine: BalsamEngine) -> str:
    """Why nothing runs, as far as service and site are to blame for it; "" if they are not."""
    if engine.silence is not None:
        since, error = engine.silence
        return f"what is known is {duration(since)} old: {error}"
    return silent(engine)

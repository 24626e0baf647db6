"""Checks of what a user asks for: resources, allocations, work directories, tags. All before anything is stored."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from .errors import BadInput, Unsupported, listing, nearest
from .models import AllocationRequest, AppRecord, JobCommon, Resources, SiteRecord

JOB_MODES = ("mpi", "serial")


def positive_int(name: str, value: object) -> int:
    """`value` as an int of at least 1 (numpy integers too; True is none)."""
    if not isinstance(value, bool):
        try:
            number = operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            number = 0
        if number >= 1:
            return number
    raise BadInput(f"{name} must be a whole number of at least 1, not {value!r}.")


def positive(name: str, value: object) -> float:
    """`value` as a finite number above 0."""
    if not isinstance(value, bool | str | bytes):
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            number = math.nan
        if 0 < number < math.inf:
            return int(number) if number.is_integer() else number
    raise BadInput(f"{name} must be a number above 0, not {value!r}.")


def kill_force(force: object) -> str:
    """How to end what an engine cannot end one by one; None is not at all."""
    if force not in (None, "", "revoke"):
        raise BadInput(f"force is 'revoke' (end the allocations in which the tasks run) or left out, not {force!r}.")
    return str(force or "")


def kill_wait(wait_time: object) -> float | None:
    """Seconds from SIGTERM to SIGKILL; None for no SIGKILL."""
    if wait_time is None:
        return None
    if isinstance(wait_time, int | float) and not isinstance(wait_time, bool) and 0 <= wait_time < float("inf"):
        return wait_time
    raise BadInput(f"wait_time must be a number of seconds, 0 or more, or None, not {wait_time!r}.")


def mapping(name: str, value: object) -> dict[str, Any]:
    """A mapping as a dict; None is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise BadInput(f"{name} must be a mapping such as {{'system': 'H2O'}}, not {value!r}.")
    return dict(value)


def json_map(name: str, value: object) -> dict[str, Any]:
    """A mapping that JSON can hold."""
    found = mapping(name, value)
    try:
        json.dumps(found)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{name} must be what JSON can hold: {error}.") from None
    return found


def is_text(value: object) -> bool:
    """Whether it is text that can be stored: without NUL, and without the halves of characters."""
    return isinstance(value, str) and "\0" not in value and value == value.encode(errors="ignore").decode()


def text_map(name: str, value: object) -> dict[str, str]:
    """A mapping of text to text; numbers become text."""
    given = mapping(name, value)
    for key, word in given.items():
        if not is_text(key) or not key or "=" in key or ":" in key:
            raise BadInput(f"{name}: the key {key!r} must be text without '=' and ':'.")
        if not isinstance(word, str | int | float) or not is_text(str(word)):
            raise BadInput(f"{name}: the value of {key!r} must be text, not {word!r}.")
    return {key: str(word) for key, word in given.items()}


def workdir_below(workdir: object, top: str = "") -> str:
    """A work directory as the engine stores it: relative to ``data/``, below `top`."""
    text = str(workdir)
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts:
        raise BadInput(f"The work directory {text!r} must lie below the site's data folder: relative, without '..'.")
    if not path.parts or not is_text(text):
        raise BadInput(f"{text!r} is not the name of a work directory.")
    return str(PurePosixPath(top) / path) if top else str(path)


def job_ids(jobs: object) -> tuple[int, ...]:
    """Ids of jobs, given as numbers, Jobs or tasks; one alone, or several."""
    many = jobs if isinstance(jobs, Iterable) and not isinstance(jobs, str | bytes | Mapping) else (jobs,)
    found = []
    for one in many:
        number = getattr(one, "id", one)
        if isinstance(number, bool) or not hasattr(number, "__index__"):
            raise BadInput(f"A parent is a saved job, a task, or the id of one, not {one!r}.")
        found.append(operator.index(number))
    return tuple(sorted(set(found)))


def retries(max_retries: object) -> int:
    """How often a job is run again by itself."""
    if isinstance(max_retries, bool) or not hasattr(max_retries, "__index__") or operator.index(max_retries) < 0:
        raise BadInput(f"max_retries must be a whole number of at least 0, not {max_retries!r}.")
    return operator.index(max_retries)


def parent_failure(choice: object) -> str:
    """What a job does when a parent of it fails."""
    if choice not in ("fail", "wait"):
        raise BadInput(f"on_parent_failure is 'fail' or 'wait', not {choice!r}.")
    return str(choice)


def is_scratch(scratch: object) -> bool:
    """Whether a job's directory goes when it finishes well."""
    if not isinstance(scratch, bool):
        raise BadInput(f"scratch is True or False, not {scratch!r}.")
    return scratch


def job_common(
    app: AppRecord,
    wants: Resources,
    tags: Mapping[str, str],
    max_retries: object,
    on_parent_failure: object,
    scratch: object,
) -> JobCommon:
    """What the jobs of one submission share, checked."""
    again, failure, goes = retries(max_retries), parent_failure(on_parent_failure), is_scratch(scratch)
    return JobCommon(app.id, app.version, wants, tags, max_retries=again, on_parent_failure=failure, scratch=goes)


def transfer_map(transfers: object) -> dict[str, str]:
    """Transfers of a job as text; Balsam's longer form, with `location_alias` and `path`, too."""
    if transfers is None:
        return {}
    if not isinstance(transfers, Mapping):
        raise BadInput(f'transfers must be a mapping such as {{"slot": "location:/path"}}, not {transfers!r}.')
    found = {}
    for slot, place in transfers.items():
        if isinstance(place, Mapping) and set(place) == {"location_alias", "path"}:
            place = f"{place['location_alias']}:{place['path']}"
        if not isinstance(slot, str) or not isinstance(place, str):
            raise BadInput(f'transfers[{slot!r}] must be "location:/path", not {place!r}.')
        found[slot] = place
    return found


def resources(
    num_nodes: object = 1,
    ranks_per_node: object = 1,
    threads_per_rank: object = 1,
    threads_per_core: object = 1,
    gpus_per_rank: float = 0,
    node_packing_count: int | None = None,
    wall_time_min: float = 0,
    launch_params: Mapping[str, str] | None = None,
) -> Resources:
    """Resources of a job, each a number that can be one. What fits at the site is the engine's to say."""
    gpus = positive("gpus_per_rank", gpus_per_rank) if gpus_per_rank else 0
    return Resources(
        num_nodes=positive_int("num_nodes", num_nodes),
        ranks_per_node=positive_int("ranks_per_node", ranks_per_node),
        threads_per_rank=positive_int("threads_per_rank", threads_per_rank),
        threads_per_core=positive_int("threads_per_core", threads_per_core),
        gpus_per_rank=gpus,
        node_packing_count=(
            None if node_packing_count is None else positive_int("node_packing_count", node_packing_count)
        ),
        wall_time_min=math.ceil(positive("wall_time_min", wall_time_min)) if wall_time_min else 0,
        launch_params=text_map("launch_params", launch_params),
    )


def layout(num_procs: object, num_nodes: object, procs_per_node: object) -> tuple[int, int]:
    """Nodes and ranks per node from libEnsemble's three numbers; any may be None."""
    given = {"num_procs": num_procs, "num_nodes": num_nodes, "procs_per_node": procs_per_node}
    numbers = {name: positive_int(name, value) for name, value in given.items() if value is not None}
    procs, nodes, each = (numbers.get(name) for name in given)
    if procs is None:
        return nodes or 1, each or 1
    if nodes is None:
        nodes = 1 if each is None else procs // each
    if each is None:
        each = procs // nodes
    if nodes * each != procs:
        said = ", ".join(f"{name}={value}" for name, value in numbers.items())
        raise BadInput(f"{said} contradict each other: num_procs must be num_nodes × procs_per_node.")
    return nodes, each


def task_resources(
    num_procs: object,
    num_nodes: object,
    procs_per_node: object,
    max_tasks_per_node: int | None,
    machinefile: object,
    **others: Any,
) -> Resources:
    """Resources of a task from libEnsemble's arguments, and `others` by Balsam's names."""
    nodes, each = layout(num_procs, num_nodes, procs_per_node)
    if machinefile is not None:
        raise Unsupported("machinefile is not used: the launcher places tasks by itself; leave it out.")
    return resources(nodes, each, node_packing_count=max_tasks_per_node, **others)


def allocation_request(
    site: SiteRecord,
    num_nodes: object,
    wall_time_min: object,
    job_mode: str = "mpi",
    queue: str = "local",
    project: str = "local",
    optional_params: Mapping[str, str] | None = None,
    filter_tags: Mapping[str, str] | None = None,
    partitions: Sequence[Mapping[str, Any] | str] | None = None,
    wf_filter: str = "",
    max_node_hours: object = None,
) -> AllocationRequest:
    """An allocation to ask for, checked against the site."""
    nodes = positive_int("num_nodes", num_nodes)
    if nodes > site.nodes:
        raise BadInput(
            f"num_nodes={nodes} is more than site {site.name!r} has ({_nodes(site.nodes)}; its settings.yml says how "
            "many: `nodes`, or `max_nodes` of the queues of a Balsam site)."
        )
    minutes = positive("wall_time_min", wall_time_min)
    for name, value in (("queue", queue), ("project", project)):
        if not isinstance(value, str) or not value:
            raise BadInput(f"{name} must be a name, not {value!r}.")
    parts = tuple(_partition(part) for part in partition_list(partitions))
    if parts and sum(part["num_nodes"] for part in parts) != nodes:
        raise BadInput(f"The partitions must have {_nodes(nodes)} together, as many as the allocation.")
    return AllocationRequest(
        num_nodes=nodes,
        wall_time_min=minutes,
        job_mode=mode(job_mode),
        queue=queue,
        project=project,
        optional_params=text_map("optional_params", optional_params),
        filter_tags=text_map("filter_tags", filter_tags),
        partitions=parts,
        wf_filter=text_filter(wf_filter),
        max_node_hours=node_hour_limit(max_node_hours),
    )


def node_hour_limit(limit: object) -> float | None:
    """A limit in node-hours, above 0; None is none."""
    return None if limit is None else positive("max_node_hours", limit)


def text_filter(wf_filter: object) -> str:
    """A text to look for in the tag ``workflow``; None is none."""
    if wf_filter is None:
        return ""
    if not isinstance(wf_filter, str) or "\0" in wf_filter:
        raise BadInput(f"wf_filter is a text to look for in the tag 'workflow', not {wf_filter!r}.")
    return wf_filter


def mode(name: object) -> str:
    """A job mode."""
    if name not in JOB_MODES:
        raise BadInput(f"job_mode is 'mpi' or 'serial', not {name!r}.{nearest(str(name), JOB_MODES)}")
    return str(name)


def partition_list(partitions: object) -> list[Any]:
    """The partitions of an allocation as a list; one alone (text or a mapping) is none."""
    if partitions is None:
        return []
    if isinstance(partitions, str | bytes | Mapping) or not isinstance(partitions, Iterable):
        raise BadInput(f"partitions is a list such as ['mpi:1', 'serial:2:role=worker'], not {partitions!r}.")
    return list(partitions)


def partition(text: str) -> dict[str, Any]:
    """A partition written as Balsam writes it: ``mode:nodes`` and any number of ``:key=value``.

    Raises
    ------
    BadInput
        Says how a partition is written.
    """
    written = f"the partition {text!r}: write MODE:NODES[:KEY=VALUE…], such as mpi:2:role=leader"
    name, _, rest = text.partition(":")
    number, *pairs = rest.split(":")
    if not number.strip().isdecimal():
        wrong = f"{number!r} is no number of nodes" if number else "The number of nodes is missing"
        raise BadInput(f"{wrong} in {written}.")
    tags: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise BadInput(f"{pair!r} is not KEY=VALUE in {written}.")
        if key in tags:
            raise BadInput(f"{key!r} is given twice in {written}.")
        tags[key] = value
    return _partition({"job_mode": name.strip(), "num_nodes": int(number), "filter_tags": tags})


def nodes_of(nodes: int | None, partitions: Sequence[Mapping[str, Any]]) -> int:
    """The nodes to ask for where none were given: those of all partitions, or 1."""
    return sum(part["num_nodes"] for part in partitions) or 1 if nodes is None else nodes


def _partition(part: Mapping[str, Any] | str) -> dict[str, Any]:
    if isinstance(part, str):
        return partition(part)
    known = ("job_mode", "num_nodes", "filter_tags")
    if not isinstance(part, Mapping) or not {"num_nodes"} <= set(part) <= set(known):
        raise BadInput(f"A partition is a mapping with {listing(known)}, not {part!r}.")
    return {
        "job_mode": mode(part.get("job_mode", "mpi")),
        "num_nodes": positive_int("num_nodes of a partition", part["num_nodes"]),
        "filter_tags": text_map("filter_tags of a partition", part.get("filter_tags")),
    }


def _nodes(number: int) -> str:
    return f"{number} node" if number == 1 else f"{number} nodes"

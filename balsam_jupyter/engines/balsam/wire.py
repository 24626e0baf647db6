"""What goes over the wire, as values: times, parameters, resources, return values, exceptions."""

from __future__ import annotations

import base64
import builtins
import importlib
import io
import json
import pickle
import re
import sys
import traceback
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

from ... import codec
from ...models import JobSpec, Resources

ENSEMBLE, GENERATION, ROW, KEY = "bj_ensemble", "bj_gen", "bj_row", "bj_key"
VERSION, BATCH, RETRIES, FAMILY = "bj_version", "bj_batch", "bj_retries", "bj_parents"
KILLED, VALUE, NOTE, RAN = "bj_killed", "bj_value", "bj_note", "bj_ran"
"""Names in a job's data: a kill, what it yields (text of `codec`), why an output is missing, when it ran elsewhere."""

CARRIED = "bj_cloudpickle"
"""By which name a value travels that nobody could read here as Balsam pickles it (see `remote.Box.portable`)."""

PYTHON = "python"
"""By which name the mirror keeps the Python of a site, where a task told of it."""
_TOLD_PYTHON = re.compile(r"its functions are code of Python [\d.]+, and this is Python (\d+\.\d+)")

_NUMBER = re.compile(r"[0-9]{1,9}")
_KEY = re.compile(r"[0-9a-f]{32}")

_RESOURCES = (
    "num_nodes", "ranks_per_node", "threads_per_rank", "threads_per_core", "gpus_per_rank", "node_packing_count",
    "wall_time_min", "launch_params",
)  # fmt: skip


def seconds(time: str | None) -> float | None:
    """The service's times are UTC and do not say so; as seconds since the epoch."""
    if not time:
        return None
    when = datetime.fromisoformat(time.removesuffix("Z"))
    return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()


def stamp(job: Mapping[str, Any]) -> str:
    """A job's last update as one text: the service gives it now with its zone, now without."""
    return str(job["last_update"]).removesuffix("Z").removesuffix("+00:00")


def utc(time: float) -> str:
    """Seconds since the epoch as the service takes them."""
    return datetime.fromtimestamp(time, timezone.utc).replace(tzinfo=None).isoformat()


def packed(parameters: str | bytes) -> str:
    """Encoded parameters (`codec.encode`) as a site reads them: a pickle of the mapping."""
    if isinstance(parameters, str):
        parameters = pickle.dumps(codec.decode(parameters), protocol=4)
    return base64.b64encode(parameters).decode("ascii")


def unpacked(text: str) -> str | bytes:
    """Parameters or a value of a job as `codec` encodes them."""
    if not text:
        return "{}"
    try:
        stored = base64.b64decode(text)
    except ValueError:  # another client wrote something else
        return codec.encode(text)
    try:
        value = pickle.loads(stored)
        if isinstance(value, dict) and isinstance(value.get(CARRIED), bytes):
            return bytes(value[CARRIED])
        return codec.encode(value)
    except Exception:  # of a class that is not here: whoever decodes it is told
        return stored


def own_tags(tags: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """A job's tags as the user set them, and ours."""
    ours = {key: word for key, word in tags.items() if key.startswith("bj_")}
    return {key: word for key, word in tags.items() if key not in ours}, ours


def number(tags: Mapping[str, str], name: str, without: int | None = None) -> int | None:
    """The number in one of our tags; `without` if it is not there, None if it is none that we wrote."""
    text = tags.get(name)
    if text is None:
        return without
    return int(text) if _NUMBER.fullmatch(text) else None


def key(tags: Mapping[str, str]) -> bytes | None:
    """The key of a row, as our tag has it."""
    text = tags.get(KEY, "")
    return bytes.fromhex(text) if _KEY.fullmatch(text) else None


def outputs(given: object) -> str | bytes:
    """Outputs in a job's data as `codec` encodes them; what is not as we wrote it, as it is."""
    try:
        if isinstance(given, str) and isinstance(json.loads(given), dict):
            return given
    except ValueError:
        pass
    return codec.encode(given)


def ran(data: Mapping[str, Any]) -> list[float | None] | None:
    """Start, end, runtime and return code of a row that finished elsewhere; None of others."""
    given = data.get(RAN)
    plain = isinstance(given, list) and len(given) == 4 and all(isinstance(one, int | float | None) for one in given)
    return given if plain else None


def asked(resources: Resources, packing: int) -> dict[str, Any]:
    """Resources as fields of a job; `packing` where a job leaves it to the site."""
    return {
        "num_nodes": resources.num_nodes,
        "ranks_per_node": resources.ranks_per_node,
        "threads_per_rank": resources.threads_per_rank,
        "threads_per_core": resources.threads_per_core,
        "gpus_per_rank": resources.gpus_per_rank,
        "node_packing_count": resources.node_packing_count or packing,
        "wall_time_min": resources.wall_time_min,
        "launch_params": dict(resources.launch_params),
    }


def resources(job: Mapping[str, Any]) -> Resources:
    """The resources of a job."""
    return Resources(
        job["num_nodes"], job["ranks_per_node"], job["threads_per_rank"], job["threads_per_core"],
        job["gpus_per_rank"], job["node_packing_count"], job["wall_time_min"], dict(job["launch_params"] or {}),
    )  # fmt: skip


def asked_as_is(job: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells the resources of jobs apart."""
    return tuple(job[name] for name in _RESOURCES)


def transfers(given: Mapping[str, str] | None) -> dict[str, dict[str, str]]:
    """Slot → ``"location:/path"`` as the service has it."""
    found = {}
    for slot, place in (given or {}).items():
        location, _, path = place.partition(":")
        found[slot] = {"location_alias": location, "path": path}
    return found


def new_job(spec: JobSpec, workdir: str, tags: Mapping[str, str], asked: Mapping[str, Any]) -> dict[str, Any]:
    """A job to create; `asked` is what it shares with others."""
    job = {
        "app_id": spec.common.app_id,
        "workdir": workdir,
        "tags": tags,
        "serialized_parameters": packed(spec.parameters),
        **asked,
    }
    if spec.data:
        job["data"] = dict(spec.data)
    if spec.parents:
        job["parent_ids"] = list(spec.parents)
    if spec.transfers:
        job["transfers"] = transfers(spec.transfers)
    return job


class Raised(NamedTuple):
    """An exception from far away: its pickle (None if it cannot be had here), and its traceback as text."""

    pickled: bytes | None
    text: str


class _Frames:
    """Stands for tblib's Traceback: keeps what it says about files and lines."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def lines(self) -> list[str]:
        """The frames as Python prints them, without those of Balsam."""
        found, here = [], self
        for _ in range(200):
            frame = _attribute(here, "tb_frame")
            code = _attribute(frame, "f_code")
            file, name = _attribute(code, "co_filename"), _attribute(code, "co_name")
            if file and not str(file).endswith(("python_runner.py", "<balsam-jupyter>")):
                found.append(f'  File "{file}", line {_attribute(here, "tb_lineno")}, in {name}\n')
            here = _attribute(here, "tb_next")
            if here is None:
                break
        return found


def _attribute(value: Any, name: str) -> Any:
    state = getattr(value, "state", None) or getattr(value, "__dict__", {})
    while isinstance(state, tuple):
        state = next((one for one in state if isinstance(one, dict)), {})
    return state.get(name) if isinstance(state, Mapping) else None


class _Reader(pickle.Unpickler):
    """Reads what dill and tblib wrote, without either."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "tblib":
            return _Frames
        if module.partition(".")[0] == "dill":
            if name == "_load_type":
                return lambda named: getattr(builtins, named)
            raise pickle.UnpicklingError(f"{module}.{name} is needed")
        if module == "__main__":
            return getattr(sys.modules["__main__"], name)
        return getattr(importlib.import_module(module), name)


def exception(text: str) -> Raised | None:
    """The exception of a job's Python app; None if there is none."""
    if not text:
        return None
    try:
        raised, frames = _Reader(io.BytesIO(base64.b64decode(text))).load()
    except Exception:  # of a class that is not here; the end of the log says what it was
        return Raised(None, "")
    if not isinstance(raised, BaseException):
        return Raised(None, "")
    head = ["Traceback (most recent call last):\n", *frames.lines()] if isinstance(frames, _Frames) else []
    told = "".join([*head, *traceback.format_exception_only(type(raised), raised)])
    pickled = codec.encode(raised)
    return Raised(pickled if isinstance(pickled, bytes) else None, told)


def told_python(error: str) -> str:
    """The site's Python that an error tells of (see `remote.Box`); "" for other errors."""
    found = _TOLD_PYTHON.search(error)
    return found[1] if found else ""


def transfers_text(given: Mapping[str, str] | None) -> str | None:
    """Transfers as the mirror stores them."""
    return json.dumps(dict(given)) if given else None

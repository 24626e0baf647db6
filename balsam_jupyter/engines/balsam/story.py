"""What the events of one job tell: when it ran, for how long, how it ended."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import wire

_STOPS = ("RUN_DONE", "RUN_ERROR", "RUN_TIMEOUT")
_PASSED_ON = re.compile(r"BALSAM-(RETURN-VALUE|EXCEPTION) ")
_ENDS = ("JOB_FINISHED", "FAILED", "USER_KILLED")


@dataclass(frozen=True)
class Story:
    """Of one job, from its events; times are seconds since the epoch, of the clocks of service and site.

    `complete` if they tell how it got into the state it is in. `steps` are the states reached that are new to the
    mirror, `span` when the first and the last of these were, `data` what is said about a failed run.
    """

    complete: bool = False
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    runtime_s: float | None = None
    return_code: int | None = None
    attempts: int = 0
    error: str = ""
    last: int = 0
    steps: tuple[str, ...] = ()
    span: tuple[float, float] | None = None
    data: str | None = None

    def path(self, before: str, state: str) -> list[str]:
        """From a state to another, through what the events tell of; ("" before: it is new)."""
        via = list(self.steps)
        if not before:
            via = ["CREATED", *(one for one in via if one != "CREATED")]
        if not via or via[-1] != state:
            via.append(state)
        while via and via[0] == before and len(via) > 1:
            via.pop(0)
        return [before, *via]


def story(events: Iterable[Mapping[str, Any]], state: str, seen: int = 0) -> Story:
    """What events tell of a job that is in this state. Those after its last arrival there are left for later.

    Parameters
    ----------
    events : iterable of mapping
        All of one job, as the service gives them, in any order.
    state : str
        Its state, as we show it.
    seen : int
        The id of the last event that was read before.
    """
    wanted = "FAILED" if state == "USER_KILLED" else state
    ordered = sorted(events, key=lambda one: (one["timestamp"], one["id"]))
    ends = [at for at, one in enumerate(ordered) if one["to_state"] == wanted]
    if not ends:
        return Story()
    ordered = ordered[: ends[-1] + 1]
    times = [wire.seconds(one["timestamp"]) or 0.0 for one in ordered]
    runs = [at for at, one in enumerate(ordered) if one["to_state"] == "RUNNING"]
    started = times[runs[-1]] if runs else None
    stopped, code, error, told = None, None, "", None
    for at in range(runs[-1] if runs else 0, len(ordered)):
        one = ordered[at]
        said = one["data"] or {}
        if one["to_state"] in _STOPS and stopped is None and runs:
            stopped = times[at]
        if one["to_state"] == "RUN_DONE":
            code = 0
        if one["to_state"] == "RUN_ERROR":
            code, error = _number(said.get("returncode")), plain_log(str(said.get("error") or ""))
            told = json.dumps({"return_code": code, "error": error})
        if one["to_state"] == "FAILED" and (why := _why(said)) and why not in error:
            error = f"{error}\n{why}".strip()
            told = told or json.dumps({"error": error})
    fresh = [at for at, one in enumerate(ordered) if one["id"] > seen]
    steps = tuple(_shown(ordered[at]["to_state"], at == len(ordered) - 1, state) for at in fresh)
    began = next((times[at] for at in fresh if ordered[at]["to_state"] == "RUNNING"), None)
    span = (began if began is not None else times[fresh[0]], times[fresh[-1]]) if fresh else None
    return Story(
        True,
        submitted=times[0] if ordered[0]["from_state"] == "CREATED" else None,
        started=started,
        ended=times[-1] if state in _ENDS else None,
        runtime_s=max(0.0, stopped - started) if stopped is not None and started is not None else None,
        return_code=code if state in _ENDS else None,
        attempts=len(runs),
        error=error if state in ("FAILED",) else "",
        last=max(one["id"] for one in ordered),
        steps=steps,
        span=span,
        data=told,
    )


def plain_log(text: str) -> str:
    """A log without the lines in which Balsam passes values on."""
    return "".join(line for line in text.splitlines(keepends=True) if not _PASSED_ON.match(line))


def _shown(reached: str, last: bool, state: str) -> str:
    return state if last and reached == "FAILED" else reached


def _why(said: Mapping[str, Any]) -> str:
    """Why a job FAILED, where it was not its program."""
    parts = [str(said[key]) for key in ("message", "exception", "reason") if said.get(key)]
    return ": ".join(parts)


def _number(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def by_job(events: Sequence[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    """Events by the job they are about."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for one in events:
        found.setdefault(one["job_id"], []).append(one)
    return found

"""Files that the site brings and takes away, as the service keeps account of them: one item for each slot of a job."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

from ..embedded.store.schema import DUE
from .mirror import Mirror, of_apps
from .rest import IDS, PAGE, Rest, parts

_STAGE = {"READY": "in", "POSTPROCESSED": "out"}  # in which state a job waits for which files

Slots = Mapping[int, Mapping[tuple[str, str], list[str]]]
"""By app: the names of its slots by direction and path; several may have the same."""


def slots(con: sqlite3.Connection) -> Slots:
    """The apps that have transfer slots."""
    found: dict[int, dict[tuple[str, str], list[str]]] = {}
    query = "SELECT id, json_extract(record, '$.transfers') FROM app WHERE json_extract(record, '$.transfers') <> '{}'"
    for app, text in con.execute(query):
        for name, slot in json.loads(text).items():
            place = slot["direction"], str(PurePosixPath(slot["local_path"]))
            found.setdefault(app, {}).setdefault(place, []).append(name)
    return found


def learn(rest: Rest, store: Mirror, site_id: int, rows: Iterable[Mapping[str, Any]] | None = None) -> int:
    """Read the transfers of jobs that were submitted elsewhere, or of all; how many requests it took."""
    known = slots(store.con)
    apps = {row["id"]: row["app_id"] for row in rows or () if row["app_id"] in known}
    if not known or (rows is not None and not apps):
        return 0
    if 0 < len(apps) <= IDS:
        pages = [rest.page("/transfers/", [*(("job_id", number) for number in apps), ("limit", 20 * PAGE)])[1]]
    else:
        pages = [*rest.all("/transfers/", [("site_id", site_id)])]
    _keep(store, known, chain.from_iterable(pages))
    return len(pages)


def _keep(store: Mirror, known: Slots, items: Iterable[Mapping[str, Any]]) -> None:
    by_job: dict[int, list[Mapping[str, Any]]] = {}
    for item in items:
        by_job.setdefault(item["job_id"], []).append(item)
    with store.transaction() as con:
        for job_id, app in con.execute(
            """SELECT job.id, app_id FROM job JOIN spec ON spec.id = spec_id
               WHERE transfers IS NULL AND job.id IN (SELECT value FROM json_each(?))""",
            (json.dumps([*by_job]),),
        ).fetchall():
            free = {place: [*names] for place, names in known.get(app, {}).items()}
            given = {}
            for item in by_job[job_id]:
                names = free.get((item["direction"], str(PurePosixPath(item["local_path"]))))
                if names:
                    given[names.pop(0)] = f"{item['location_alias']}:{item['remote_path']}"
            con.execute("UPDATE job SET transfers = ? WHERE id = ?", (json.dumps(given), job_id))


def waiting(con: sqlite3.Connection) -> list[str]:
    """The states in which jobs wait for files now."""
    due = f"SELECT 1 FROM job WHERE {DUE} AND state = ? LIMIT 1"
    return [state for state in _STAGE if con.execute(due, (state,)).fetchone()] if slots(con) else []


def fail(rest: Rest, store: Mirror, site_id: int, state: str) -> int:
    """End our jobs in this state whose files could not be moved; the service would leave them as they are for ever.

    Returns
    -------
    int
        How many were ended.
    """
    stage = _STAGE[state]
    failed = [("state", "error"), ("direction", stage), ("job_state", state)]
    _, items = rest.page("/transfers/", [("site_id", site_id), *failed, ("limit", PAGE)])
    if not items:
        return 0
    known = slots(store.con)
    ours = store.con.execute(
        """SELECT job.id, app_id FROM job JOIN spec ON spec.id = spec_id JOIN remote ON job_id = job.id
           WHERE remote.tags LIKE '%bj_batch%' AND job.id IN (SELECT value FROM json_each(?))""",
        (json.dumps([item["job_id"] for item in items]),),
    )
    app_of = dict(ours.fetchall())
    why: dict[int, str] = {}
    for item in items:
        if item["job_id"] in app_of:
            names = known.get(app_of[item["job_id"]], {})
            [slot, *_] = names.get((stage, str(PurePosixPath(item["local_path"]))), [item["local_path"]])
            place = f"{item['location_alias']}:{item['remote_path']}"
            why.setdefault(item["job_id"], f"Stage {stage} of {slot!r} ({place}): {_reason(item['transfer_info'])}")
    if why:
        rows = [{"id": number, "state": "FAILED", "state_data": {"message": said}} for number, said in why.items()]
        rest.set("PATCH", "/jobs/", rows)
    return len(why)


def _reason(info: Mapping[str, Any]) -> str:
    """What the site says about a transfer that failed; of Globus it has a code and a description."""
    error = info.get("error") or "the site does not say why; see the log of its agent."
    return str(error.get("description") or error) if isinstance(error, Mapping) else str(error)


def again(rest: Rest, con: sqlite3.Connection, ids: Iterable[int]) -> set[int]:
    """Have files moved once more for jobs that are about to be retried.

    What is taken away is taken again; what could not be brought is brought again.

    Returns
    -------
    set of int
        The jobs that have to wait for files at first.
    """
    known = slots(con)
    if not known:
        return set()
    wait: set[int] = set()
    for part in parts(of_apps(con, known, ids), IDS):
        _, items = rest.page("/transfers/", [*(("job_id", number) for number in part), ("limit", 20 * PAGE)])
        new = {item["id"]: "awaiting_job" for item in items if item["direction"] == "out"}
        for item in items:
            if item["direction"] == "in" and item["state"] != "done":
                wait.add(item["job_id"])
                if item["state"] == "error":
                    new[item["id"]] = "pending"
        if new:
            fresh = [{"id": n, "state": state, "task_id": "", "transfer_info": {}} for n, state in new.items()]
            rest.set("PATCH", "/transfers/", fresh)
    return wait

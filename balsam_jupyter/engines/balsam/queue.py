"""Allocations: asking the site's scheduler for nodes, how they are, and giving them back."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ...errors import NoAnswer
from ...models import AllocationRequest
from ..embedded.store import records
from . import truth, wire
from .mirror import Mirror
from .rest import LostAnswer, Rest

if TYPE_CHECKING:
    from .engine import BalsamEngine

log = logging.getLogger(__name__)

LIVE = ("pending_submission", "queued", "running", "pending_deletion")
_LIVES = f"state IN ({','.join('?' * len(LIVE))})"
_MOST = 200
_PATIENCE_S = 20.0
_LOOK_S = 0.5
_TELL_S = 3.0
_NO_REASONS = ("submit_script", "submit_time", "error_time")
_TELLING = ("num_nodes", "wall_time_min", "job_mode", "queue", "project", "filter_tags")


def any_live(con: sqlite3.Connection) -> bool:
    """Whether an allocation waits or runs."""
    return con.execute(f"SELECT 1 FROM batch_job WHERE {_LIVES} LIMIT 1", LIVE).fetchone() is not None


def read(rest: Rest, store: Mirror, site_id: int, patience: float = 0.0, turn: int = 0) -> int:
    """Read allocations, in one request; how many changed.

    In turns all that live (others may ask for some, too), and those that lived when they were last read.
    """
    params: list[tuple[str, Any]] = [("site_id", site_id), ("limit", _MOST)]
    lives = f"SELECT id FROM batch_job WHERE {_LIVES} LIMIT {_MOST}"
    lived = [number for (number,) in store.con.execute(lives, LIVE)] if turn % 2 else []
    params += [("id", number) for number in lived] if lived else [("state", state) for state in LIVE]
    _, rows = rest.page("/batch-jobs/", params, patience)
    with store.transaction() as con:
        gone = set(lived) - {row["id"] for row in rows}
        for number in gone:
            _end(con, number)
        return sum(put(con, row) for row in rows) + len(gone)


def _end(con: sqlite3.Connection, number: int) -> None:
    """Somebody deleted an allocation at the service."""
    con.execute(
        """UPDATE batch_job SET state = 'finished', end_time = coalesce(end_time, ?), started = NULL, boot_id = NULL,
               status_info = ? WHERE id = ?""",
        (time.time(), json.dumps({"reason": "deleted at the service"}), number),
    )


def read_all(rest: Rest, store: Mirror, site_id: int) -> None:
    """Read all allocations of the site."""
    for rows in rest.all("/batch-jobs/", [("site_id", site_id)]):
        with store.transaction() as con:
            for row in rows:
                put(con, row)


def put(con: sqlite3.Connection, row: dict[str, Any], request: AllocationRequest | None = None) -> bool:
    """Take in an allocation as the service gives it; whether it changed."""
    asked = request or AllocationRequest(
        row["num_nodes"], row["wall_time_min"], row["job_mode"], row["queue"], row["project"],
        dict(row["optional_params"] or {}), dict(row["filter_tags"] or {}), tuple(row["partitions"] or ()),
    )  # fmt: skip
    start, end = wire.seconds(row["start_time"]), wire.seconds(row["end_time"])
    found = con.execute(
        "SELECT state, scheduler_id, start_time, end_time, status_info, submit_time FROM batch_job WHERE id = ?",
        (row["id"],),
    ).fetchone()
    now = time.time()
    if start is None and row["state"] in ("running", "pending_deletion") and row["scheduler_id"] is not None:
        start = found[2] if found and found[2] else now  # the service tells only after the end
    if start is None and found:
        start = found[2]
    if end is None and row["state"] in ("finished", "submit_failed"):
        end = found[3] if found and found[3] else now if found else start
    told = row["status_info"] or {}
    info = json.dumps({key: word for key, word in told.items() if key not in _NO_REASONS})  # why it ended, and no more
    values = row["state"], row["scheduler_id"], start, end, info
    running = row["state"] == "running" and start is not None
    since = time.monotonic() - (now - start) if running and start is not None else None
    clock = since, records.boot_id() if running else None
    if found is not None:
        con.execute(
            """UPDATE batch_job SET state = ?, scheduler_id = ?, start_time = ?, end_time = ?, status_info = ?,
                   started = ?, boot_id = ? WHERE id = ?""",
            (*values, *clock, row["id"]),
        )
        return bool(found[:5] != values)
    con.execute(
        """INSERT INTO batch_job(state, scheduler_id, start_time, end_time, status_info, started, boot_id, id,
               request, num_nodes, submit_time) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (*values, *clock, row["id"], json.dumps(asdict(asked)), asked.num_nodes, now),
    )
    return True


def create(rest: Rest, body: dict[str, Any]) -> dict[str, Any]:
    """Ask for an allocation, once: one that came of a lost answer is found by what is newest."""
    params = [("site_id", body["site_id"]), ("limit", _MOST), *(("state", state) for state in LIVE)]
    _, rows = rest.page("/batch-jobs/", params)
    before = max((row["id"] for row in rows), default=0)
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            row: dict[str, Any] = rest.create("/batch-jobs/", body)
            return row
        except NoAnswer as error:
            if isinstance(error, LostAnswer):
                _, rows = rest.page("/batch-jobs/", params, _PATIENCE_S)
                found = [
                    row for row in rows if row["id"] > before and all(row[name] == body[name] for name in _TELLING)
                ]
                if found:
                    return found[-1]
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def revoke(engine: BalsamEngine, allocation_id: int, timeout: float) -> bool:
    """Give an allocation back; whether it has ended. One that the scheduler does not know yet is waited for first."""
    began = time.monotonic()
    deadline, asked, told = began + timeout, False, False
    while True:
        _, rows = engine.rest.page("/batch-jobs/", [("id", allocation_id)])
        if not rows:
            with engine.store.transaction() as con:
                _end(con, allocation_id)
            return True
        row = rows[0]
        with engine.store.transaction() as con:
            put(con, row)
        if row["state"] in ("finished", "submit_failed"):
            engine.changes.hurry()
            return True
        if not asked and row["scheduler_id"] is not None:
            row = engine.rest.set("PUT", f"/batch-jobs/{allocation_id}", {"state": "pending_deletion"})
            asked = True
        elif row["scheduler_id"] is None and truth.silent(engine):
            engine.rest.delete(f"/batch-jobs/{allocation_id}")  # no agent is there that could be asking for it now
            with engine.store.transaction() as con:
                put(con, {**row, "state": "finished", "status_info": {"reason": "revoked before it was submitted"}})
            return True
        if time.monotonic() > deadline:
            return False
        if not told and time.monotonic() - began > _TELL_S:
            told = True
            log.warning(
                "Waiting until site %s has ended allocation %s, %g s at most.", engine.site.name, allocation_id, timeout
            )
        time.sleep(_LOOK_S)

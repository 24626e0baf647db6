"""Apps, allocations, events."""

from __future__ import annotations

import base64
import json
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any

from ....codec import decode, encode
from ....errors import NotFound
from ....models import Allocation, AllocationRequest, AppRecord, EventRow, Parameter


def put_app(con: sqlite3.Connection, app: AppRecord) -> int:
    """Create or update; `changes` counts up only when the app is another one than before."""
    plain = {field.name: getattr(app, field.name) for field in fields(app)}
    payload = plain.pop("payload")
    plain.pop("id")
    plain["parameters"] = {name: _parameter(one) for name, one in app.parameters.items()}
    record = json.dumps(plain)
    found = con.execute("SELECT id, record, payload FROM app WHERE name = ?", (app.name,)).fetchone()
    if found is None:
        cursor = con.execute(
            "INSERT INTO app(name, version, record, payload) VALUES(?, ?, ?, ?)",
            (app.name, app.version, record, payload),
        )
        return int(cursor.lastrowid or 0)
    if found[1:] != (record, payload):
        con.execute(
            "UPDATE app SET version = ?, record = ?, payload = ?, changes = changes + 1 WHERE id = ?",
            (app.version, record, payload, found[0]),
        )
    return int(found[0])


def apps(con: sqlite3.Connection, app_id: int | None = None) -> list[AppRecord]:
    rows = con.execute(
        "SELECT id, record, payload FROM app WHERE ?1 IS NULL OR id = ?1 ORDER BY id", (app_id,)
    ).fetchall()
    return [_app(*row) for row in rows]


def _parameter(one: Parameter) -> dict[str, Any]:
    """A parameter as JSON-able data; what it has not is left out, so that a record of before stays equal."""
    packed = {name: value for name, value in vars(one).items() if name != "choices"}
    packed["default"] = _packed(one.default)
    return {**packed, "choices": [_packed(value) for value in one.choices]} if one.choices else packed


def _packed(value: Any) -> list[str]:
    """A default of any type as JSON-able data."""
    encoded = encode(value)
    return ["json", encoded] if isinstance(encoded, str) else ["pickle", base64.b64encode(encoded).decode()]


def _unpacked(packed: list[str]) -> Any:
    kind, text = packed
    return decode(text if kind == "json" else base64.b64decode(text))


def _app(app_id: int, record: str, payload: bytes | None) -> AppRecord:
    plain = json.loads(record)
    for name, one in plain["parameters"].items():
        choices = tuple(map(_unpacked, one.pop("choices", ())))
        plain["parameters"][name] = Parameter(**(one | {"default": _unpacked(one["default"]), "choices": choices}))
    return AppRecord(**plain, payload=payload, id=app_id)


def slots(con: sqlite3.Connection, app_id: int) -> tuple[str, dict[str, dict[str, Any]]]:
    """An app's name and transfer slots."""
    found = con.execute("SELECT name, json_extract(record, '$.transfers') FROM app WHERE id = ?", (app_id,)).fetchone()
    if found is None:
        raise NotFound(f"There is no app {app_id} at this site; register it first.")
    return found[0], json.loads(found[1] or "{}")


def app_changes(con: sqlite3.Connection, app_id: int) -> int:
    return int(con.execute("SELECT changes FROM app WHERE id = ?", (app_id,)).fetchone()[0])


def add_allocation(con: sqlite3.Connection, request: AllocationRequest) -> int:
    cursor = con.execute(
        "INSERT INTO batch_job(request, num_nodes, state, submit_time) VALUES(?, ?, 'queued', ?)",
        (json.dumps(asdict(request)), request.num_nodes, time.time()),
    )
    return int(cursor.lastrowid or 0)


_ALLOCATION = "id, request, state, scheduler_id, start_time, end_time, started, boot_id, status_info, nodes"


def allocations(con: sqlite3.Connection, allocation_id: int | None = None, unended: bool = False) -> list[Allocation]:
    condition = "(?1 IS NULL OR id = ?1)" + (" AND state NOT IN ('finished', 'submit_failed')" if unended else "")
    rows = con.execute(
        f"SELECT {_ALLOCATION} FROM batch_job WHERE {condition} ORDER BY id", (allocation_id,)
    ).fetchall()
    return [_allocation(row) for row in rows]


def allocation(con: sqlite3.Connection, allocation_id: int) -> Allocation:
    found = allocations(con, allocation_id)
    if not found:
        raise NotFound(f"There is no allocation {allocation_id} at this site.")
    return found[0]


def _allocation(row: tuple[Any, ...]) -> Allocation:
    id_, request, state, scheduler_id, start, end, started, boot, info, nodes = row
    plain = json.loads(request)
    plain["partitions"] = tuple(plain["partitions"])
    asked = AllocationRequest(**plain)
    remaining = None
    if state == "running" and started is not None:
        remaining = max(0.0, asked.wall_time_min * 60 - (time.monotonic() - started)) if boot == boot_id() else 0.0
    numbers = tuple(json.loads(nodes))
    return Allocation(id_, asked, state, scheduler_id, start, end, remaining, json.loads(info), numbers)


def boot_id() -> str:
    """Names this boot of the machine: CLOCK_MONOTONIC values compare only within one."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def claim_next(con: sqlite3.Connection, nodes: int) -> int | None:
    """Give free nodes to the allocation that has waited longest; None where it does not fit (or there is none)."""
    waiting = con.execute("SELECT id, num_nodes FROM batch_job WHERE state = 'queued' ORDER BY id LIMIT 1").fetchone()
    if waiting is None:
        return None
    held = con.execute("SELECT nodes FROM batch_job WHERE state IN ('running', 'pending_deletion')").fetchall()
    busy = {number for row in held for number in json.loads(row[0])}
    idle = [number for number in range(nodes) if number not in busy]
    if len(idle) < waiting[1]:
        return None
    con.execute(
        "UPDATE batch_job SET state = 'running', start_time = ?, started = ?, boot_id = ?, nodes = ? WHERE id = ?",
        (time.time(), time.monotonic(), boot_id(), json.dumps(idle[: waiting[1]]), waiting[0]),
    )
    return int(waiting[0])


def set_scheduler_id(con: sqlite3.Connection, allocation_id: int, pid: int) -> None:
    con.execute("UPDATE batch_job SET scheduler_id = ? WHERE id = ?", (pid, allocation_id))


def ask_deletion(con: sqlite3.Connection, allocation_id: int) -> str:
    """Revoke: one that waits ends at once, one that runs is asked to stop. The state it is in then."""
    con.execute("UPDATE batch_job SET state = 'pending_deletion' WHERE id = ? AND state = 'running'", (allocation_id,))
    if con.execute("SELECT state FROM batch_job WHERE id = ?", (allocation_id,)).fetchone()[0] == "queued":
        end_allocation(con, allocation_id, "finished", "revoked before it started")
    return str(con.execute("SELECT state FROM batch_job WHERE id = ?", (allocation_id,)).fetchone()[0])


def end_allocation(con: sqlite3.Connection, allocation_id: int, state: str, reason: str) -> None:
    key = "error" if state == "submit_failed" else "reason"
    con.execute(
        """UPDATE batch_job SET state = ?, end_time = ?, elapsed_s = CASE WHEN boot_id = ? THEN ? - started END,
               status_info = ? WHERE id = ? AND state NOT IN ('finished', 'submit_failed')""",
        (state, time.time(), boot_id(), time.monotonic(), json.dumps({key: reason}), allocation_id),
    )


_EVENT = "seq, first_id, last_id, path, time, end_time, data, times"


def events(con: sqlite3.Connection, after: int, limit: int) -> list[EventRow]:
    rows = con.execute(f"SELECT {_EVENT} FROM event WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit)).fetchall()
    return [_event(row) for row in rows]


def _event(row: tuple[Any, ...]) -> EventRow:
    seq, first, last, path, began, end, data, times = row
    told = json.loads(data) if data else {}
    return EventRow(seq, first, last, tuple(path.split(">")), began, end, told, times or b"")


def history(con: sqlite3.Connection, ids: Iterable[int]) -> list[EventRow]:
    """All events of these jobs, oldest first."""
    found: dict[int, tuple[Any, ...]] = {}
    for job_id in ids:
        for row in con.execute(
            f"""SELECT {_EVENT} FROM event WHERE first_id = ?1 UNION ALL
                SELECT {_EVENT} FROM event WHERE last_id > first_id AND last_id >= ?1 AND first_id < ?1""",
            (job_id,),
        ):
            found[row[0]] = row
    return [_event(found[seq]) for seq in sorted(found)]


def last_event(con: sqlite3.Connection) -> int:
    return int(con.execute("SELECT coalesce(max(seq), 0) FROM event").fetchone()[0])

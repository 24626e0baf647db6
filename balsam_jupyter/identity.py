"""What submitting a name again keeps: its rows, and what becomes of them when the app has changed since they ran."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from .engines.base import Engine
from .errors import BadInput, listing, nearest
from .models import TERMINAL, AppRecord, EnsembleRecord

_CHOICES = ("keep", "fresh")
_KEPT = "kept_versions"  # of the record's provenance: older versions whose rows count beside the record's own
_SHOWN = 8  # characters of a version


def check_choice(if_changed: object) -> None:
    """Refuse what is no answer to the question of a changed app."""
    if if_changed is not None and if_changed not in _CHOICES:
        raise BadInput(
            f"if_changed is 'keep' (rows that ran with an older version of the app count), 'fresh' (all rows run "
            f"again) or None (ask), not {if_changed!r}.{nearest(str(if_changed), _CHOICES)}"
        )


def settle(engine: Engine, record: EnsembleRecord, app: AppRecord, if_changed: str | None) -> EnsembleRecord:
    """The record whose rows a submission adds to: the ensemble's as it is, with another version, or a new generation.

    Raises
    ------
    BadInput
        If ended rows ran with another version of the app, and `if_changed` does not say what is to become of them.
    """
    accepted = set(record.provenance.get(_KEPT, ())) if record.app_version == app.version else set()
    ran = engine.versions(record.rows())
    older = {version: rows for version, rows in ran.items() if version != app.version and version not in accepted}
    if older and if_changed is None:
        raise BadInput(_question(engine, record, app, older))
    if older and if_changed == "fresh":
        return EnsembleRecord(record.name, app.name, record.generation + 1, app.version, time.time())
    others = {name: value for name, value in record.provenance.items() if name != _KEPT}
    kept = {_KEPT: sorted({*accepted, *older})} if accepted or older else {}
    return replace(record, app_version=app.version, provenance={**others, **kept})


def _question(engine: Engine, record: EnsembleRecord, app: AppRecord, older: Mapping[str, list[range]]) -> str:
    ran = listing(f"{_rows(rows)} ran with version {version[:_SHOWN]}" for version, rows in older.items())
    unended = unended_rows(engine, record)
    killed = f" ({unended:,} of its rows have not ended: they are killed)" if unended else ""
    return (
        f"App {app.name} has changed since rows of ensemble {record.name!r} ran: {ran}, the app is "
        f"{app.version[:_SHOWN]} now. --keep (if_changed='keep') lets these rows count as they are; --fresh "
        f"(if_changed='fresh') runs the sweep anew as generation {record.generation + 1}, and generation "
        f"{record.generation} stays to be read{killed}."
    )


def _rows(ranges: list[range]) -> str:
    number = sum(map(len, ranges))
    spans = listing(str(one[0]) if len(one) == 1 else f"{one[0]}–{one[-1]}" for one in ranges)
    return f"1 row ({spans})" if number == 1 else f"{number:,} rows ({spans})"


def unended_rows(engine: Engine, record: EnsembleRecord) -> int:
    """How many rows of one generation wait or run."""
    counts = engine.count(record.rows())
    return sum(number for state, number in counts.items() if state not in TERMINAL)


def ended_note(engine: Engine, before: EnsembleRecord) -> str:
    """What to say of a generation that another one is about to follow ("": nothing)."""
    killed = unended_rows(engine, before)
    rows = "1 row of generation" if killed == 1 else f"{killed:,} rows of generation"
    are = "is" if killed == 1 else "are"
    return f"{rows} {before.generation} had not ended and {are} killed" if killed else ""


def summary(counts: Mapping[str, int], new: int) -> str:
    """``120 rows: 96 finished, 4 failed, 20 new``: numbers by task state; `new` of those that wait are new."""
    total = sum(counts.values())
    if not total:
        return "0 rows: it was deleted or renamed"
    waiting = counts.get("WAITING", 0) - new
    words = {
        "finished": counts.get("FINISHED", 0),
        "failed": counts.get("FAILED", 0),
        "user killed": counts.get("USER_KILLED", 0),
        "running": counts.get("RUNNING", 0),
        "new": new,
        "waiting": waiting,
    }
    rows = "1 row" if total == 1 else f"{total:,} rows"
    return f"{rows}: " + listing(f"{number:,} {word}" for word, number in words.items() if number)

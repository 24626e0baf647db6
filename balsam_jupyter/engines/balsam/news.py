"""What the service says of jobs, taken into the mirror."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ...codec import to_json
from ...models import TERMINAL
from ..embedded.store.submission import Spec, add_event, intern_spec
from . import wire
from .membership import Holder, Membership, Place
from .mirror import Known, keep, known
from .story import Story, story

_MOST_TRIES = 6
_UNTOLD = Story()

Row = Mapping[str, Any]
"""A job as the service gives it; with `parameters` (encoded) where whoever submitted it has them."""


def shown_state(row: Row) -> str:
    """The state of a job; one that FAILED because somebody killed it is USER_KILLED."""
    state = str(row["state"])
    return "USER_KILLED" if state == "FAILED" and (row.get("data") or {}).get(wire.KILLED) else state


class Apply:
    """Takes what the service says of jobs into the mirror, within one transaction."""

    def __init__(self, con: sqlite3.Connection, now: float) -> None:
        self.con = con
        self.now = now
        self.changed = 0
        self._specs: dict[tuple[object, ...], Spec] = {}
        self._apps = {number: name for number, name in con.execute("SELECT id, name FROM app")}
        self.members = Membership(con, now, self._apps)
        self._births: list[tuple[int, tuple[str, ...], float]] = []

    def jobs(self, rows: Sequence[Row], events: Mapping[int, list[Row]] | None = None, places: bool = False) -> None:
        """New and changed jobs. `events` has those of some of them, by job.

        `places`: also look which rows those are that did not change: a rename may have been broken off.
        """
        before = known(self.con, (row["id"] for row in rows))
        fresh = []
        for row in rows:
            job_id = row["id"]
            found = before.get(job_id)
            if found is None:
                fresh.append(row)
            elif found.last_update != wire.stamp(row) or (events and job_id in events):
                self._update(row, found, (events or {}).get(job_id))
            elif places:
                self.members.move(row, wire.own_tags(row["tags"])[1])
        fresh.sort(key=lambda row: int(row["id"]))
        self._insert(fresh, events or {})

    def unknown_apps(self, rows: Iterable[Row]) -> set[int]:
        """Apps of these jobs that the mirror does not have."""
        return {row["app_id"] for row in rows} - self._apps.keys()

    def told(self, events: Mapping[int, list[Row]], asked: Iterable[int]) -> None:
        """Events of jobs that did not change now: what they say about times and errors."""
        ids = [*asked]
        marks = json.dumps(ids)
        states = known(self.con, ids)
        touched = []
        for job_id, found in states.items():
            told = story(events.get(job_id, ()), found.state)
            if told.complete:
                self._tell(job_id, told)
                touched.append((job_id, found.state))
        self.con.execute(
            f"""UPDATE remote SET untold = CASE WHEN untold > {_MOST_TRIES} THEN 0 ELSE untold + 1 END
                WHERE untold > 0 AND job_id IN (SELECT value FROM json_each(?))""",
            (marks,),
        )
        for job_id, state in touched:
            add_event(self.con, job_id, job_id, state, self.now, self.now)
        self.changed += len(touched)

    def gone(self, ids: Iterable[int]) -> None:
        """Jobs that the service does not have any more."""
        for job_id, found in known(self.con, ids).items():
            add_event(self.con, job_id, job_id, f"{found.state}>", self.now, self.now)
            self.con.execute("DELETE FROM dependency WHERE child_id = ?", (job_id,))
            self.con.execute("DELETE FROM job WHERE id = ?", (job_id,))
            self.con.execute("DELETE FROM remote WHERE job_id = ?", (job_id,))
            self.changed += 1

    def done(self) -> None:
        """Write what neighbours share."""
        run: list[tuple[int, tuple[str, ...], float]] = []
        for birth in [*sorted(self._births), (0, (), 0.0)]:
            if run and (birth[0] != run[-1][0] + 1 or birth[1:] != run[-1][1:]):
                path = ">".join(("", *run[0][1]))
                add_event(self.con, run[0][0], run[-1][0], path, run[0][2], run[0][2])
                run = []
            run.append(birth)
        self._births = []
        self.members.done()

    # -- one job ------------------------------------------------------------------------------------------

    def _update(self, row: Row, before: Known, events: list[Row] | None) -> None:
        state = shown_state(row)
        told = story(events or (), state, before.seen)
        at = wire.seconds(row["last_update"]) or self.now
        self._write_values(row, state)
        user, ours = wire.own_tags(row["tags"])
        spec = self._spec(row, user, ours)
        self.members.move(row, ours)
        self.con.execute(
            """UPDATE job SET state = ?, spec_id = ?, shape_id = ?, batch_job_id = ?, parameters = ?,
                   session_id = ?, app_version = ?, end_time = CASE WHEN ? THEN coalesce(end_time, ?) END
               WHERE id = ?""",
            (state, spec.id, spec.shape_id, row["batch_job_id"], self._parameters(row), _session(row, state),
             ours.get(wire.VERSION, ""), state in TERMINAL, at, row["id"]),
        )  # fmt: skip
        self.con.execute(
            "UPDATE remote SET last_update = ?, tags = ?, data = ?, untold = 1 WHERE job_id = ?",
            (wire.stamp(row), to_json(ours), to_json(row["data"] or {}), row["id"]),
        )
        if told.complete:
            self._tell(row["id"], told)
        if state != before.state:
            path = told.path(before.state, state)
            began, ended = told.span or (at, at)
            add_event(self.con, row["id"], row["id"], ">".join(path), began, ended, told.data)
        else:
            add_event(self.con, row["id"], row["id"], state, at, at)
        self.changed += 1

    def _tell(self, job_id: int, told: Story) -> None:
        (text,) = self.con.execute("SELECT data FROM remote WHERE job_id = ?", (job_id,)).fetchone()
        if ran := wire.ran(json.loads(text)):  # elsewhere, which no event here tells of
            self.con.execute(
                """UPDATE job SET start_time = ?, end_time = ?, runtime_s = ?, return_code = ?, attempts = 1
                   WHERE id = ? AND state = 'JOB_FINISHED'""",
                (*ran, job_id),
            )
            self.con.execute("UPDATE remote SET untold = 0 WHERE job_id = ?", (job_id,))
            return
        self.con.execute(
            """UPDATE job SET submit_time = coalesce(?, submit_time), start_time = coalesce(?, start_time),
                   end_time = CASE WHEN ? IS NOT NULL THEN ? ELSE end_time END, runtime_s = ?, return_code = ?,
                   attempts = ?, error = coalesce(nullif(error, ''), nullif(?, ''))
               WHERE id = ?""",
            (told.submitted, told.started, told.ended, told.ended, told.runtime_s, told.return_code, told.attempts,
             told.error, job_id),
        )  # fmt: skip
        self.con.execute("UPDATE remote SET untold = 0, seen = max(seen, ?) WHERE job_id = ?", (told.last, job_id))
        self._learn(told.error)

    def _learn(self, error: str) -> None:
        """An error may tell which Python the site has."""
        if version := wire.told_python(error):
            keep(self.con, wire.PYTHON, version)

    def _write_values(self, row: Row, state: str) -> None:
        """What it yielded and what it raised; only of one that has ended."""
        value, error, pickled = None, "", None
        data = row.get("data") or {}
        if state == "JOB_FINISHED":
            error = str(data.get(wire.NOTE, ""))
            if wire.VALUE in data:
                value = wire.outputs(data[wire.VALUE])
            elif row.get("serialized_return_value"):
                value = wire.unpacked(row["serialized_return_value"])
        elif state == "FAILED" and (raised := wire.exception(row.get("serialized_exception") or "")):
            pickled, error = raised.pickled, raised.text
            self._learn(error)
        self.con.execute(
            "UPDATE job SET value = ?, error = ?, exception = ?, data = ? WHERE id = ?",
            (value, error or None, pickled, _shown_data(data), row["id"]),
        )

    def _insert(self, rows: Sequence[Row], events: Mapping[int, list[Row]]) -> None:
        jobs, remotes, parents = [], [], []
        places = []
        for row in rows:
            user, ours = wire.own_tags(row["tags"])
            places.append((row, user, ours, self.members.place(row, ours)))
        held = self.members.held((one.ensemble, one.key) for *_, one in places if one.ensemble and one.key)
        for row, user, ours, place in places:
            if place.ensemble is not None and place.key is not None:
                wanted = place.ensemble, place.key
                other = held.get(wanted)
                if other is not None and other.copied(row, ours):
                    place = Place(None, None, None, str(row["workdir"]))
                elif other is not None and other.id < row["id"]:
                    self._twin(row["id"])
                    continue
                else:
                    if other is not None:
                        self.gone([other.id])
                        self._twin(other.id)
                    held[wanted] = Holder(row["id"], ours.get(wire.BATCH, ""), str(row["workdir"]))
            state = shown_state(row)
            at = wire.seconds(row["last_update"]) or self.now
            spec = self._spec(row, user, ours)
            jobs.append(
                (row["id"], spec.id, spec.shape_id, *place[:3], self._parameters(row), place.workdir, state,
                 _session(row, state), row["batch_job_id"], ours.get(wire.VERSION, ""), at,
                 at if state in TERMINAL else None, _shown_data(row.get("data") or {}), None)
            )  # fmt: skip
            born = state in ("STAGED_IN", "READY", "AWAITING_PARENTS")  # it has no story yet that is worth a request
            remotes.append(
                (
                    row["id"],
                    wire.stamp(row),
                    to_json(ours),
                    to_json(row["data"]) if row.get("data") else "{}",
                    0 if born else 1,
                )
            )
            parents += [(row["id"], parent) for parent in row.get("parent_ids") or ()]
            told = story(events[row["id"]], state) if row["id"] in events else _UNTOLD
            self._births.append((row["id"], tuple(told.path("", state)[1:]), told.submitted or at))
            self.changed += 1
        self.con.executemany(
            """INSERT INTO job(id, spec_id, shape_id, ensemble_id, row, key, parameters, workdir, state, session_id,
                   batch_job_id, app_version, submit_time, end_time, data, transfers)
               VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            jobs,
        )
        self.con.executemany(
            "INSERT INTO remote(job_id, last_update, tags, data, untold) VALUES(?, ?, ?, ?, ?)", remotes
        )
        self.con.executemany("INSERT OR IGNORE INTO dependency(child_id, parent_id) VALUES(?, ?)", parents)
        inserted = {job[0] for job in jobs}
        for row in rows:
            if row["id"] not in inserted:
                continue
            state = shown_state(row)
            if state in TERMINAL:
                self._write_values(row, state)
            if row["id"] in events and (told := story(events[row["id"]], state)).complete:
                self._tell(row["id"], told)

    def _twin(self, job_id: int) -> None:
        """A row was stored twice: every machine deletes the younger of its jobs, so that never both are deleted."""
        self.con.execute("INSERT OR IGNORE INTO twin VALUES(?)", (job_id,))

    def _parameters(self, row: Row) -> str | bytes:
        if "parameters" in row:
            given: str | bytes = row["parameters"]
            return given
        return wire.unpacked(row["serialized_parameters"])

    def _spec(self, row: Row, user: Mapping[str, str], ours: Mapping[str, str]) -> Spec:
        retries, family = wire.number(ours, wire.RETRIES, 0) or 0, ours.get(wire.FAMILY, "fail")
        shared = wire.asked_as_is(row)
        name = (row["app_id"], retries, family, repr(shared), *user.items())
        if name not in self._specs:
            options: dict[str, Any] = {"max_retries": retries} if retries else {}
            if family == "wait":
                options["on_parent_failure"] = family
            words = (asdict(wire.resources(row)), user, options)
            self._specs[name] = intern_spec(
                self.con, row["app_id"], *(json.dumps(one, sort_keys=True) for one in words)
            )
        return self._specs[name]


def _session(row: Row, state: str) -> int | None:
    """The launcher's session; what runs has one, whatever the service says."""
    held = row.get("session_id")
    return 1 if state == "RUNNING" and held is None else held


def _shown_data(data: Mapping[str, Any]) -> str | None:
    """A job's data without what is ours, as stored."""
    shown = {key: value for key, value in data.items() if not key.startswith("bj_")}
    return json.dumps(shown) if shown else None

"""What comes before and after a job's runs: its parents, and what the processor does for it (hooks, transfers)."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ....errors import BadInput, NotFound, listing
from .schema import DUE

PREPARED = "READY>STAGED_IN>PREPROCESSED"
DUE_STATES = frozenset({"READY", "STAGED_IN", "RUN_DONE", "POSTPROCESSED", "STAGED_OUT", "RUN_ERROR", "RUN_TIMEOUT"})
MOST_DEATHS = 3
ENDED = "('JOB_FINISHED', 'FAILED', 'USER_KILLED')"

# A child goes on when no parent is left that has not finished; one that was deleted holds nobody.
_UNFINISHED = """SELECT 1 FROM dependency CROSS JOIN job parent ON parent.id = dependency.parent_id
    WHERE dependency.child_id = {child} AND parent.state <> 'JOB_FINISHED'"""


class Needs(NamedTuple):
    """What an app has done for its jobs before they run."""

    preprocess: bool
    slots_in: frozenset[str]

    def first(self, transfers: Iterable[str]) -> str:
        """The states a job passes at once when nothing holds it any more."""
        return "READY" if self.preprocess or not self.slots_in.isdisjoint(transfers) else PREPARED


def needs(con: sqlite3.Connection, app_id: int) -> Needs:
    hooks, slots = con.execute(
        "SELECT json_extract(record, '$.hooks'), json_extract(record, '$.transfers') FROM app WHERE id = ?", (app_id,)
    ).fetchone()
    slots_in = [name for name, slot in json.loads(slots or "{}").items() if slot["direction"] == "in"]
    return Needs(not {"preprocess", "shell_preamble"}.isdisjoint(json.loads(hooks or "[]")), frozenset(slots_in))


# -- parents ----------------------------------------------------------------------------------------------------------


def any_dependency(con: sqlite3.Connection) -> bool:
    return con.execute("SELECT 1 FROM dependency LIMIT 1").fetchone() is not None


def unfinished_parents(con: sqlite3.Connection, parents: tuple[int, ...], wait: bool) -> bool:
    """Whether a new child of these jobs has to wait for one of them.

    Raises
    ------
    NotFound
        If one does not exist.
    BadInput
        If one has failed or was killed already, and the child is not to `wait` for its retry.
    """
    found = con.execute(
        """SELECT job.id, job.state, app.name FROM job JOIN spec ON spec.id = spec_id JOIN app ON app.id = app_id
           WHERE job.id IN (SELECT value FROM json_each(?))""",
        (json.dumps(parents),),
    ).fetchall()
    missing = sorted(set(parents) - {job for job, _, _ in found})
    if missing:
        raise NotFound(f"There is no job {listing(missing)} at this site, so it cannot be a parent.")
    for job, state, app in found:
        if state in ("FAILED", "USER_KILLED") and not wait:
            raise BadInput(
                f"Parent job {job} ({app}) is {state}, so its children could never run: retry it first, or give "
                "on_parent_failure='wait'."
            )
    return any(state != "JOB_FINISHED" for _, state, _ in found)


def add_parents(con: sqlite3.Connection, child: int, parents: tuple[int, ...]) -> None:
    con.executemany(
        "INSERT OR IGNORE INTO dependency(child_id, parent_id) VALUES(?, ?)", ((child, parent) for parent in parents)
    )


def waits(con: sqlite3.Connection, job: int) -> bool:
    return con.execute(_UNFINISHED.format(child="?"), (job,)).fetchone() is not None


def parents_ended(con: sqlite3.Connection, jobs: Iterable[int]) -> bool:
    """Move on, or fail, the children of jobs that are over; whether one became runnable.

    To be called where `any_dependency`.
    """
    over = list(jobs)
    runnable = _release_children(con, over)
    failed = con.execute(
        f"""SELECT job.id, state, app.name FROM json_each(?) one CROSS JOIN job ON job.id = one.value
            JOIN spec ON spec.id = spec_id JOIN app ON app.id = app_id WHERE state IN {ENDED}
            AND state <> 'JOB_FINISHED'""",
        (json.dumps(over),),
    ).fetchall()
    fail_children(con, {job: f"parent job {job} ({app}) ended {state}" for job, state, app in failed})
    return runnable


def _release_children(con: sqlite3.Connection, parents: list[int]) -> bool:
    free = con.execute(
        f"""SELECT DISTINCT child.id, spec.app_id, child.transfers
            FROM json_each(?) one CROSS JOIN job parent ON parent.id = one.value AND parent.state = 'JOB_FINISHED'
            CROSS JOIN dependency link ON link.parent_id = parent.id
            CROSS JOIN job child ON child.id = link.child_id AND child.state = 'AWAITING_PARENTS'
            JOIN spec ON spec.id = child.spec_id WHERE NOT EXISTS ({_UNFINISHED.format(child="child.id")})""",
        (json.dumps(parents),),
    ).fetchall()
    known: dict[int, Needs] = {}
    moves = []
    for job, app_id, transfers in free:
        if app_id not in known:
            known[app_id] = needs(con, app_id)
        moves.append((job, known[app_id].first(json.loads(transfers) if transfers else ())))
    now = time.time()
    con.executemany(
        "INSERT INTO event(first_id, last_id, path, time, end_time) VALUES(?1, ?1, 'AWAITING_PARENTS>' || ?2, ?3, ?3)",
        ((job, path, now) for job, path in moves),
    )
    con.executemany("UPDATE job SET state = ? WHERE id = ?", ((path.rpartition(">")[2], job) for job, path in moves))
    return any(path.endswith("PREPROCESSED") for _, path in moves)


def fail_children(con: sqlite3.Connection, why: Mapping[int, str], waiting_too: bool = False) -> None:
    """Fail the jobs that wait for these parents, and those that wait for them; `why` holds each parent's fate."""
    while why:
        found = con.execute(
            """SELECT child.id, link.parent_id, app.name FROM json_each(?1) one
               CROSS JOIN dependency link ON link.parent_id = one.value
               CROSS JOIN job child ON child.id = link.child_id AND child.state = 'AWAITING_PARENTS'
               JOIN spec ON spec.id = child.spec_id JOIN app ON app.id = spec.app_id
               WHERE ?2 OR coalesce(json_extract(spec.options, '$.on_parent_failure'), 'fail') = 'fail'""",
            (json.dumps([*why]), waiting_too),
        ).fetchall()
        fates = {child: (why[parent], app) for child, parent, app in reversed(found)}
        now = time.time()
        con.executemany(
            """INSERT INTO event(first_id, last_id, path, time, end_time, data)
               VALUES(?1, ?1, 'AWAITING_PARENTS>FAILED', ?2, ?2, ?3)""",
            ((child, now, json.dumps({"error": error})) for child, (error, _) in fates.items()),
        )
        con.executemany(
            "UPDATE job SET state = 'FAILED', end_time = ?, error = ? WHERE id = ?",
            ((now, error, child) for child, (error, _) in fates.items()),
        )
        why = {child: f"parent job {child} ({app}) ended FAILED" for child, (_, app) in fates.items()}
        waiting_too = False


def retry_left(con: sqlite3.Connection, session: int, job: int) -> bool:
    """Use up one of a failed job's automatic retries; False if it has none left."""
    used = con.execute(
        """UPDATE job SET retries = retries + 1 WHERE id = ? AND session_id = ? AND retries <
           (SELECT coalesce(json_extract(options, '$.max_retries'), 0) FROM spec WHERE spec.id = job.spec_id)""",
        (job, session),
    )
    return used.rowcount > 0


def kill_asked(con: sqlite3.Connection, job: int) -> bool:
    """Whether a kill was asked for that whoever holds the job may not have seen yet."""
    return con.execute("SELECT 1 FROM job WHERE id = ? AND kill_wait IS NOT NULL", (job,)).fetchone() is not None


# -- the processor's share --------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """States a job passed by what the processor did; `path` begins with the state left.

    `changes` are new values of columns of job, `note` the event's data. With `auto`, a job that reached FAILED runs
    again if it has an automatic retry left. With `let_go`, the job is to be taken again from the store.
    """

    job_id: int
    path: tuple[str, ...]
    changes: Mapping[str, Any] = {}
    note: Mapping[str, Any] = {}
    auto: bool = False
    let_go: bool = False


def any_due(con: sqlite3.Connection) -> bool:
    """Whether a job waits for the processor; costs next to nothing when none does."""
    return con.execute(f"SELECT 1 FROM job INDEXED BY job_due WHERE {DUE} LIMIT 1").fetchone() is not None


def check_out_due(con: sqlite3.Connection, session: int, limit: int) -> list[int]:
    """Take up to `limit` due jobs, first submitted first. Their states stay as they are until a step is committed.

    A job that may have killed two processors goes alone: the third death then tells.
    """
    suspect = MOST_DEATHS - 1
    held = con.execute("SELECT max(deaths) FROM job WHERE session_id = ?", (session,)).fetchone()[0]
    if held is not None and held >= suspect:
        return []
    due = con.execute(f"SELECT id, deaths FROM job INDEXED BY job_due WHERE {DUE} ORDER BY id LIMIT ?", (limit,))
    taken: list[int] = []
    for job, deaths in due.fetchall():
        if deaths < suspect:
            taken.append(job)
            continue
        if not taken and held is None:
            taken = [job]
        break
    con.executemany("UPDATE job SET session_id = ? WHERE id = ?", ((session, job) for job in taken))
    return taken


def give_back(con: sqlite3.Connection, session: int) -> bool:
    """Let go of all a processor's jobs, in the state they are stored in; one that was to be killed ends here."""
    held = con.execute("SELECT id, state, kill_wait FROM job WHERE session_id = ?", (session,)).fetchall()
    now = time.time()
    killed = [(job, state) for job, state, wait in held if wait is not None]
    con.executemany(
        "INSERT INTO event(first_id, last_id, path, time, end_time) VALUES(?1, ?1, ?2 || '>USER_KILLED', ?3, ?3)",
        ((job, state, now) for job, state in killed),
    )
    con.execute(
        """UPDATE job SET session_id = NULL, kill_wait = NULL,
               end_time = CASE WHEN kill_wait IS NULL THEN end_time ELSE ?1 END,
               state = CASE WHEN kill_wait IS NULL THEN state ELSE 'USER_KILLED' END WHERE session_id = ?2""",
        (now, session),
    )
    if killed and any_dependency(con):
        parents_ended(con, [job for job, _ in killed])
    return bool(held)


def blame(con: sqlite3.Connection, session: int, running: list[int], young: bool) -> None:
    """A processor died, perhaps because of one of the hooks that ran, those of the jobs `running`, last begun first.

    As for launchers: at the third death one is to blame and fails, if processors since the first died young.
    """
    mine = "session_id = ?1 AND id IN (SELECT value FROM json_each(?2))"
    listed = json.dumps(running)
    found = con.execute(f"SELECT id, deaths, state FROM job WHERE {mine}", (session, listed)).fetchall()
    held = {job: (deaths, state) for job, deaths, state in found}
    blamed = max((job for job in running if job in held), key=lambda job: held[job][0], default=0)
    if blamed and young and held[blamed][0] >= MOST_DEATHS - 1:
        con.execute(f"UPDATE job SET deaths = 0 WHERE {mine}", (session, listed))
        why = f"the processor died {MOST_DEATHS} times while a hook of this job ran; find what kills it, then retry it"
        commit_steps(con, session, [Step(blamed, (held[blamed][1], "FAILED"), {"error": why}, {"error": why})])
    else:
        con.execute(f"UPDATE job SET deaths = deaths + 1 WHERE {mine} AND (deaths = 0 OR ?3)", (session, listed, young))


def commit_steps(con: sqlite3.Connection, session: int, steps: Iterable[Step]) -> None:
    """Write down what the processor did; it lets go of a job whose state is none of its own any more."""
    over: list[int] = []
    now = time.time()
    for step in steps:
        path, note = step.path, dict(step.note)
        if path[-1] == "FAILED" and step.auto and retry_left(con, session, step.job_id):
            path = (*path[:-1], "RESTART_READY")
        if path[-1] in ("PREPROCESSED", "RESTART_READY") and kill_asked(con, step.job_id):
            path = (*path, "USER_KILLED")
        changes = {"deaths": 0, **step.changes}  # it got on, so nothing died of it
        if path[-1] not in DUE_STATES:
            changes |= {"session_id": None, "kill_wait": None}
        elif step.let_go:
            changes["session_id"] = None
        if path[-1] in ("JOB_FINISHED", "FAILED", "USER_KILLED"):
            changes["end_time"] = now
            over.append(step.job_id)
        columns = "".join(f", {column} = ?" for column in changes)
        con.execute(
            f"UPDATE job SET state = ?{columns} WHERE id = ? AND session_id = ?",
            (path[-1], *changes.values(), step.job_id, session),
        )
        con.execute(
            "INSERT INTO event(first_id, last_id, path, time, end_time, data) VALUES(?1, ?1, ?2, ?3, ?3, ?4)",
            (step.job_id, ">".join(path), now, json.dumps(note) if note else None),
        )
    if over and any_dependency(con):
        parents_ended(con, over)

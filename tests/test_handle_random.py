"""Any order of an ensemble's verbs, on a real store, does what a model of a few dictionaries does."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, open_site
from balsam_jupyter.errors import BadInput, NotFound
from balsam_jupyter.models import Query

NAMES = st.sampled_from(["a", "b"])
VALUES = st.lists(st.integers(0, 4), min_size=1, max_size=4)
ROWS = st.none() | st.sets(st.integers(0, 5), max_size=3)
ENDED = ("FINISHED", "FAILED", "USER_KILLED")


@dataclass
class Row:
    x: int
    tags: dict[str, str]
    state: str = "WAITING"
    ran: str = ""  # version of its last run


@dataclass
class Generation:
    number: int
    version: str
    kept: set[str] = field(default_factory=set)
    rows: list[Row] = field(default_factory=list)

    def add(self, name: str, values: list[int], tags: dict[str, str]) -> int:
        new = 0
        for value in set(values):
            new += max(0, values.count(value) - sum(row.x == value for row in self.rows))
        for at, value in enumerate(values):
            if values[: at + 1].count(value) > sum(row.x == value for row in self.rows):
                self.rows.append(Row(value, {"workflow": name, **tags}))
        return new

    def older(self, version: str) -> set[str]:
        accepted = {version, *(self.kept if self.version == version else ())}
        return {row.ran for row in self.rows if row.ran and row.state in ENDED} - accepted

    def kill(self, rows: set[int] | None = None) -> int:
        chosen = [row for at, row in enumerate(self.rows) if rows is None or at in rows]
        ended = [row for row in chosen if row.state not in ENDED]
        for row in ended:
            row.state = "USER_KILLED"
        return len(ended)


class Verbs(RuleBasedStateMachine):
    folder: ClassVar[Path]
    number: ClassVar[Any] = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        name = f"s{next(self.number)}"
        self.site = open_site(name, self.folder / name)
        self.exctr = BalsamExecutor(self.site)
        self.model: dict[str, list[Generation]] = {}
        self.declare("one")
        self.submit("a", [0, 1, 2], None, "p")

    def teardown(self) -> None:
        self.site.close()

    @rule(word=st.sampled_from(["one", "two", "three"]))
    def declare(self, word: str) -> None:
        app = {"site": self.site.name, "command_template": f"echo {word} {{{{ x }}}}"}
        self.exctr.register_app(type("App", (ApplicationDefinition,), app))
        self.version = self.site.app("App").version

    @rule(name=NAMES, values=VALUES, choice=st.sampled_from([None, "keep", "fresh"]), tag=st.sampled_from("pq"))
    def submit(self, name: str, values: list[int], choice: str | None, tag: str) -> None:
        def act() -> Any:
            return self.exctr.submit_sweep("App", {"x": values}, name=name, tags={"k": tag}, if_changed=choice)

        generations = self.model.setdefault(name, [Generation(1, self.version)])
        now = generations[-1]
        older = now.older(self.version)
        if older and choice is None:
            with pytest.raises(BadInput, match="has changed since rows"):
                act()
            return
        if older and choice == "fresh":
            now.kill()
            now = Generation(now.number + 1, self.version)
            generations.append(now)
        else:
            now.kept = older | (now.kept if now.version == self.version else set())
            now.version = self.version
        new = now.add(name, values, {"k": tag})
        ens = act()
        assert (ens.new, ens.kept, ens.generation) == (new, len(now.rows) - new, now.number)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), state=st.sampled_from(["FINISHED", "FAILED"]))
    def run(self, data: st.DataObject, state: str) -> None:
        """What a launcher does to a row that waits."""
        name, now = self.pick(data)
        waiting = [at for at, row in enumerate(now.rows) if row.state == "WAITING"]
        for at in data.draw(st.lists(st.sampled_from(waiting), unique=True)) if waiting else ():
            (job,) = self.site.engine.jobs(Query(ensemble=name, generation=now.number, rows=(at,)))
            stored = {"FINISHED": "JOB_FINISHED"}.get(state, state)
            with self.site.engine.store.transaction() as con:
                con.execute(
                    "UPDATE job SET state = ?, attempts = attempts + 1, app_version = ? WHERE id = ?",
                    (stored, self.version, job.id),
                )
            now.rows[at].state, now.rows[at].ran = state, self.version

    @precondition(lambda self: self.model)
    @rule(data=st.data(), rows=ROWS)
    def kill(self, data: st.DataObject, rows: set[int] | None) -> None:
        name, now = self.pick(data)
        ens = self.exctr.ensemble(name, now.number)
        if rows and max(rows) >= len(now.rows):
            with pytest.raises(BadInput, match="has no row"):
                ens.kill(rows)
        else:
            assert ens.kill(rows) == now.kill(rows)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), rows=ROWS, failed=st.booleans(), odd=st.booleans())
    def retry(self, data: st.DataObject, rows: set[int] | None, failed: bool, odd: bool) -> None:
        name, now = self.pick(data)
        where = (lambda task: task.process.parameters["x"] % 2) if odd else None
        chosen = [at for at in range(len(now.rows)) if rows is None or at in rows]
        wrong = rows is not None and (len(chosen) < len(rows) or any(now.rows[at].state == "FINISHED" for at in chosen))
        ens = self.exctr.ensemble(name, now.number)
        if wrong:
            with pytest.raises(BadInput, match=r"has no row|ha(s|ve) finished"):
                ens.retry(rows, where, failed)
            return
        states = ("FAILED",) if failed else ("FAILED", "USER_KILLED")
        again = [now.rows[at] for at in chosen if now.rows[at].state in states and (not odd or now.rows[at].x % 2)]
        assert ens.retry(rows, where, failed) == len(again)
        for row in again:
            row.state = "WAITING"

    @precondition(lambda self: self.model)
    @rule(data=st.data(), values=VALUES)
    def add(self, data: st.DataObject, values: list[int]) -> None:
        name, now = self.pick(data)
        ens = self.exctr.ensemble(name, now.number)
        missing = [{"x": row.x} for row in now.rows if row.state in ("FAILED", "USER_KILLED")]
        trial = replace(now, rows=[*now.rows])
        tags = {key: word for key, word in now.rows[-1].tags.items() if key != "workflow"}
        trial.add(name, values, tags)
        lacking = [{"x": row.x} for row in trial.rows[len(now.rows) :]]
        assert ens.missing({"x": values}) == missing + lacking
        if now is not self.model[name][-1] or now.older(self.version):
            with pytest.raises(BadInput, match=r"takes no more rows|has changed since"):
                ens.add({"x": values})
            return
        trial = replace(now, rows=[*now.rows])
        assert ens.add({"x": values}) == trial.add(name, list(dict.fromkeys(values)), tags)  # equal rows are one
        now.rows, now.kept = trial.rows, now.kept if now.version == self.version else set()
        now.version = self.version

    @precondition(lambda self: self.model)
    @rule(data=st.data(), key=st.sampled_from("kl"), word=st.sampled_from(["p", "q", None]))
    def tag(self, data: st.DataObject, key: str, word: str | None) -> None:
        name, now = self.pick(data)
        assert self.exctr.ensemble(name, now.number).tag(**{key: word}) == len(now.rows)
        for row in now.rows:
            row.tags.pop(key, None)
            row.tags.update({} if word is None else {key: word})

    @precondition(lambda self: self.model)
    @rule(data=st.data(), new=NAMES)
    def rename(self, data: st.DataObject, new: str) -> None:
        name, now = self.pick(data)
        ens = self.exctr.ensemble(name, now.number)
        if new in self.model:
            with pytest.raises(BadInput, match="already"):
                ens.rename(new)
            return
        assert ens.rename(new).name == new
        self.model[new] = self.model.pop(name)
        for row in itertools.chain(*(one.rows for one in self.model[new])):
            row.tags["workflow"] = new
        with pytest.raises(NotFound):
            self.exctr.ensemble(name)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name, now = self.pick(data)
        ens = self.exctr.ensemble(name, now.number)
        if any(row.state not in ENDED for row in now.rows):
            with pytest.raises(BadInput, match="to run; end that first"):
                ens.delete()
            return
        ens.delete()
        self.model[name].remove(now)
        if not self.model[name]:
            del self.model[name]

    def pick(self, data: st.DataObject) -> tuple[str, Generation]:
        name = data.draw(st.sampled_from(sorted(self.model)))
        return name, data.draw(st.sampled_from(self.model[name]))

    @invariant()
    def the_store_is_as_the_model(self) -> None:
        assert {ens.name: ens.generations for ens in self.exctr.ensembles()} == {
            name: [one.number for one in generations] for name, generations in self.model.items()
        }
        folders = set()
        for name, generations in self.model.items():
            for one in generations:
                ens = self.exctr.ensemble(name, one.number)
                tasks = ens.tasks()
                shown = [(t.process.parameters["x"], t.state, t.process.tags) for t in tasks if t.process]
                assert shown == [(row.x, row.state, row.tags) for row in one.rows]
                folders.add(tasks[0].workdir.rpartition("/")[0])
            assert self.exctr.ensemble(name).generation == generations[-1].number
        assert len(folders) == sum(map(len, self.model.values()))  # no two share a directory


def test_any_order_of_verbs(home: Path, tmp_path: Path) -> None:
    class Here(Verbs):
        folder = tmp_path

    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    run_state_machine_as_test(
        Here, settings=settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=checks)
    )

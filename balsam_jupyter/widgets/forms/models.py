"""What the forms know: from what was typed to errors, code, price and the executor's call. No widget in it.

The page sends what stands in the fields, as texts, by name; it is the same for all three forms::

    {"values": {parameter: {"how": "range", "a": "300", "b": "900", "c": "100"}}, "options": {name: text}}
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from ...accounts import node_hours
from ...api_check import JOB_MODES, allocation_request, job_common, node_hour_limit, nodes_of, partition
from ...api_site import current_site
from ...apps import check_parameters
from ...cost import asked_of
from ...errors import BadInput, BalsamJupyterError, NotFound, many
from ...status import queued_behind
from ...submission import check_name, newest
from .options import DESIGN, NAME, PAIRS, SUBMISSION, WORDS, Option, read_all
from .reading import CHOICE, NUMBER, TEXT, WHOLE, cut, field_of
from .request import Block, Code, Rows, Submission
from .ways import BY_NAME, MOST, WAYS, Values, Wrong, values
from .written import imported, source

if TYPE_CHECKING:
    from ...executor import BalsamExecutor

State = Mapping[str, Any]
Answer = dict[str, Any]

_SHOWN = 5
"""So many rows of a sweep are shown."""
_SUGGESTED = 50
_MADE = 20_000
"""More values than these are made only when they are submitted."""
_PRICED = ("num_procs", "num_nodes", "procs_per_node", "max_tasks_per_node", "gpus_per_rank", "threads_per_rank",
           "wall_time_min", "tags")  # fmt: skip


_ABOUT = {"nodes are too": "num_nodes", "GPUs": "gpus_per_rank", "threads are too": "threads_per_rank",
          "minutes are too": "wall_time_min", "processes": "num_procs", "several ranks": "num_procs",
          "name of an ensemble": "name", "queue": "queue", "Project": "project", "project": "project",
          "is of app": "name", "The partition": "partitions", "in the partition": "partitions",
          "of a partition": "partitions"}  # fmt: skip
"""Words of errors that come from below, and the fields they are about."""


class Refused(BadInput):
    """A form that cannot be submitted as it is; `errors` are by field, "" for those of the whole form."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__("; ".join(errors.values()))
        self.errors = dict(errors)


class Form(ABC):
    """What all forms share: the answers to the page, around what a subclass says about its request."""

    title: str
    verb: str
    """What the button does, in a word."""

    def __init__(self, executor: BalsamExecutor) -> None:
        self.executor = executor
        self.state: State = {}
        """What stands in the fields."""
        self.result: Any = None
        """What the last submission gave."""

    @abstractmethod
    def describe(self) -> Answer:
        """The fields, for the page."""

    @abstractmethod
    def request(self, state: State) -> Submission | Block:
        """What is asked for; `Refused` if it cannot be."""

    @abstractmethod
    def price(self, request: Any) -> Answer:
        """What it costs, and what else is shown of it."""

    @abstractmethod
    def names(self) -> Iterable[str]:
        """The fields that an error from below may be about."""

    @abstractmethod
    def said(self, result: Any) -> str:
        """What was done, in a line."""

    @abstractmethod
    def button(self, request: Any) -> str:
        """What is on the button."""

    # -- the answers --------------------------------------------------------------------------------------------------

    def open(self) -> Answer:
        """All that a page needs to show the form, as it stands."""
        return {**self.describe(), "title": self.title, "verb": self.verb, "state": self.state}

    def read(self, state: State) -> Answer:
        """Errors, or the code that does the same and how much it is; quick, and the same whatever its size."""
        self.state = state
        try:
            request = self.request(state)
        except Refused as error:
            return {"errors": error.errors}
        code = self.code(request)
        return {"errors": {}, "magic": code.magic, "python": code.python, "button": self.button(request)}

    def estimate(self, state: State) -> Answer:
        """The price and a preview; nothing is stored."""
        try:
            return self.price(self.request(state))
        except BalsamJupyterError as error:
            return {"errors": self.blamed(error)}

    def submit(self, state: State) -> Answer:
        """Do it, once."""
        self.state = state
        try:
            self.result = self.request(state).submit(self.executor)
        except BalsamJupyterError as error:
            return {"errors": self.blamed(error)}
        return {"errors": {}, "said": self.said(self.result)}

    def code(self, request: Submission | Block) -> Code:
        """The code that does the same. Magics go to the current site."""
        try:
            current = current_site() is self.executor.site
        except NotFound:
            current = False
        return request.code(current)

    def blamed(self, error: BalsamJupyterError) -> dict[str, str]:
        """An error by the field it is about, as far as that can be told."""
        if isinstance(error, Refused):
            return error.errors
        text = str(error)
        for name in self.names():
            telling = re.search(rf"(?<!\w){name}(?!\w)", text) if "_" in name else re.match(rf"{name}\b", text)
            if telling and "limit of site" not in text:  # its settings are not the form's
                return {name: text}
        about = next((name for words, name in _ABOUT.items() if words in text and name in self.names()), "")
        return {about: text}


class SweepModel(Form):
    """A sweep of an app, parameter by parameter; with `sweep` false, one task of it."""

    def __init__(self, executor: BalsamExecutor, app_name: str, sweep: bool = True) -> None:
        super().__init__(executor)
        self.app = executor.site.app(app_name)
        self.sweep = sweep
        self.fields = [field_of(name, one) for name, one in self.app.parameters.items()]
        self.title = f"Sweep of {self.app.name}" if sweep else f"Run {self.app.name}"
        self.verb = "Submit"

    def describe(self) -> Answer:
        """The parameters, each with the ways in which it can vary, and the options."""
        known = [*newest(self.executor.site.engine.ensembles())][: -_SUGGESTED - 1 : -1]
        ways = WAYS if self.sweep else WAYS[:1]
        return {
            "about": self.app.description,
            "site": self.executor.site.name,
            "fields": [{**one.as_dict(), "ways": [way.name for way in ways if way.serves(one)]} for one in self.fields],
            "ways": {
                way.name: {
                    "label": way.label,
                    "inputs": list(way.inputs),
                    "drawn": way.drawn,
                    "many": not way.drawn and way.name != "value",
                }
                for way in ways
            },
            "design": [
                {**one.as_dict(), "needs": "lists" if one.name == "pair" else "drawn"} for one in DESIGN if self.sweep
            ],
            "options": [replace(one, known=known if one is NAME else ()).as_dict() for one in SUBMISSION],
        }

    def names(self) -> Iterable[str]:
        """The options; parameters come before them, in `blamed`."""
        return [one.name for one in SUBMISSION]

    def request(self, state: State) -> Submission:
        """The rows and options that the fields say."""
        errors: dict[str, str] = {}
        found = self._values(state.get("values", {}), errors)
        texts = state.get("options", {})
        options = read_all(SUBMISSION, texts, errors)
        design = read_all(DESIGN, texts, errors) if self.sweep else {}
        if not errors:
            self._check(options, errors)
        if errors:
            raise Refused(errors)
        try:
            rows = Rows(
                found, "pair" in design, design.get("rows", 100), design.get("seed", 1),
                design.get("sampler", "random"),
            )  # fmt: skip
        except BadInput as error:
            raise Refused({"pair" if "paired" in str(error) else "values.seed": str(error)}) from None
        if rows.drawn and rows.number < 1:
            raise Refused({"rows": "A whole number of at least 1."})
        if rows.drawn and rows.seed < 0:
            raise Refused({"seed": "A whole number from 0 on."})
        if rows.count() > MOST:
            raise Refused({
                "": f"{rows.count():,} rows: a form submits {MOST:,} at most. Give fewer values, or "
                "submit parts of the sweep under one name, one after the other."
            })  # fmt: skip
        imports = {imported(one.choices) for one in self.fields if one.name in found} - {""}
        return Submission(self.executor.site, self.app.name, rows, options, SUBMISSION, sorted(imports))

    def _values(self, given: Mapping[str, Any], errors: dict[str, str]) -> dict[str, Values]:
        found: dict[str, Values] = {}
        for one in self.fields:
            inputs = given.get(one.name) or {}
            way = BY_NAME.get(inputs.get("how", ""))
            empty = way is None or not any(inputs.get(part, "").strip() for part in "abc"[: len(way.inputs)])
            if empty and (way is None or way.name == "value"):
                if one.required:
                    errors[f"values.{one.name}"] = f"{one.name} needs a value."
                continue
            try:
                made = values(one, inputs)
            except Wrong as error:
                errors[f"values.{one.name}"] = str(error)
                continue
            if made is not None:
                found[one.name] = made
        return found

    def _check(self, options: Mapping[str, Any], errors: dict[str, str]) -> None:
        """What can be refused without looking at the rows."""
        try:
            if "name" in options:
                check_name(options["name"])
            wants, tags = asked_of({key: value for key, value in options.items() if key in _PRICED})
            node_hour_limit(options.get("max_node_hours"))
            job_common(self.app, wants, tags, options.get("max_retries", 0), "fail", options.get("scratch", False))
        except BadInput as error:
            errors.update(self.blamed(error))

    def button(self, request: Submission) -> str:
        """With the number of tasks."""
        return f"Submit {many(request.rows.count(), 'task')}"

    def price(self, request: Submission) -> Answer:
        """The price as the executor tells it, and the first rows, checked."""
        rows = request.rows
        count = rows.count()
        wants = {key: value for key, value in request.options.items() if key in _PRICED}
        price = self.executor.price(self.app.name, count, **wants).lines()
        if rows.to_make() > _MADE:
            return {"errors": {}, "price": price, "more": f"{many(count, 'row')}, made when they are submitted."}
        first = [check_parameters(self.app, row) for row in islice(rows.sweep(), _SHOWN)]
        columns = [name for name in self.app.parameters if name in rows.values]
        cells = [[cut(source(row[name])) for name in columns] for row in first]
        left = count - len(first)
        return {
            "errors": {},
            "price": price,
            "columns": columns if self.sweep else [],
            "rows": cells if self.sweep else [],
            "more": f"… and {left:,} more" if left and self.sweep else "",
        }

    def said(self, result: Any) -> str:
        """How many rows were new, and which were kept."""
        kept = f", {many(result.kept, 'row')} kept" if result.kept else ""
        return f"Ensemble {result.name}: {many(result.new, 'new row')}{kept}. %balsam_watch {result.name} follows it."

    def blamed(self, error: BalsamJupyterError) -> dict[str, str]:
        """Errors about a parameter quote its name."""
        if not isinstance(error, Refused):
            about = str(error).partition("its parameters:")[0]
            for one in self.fields:
                if repr(one.name) in about or f"parameter {one.name}" in about.lower():
                    return {f"values.{one.name}": str(error)}
        return super().blamed(error)


def _one_of(name: str, label: str, about: str, only: Sequence[str], known: Sequence[str], flag: str) -> Option:
    """One of those the site has, where it tells them, else one that is typed."""
    default = known[0] if len(known) == 1 else "local" if "local" in known else "choose one"
    if len(only) > 1:
        others = tuple(one for one in only if one != default)
        return Option(name, CHOICE, label, about, default=default, choices=others, flag=flag)
    return Option(name, TEXT, label, about, default=default, flag=flag, known=known)


class AllocationModel(Form):
    """A block of nodes for some minutes."""

    def __init__(self, executor: BalsamExecutor) -> None:
        super().__init__(executor)
        self.title = "Allocation"
        self.verb = "Ask"

    @property
    def options(self) -> Sequence[Option]:
        """The fields: with the site's number of nodes, its queues, and its projects or those that were used before."""
        engine = self.executor.site.engine
        nodes, queues, projects = engine.site.nodes, engine.accounts.queues(), engine.accounts.projects()
        asked = [one.request for one in engine.allocations()[-1000:]]
        queues = queues or [*dict.fromkeys(["local", *(one.queue for one in asked)])]
        projects = projects or [*dict.fromkeys(["local", *(one.project for one in asked)])]
        return (
            Option("num_nodes", WHOLE, "Nodes", f"of {many(nodes, 'node')} at this site",
                   default="1, or those of the partitions", flag="-n"),
            Option("wall_time_min", NUMBER, "Minutes", "of wall time", default="10", flag="-t"),
            Option("job_mode", CHOICE, "Job mode", "serial: tasks of one process; mpi: tasks of any number",
                   default="serial", choices=JOB_MODES, flag="-j"),
            _one_of("queue", "Queue", "", engine.accounts.queues(), queues, "-q"),
            _one_of("project", "Project", "that is charged", engine.accounts.projects(), projects, "-A"),
            Option("filter_tags", PAIRS, "Only tags", "run only tasks with these: name=value, …", flag="--tag",
                   rare=True),
            Option("wf_filter", TEXT, "Only ensembles", "with this text in their names", flag="--wf-filter",
                   rare=True),
            Option("partitions", WORDS, "Partitions", "MODE:NODES[:TAG=VALUE], with commas between", flag="-p",
                   rare=True),
            Option("max_node_hours", NUMBER, "Most node-hours", "refuse it if the site could use more with it",
                   flag="--max-node-hours", rare=True),
        )  # fmt: skip

    def describe(self) -> Answer:
        """The options; there is nothing else."""
        site = self.executor.site
        return {"about": "", "site": site.name, "fields": [], "ways": {}, "design": [],
                "options": [one.as_dict() for one in self.options]}  # fmt: skip

    def names(self) -> Iterable[str]:
        """The arguments of an allocation."""
        return [one.name for one in self.options]

    def request(self, state: State) -> Block:
        """The allocation that the fields say, checked against the site."""
        errors: dict[str, str] = {}
        options = self.options
        found = read_all(options, state.get("options", {}), errors)
        if errors:
            raise Refused(errors)
        site = self.executor.site
        try:
            parts = [partition(text) for text in found.get("partitions", ())]
            asked = {"wall_time_min": 10, "job_mode": "serial", **found}
            asked["num_nodes"] = nodes_of(found.get("num_nodes"), parts)
            request = allocation_request(site.engine.site, **asked)
            site.engine.accounts.check(request)
        except BadInput as error:
            raise Refused(self.blamed(error)) from None
        return Block(site, asked, options)

    def button(self, request: Block) -> str:
        """With what is asked for."""
        nodes = many(request.options["num_nodes"], "node")
        return f"Ask for {nodes}, {request.options['wall_time_min']:g} min"

    def price(self, request: Block) -> Answer:
        """Node-hours, before they are asked for."""
        hours = request.options["num_nodes"] * request.options["wall_time_min"] / 60
        asked = f"{node_hours(hours)} at most: {self.button(request).removeprefix('Ask for ')}"
        return {"errors": {}, "price": [("price", asked), ("site", str(self.executor.site.engine.usage()))]}

    def said(self, result: Any) -> str:
        """Its id, and what it waits for."""
        behind = queued_behind(self.executor.site.engine, result.id)
        waits = f", behind {behind}" if behind else ""
        return f"Allocation {result.id} is asked for{waits}. %balsam_revoke {result.id} ends it."

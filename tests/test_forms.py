"""Forms without a page: what is typed becomes rows, and the code that is shown submits exactly these rows."""

from __future__ import annotations

import time
from enum import Enum
from typing import Any, Literal

import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, Site, open_site
from balsam_jupyter.errors import BadInput
from balsam_jupyter.models import Query
from balsam_jupyter.widgets.forms.models import AllocationModel, SweepModel
from balsam_jupyter.widgets.forms.reading import ANY, NUMBER, TEXT, WHOLE, Field, field_of, pieces
from balsam_jupyter.widgets.forms.request import Block, Submission

from . import test_magics
from .test_magics import Shell, refused, run

shell = test_magics.shell


class Phase(Enum):
    SOLID = 1
    LIQUID = "l"


class melt(ApplicationDefinition):
    """Melts a block."""

    parameters = {"T": {"help": "kelvin"}}

    def run(
        self,
        T: float,
        steps: int = 100,
        gas: str = "Ar",
        method: Literal["pbe", "lda", 3] = "pbe",
        phase: Phase | None = None,
        check: bool = False,
        more=None,
    ):
        return T


@pytest.fixture
def sweep(exctr: BalsamExecutor) -> SweepModel:
    exctr.register_app(melt)
    return SweepModel(exctr, "melt")


def state(options: dict[str, str] | None = None, **values: Any) -> dict[str, Any]:
    """What a page sends; a text is one value, a tuple is a way and its inputs."""
    return {
        "options": options or {},
        "values": {
            name: {"how": "value", "a": one}
            if isinstance(one, str)
            else {"how": one[0], **dict(zip("abc", one[1:], strict=False))}
            for name, one in values.items()
        },
    }


def test_fields_come_from_the_annotations_also_after_the_site_was_opened_again(sweep: SweepModel, site: Site) -> None:
    for fields in (sweep.fields, SweepModel(BalsamExecutor(open_site("here", site.path)), "melt").fields):
        kinds = {one.name: (one.kind, one.choices, one.required, one.default) for one in fields}
        assert kinds == {
            "T": ("number", (), True, ""),
            "steps": ("whole", (), False, "100"),
            "gas": ("text", (), False, "'Ar'"),
            "method": ("choice", ("pbe", "lda", 3), False, "pbe"),
            "phase": ("choice", (Phase.SOLID, Phase.LIQUID, None), False, "None"),
            "check": ("choice", (True, False), False, "False"),
            "more": ("any", (), False, "None"),
        }
    opened = sweep.open()
    assert opened["about"] == "Melts a block." and opened["fields"][0]["help"] == "kelvin"
    assert opened["fields"][4]["choices"] == ["Phase.SOLID", "Phase.LIQUID", "None"]
    assert "uniform" in opened["fields"][0]["ways"] and opened["fields"][3]["ways"] == ["value", "list", "choice"]


def test_annotations_that_are_text_are_read_too(exctr: BalsamExecutor) -> None:
    def run(self, method: Literal["a", "b"] | None = None, other: Unknown = 1):  # noqa: F821
        return method

    assert run.__annotations__["method"] == "Literal['a', 'b'] | None"

    exctr.register_app(type("late", (ApplicationDefinition,), {"run": run}))
    method, other = SweepModel(exctr, "late").fields
    assert method.choices == ("a", "b", None) and other.kind == ANY and other.type == "Unknown"


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (TEXT, " it's ", "it's"), (TEXT, "'a\\n b '", "a\n b "), (TEXT, "300", "300"), (TEXT, "'", "'"),
        (WHOLE, "-3", -3), (NUMBER, "3", 3), (NUMBER, "1e-3", 1e-3), (NUMBER, "-inf", float("-inf")),
        (ANY, "300", 300), (ANY, "1.5", 1.5), (ANY, "True", True), (ANY, "None", None), (ANY, "Ar", "Ar"),
        (ANY, "[1, inf]", [1, float("inf")]), (ANY, "{'a': (1,)}", {"a": (1,)}), (ANY, "007", "007"),
        (ANY, "300 K", "300 K"), (ANY, "__import__('os')", "__import__('os')"), (ANY, "-inf", float("-inf")),
    ],
)  # fmt: skip
def test_texts_are_read_by_the_kind_of_their_field(kind: str, text: str, value: Any) -> None:
    found = Field("x", kind).read(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        (WHOLE, "3.5", "A whole number, not '3.5'."), (NUMBER, "x", "A number, not 'x'."),
        (WHOLE, "9" * 5000, "fewer digits"), (ANY, "9" * 5000, "fewer digits"), (ANY, "[1, 2", "Not a Python value"),
        (ANY, "'open", "needs quotes"), (TEXT, "\ud800", "half a character"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(kind: str, text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said.replace(".", r"\.")):
        Field("x", kind).read(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1, 2,3,", ["1", "2", "3"]), ("[1, 2]", ["1", "2"]), ("[1, 2], [3]", ["[1, 2]", "[3]"]),
        ("'a, b', c\nit's, d", ["'a, b'", "c", "it's", "d"]), ("[Ar, Ne]", ["Ar", "Ne"]), ("", []),
        ("f(1, 2), 3", ["f(1, 2)", "3"]), ("['a]', 'b']", ["'a]'", "'b'"]), ("k='x, y', z=1", ["k='x, y'", "z=1"]),
        ("[1], [2]", ["[1]", "[2]"]),
    ],
)  # fmt: skip
def test_lists_are_cut_at_commas_outside_of_quotes_and_brackets(text: str, parts: list[str]) -> None:
    assert list(pieces(text)) == parts


@pytest.mark.parametrize(
    ("way", "rows", "code"),
    [
        (("range", "300", "900", "300"), [300, 600, 900], "range(300, 901, 300)"),
        (("range", "3", "1", "-1"), [3, 2, 1], "range(3, 0, -1)"),
        (("range", "0", "0.3", "0.1"), [0.0, 0.1, 0.2, 0.3], "[0.0, 0.1, 0.2, 0.3]"),
        (("points", "0", "1", "3"), [0.0, 0.5, 1.0], "[0.0, 0.5, 1.0]"),
        (("points", "0", "4", "3"), [0, 2, 4], "range(0, 5, 2)"),
        (("points", "0.1", "0.4", "4"), [0.1, 0.2, 0.3, 0.4], "[0.1, 0.2, 0.3, 0.4]"),
        (("list", "1, 2.5, nan"), [1, 2.5, float("nan")], "[1, 2.5, float('nan')]"),
    ],
)
def test_ranges_have_the_numbers_that_were_meant(sweep: SweepModel, way: Any, rows: list[Any], code: str) -> None:
    request = sweep.request(state(T=way))
    assert repr([row["T"] for row in request.rows.sweep()]) == repr(rows)
    assert sweep.code(request).magic == f"%balsam_submit melt T={code}"


def test_a_long_range_is_written_as_what_computes_it(sweep: SweepModel) -> None:
    request = sweep.request(state(T=("range", "0.5", "1000", "0.5")))
    assert sweep.code(request).magic == "%balsam_submit melt T=[round(0.5 + 0.5 * i, 1) for i in range(2000)]"
    assert [row["T"] for row in request.rows.sweep()][-1] == 1000.0


def test_errors_stand_by_their_fields(sweep: SweepModel) -> None:
    def errors(**values: Any) -> dict[str, str]:
        found: dict[str, str] = sweep.read(state(**values))["errors"]
        return found

    assert errors() == {"values.T": "T needs a value."}
    assert errors(T="hot") == {"values.T": "A number, not 'hot'."}
    assert errors(T=("range", "1", "2", "0")) == {"values.T": "A step that leads from 1 to 2, not 0."}
    assert errors(T=("uniform", "2", "1"))["values.T"].startswith("uniform(2, 1) has no values")
    assert errors(T=("list", ""), gas=("range", "1", "2", "1")).keys() == {"values.T", "values.gas"}
    assert "num_nodes must be" in errors(T="1", options={"num_nodes": "0"})["num_nodes"]
    assert errors(T="1", options={"name": "a b"}).keys() == {"name"}
    assert errors(T="1", options={"tags": "a"})["tags"].startswith("'a': write name=value")
    assert errors(T="1", options={"tags": "a:b=1"}).keys() == {"tags"}
    assert errors(T="1", options={"num_nodes": "1.5", "max_retries": "x"}).keys() == {"num_nodes", "max_retries"}
    assert errors(T="1", options={"max_node_hours": "-1"}).keys() == {"max_node_hours"}
    assert errors(T=("list", "1, 2"), steps=("list", "1"), options={"pair": "0"}).keys() == {"pair"}
    assert errors(T=("uniform", "1", "2"), options={"rows": "0"}).keys() == {"rows"}


def test_errors_of_the_submission_stand_by_their_fields_and_nothing_is_stored(sweep: SweepModel, site: Site) -> None:
    assert sweep.submit(state(T="1", options={"num_nodes": "7"}))["errors"].keys() == {"num_nodes"}
    assert sweep.submit(state(T="1", more=("list", "1, ...")))["errors"].keys() == {"values.more"}
    assert sweep.submit(state(T="1", options={"threads_per_rank": "99"}))["errors"].keys() == {"threads_per_rank"}
    assert site.engine.count(Query()) == {} and sweep.result is None


def test_a_changed_app_is_asked_about(sweep: SweepModel, exctr: BalsamExecutor, site: Site) -> None:
    sweep.submit(state(T="1", options={"name": "one"}))
    exctr.submit_allocation("here", 1, 5, job_mode="serial")
    sweep.result.wait(60)
    exctr.register_app(type("melt", (ApplicationDefinition,), {"run": lambda self, T: T + 1}))
    changed = SweepModel(exctr, "melt")
    assert "has changed" in changed.submit(state(T="1", options={"name": "one"}))["errors"]["if_changed"]
    answer = changed.submit(state(T="1", options={"name": "one", "if_changed": "1"}))
    assert answer["errors"] == {} and changed.result.generation == 2


def test_a_huge_sweep_is_counted_and_refused_at_once(sweep: SweepModel, site: Site) -> None:
    huge = [("range", "1", str(10**9), "1"), ("points", "0", "1", str(10**9)), ("range", "0", "1", "1e-200")]
    began = time.monotonic()
    for way in huge:
        for answer in (sweep.read, sweep.estimate, sweep.submit):
            said = answer(state(T=way))["errors"][""]
            assert "a form submits 1,000,000 at most" in said
    drawn = sweep.read(state(T=("uniform", "0", "1"), options={"rows": str(10**9)}))
    assert drawn["errors"][""].startswith("1,000,000,000 rows")
    large = state(T=("points", "0", "1", "1000000"))
    assert sweep.read(large)["button"] == "Submit 1,000,000 tasks"
    assert sweep.estimate(large)["more"] == "1,000,000 rows, made when they are submitted."
    assert time.monotonic() - began < 2
    assert site.engine.count(Query()) == {}


def test_the_estimate_has_a_price_and_the_first_rows(sweep: SweepModel, site: Site) -> None:
    answer = sweep.estimate(state(T=("list", "1, 2"), steps=("range", "1", "4", "1")))
    assert answer["price"][0] == ("tasks", "8 tasks of melt")
    assert answer["columns"] == ["T", "steps"] and answer["rows"][1] == ["1", "2"]
    assert len(answer["rows"]) == 5 and answer["more"] == "… and 3 more"
    assert site.engine.count(Query()) == {}


def test_one_task(exctr: BalsamExecutor) -> None:
    exctr.register_app(melt)
    form = SweepModel(exctr, "melt", sweep=False)
    answer = form.read(state(T="300", gas="'a b'", method="2"))
    assert answer["magic"] == "%balsam_submit melt T=300 gas='a b' method=3" and answer["button"] == "Submit 1 task"
    assert form.read(state(T=("list", "1, 2")))["errors"] == {}, "what a page cannot ask for is harmless"
    assert form.submit(state(T="300", more="[1, 2]"))["said"].endswith("follows it.")
    (row,) = form.result.tasks()
    assert row.process.parameters["more"] == [1, 2]


def test_another_site_is_named_in_the_code(sweep: SweepModel, tmp_path: Any) -> None:
    other = open_site("other", tmp_path / "other")
    try:
        answer = sweep.read(state(T="300"))
        assert answer["magic"] is None and "BalsamExecutor('here').submit_sweep('melt', {'T': 300})" in answer["python"]
    finally:
        other.close()


def test_an_allocation_is_priced_checked_and_asked_for(shell: Shell, exctr: BalsamExecutor, site: Site) -> None:
    form = AllocationModel(exctr)
    assert form.read({})["magic"] == "%balsam_allocate -n 1 -t 10 -j serial"
    asked = {"options": {"wall_time_min": "30", "filter_tags": "who='a, b'", "project": "astro", "job_mode": "0"}}
    assert form.estimate(asked)["price"][0] == ("price", "≈ 0.5 node-hours at most: 1 node, 30 min")
    answer = form.read(asked)
    assert answer["magic"] == "%balsam_allocate -n 1 -t 30 -j mpi -A astro --tag 'who=a, b'"
    assert answer["button"] == "Ask for 1 node, 30 min"
    first = form.submit(asked)
    assert first["said"].startswith("Allocation 1 is asked for"), first
    for kind in ("magic", "python"):
        made = run(shell, answer[kind])
        for name in ("num_nodes", "wall_time_min", "job_mode", "queue", "project", "filter_tags", "partitions"):
            assert getattr(made, name) == getattr(form.result, name)
        exctr.revoke_allocation(made)
    assert "astro" in next(one for one in form.open()["options"] if one["name"] == "project")["known"]
    assert form.submit({"options": {"queue": "debug"}})["errors"].keys() == {"queue"}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"num_nodes": "9"}, "num_nodes"), ({"wall_time_min": "0"}, "wall_time_min"),
        ({"partitions": "mpi"}, "partitions"), ({"wall_time_min": "soon"}, "wall_time_min"),
        ({"num_nodes": "1", "partitions": "mpi:2"}, "partitions"), ({"filter_tags": "x"}, "filter_tags"),
        ({"wall_time_min": "600", "max_node_hours": "3"}, "max_node_hours"),
    ],
)  # fmt: skip
def test_an_allocation_that_cannot_be_is_refused_at_its_field(
    exctr: BalsamExecutor, options: dict[str, str], field: str
) -> None:
    form = AllocationModel(exctr)
    for answer in (form.read, form.estimate, form.submit):
        assert answer({"options": options})["errors"].keys() == {field}
    assert exctr.site.engine.allocations() == []


def test_partitions(exctr: BalsamExecutor) -> None:
    request = AllocationModel(exctr).request({"options": {"partitions": "mpi:1:role=a"}})
    assert isinstance(request, Block) and request.options["num_nodes"] == 1
    assert request.code(True).magic == "%balsam_allocate -n 1 -t 10 -j serial -p mpi:1:role=a"


def test_forms_are_opened_from_the_executor(exctr: BalsamExecutor) -> None:
    exctr.register_app(melt)
    assert "%balsam_submit melt T=… steps=…" in repr(exctr.app_form("melt"))
    assert "Sweep of melt" in repr(exctr.sweep_form("melt"))
    assert "%balsam_allocate" in repr(exctr.allocation_form())
    assert isinstance(exctr.sweep_form("melt").form.request(state(T="1")), Submission)
    assert field_of("x", SweepModel(exctr, "melt").app.parameters["T"]).kind == NUMBER


def test_a_terminal_shows_text(shell: Shell, exctr: BalsamExecutor, capsys: pytest.CaptureFixture[str]) -> None:
    exctr.register_app(melt)
    for code, said in (
        ("%balsam_form melt", "Run melt"),
        ("%balsam_form melt --sweep", "Sweep of melt"),
        ("%balsam_form --allocation", "%balsam_allocate -n NODES"),
    ):
        run(shell, code)
        shown = capsys.readouterr()
        assert said in shown.out and "where no form is shown, write:" in shown.out and not shown.err
    assert "Give an app (melt), or --allocation" in refused(shell, capsys, "%balsam_form")
    assert "Did you mean 'melt'?" in refused(shell, capsys, "%balsam_form malt")
    assert "leave the app out" in refused(shell, capsys, "%balsam_form melt --allocation")

"""The code that a form shows, run in a real IPython, submits exactly the rows that the form would."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from balsam_jupyter import Site
from balsam_jupyter.codec import canonical, decode
from balsam_jupyter.magics.every import MAGICS
from balsam_jupyter.magics.line import parse
from balsam_jupyter.models import Query
from balsam_jupyter.widgets.forms.models import SweepModel
from balsam_jupyter.widgets.forms.reading import ANY, NUMBER, TEXT, WHOLE
from balsam_jupyter.widgets.forms.written import source, word

from . import test_forms, test_magics
from .test_forms import Phase, state
from .test_magics import Shell, run

shell = test_magics.shell
sweep = test_forms.sweep

NASTY = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12)
LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | NASTY | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(NASTY, inner, max_size=3)
    ),
    max_leaves=6,
)
FINITE = st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6, allow_nan=False)


def typed(kind: str, value: Any) -> str:
    """A value as somebody would type it into a field, quotes and all."""
    if isinstance(value, float) and kind == NUMBER:
        return str(value)
    return source(value)


@st.composite
def ways(draw: st.DrawFn, kind: str) -> tuple[str, ...]:
    one = {TEXT: NASTY, WHOLE: st.integers(), NUMBER: st.integers() | st.floats(), ANY: LITERALS}[kind]
    texts = one.map(lambda value: typed(kind, value))
    many = st.lists(texts, min_size=1, max_size=4).map(", ".join)
    found: list[Any] = [st.tuples(st.just("value"), texts), st.tuples(st.sampled_from(["list", "choice"]), many)]
    if kind in (NUMBER, ANY):
        low, high = sorted(draw(st.tuples(FINITE, FINITE)))
        number = draw(st.integers(2, 30))
        step = (high - low) / number or 1
        found += [
            st.just(("range", repr(low), repr(high), repr(step))),
            st.just(("points", repr(low), repr(high), str(number))),
            st.just(("uniform", repr(low), repr(high))),
            st.just(("normal", repr(low), repr(abs(high) + 1))),
            st.just(("loguniform", repr(abs(low) + 1), repr(abs(low) + 2))),
        ]
    if kind in (WHOLE, NUMBER, ANY):
        low, step = draw(st.integers(-(10**6), 10**6)), draw(st.integers(1, 10**6))
        found += [
            st.just(("range", str(low), str(low + 7 * step), str(step))),
            st.just(("integers", str(low), str(low + step))),
        ]
    return tuple(draw(st.one_of(*found)))


@st.composite
def forms(draw: st.DrawFn) -> dict[str, Any]:
    values: dict[str, Any] = {"T": draw(ways(NUMBER))}
    for name, kind in (("steps", WHOLE), ("gas", TEXT), ("more", ANY)):
        if draw(st.booleans()):
            values[name] = draw(ways(kind))
    for name, most in (("method", 2), ("phase", 2), ("check", 1)):
        if draw(st.booleans()):
            chosen = draw(st.lists(st.integers(0, most), min_size=1, max_size=3))
            values[name] = ("list", ",".join(map(str, chosen)))
    options = {"rows": str(draw(st.integers(1, 5))), "seed": str(draw(st.integers(0, 99)))}
    if draw(st.booleans()):
        options["pair"] = "0"
    if draw(st.booleans()):
        options["sampler"] = "0"
    if draw(st.booleans()):
        options["tags"] = f"kind={source(draw(NASTY))}"
    if draw(st.booleans()):
        options |= {"wall_time_min": draw(st.sampled_from(["3", "2.5"])), "max_retries": "2", "scratch": "0"}
    return state(options, **values)


def stored(site: Site, ensemble: Any) -> list[Any]:
    """The rows of an ensemble as they are stored, in order, with what was asked for beside them."""
    rows = site.engine.jobs(Query(ensemble=ensemble.name, order="row"))
    return [
        (canonical(decode(row.parameters)), repr(decode(row.parameters)), row.resources, row.max_retries, row.scratch,
         {key: word for key, word in row.tags.items() if key != "workflow"})
        for row in rows
    ]  # fmt: skip


def test_the_code_in_a_notebook_submits_exactly_what_the_form_would(
    shell: Shell, sweep: SweepModel, site: Site
) -> None:
    """As magic and as Python: to the form's ensemble they add nothing, and an ensemble of their own is the same."""
    number = 0
    seen: dict[str, int] = {}

    @given(forms())
    @settings(
        max_examples=150, deadline=None, database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )  # fmt: skip
    def each(given_state: dict[str, Any]) -> None:
        nonlocal number
        number += 1
        options = given_state["options"]
        answer = sweep.read(given_state)
        assume(not answer["errors"])
        own = {**given_state, "options": {**options, "name": f"form-{number}"}}
        submitted = sweep.submit(own)
        assert submitted["errors"] == {}, submitted
        mine = sweep.result
        assert len(mine) == mine.new == sweep.request(given_state).rows.count()
        for at, kind in enumerate(("magic", "python")):
            again = sweep.read(own)[kind]
            if again is None:
                continue
            seen[kind] = seen.get(kind, 0) + 1
            assert (run(shell, again).new, run(shell, again).kept) == (0, mine.new), again
            other = f"code-{number}-{at}"
            theirs = run(shell, sweep.read({**own, "options": {**options, "name": other}})[kind])
            assert stored(site, theirs) == stored(site, mine), again

    each()
    assert seen["magic"] > 20 and seen["python"] > 50, seen


TEXTS = st.text(max_size=12)


@given(TEXTS)
def test_a_word_of_a_line_is_that_text(text: str) -> None:
    written = word(text)
    if written is None:
        assert not text.isprintable() or set(text) & set("{}$")
    else:
        asked = parse(MAGICS["balsam_allocate"].grammar, f"--wf-filter {written} -n 2", {})
        assert (asked.wf_filter, asked.num_nodes) == (text, 2)


@given(LITERALS)
def test_source_makes_the_value_again(value: Any) -> None:
    assert repr(eval(source(value))) == repr(value)


def test_source_of_sets_and_complex_numbers() -> None:
    for value in (set(), {1, 2}, 1e400j, (1,), Phase.SOLID):
        assert eval(source(value)) == value

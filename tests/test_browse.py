"""Filters, orders and pages of tasks say the same as plain Python over all rows, also while tasks come, end and go."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balsam_jupyter import browse
from balsam_jupyter.browse import Browser, ordered
from balsam_jupyter.codec import decode
from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.engines.search import Search, matcher
from balsam_jupyter.errors import BadInput
from balsam_jupyter.filters import parse
from balsam_jupyter.models import JOB_STATES, TASK_STATE, TASK_STATES, JobRow, Query

from .ended import Pilot, add_rows

NAMES = ["T", "name", "flag"]
VALUES = [
    300,
    300.0,
    450.5,
    -1,
    "Ada",
    "ada L",
    'a "b"',
    "50%_\\",
    "é",
    None,
    True,
    False,
    math.nan,
    math.inf,
    [1, 2],
    10**18,
]
ENDS = [("finished", ""), ("error", "lost atoms: node 7"), ("error", "50%_ done"), ("killed", ""), ("", "")]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedEngine]:
    """Two ensembles in turns and lone jobs, in all states."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("browse")
        patch.setenv("BALSAM_JUPYTER_HOME", str(folder / "home"))
        engine = EmbeddedEngine.open("here", str(folder / "site"))
        values = itertools.cycle(VALUES)
        for turn in range(6):
            for name in ("e", "f", None):
                rows = [{key: next(values) for key in NAMES[: 1 + (turn + at) % 3]} for at in range(7)]
                add_rows(engine, f"s{turn % 2}", rows, name)
        pilot = Pilot(engine)
        jobs = pilot.take(90)
        for job, (outcome, error) in zip(jobs, itertools.cycle(ENDS), strict=False):
            pilot.start([job])
            if outcome:
                pilot.end(job.id, outcome, (job.id * 37) % 11, error, code=len(error) or None)
        engine.delete(Query(ids=(5, 40)))
        yield engine
        pilot.close()
        engine.close()


# -- the model ---------------------------------------------------------------------------------------------------------


def shown(value: Any, sign: str, word: str) -> bool:
    """What a condition on a parameter means, written once more."""
    try:
        number = float(word)
    except ValueError:
        number = None
    if value is None or isinstance(value, bool):
        same = str(value).lower() == word.lower()
        return same if sign == "=" else not same if sign == "!=" else False
    if isinstance(value, (int, float)):
        if number is None:
            return sign == "!="
        if math.isnan(value) or math.isnan(number):  # no number is less or more, nor the same but the same
            same = math.isnan(value) and math.isnan(number)
            return same if sign == "=" else not same if sign == "!=" else False
        same, less = value == number, value < number
    else:
        text = value if isinstance(value, str) else str(value)
        same, less = text == word, text < word
    more = not same and not less
    return {"=": same, "!=": not same, "<": less, "<=": less or same, ">": more, ">=": more or same}[sign]


def ascii_lower(text: str) -> str:
    return "".join(chr(ord(one) + 32) if "A" <= one <= "Z" else one for one in text)


def found_in(row: JobRow, text: str) -> bool:
    stored = row.parameters if isinstance(row.parameters, str) else ""
    wanted = ascii_lower(text)
    return (
        ascii_lower(json.dumps(text)[1:-1]) in ascii_lower(stored)
        or wanted in ascii_lower(row.error)
        or wanted in ascii_lower(row.workdir)
    )


def matching(
    engine: EmbeddedEngine, ensemble: str, conditions: list[tuple[str, str, str]], texts: list[str], states: list[str]
) -> list[JobRow]:
    rows = engine.jobs(Query(ensemble=ensemble or None))
    return [
        row
        for row in rows
        if (not states or TASK_STATE[row.state] in states)
        and all(
            shown(passed[name], sign, word) if name in (passed := decode(row.parameters)) else sign == "!="
            for name, sign, word in conditions
        )
        and all(found_in(row, text) for text in texts)
    ]


CONDITIONS = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
        st.sampled_from(
            ["300", "3e2", "450.5", "0", "Ada", "ada L", "é", "true", "None", "nan", "inf", "[1, 2]", "50%_\\"]
        ),
    ),
    max_size=2,
)
TEXTS = st.lists(
    st.sampled_from(["ada", "LOST", "50%_", "\\", "é", "e/1", "lone/", "zzz", "node 7", '"b"']), max_size=2
)
STATES = st.lists(st.sampled_from(TASK_STATES), unique=True, max_size=2)
ENSEMBLES = st.sampled_from(["e", "f", ""])


def quoted(word: str) -> str:
    return f"'{word}'" if '"' in word else f'"{word}"'


def pages(browser: Browser, search: Search, size: int) -> list[int]:
    """All ids of a listing, read page by page."""
    while not browser.page(search, 0, 1).complete:
        pass
    total = browser.page(search, 0, 1).total
    got = [browser.page(search, start, size) for start in range(0, total, size)]
    return [cells.id for page in got for cells in page.rows if cells is not None]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    conditions=CONDITIONS,
    texts=TEXTS,
    states=STATES,
    ensemble=ENSEMBLES,
    size=st.integers(1, 60),
    descending=st.booleans(),
)
def test_a_filter_finds_what_plain_python_finds(
    full: EmbeddedEngine, conditions: list[tuple[str, str, str]], texts: list[str], states: list[str], ensemble: str,
    size: int, descending: bool,
) -> None:  # fmt: skip
    line = " ".join(
        [f"{name}{sign}{quoted(word)}" for name, sign, word in conditions] + [quoted(text) for text in texts]
    )
    browser = Browser(full, ensemble)
    search = browser.search(line, states, "id", descending)
    expected = [row.id for row in matching(full, ensemble, conditions, texts, states)]
    assert pages(browser, search, size) == (expected[::-1] if descending else expected)


COLUMNS = {
    "runtime": "runtime_s",
    "started": "start_time",
    "ended": "end_time",
    "code": "return_code",
    "attempts": "attempts",
}


def key_of(row: JobRow, order: str) -> Any:
    if order == "state":
        return JOB_STATES.index(row.state)
    return getattr(row, COLUMNS[order]) if order in COLUMNS else decode(row.parameters).get(order)


def rank(key: Any) -> tuple[int, Any]:
    if isinstance(key, (int, float)):
        return 0, key
    return (1, key) if isinstance(key, str) else (2, repr(key))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.sampled_from([*COLUMNS, *NAMES, "state"]), states=STATES, ensemble=ENSEMBLES, descending=st.booleans())
def test_an_order_is_that_of_plain_python(
    full: EmbeddedEngine, order: str, states: list[str], ensemble: str, descending: bool
) -> None:
    browser = Browser(full, ensemble)
    rows = matching(full, ensemble, [], [], states)
    known = [row for row in rows if (key := key_of(row, order)) is not None and key == key]
    last = [row for row in rows if row not in known]
    known.sort(key=lambda row: rank(key_of(row, order)), reverse=descending)
    expected = [row.id for row in known + last]
    assert pages(browser, browser.search("", states, order, descending), 50) == expected


def test_numbers_of_tasks_and_tags_are_asked_for(full: EmbeddedEngine) -> None:
    def found(line: str, ensemble: str = "e") -> set[int]:
        browser = Browser(full, ensemble)
        return set(pages(browser, browser.search(line), 100))

    rows = full.jobs(Query(ensemble="e"))
    assert found("runtime>=5") == {row.id for row in rows if row.runtime_s is not None and row.runtime_s >= 5}
    assert found("code!=18 row<20") == {row.id for row in rows if row.return_code != 18 and (row.row or 0) < 20}
    assert found("tag.study=s1") == {row.id for row in rows if row.tags["study"] == "s1"}
    assert found("state=failed") == {row.id for row in rows if row.state == "FAILED"}
    assert found("state!=RUNNING state!=JOB_FINISHED") == {
        row.id for row in rows if TASK_STATE[row.state] not in ("RUNNING", "FINISHED")
    }
    assert found("task=7", "") == {7}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Tx=3", "There is no parameter 'Tx'; T, name, flag. Did you mean 'T'?"),
        ("T>", "T> what? For instance T>300; quotes keep words together."),
        ("state>FAILED", "A state has no order; state=FAILED or state!=FAILED."),
        ("state=FAILD", "Did you mean 'FAILED'?"),
        ("runtime>long", "runtime is a number, and 'long' is none; param.runtime would be a parameter."),
        ("tag.study>3", "A tag is asked for by its value: tag.study=3."),
    ],
)
def test_what_cannot_be_asked_is_said(line: str, said: str) -> None:
    with pytest.raises(BadInput) as error:
        parse(line, NAMES)
    assert said in str(error.value)


def test_a_parameter_may_have_the_name_of_a_column() -> None:
    assert parse("param.runtime>3", ["runtime"]).parameters == (("runtime", ">", "3"),)
    assert parse("'T>3' x", NAMES).texts == ("T>3", "x"), "in quotes it is text"


@pytest.mark.parametrize(
    "line", ["T >= 3 lost name!='a > b'", "lost name != 'a > b' T >=3", "T>= 3   name != 'a > b' lost"]
)
def test_spaces_around_a_sign_make_no_difference(line: str) -> None:
    found = parse(line, NAMES)
    assert set(found.parameters) == {("T", ">=", "3"), ("name", "!=", "a > b")}
    assert found.texts == ("lost",)
    assert parse("'T > 3' x", NAMES).texts == ("T > 3", "x"), "in quotes it is text"


@given(st.lists(st.sampled_from(VALUES)), st.booleans())
def test_any_mixture_of_values_has_an_order(keys: list[Any], descending: bool) -> None:
    ids = list(range(100, 100 + len(keys)))
    assert sorted(ordered(ids, keys, descending)) == ids


@given(st.sampled_from(VALUES), st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), st.text(max_size=4))
def test_any_word_compares_with_any_value(value: Any, sign: str, word: str) -> None:
    assert matcher(sign, word)(value) in (True, False)
    assert matcher("=", word)(value) != matcher("!=", word)(value)


# -- while it is made, and while tasks change --------------------------------------------------------------------------


def test_a_listing_is_made_a_little_at_a_time_and_says_how_far_it_is(
    full: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browse, "_FIRST_STEP", 10)
    browser = Browser(full, "e")
    search = browser.search("T!=1", (), "name")
    first = browser.page(search, 0, 50, seconds=0.0)
    assert not first.complete and first.looked == 10 and first.among > 100
    looked = [browser.page(search, 0, 50, seconds=0.0).looked for _ in range(3)]
    assert looked == sorted({*looked}) and looked[-1] < first.among
    assert browser.ids(search) is not None and browser.page(search, 0, 50).complete


def test_a_listing_stops_at_its_limit_and_says_so(full: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browse, "_FIRST_STEP", 10)
    monkeypatch.setattr(browse, "MOST_S", 1e-9)
    browser = Browser(full, "e")
    page = browser.page(browser.search("T!=1"), 0, 50)
    assert page.complete and page.looked == 10 < page.among


def test_where_there_is_nothing(engine: EmbeddedEngine) -> None:
    for ensemble in ("", "no such"):
        page = Browser(engine, ensemble).page(Browser(engine, ensemble).search("T=3 lost"), 0, 50)
        assert page.complete and page.total == 0 and page.rows == []

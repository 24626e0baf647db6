"""The grammar of the magics' lines: what is read of them, and where a mistake is."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balsam_jupyter.magics.every import MAGICS
from balsam_jupyter.magics.line import Asked, parse
from balsam_jupyter.magics.mistakes import Mistake, pointed


def parsed(line: str, magic: str = "balsam_submit", **namespace: Any) -> Asked:
    return parse(MAGICS[magic].grammar, line, namespace)


def expressions(line: str) -> dict[str, str]:
    return {name: part.text for name, part in parsed(line).parameters.items()}


def test_expressions_keep_their_spaces_brackets_and_quotes() -> None:
    line = """melt T=[1, 2, 3] P=np.linspace(0, 1, 5) s='a "b" [c' d={'k': (1, "}")} --name scan-1 """
    asked = parsed(line + "e = x  + 1 --tag k=v --zip")
    assert (asked.app, asked.name, asked.tags, asked.zip, asked.dry_run) == (
        "melt",
        "scan-1",
        [("k", "v")],
        True,
        False,
    )
    assert {name: part.text for name, part in asked.parameters.items()} == {
        "T": "[1, 2, 3]",
        "P": "np.linspace(0, 1, 5)",
        "s": """'a "b" [c'""",
        "d": """{'k': (1, "}")}""",
        "e": "x  + 1",
    }


@pytest.mark.parametrize(
    ("line", "name", "expression"),
    [
        ("app x=a == b", "x", "a == b"),
        ("app x =3", "x", "3"),
        ("app x= 3", "x", "3"),
        ("app x=-1 ", "x", "-1"),
        ("app x=a if b else c", "x", "a if b else c"),
        ("app x=[y for y in range(3) if y!=1]", "x", "[y for y in range(3) if y!=1]"),
        ("app x=f'{a} b'", "x", "f'{a} b'"),
        (r"app x='it\'s'", "x", r"'it\'s'"),
        ("app x=$HOME", "x", "$HOME"),
        ("app x=[1,\n 2]", "x", "[1,\n 2]"),
        ("app x='--name'", "x", "'--name'"),
        ("app x=a - -1", "x", "a - -1"),
        ('app x="""it\'s --zip y=1"""', "x", '"""it\'s --zip y=1"""'),
        ("x=1 app", "x", "1 app"),
    ],
)
def test_one_expression(line: str, name: str, expression: str) -> None:
    if line.startswith("app"):
        assert expressions(line) == {name: expression}
    else:  # an expression goes on to the next part, so the app comes first
        with pytest.raises(Mistake, match="Give APP"):
            parsed(line)


values = st.recursive(
    st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=8,
)


@given(values, values)
@settings(deadline=None)
def test_any_value_written_as_python_comes_back(one: Any, two: Any) -> None:
    asked = parsed(f"app one={one!r} --name n two={two!r}")
    assert (asked.app, asked.name) == ("app", "n")
    assert [asked.parameters[name].evaluate({}) for name in ("one", "two")] == [one, two]


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12))
@settings(deadline=None)
def test_any_quoted_word_comes_back(text: str) -> None:
    asked = parsed(f"f --output {shlex.quote('x=' + text)} --env {shlex.quote('k=' + text)}", "balsam_app")
    assert asked.output == [("x", text)] and asked.env == [("k", text)]


@pytest.mark.parametrize(
    ("line", "says", "marked"),
    [
        ("app x=[1, 2", "The bracket [ is never closed.", "["),
        ("app x='abc", "The quote ' is never closed.", "'"),
        ("app x=1 x=2", "x is given twice.", "x"),
        ("app x=1 --name 'b", "The quote ' is never closed.", "'"),
        ("app --nmae b", "%balsam_submit has no option --nmae. Did you mean '--name'?", "--nmae"),
        ("app --name", "--name needs a value: --name NAME.", "--name"),
        ("app --name --zip", "--name needs a value: --name NAME.", "--name"),
        ("app --zip=3", "--zip takes no value.", "--zip=3"),
        ("app --name a --name b", "--name is given twice.", "b"),
        ("app --tag a=1 --tag b=1 --tag a=2", "--tag a is given twice.", "a=2"),
        ("app --num-procs 1.5", "--num-procs takes a whole number, not '1.5'.", "1.5"),
        ("app --gpus-per-rank nan", "--gpus-per-rank takes a number, not 'nan'.", "nan"),
        ("app --tag k", "--tag k: write --tag name=value.", "k"),
        ("app b", "b: write name=expression for each parameter of app.", "b"),
        ("app\0", "'app\\x00' has a NUL in it.", "app\0"),
        ("a\ud800", r"'a\ud800' is no text that can be stored.", "a\ud800"),
    ],
)
def test_a_line_that_cannot_be_read_points_at_the_word(line: str, says: str, marked: str) -> None:
    with pytest.raises(Mistake) as caught:
        parsed(line)
    assert str(caught.value) == says
    assert line[caught.value.start : caught.value.end] == marked


@pytest.mark.parametrize(
    ("expression", "says", "marked"),
    [
        ("", "x= has no value.", "x="),
        ("Cu", "x=Cu: name 'Cu' is not defined. Text needs quotes: x='Cu'.", "Cu"),
        ("1 +", "x=1 +: not a Python expression (invalid syntax).", ""),
        ("$HOME", "x=$HOME: not a Python expression (invalid syntax).", "$"),
        ("[1, 2 3]", "x=[1, 2 3]: not a Python expression (invalid syntax. Perhaps you forgot a comma?).", "2 3"),
        ("1/0", "x=1/0: ZeroDivisionError: division by zero", "1/0"),
        ("exit(3)", "x=exit(3): SystemExit: 3", "exit(3)"),
        (
            "[n.a for n in [1]]",
            "x=[n.a for n in [1]]: AttributeError: 'int' object has no attribute 'a'",
            "[n.a for n in [1]]",
        ),
    ],
)
def test_an_expression_that_has_no_value_points_at_it(expression: str, says: str, marked: str) -> None:
    line = f"app x={expression}"
    with pytest.raises(Mistake) as caught:
        parsed(line).parameters["x"].evaluate({"exit": sys.exit})
    assert str(caught.value) == says
    assert line[caught.value.start : caught.value.end] == marked


def test_words_are_filled_in_from_the_notebook_and_expressions_are_not() -> None:
    asked = parsed("app --name scan-{i + 1} --tag 'of={names[0]}' x='{i}'", i=2, names=["a b"])
    assert (asked.name, asked.tags, asked.parameters["x"].text) == ("scan-3", [("of", "a b")], "'{i}'")
    assert parsed(r"f --output 'x=\d{2} (.*)'", "balsam_app").output == [("x", r"\d{2} (.*)")]
    with pytest.raises(Mistake, match=r"\{nme\}: name 'nme' is not defined"):
        parsed("{nme}", "balsam_wait")


@pytest.mark.parametrize(
    ("line", "name", "expression"),
    [
        ("app x=1 --name n # why --zip y=2", "n", "1"),
        ("app --name n x=1  # why", "n", "1"),
        ("# first\napp x=1 #\n--name n#1", "n#1", "1"),
        ("app x='# no' --name='#2' # \"'", "#2", "'# no'"),
    ],
)
def test_a_comment_ends_with_the_line(line: str, name: str, expression: str) -> None:
    asked = parsed(line)
    assert (asked.app, asked.name, asked.zip) == ("app", name, False)
    assert {name: part.text for name, part in asked.parameters.items()} == {"x": expression}
    with pytest.raises(Mistake, match="--name needs a value"):
        parsed("app --name # n")


def test_a_message_does_not_list_many_options() -> None:
    for line, magic, says in (
        ("", "balsam_submit", "Give APP: %balsam_submit APP [name=expression …] [options]"),
        ("a b", "balsam_app", "'b' is one word too many: %%balsam_app NAME [options]"),
        ("", "balsam_wait", "Give NAME: %balsam_wait NAME [--timeout S]"),
    ):
        with pytest.raises(Mistake) as told:
            parsed(line, magic)
        assert str(told.value) == says


def test_an_option_is_repeated_or_takes_the_words_up_to_the_next() -> None:
    asked = parsed("--param a --param b=1 f --input x y --python --input z", "balsam_app")
    assert (asked.name, asked.param, asked.input, asked.python) == ("f", ["a", "b=1"], ["x", "y", "z"], True)
    assert parsed("-n2 -t=3", "balsam_allocate").num_nodes == 2


@pytest.mark.parametrize(
    ("text", "start", "end", "shown"),
    [
        ("app x=1", 4, 5, "    %m app x=1\n           ^"),
        ("\tåé 数据 y", 7, 8, "    %m  åé 数据 y\n                ^"),
        ("a\nbad word", 6, 10, "    bad word\n        ^^^^"),
        ("e\u0301 x\0", 3, 5, "    %m e\u0301 x\ufffd\n         ^^"),
        ("", 1, 1, "    %m\n       ^"),
    ],
)
def test_the_caret_is_under_the_word(text: str, start: int, end: int, shown: str) -> None:
    assert pointed(text, start, end, "%m ") == shown


def test_of_a_long_line_only_the_part_around_the_word_is_shown() -> None:
    line, caret = pointed("x" * 500 + " bad " + "y" * 500, 501, 504).splitlines()
    assert len(line) < 110 and line[caret.index("^") : caret.rindex("^") + 1] == "bad"

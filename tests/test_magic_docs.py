"""docs/magics.md is what the grammars say, and what it shows can be read by the parser."""

from __future__ import annotations

import re
from pathlib import Path

import magics  # of tools/
import pytest

from balsam_jupyter.magics.every import MAGICS
from balsam_jupyter.magics.line import parse

from . import test_magics
from .test_magics import Shell, run

shell = test_magics.shell
EXAMPLES = [
    found.groups()
    for magic in MAGICS.values()
    for found in re.finditer(r"^(?:\w+ = )?%{1,2}(balsam_\w+) ?(.*)$", magic.grammar.examples, re.MULTILINE)
]


def test_the_documentation_is_as_written_by_the_tool() -> None:
    assert magics.TARGET.read_text(encoding="utf-8") == magics.text(), "run `make docs`"


@pytest.mark.parametrize(("name", "line"), EXAMPLES)
def test_an_example_is_right(name: str, line: str) -> None:
    parse(MAGICS[name].grammar, line, {})


def test_every_argument_has_help() -> None:
    assert {name for name, _ in EXAMPLES} == set(MAGICS)
    for magic in MAGICS.values():
        assert magic.grammar.summary.endswith(".") or ". " in magic.grammar.summary
        for one in magic.grammar.arguments:
            assert one.help and one.shown, (magic.grammar.name, one.to)


@pytest.mark.parametrize("name", sorted(MAGICS))
def test_help_shows_it(shell: Shell, capsys: pytest.CaptureFixture[str], name: str) -> None:
    grammar = MAGICS[name].grammar
    for flag in ("-h", "--help"):
        code = f"%%{name} {flag}\nx" if not grammar.line else f"%{name} {flag}"
        assert repr(run(shell, code)) == grammar.help()
    run(shell, f"{grammar.called}?")
    assert grammar.usage() in re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)


def test_no_other_page_shows_a_magic_that_cannot_be_read() -> None:
    root = Path(__file__).resolve().parent.parent
    for page in (root / "README.md", *(root / "docs").glob("*.md")):
        for name, line in re.findall(r"^(?:\w+ = )?%{1,2}(balsam_\w+)[ \t]+(.*)$", page.read_text(), re.MULTILINE):
            if "[" not in line or "=[" in line:  # no usage
                parse(MAGICS[name].grammar, line.split("  # ")[0], {})

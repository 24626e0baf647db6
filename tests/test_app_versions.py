"""The version of an app: a hash of what it does, never of where it was declared."""

import textwrap

from balsam_jupyter import ApplicationDefinition
from balsam_jupyter.apps import app_version

from .isolated import python

VERSIONED = """
{padding}
import math
from balsam_jupyter import ApplicationDefinition
from balsam_jupyter.apps import app_record
LIMIT = {limit}
NAMES = {{"a", "b", "c"}}
class Point:
    def __init__(self, x): self.x = x
    def length(self): return abs(self.x) + {inner}
def helper(x):
    return math.sqrt(Point(x).length()) if "a" in NAMES else deeper(x)
def deeper(x):
    return x in {{"x", "y", "z"}} or helper(LIMIT)
class App(ApplicationDefinition):
    site = 1
    def run(self, x):
        # {comment}
        return   helper( x )
"""


def versions_in_cells(**changes):
    """Versions of a class run as a notebook runs a cell, in processes with different hash seeds."""
    cell = VERSIONED.format(**{"padding": "", "limit": 3, "comment": "", "inner": 0, **changes})
    run = (
        "import linecache, sys; text = sys.argv[1]; name = sys.argv[2]\n"
        "if name: linecache.cache[name] = (len(text), None, text.splitlines(True), name)\n"
        "exec(compile(text, name or '<gone>', 'exec'), globals())\n"
        "print(app_record(App).version, len(app_record(App).source))"
    )
    places = (("0", "/tmp/cell_1"), ("1", "/tmp/cell_2"))
    return {python(run, cell, place, seed=seed) for seed, place in places}, {
        python(run, cell, "", seed=seed) for seed in ("0", "1")
    }


def test_the_version_is_that_of_the_code_and_of_what_it_reaches():
    with_source, without = versions_in_cells()
    assert len(with_source) == len(without) == 1
    moved, _ = versions_in_cells(padding="\n\n\nx = 1\n", comment="said")
    assert {v.split()[0] for v in moved} == {v.split()[0] for v in with_source}
    assert int(next(iter(with_source)).split()[1]) > 50 and next(iter(without)).split()[1] == "0"
    for change in ({"limit": 4}, {"inner": 1}):
        other, other_without = versions_in_cells(**change)
        assert other.isdisjoint(with_source) and len(other) == 1
        assert other_without.isdisjoint(without)


def test_a_cell_of_a_notebook_has_its_source_and_one_version():
    cell = VERSIONED.format(padding="", limit=3, comment="", inner=0) + (
        "class Command(ApplicationDefinition):\n    command_template = 'echo {{ a }}'\n"
    )
    run = textwrap.dedent("""
        import sys
        from IPython.core.interactiveshell import InteractiveShell
        from balsam_jupyter.apps import app_record
        shell = InteractiveShell.instance()
        for before in ("", "# moved\\nx = 1\\n"):
            shell.run_cell(before + sys.argv[1]).raise_error()
            app, command = app_record(shell.user_ns["App"]), app_record(shell.user_ns["Command"])
            print(app.version, app.source[:9], command.source.splitlines())
        """)
    lines = python(run, cell, seed="1").splitlines() + python(run, cell, seed="2").splitlines()
    assert len(lines) == 4 and len(set(lines)) == 1
    version, _, shown = lines[0].partition(" ")
    source = ["class Command(ApplicationDefinition):", "    command_template = 'echo {{ a }}'"]
    assert shown == f"class App {source}"
    assert {version} == {one.split()[0] for one in versions_in_cells()[0]}


def test_the_version_of_a_command_is_that_of_its_text():
    def version(**attributes):
        return app_version(type("A", (ApplicationDefinition,), {"command_template": "echo {{ a }}", **attributes}))

    base = version()
    assert version(site=5) == version(parameters={"a": {"help": "x"}}) == base
    changed = [
        {"command_template": "echo  {{ a }}"},
        {"inputs": {"f": "x"}},
        {"outputs": {"f": "(x)"}},
        {"outputs": {"f": lambda w: 1}},
        {"outputs": {"f": lambda w: 2}},
        {"environment_variables": {"A": "1"}},
        {"shell_preamble": lambda self: "module load x"},
    ]
    assert len({base, *(version(**change) for change in changed)}) == len(changed) + 1

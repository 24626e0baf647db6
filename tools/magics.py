"""`make docs`: write docs/magics.md from the grammars of the magics."""

from __future__ import annotations

from pathlib import Path

from balsam_jupyter.magics.every import MAGICS
from balsam_jupyter.magics.grammar import HELP, Grammar

TARGET = Path(__file__).resolve().parent.parent / "docs" / "magics.md"
INTRO = """\
# The magics

`%load_ext balsam_jupyter` brings them. Each returns a value that shows itself, so `x = %balsam_submit …` works; `-h`,
`--help` and `%balsam_submit?` show what is here. Tab completes the names of sites, apps, parameters and ensembles, ids
of allocations, options and their values, and, in the text of an expression, states.

<!-- Written by tools/magics.py (`make docs`) from the grammars in balsam_jupyter/magics/; a test compares them. -->

## The grammar

All magics have the same one:

- A line is words between white space. Quotes keep white space in a word, as in a shell. No shell sees the line: `*`,
  `~user` and `;` are themselves. A word that begins with `#` begins a comment, up to the end of the line.
- `{expression}` in a word is filled in from the notebook, as in all of IPython's magics: `--name scan-{i}`. Not in
  `%%balsam_app`, where braces are the template's. In a function, its names come first.
- An option is `--name value` or `--name=value`; some have a short form, `-n 2` or `-n2`. Options may stand anywhere.
- Behind `name=` comes a Python expression, evaluated in the notebook: `T=[1, 2] P=np.linspace(0, 1, 5) gas='Ar'`. It
  goes on up to the next `name=` or `--option` outside of its brackets and quotes, so it may have spaces. Put a
  `lambda` with defaults in brackets.
- A mistake is an error of a line or two, with the line and a caret under the word that is wrong. Nothing is stored
  then, and "run all" stops.

```text
UsageError: Row 0 of the sweep: App melt has no parameter 'tmep'; its parameters: temp, steps. Did you mean 'temp'?
    %balsam_submit melt tmep=[300, 400] steps=1000
                        ^^^^^^^^^^^^^^^
```
"""


def section(grammar: Grammar) -> str:
    """What the documentation says about one magic."""
    called = grammar.called if not (grammar.cell and grammar.line) else f"%{grammar.name}`, `%%{grammar.name}"
    options = [*grammar.rows(), (", ".join(HELP), "show this")]
    table = ["| | |", "|---|---|", *(f"| `{_cell(name)}` | {_cell(help)} |" for name, help in options)]
    parts = [f"## `{called}`", grammar.summary.replace("{{ parameters }}", "`{{ parameters }}`"), grammar.body]
    parts += [f"```text\n{grammar.usage()}\n```", "\n".join(table)]
    parts += [f"The cell below it is {grammar.cell}."] if grammar.cell else []
    return "\n\n".join(part for part in [*parts, f"```text\n{grammar.examples}\n```"] if part)


def text() -> str:
    """All of docs/magics.md."""
    return "\n\n".join([INTRO.rstrip(), *(section(MAGICS[name].grammar) for name in sorted(MAGICS))]) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")

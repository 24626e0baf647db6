"""The cell below ``%%balsam_submit``: a sweep as YAML, as CSV or as a Python expression. The first line tells which."""

from __future__ import annotations

import io
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from ..sweep import Sweep
from .expressions import Expression
from .mistakes import Mistake

if TYPE_CHECKING:
    import yaml

_NAME = r"""(?:[^\W\d]\w*|"[^"]*"|'[^']*')"""
_YAML = re.compile(rf"---|-(?:\s|$)|{_NAME}\s*:(?:\s|$)")
_CSV_HEADER = re.compile(rf"{_NAME}(?:\s*,\s*{_NAME})*\s*")
_FIRST = re.compile(r"^[^\S\n]*(?=[^\s#])", re.MULTILINE)
# The scalars of YAML 1.2: in 1.1, which PyYAML reads, 1e-3 is text, NO is false and 1:30 is ninety.
_SCALARS = {
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+", "-+0123456789"),
    "float": (r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
              "-+0123456789."),
}  # fmt: skip


def read(cell: str, namespace: dict[str, Any]) -> Any:
    """What a cell says: a mapping, rows, or whatever its expression is worth.

    Raises
    ------
    Mistake
        Points at what is wrong in the cell.
    """
    first = _FIRST.search(cell)
    if first is None:
        raise BadInput("The cell is empty: write the sweep into it, or use %balsam_submit.")
    text = cell[first.end() :].rstrip()
    head, _, more = text.partition("\n")
    if _YAML.match(head):
        return _yaml(cell, first.end())
    if more.strip() and _CSV_HEADER.fullmatch(head):
        return _csv(cell, first.end())
    return Expression(text, first.end(), in_cell=True).evaluate(namespace)


def _yaml(cell: str, start: int) -> Any:
    import yaml

    try:
        found = yaml.load(cell, _loader())
    except yaml.MarkedYAMLError as error:
        marks = [mark for mark in (error.problem_mark, error.context_mark) if mark and mark.index < len(cell.rstrip())]
        at = marks[0].index if marks else start  # at the end of the cell there is nothing to see
        raise _wrong(cell, at, at + 1, f"{_where(cell, at)} is not YAML: {error.problem or error.context}.") from None
    except yaml.reader.ReaderError as error:
        at = int(error.position)
        raise _wrong(cell, at, at + 1, f"{_where(cell, at)} is not YAML: {error.reason}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadInput(f"The cell is not YAML: {str(error) or type(error).__name__}.") from None
    rows = found if isinstance(found, list) else [found]
    if not all(isinstance(row, dict) and all(isinstance(name, str) for name in row) for row in rows):
        raise BadInput("The cell is YAML, but neither a mapping of names to values nor a list of such mappings.")
    return found


@cache
def _loader() -> type[yaml.SafeLoader]:
    import yaml

    class Loader(yaml.SafeLoader):
        """Plain values only, and no key twice."""

        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        raise yaml.MarkedYAMLError(problem=f"{key.value} is there twice", problem_mark=key.start_mark)
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

    def whole(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
        return int(str(loader.construct_scalar(node)))  # PyYAML reads 010 as eight

    Loader.add_constructor("tag:yaml.org,2002:int", whole)
    for kind, (pattern, first) in _SCALARS.items():
        characters = ["" if char == "\0" else char for char in first]
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(rf"(?:{pattern})$"), characters)
    return Loader


class _Text(io.StringIO):
    """The cell as a file whose errors say so."""

    name = "the cell"


def _csv(cell: str, start: int) -> Sweep:
    try:
        above = cell.count("\n", 0, start) + 1  # the first line of the cell is the magic's own
        return Sweep.from_csv(_Text("\n" * above + cell[start:]))
    except BadInput as error:
        line = re.search(r"line (\d+)", str(error))
        if line is None:
            raise
        lines = cell.splitlines(keepends=True)
        begin = sum(map(len, lines[: int(line[1]) - 2]))
        raise _wrong(cell, begin, begin + len(lines[int(line[1]) - 2].rstrip()), str(error)) from None


def _where(cell: str, at: int) -> str:
    return f"Line {cell.count(chr(10), 0, at) + 2} of the cell"  # its first is the magic's own


def _wrong(cell: str, start: int, end: int, message: str) -> Mistake:
    return Mistake(message, min(start, len(cell)), min(end, len(cell)), in_cell=True)

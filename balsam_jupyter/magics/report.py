"""What a magic returns where no richer object is at hand: tables and lines, as text and as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

MOST_ROWS = 20
"""Longer tables are cut, and say what they left out."""


@dataclass(frozen=True)
class Table:
    """Rows under headings; cells are shown with `str`. `total` counts also the rows that were not given."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    total: int | None = None

    @property
    def left_out(self) -> int:
        """How many rows are not shown."""
        return (len(self.rows) if self.total is None else self.total) - len(self.rows[:MOST_ROWS])

    def text(self) -> str:
        """The table in aligned columns."""
        cells = [[str(cell) for cell in row] for row in (self.columns, *self.rows[:MOST_ROWS])]
        widths = [max(len(row[at]) for row in cells) for at in range(len(self.columns))]
        padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
        lines = ["  ".join(row).rstrip() for row in padded]
        return "\n".join(lines + ([f"… and {self.left_out} more"] if self.left_out else []))

    def html(self) -> str:
        """The table as HTML, escaped; whole numbers stand to the right, under their heading."""
        shown = self.rows[:MOST_ROWS]
        numbers = [all(isinstance(row[at], int) for row in shown) for at in range(len(self.columns))]
        sides = [f'style="text-align:{"right" if number else "left"}"' for number in numbers]

        def line(tag: str, cells: Sequence[object]) -> str:
            words = zip(cells, sides, strict=True)
            return "<tr>" + "".join(f"<{tag} {side}>{escape(str(cell))}</{tag}>" for cell, side in words) + "</tr>"

        head, body = line("th", self.columns), "".join(line("td", row) for row in shown)
        more = f"<div>… and {self.left_out} more</div>" if self.left_out else ""
        return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>{more}"


@dataclass(frozen=True, repr=False)
class Report:
    """Parts (tables, or values with their own repr and HTML) below a title, and lines below them."""

    title: str
    parts: Sequence[object] = field(default_factory=list)
    lines: Sequence[str] = field(default_factory=list)

    def __repr__(self) -> str:
        shown = [part.text() if isinstance(part, Table) else repr(part) for part in self.parts]
        return "\n".join(text for text in (self.title, *shown, *self.lines) if text)

    def _repr_html_(self) -> str:
        title = f"<b>{escape(self.title)}</b>" if self.title else ""
        shown = "".join(_html(part) for part in self.parts)
        lines = "".join(f'<div style="white-space:pre-wrap">{escape(line)}</div>' for line in self.lines)
        return f"<div>{title}{shown}{lines}</div>"


def _html(part: object) -> str:
    if isinstance(part, Table):
        return part.html()
    own = getattr(part, "_repr_html_", None)
    return str(own()) if own is not None else f"<pre>{escape(repr(part))}</pre>"


class Log(str):
    """Lines of a task's log: a plain text that shows as it was written."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self)}</pre>"

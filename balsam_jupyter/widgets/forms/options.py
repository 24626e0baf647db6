"""What a form asks for beside the parameters: the ensemble's name, tags, resources, limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...errors import BadInput
from .reading import CHOICE, NUMBER, TEXT, WHOLE, Field, pieces, plain
from .written import source, word

PAIRS, WORDS = "pairs", "words"


@dataclass(frozen=True)
class Option(Field):
    """A field that is an argument of the executor's call (by its `name`) and an option of the magic (`flag`).

    `kind` is one of a field's, ``pairs`` (``key=value`` with commas between) or ``words``. `known` are suggestions.
    What is `rare` is folded away.
    """

    flag: str = ""
    known: Sequence[str] = field(default=())
    rare: bool = False

    def read(self, text: str) -> Any:
        """The value of a text; pairs as a dict, words as a list."""
        if self.kind == PAIRS:
            return _pairs(text)
        return [plain(piece) for piece in pieces(text)] if self.kind == WORDS else super().read(text)

    def as_dict(self) -> dict[str, Any]:
        """What the page is told."""
        return {**super().as_dict(), "known": list(self.known), "rare": self.rare}

    def on_line(self, value: Any) -> list[str] | None:
        """Its words on a magic's line; None if they cannot stand there."""
        if self.kind == CHOICE and isinstance(value, bool):
            return [self.flag] if value else []
        if self.name == "if_changed":  # --keep, --fresh
            return [f"--{value}"]
        texts = [f"{key}={one}" for key, one in value.items()] if self.kind == PAIRS else value
        found: list[str] = []
        for text in texts if isinstance(texts, list) else [texts if isinstance(texts, str) else source(texts)]:
            written = word(text)
            if written is None:
                return None
            found += [self.flag, written]
        return found


def _pairs(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for piece in pieces(text):
        key, equals, value = piece.partition("=")
        if not equals or not key.strip():
            raise BadInput(f"{piece!r}: write name=value, with commas between several.")
        if key.strip() in found:
            raise BadInput(f"{key.strip()} is given twice.")
        found[key.strip()] = plain(value.strip())
    return found


NAME = Option("name", TEXT, "Ensemble", "its name; left out: the app's and a hash of the rows", flag="--name")
_RARE = (
    Option("tags", PAIRS, "Tags", "name=value, with commas between several", flag="--tag"),
    Option("num_nodes", WHOLE, "Nodes", "of a task", default="1", flag="--num-nodes"),
    Option("num_procs", WHOLE, "Processes", "ranks of a task", default="1", flag="--num-procs"),
    Option("procs_per_node", WHOLE, "Processes per node", flag="--procs-per-node"),
    Option("max_tasks_per_node", WHOLE, "Tasks per node", "at most", flag="--max-tasks-per-node"),
    Option("threads_per_rank", WHOLE, "Threads", "of each process", default="1", flag="--threads-per-rank"),
    Option("gpus_per_rank", NUMBER, "GPUs", "of each process", default="0", flag="--gpus-per-rank"),
    Option("wall_time_min", NUMBER, "Minutes", "what a task may take", default="unknown", flag="--wall-time-min"),
    Option("max_retries", WHOLE, "Retries", "of a task that fails", default="0", flag="--max-retries"),
    Option("max_node_hours", NUMBER, "Most node-hours", "refuse it if more are expected", flag="--max-node-hours"),
    Option("scratch", CHOICE, "Scratch", "remove the directory of a task that finished well", default="no",
           choices=(True,), flag="--scratch"),
    Option("if_changed", CHOICE, "If the app changed", "since rows of the ensemble ended", default="ask",
           choices=("keep", "fresh")),
)  # fmt: skip
SUBMISSION = (NAME, *(replace(one, rare=True) for one in _RARE))
"""The options of `BalsamExecutor.submit_sweep` and ``%balsam_submit``."""

DESIGN = (
    Field("pair", CHOICE, "Lists", "how several of them are combined", default="every combination",
          choices=("paired one by one",)),
    Field("rows", WHOLE, "Rows drawn", "from the distributions", default="100"),
    Field("seed", WHOLE, "Seed", "another one gives other rows", default="1"),
    Field("sampler", CHOICE, "Design", "how the drawn rows are spread", default="at random",
          choices=("latin_hypercube", "sobol")),
)  # fmt: skip
"""How the values of several parameters make rows."""


def read_all(fields: Sequence[Field], texts: Mapping[str, str], errors: dict[str, str]) -> dict[str, Any]:
    """The values of those fields that are not left empty; what is wrong goes into `errors`, by name."""
    found: dict[str, Any] = {}
    for one in fields:
        text = texts.get(one.name, "")
        if not text.strip():
            if one.required:
                errors[one.name] = f"Give {one.label.lower()}."
            continue
        try:
            found[one.name] = one.read(text)
        except BadInput as error:
            errors[one.name] = str(error)
    return found

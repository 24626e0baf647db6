"""What a form asks for: a submission or an allocation, as the executor's call and as the code that does the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from ...errors import BadInput
from ...sweep import Sweep
from .options import Option
from .ways import Values
from .written import WIDE, arguments, call, executor, is_magic_name, mapping, source, word

if TYPE_CHECKING:
    from ...api import BatchJob, Site
    from ...ensemble import Ensemble
    from ...executor import BalsamExecutor


@dataclass(frozen=True)
class Code:
    """The same request as a magic (None where a magic cannot say it) and as Python."""

    magic: str | None
    python: str


@dataclass(frozen=True)
class Rows:
    """The rows of a sweep, from what each parameter is.

    Attributes
    ----------
    values : mapping of str to Values
        By parameter.
    pair : bool
        Whether lists are paired item by item; else every combination.
    number, seed, sampler
        How many rows are drawn, from which seed, by which of Sweep's designs; of the parameters that are drawn.
    """

    values: Mapping[str, Values]
    pair: bool = False
    number: int = 100
    seed: int = 1
    sampler: str = "random"

    def __post_init__(self) -> None:
        if self.drawn and "seed" in self.drawn:
            raise BadInput("A parameter called 'seed' cannot be drawn; give it a list or a range.")
        sizes = {name: one.size for name, one in self.kept.items() if one.size is not None}
        if self.pair and len(set(sizes.values())) > 1:
            shown = ", ".join(f"{name} has {size:,}" for name, size in sizes.items())
            raise BadInput(f"Lists that are paired need one length: {shown}.")

    @property
    def drawn(self) -> dict[str, Values]:
        """The parameters that are drawn from distributions."""
        return {name: one for name, one in self.values.items() if one.drawn}

    @property
    def kept(self) -> dict[str, Values]:
        """The others."""
        return {name: one for name, one in self.values.items() if not one.drawn}

    @property
    def paired(self) -> int:
        """How many pairs; 0 where nothing is paired."""
        sizes = [one.size for one in self.kept.values() if one.size is not None]
        return max(sizes, default=0) if self.pair else 0

    def count(self) -> int:
        """How many rows, without making any."""
        sizes = [one.size for one in self.kept.values() if one.size is not None]
        return (self.paired or prod(sizes)) * (self.number if self.drawn else 1)

    def to_make(self) -> int:
        """How many values must be made to see the first row."""
        sizes = [one.size for one in self.kept.values() if one.size is not None and not one.source.startswith("range")]
        return max([*sizes, self.number if self.drawn else 0])

    def sweep(self) -> Sweep | list[dict[str, Any]]:
        """The rows."""
        parts: list[Sweep] = []
        if self.drawn:
            made = {name: one.make() for name, one in self.drawn.items()}
            parts.append(getattr(Sweep, self.sampler)(self.number, seed=self.seed, **made))
        listed = {name: one for name, one in self.kept.items() if one.size is not None and self.paired}
        fixed = {name: one for name, one in self.kept.items() if name not in listed}
        if listed:
            parts.append(Sweep.zip(**{name: one.make() for name, one in listed.items()}))
        if fixed:
            parts.append(Sweep.grid(**{name: one.make() for name, one in fixed.items()}))
        if not parts:
            return [{}]
        sweep = parts[0]
        for part in parts[1:]:
            sweep = sweep * part
        return sweep

    def python(self) -> tuple[str, list[str]]:
        """The expression that makes the rows, and what of `balsam_jupyter.sweep` it needs."""
        kept = {name: one.source for name, one in self.kept.items()}
        if not self.drawn and not self.paired:
            return (mapping(kept) if len(str(kept)) > WIDE else _flat(kept)) if kept else "[{}]", []
        parts = []
        if self.drawn:
            named = arguments({name: one.source for name, one in self.drawn.items()})
            parts.append(call(f"Sweep.{self.sampler}", [str(self.number), f"seed={self.seed}", *named]))
        listed = [name for name in kept if self.paired and self.kept[name].size is not None]
        for design, names in (("zip", listed), ("grid", [name for name in kept if name not in listed])):
            if names:
                parts.append(call(f"Sweep.{design}", arguments({name: kept[name] for name in names})))
        needed = {one.source.partition("(")[0] for one in self.drawn.values()}
        flat = " * ".join(parts)
        return flat if len(flat) < WIDE - 8 else "\n    * ".join(parts), ["Sweep", *sorted(needed)]


def _flat(values: Mapping[str, str]) -> str:
    return f"{{{', '.join(f'{name!r}: {text}' for name, text in values.items())}}}"


@dataclass(frozen=True)
class Submission:
    """Rows of an app, and the options of their submission by name."""

    site: Site
    app: str
    rows: Rows
    options: Mapping[str, Any]
    known: Sequence[Option]
    imports: Sequence[str] = ()
    """What the values need that is not the notebook's own; a magic cannot import."""

    def submit(self, executor: BalsamExecutor) -> Ensemble:
        """Do it."""
        return executor.submit_sweep(self.app, self.rows.sweep(), **self.options)

    def code(self, current: bool) -> Code:
        """The code that does the same; a magic only if the site is the current one, to which magics go."""
        return Code(self._magic() if current else None, self._python())

    def _python(self) -> str:
        rows, needed = self.rows.python()
        needs, at = executor(self.site.name, self.site.kind)
        lines = [needs]
        lines += [f"from balsam_jupyter.sweep import {', '.join(needed)}"] if needed else []
        lines += self.imports
        named = [f"{name}={source(value)}" for name, value in self.options.items()]
        given = [source(self.app), rows.replace("\n", "\n    "), *named]
        made = call(f"{at}.submit_sweep", given)
        return "\n".join([*lines, made])

    def _magic(self) -> str | None:
        app = word(self.app)
        words = on_line(self.known, self.options)
        if app is None or words is None or self.rows.drawn or self.imports:
            return None
        if not all(map(is_magic_name, self.rows.values)):
            return None
        many = self.rows.paired
        if many:
            words = ["--zip", *words]
        # A fixed list is as long as the others then: pairs need lists of one length.
        fixed = f" * {many}" if many else ""
        texts = {
            name: one.source + (fixed if one.size is None and one.source.startswith("[") else "")
            for name, one in self.rows.values.items()
        }
        line = " ".join(["%balsam_submit", app, *(f"{name}={text}" for name, text in texts.items()), *words])
        if len(line) <= WIDE or not texts:
            return line
        return f"%{' '.join(['%balsam_submit', app, *words])}\n{mapping(texts)}"


@dataclass(frozen=True)
class Block:
    """An allocation, by the arguments of `BalsamExecutor.submit_allocation`."""

    site: Site
    options: Mapping[str, Any]
    known: Sequence[Option]

    def submit(self, executor: BalsamExecutor) -> BatchJob:
        """Ask for it."""
        return executor.submit_allocation(executor.site.id, **self.options)

    def code(self, current: bool) -> Code:
        """The code that does the same."""
        words = on_line(self.known, self.options) if current else None
        magic = None if words is None else " ".join(["%balsam_allocate", *words])
        named = [f"{name}={source(value)}" for name, value in self.options.items()]
        needs, at = executor(self.site.name, self.site.kind)
        made = call(f"{at}.submit_allocation", [source(self.site.name), *named])
        return Code(magic, f"{needs}\n{made}")


def on_line(known: Sequence[Option], options: Mapping[str, Any]) -> list[str] | None:
    """Options as words of a magic's line; None if one cannot stand there."""
    words: list[str] = []
    for one in known:
        if one.name in options:
            found = one.on_line(options[one.name])
            if found is None:
                return None
            words += found
    return words

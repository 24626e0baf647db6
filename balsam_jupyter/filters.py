"""The line with which tasks are looked for: ``T>300 state=FAILED tag.study=eos "no such file"``."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from .engines.search import SIGNS, Search, Term, number
from .errors import BadInput, listing, nearest
from .models import JOB_STATES, TASK_STATE, TASK_STATES, Query

NUMBERS = {
    "task": "id",
    "row": "row",
    "runtime": "runtime_s",
    "code": "return_code",
    "attempts": "attempts",
    "allocation": "batch_job_id",
}
"""What may be asked for as a number, and the column it is in."""

_WORD = re.compile(r"""((?:[^\s"']|"[^"]*"|'[^']*')+)""")
_SPACED = re.compile(rf"""("[^"]*"|'[^']*')|(?<!\S)([^\W\d][\w.]*)\s*({"|".join(SIGNS)})\s*(?=\S)""")
_CONDITION = re.compile(rf"([^\W\d][\w.]*)({'|'.join(SIGNS)})(.*)", re.DOTALL)


class Filter(NamedTuple):
    """What such a line asks for."""

    states: tuple[str, ...] | None
    tags: dict[str, str]
    columns: tuple[Term, ...]
    parameters: tuple[Term, ...]
    texts: tuple[str, ...]

    def search(self, ensemble: str | None, generation: int | None, order: str, descending: bool = False) -> Search:
        """The search for it among the tasks of an ensemble (None: of the site)."""
        query = Query(ensemble=ensemble, generation=generation, states=self.states, tags=self.tags or None)
        return Search(query, self.columns, self.parameters, self.texts, order, descending)


def parse(line: str, parameters: Collection[str], states: Sequence[str] = ()) -> Filter:
    """Read such a line.

    ``NAME=VALUE`` and ``!=``, ``<``, ``<=``, ``>``, ``>=`` compare a parameter; ``task``, ``row``, ``runtime``
    (seconds), ``code``, ``attempts`` and ``allocation`` are numbers of the task, ``state`` is its state, and
    ``tag.NAME=VALUE`` one of its tags. ``param.NAME`` is a parameter that has one of these names. Anything else is
    text to be found in the parameters, the error or the work directory. All must hold; quotes keep words together.
    ``T > 300`` is ``T>300``.

    Parameters
    ----------
    line : str
        What was typed.
    parameters : collection of str
        The names that parameters have there.
    states : sequence of str
        Task states that are wanted besides (none: any).

    Raises
    ------
    BadInput
        Says which condition cannot be, and the nearest name.
    """
    found = Filter(None, {}, (), (), ())
    wanted = _jobs_of(states)
    for word in _WORD.findall(_SPACED.sub(lambda found: found[1] or found[2] + found[3], line)):
        condition = None if word[0] in "\"'" else _CONDITION.fullmatch(word)
        if condition is None:
            found = found._replace(texts=(*found.texts, _unquoted(word)))
            continue
        name, sign, value = condition[1], condition[2], _unquoted(condition[3])
        if not value:
            raise BadInput(f"{name}{sign} what? For instance {name}{sign}300; quotes keep words together.")
        if name == "state":
            these = _states(sign, value)
            wanted = these if wanted is None else wanted & these
        elif name.startswith("tag."):
            if sign != "=":
                raise BadInput(f"A tag is asked for by its value: {name}={value}.")
            found.tags[name.removeprefix("tag.")] = value
        elif name in NUMBERS:
            if number(value) is None:
                raise BadInput(f"{name} is a number, and {value!r} is none; param.{name} would be a parameter.")
            found = found._replace(columns=(*found.columns, Term(NUMBERS[name], sign, value)))
        else:
            name = name.removeprefix("param.")
            _known(name, parameters)
            found = found._replace(parameters=(*found.parameters, Term(name, sign, value)))
    return found if wanted is None else replace_states(found, wanted)


def replace_states(found: Filter, wanted: set[str]) -> Filter:
    """The filter with these job states, in their order."""
    return found._replace(states=tuple(state for state in JOB_STATES if state in wanted))


def _jobs_of(states: Sequence[str]) -> set[str] | None:
    return {job for job, task in TASK_STATE.items() if task in states} if states else None


def _states(sign: str, value: str) -> set[str]:
    """Job states that a task state, or a job state, names."""
    if sign not in ("=", "!="):
        raise BadInput(f"A state has no order; state={value} or state!={value}.")
    word = value.upper()
    these = _jobs_of([word]) if word in TASK_STATES else {word}
    if word not in (*TASK_STATES, *JOB_STATES):
        raise BadInput(f"There is no state {value!r}; {listing(TASK_STATES)}.{nearest(word, TASK_STATES)}")
    assert these is not None
    return these if sign == "=" else set(JOB_STATES) - these


def _known(name: str, parameters: Collection[str]) -> None:
    if parameters and name not in parameters:
        names = [*parameters, *NUMBERS, "state"]
        raise BadInput(f"There is no parameter {name!r}; {listing(parameters)}.{nearest(name, names)}")


def _unquoted(word: str) -> str:
    return re.sub(r""""([^"]*)"|'([^']*)'""", lambda found: found[1] if found[1] is not None else found[2], word)

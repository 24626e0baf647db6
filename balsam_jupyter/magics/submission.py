"""``%balsam_submit``: from the line's expressions and the cell to a Sweep, and the dry run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..apps import check_parameters
from ..errors import BadInput, BalsamJupyterError
from ..executor import BalsamExecutor
from ..models import AppRecord
from ..submission import rows_of
from ..sweep import Sweep
from . import bodies
from .expressions import FAILS, Expression, is_dimension
from .line import Asked
from .mistakes import one_line
from .report import MOST_ROWS, Log, Report, Table

COMMANDS = 3
RESOURCES = (
    "num_procs", "num_nodes", "procs_per_node", "max_tasks_per_node", "threads_per_rank", "gpus_per_rank",
    "wall_time_min",
)  # fmt: skip


def sweep_of(asked: Asked, cell: str | None) -> Sweep | list[dict[str, Any]]:
    """The sweep of a line's ``name=expression`` parts and of the cell; one row of defaults if there is nothing.

    Raises
    ------
    BadInput
        Points at the part that is wrong.
    """
    values = {name: _value(asked, name, part) for name, part in asked.parameters.items()}
    if cell is None:
        return _combined(asked, values) if values else [{}]
    try:
        return _with_cell(asked, values, bodies.read(cell, asked.namespace))
    except BalsamJupyterError:
        raise
    except FAILS as error:  # a generator in the cell
        raise BadInput(f"The sweep in the cell: {one_line(error)}") from None


def _with_cell(asked: Asked, values: dict[str, Any], body: Any) -> Sweep:
    if isinstance(body, Mapping):
        for name in values.keys() & body.keys():
            raise asked.wrong(name, f"{name} is in the cell, too.")
        return _combined(asked, {**values, **body})
    rows = rows_of(body)
    sweep = rows if isinstance(rows, Sweep) else Sweep.rows(rows)
    return sweep * Sweep.grid(**values) if values else sweep


def _value(asked: Asked, name: str, part: Expression) -> Any:
    value = part.evaluate(asked.namespace)
    try:
        if hasattr(value, "__next__"):
            value = list(value)
        if is_dimension(value):
            Sweep.grid(**{name: value})
    except BadInput as error:
        raise asked.wrong(name, str(error)) from None
    except FAILS as error:  # a generator runs only now
        raise part.raised(error) from None
    return value


def _combined(asked: Asked, values: Mapping[str, Any]) -> Sweep:
    if not asked.zip:
        return Sweep.grid(**values)
    lists = {name: list(value) for name, value in values.items() if is_dimension(value)}
    if not lists:
        raise asked.wrong("zip", "--zip pairs lists, and no value here is a list.")
    longest = max(map(len, lists.values()))  # unequal lengths are Sweep.zip's to refuse
    try:
        return Sweep.zip(**{name: lists.get(name, [value] * longest) for name, value in values.items()})
    except BadInput as error:
        raise asked.wrong("zip", str(error)) from None


def dry_run(executor: BalsamExecutor, asked: Asked, sweep: Sweep | list[dict[str, Any]]) -> Report:
    """The price, the rows and the first commands of a submission; every row is checked and nothing is stored."""
    app = executor.site.app(asked.app)
    wants = {name: getattr(asked, name) for name in RESOURCES}
    price = executor.price(asked.app, len(sweep), tags=dict(asked.tags), **wants)
    shown: list[dict[str, Any]] = []
    for at, row in enumerate(sweep):
        try:
            full = check_parameters(app, row)
        except BadInput as error:
            raise BadInput(f"Row {at} of the sweep: {error}") from None
        if len(shown) < MOST_ROWS:
            shown.append(full)
    columns = list(shown[0]) if shown else []
    table = Table(columns, [[repr(row[name]) for name in columns] for row in shown], len(sweep))
    commands = [_command(executor, app, row, wants) for row in shown[:COMMANDS]]
    more = [f"… and {len(sweep) - COMMANDS} more"] if len(sweep) > COMMANDS else []
    tasks = "1 task" if len(sweep) == 1 else f"{len(sweep):,} tasks"
    title = f"Dry run: {tasks} of app {asked.app!r}; nothing was stored."
    return Report(title, [price, *([table] if columns else []), Log("\n".join([*commands, *more]))])


def _command(executor: BalsamExecutor, app: AppRecord, row: dict[str, Any], wants: dict[str, Any]) -> str:
    if app.kind == "shell":
        return executor.submit(app_name=app.name, app_args=row, dry_run=True, **wants).runline or ""
    return f"{app.name}({', '.join(f'{name}={value!r}' for name, value in row.items())})"

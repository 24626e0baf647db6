"""``%balsam_submit``: from the line's expressions to a Sweep, and the dry run."""

from __future__ import annotations

from typing import Any

from ..apps import check_parameters
from ..errors import BadInput
from ..executor import BalsamExecutor
from ..models import AppRecord
from ..sweep import Sweep
from .line import evaluate, is_dimension
from .report import MOST_ROWS, Report, Table

COMMANDS = 3


def sweep_of(expressions: dict[str, str], namespace: dict[str, Any], zipped: bool) -> Sweep | list[dict[str, Any]]:
    """The sweep of a line's ``name=expression`` parts; one row of defaults if there are none."""
    values = {name: evaluate(name, text, namespace) for name, text in expressions.items()}
    if not values:
        return [{}]
    if not zipped:
        return Sweep.grid(**values)
    lists = {name: list(value) for name, value in values.items() if is_dimension(value)}
    if not lists:
        raise BadInput("--zip pairs lists, and no value here is a list.")
    longest = max(map(len, lists.values()))  # unequal lengths are Sweep.zip's to refuse
    return Sweep.zip(**{name: lists.get(name, [value] * longest) for name, value in values.items()})


def dry_run(executor: BalsamExecutor, app_name: str, sweep: Sweep | list[dict[str, Any]]) -> Report:
    """The rows and the first commands of a submission; every row is checked and nothing is stored."""
    app = executor.site.app(app_name)
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
    commands = [_command(executor, app, row) for row in shown[:COMMANDS]]
    more = [f"… and {len(sweep) - COMMANDS} more"] if len(sweep) > COMMANDS else []
    tasks = "1 task" if len(sweep) == 1 else f"{len(sweep):,} tasks"
    title = f"Dry run: {tasks} of app {app_name!r}; nothing was stored."
    return Report(title, [table] if columns else [], [*commands, *more])


def _command(executor: BalsamExecutor, app: AppRecord, row: dict[str, Any]) -> str:
    if app.kind == "shell":
        return executor.submit(app_name=app.name, app_args=row, dry_run=True).runline or ""
    return f"{app.name}({', '.join(f'{name}={value!r}' for name, value in row.items())})"

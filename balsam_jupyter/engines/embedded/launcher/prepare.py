"""From a checked-out job to what a slot process needs to run it."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....codec import decode, encode
from ....models import AppRecord, Resources
from ....shelltext import shell
from ....templates import CommandTemplate, render_text
from ..store.work import Work
from . import ranks
from .mpi import flavour, launch_line

# What a notebook's kernel has in its environment for itself, and a task must not inherit.
_KERNEL_ONLY = (
    "MPLBACKEND",
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "FORCE_COLOR",
    "GIT_PAGER",
    "PAGER",
    "PYDEVD_USE_FRAME_EVAL",
    "TERM",
)
_KERNEL_PREFIXES = (
    "JPY_", "IPY_", "BALSAM_SESSION", "BALSAM_SLOT", "BALSAM_WORKER", "BALSAM_JOB_ID", "BALSAM_HOOK",
    "BALSAM_JUPYTER_SITE",
)  # fmt: skip


def clean_environment() -> dict[str, str]:
    """This process's environment without what belongs to a notebook's kernel.

    Programs installed beside this Python are found, also when its environment is not activated.
    """
    env = {k: v for k, v in os.environ.items() if k not in _KERNEL_ONLY and not k.startswith(_KERNEL_PREFIXES)}
    beside = os.path.dirname(sys.executable)
    folders = env.get("PATH", os.defpath).split(os.pathsep)
    if beside not in folders:
        env["PATH"] = os.pathsep.join([beside, *folders])
    return env


def launch_words(mpi_launcher: str, asked: Resources) -> list[str]:
    """What stands before a program to start its ranks; none for a single one."""
    if asked.num_nodes * asked.ranks_per_node == 1:
        return []
    return launch_line(
        flavour(mpi_launcher), mpi_launcher, nodes=asked.num_nodes, ranks_per_node=asked.ranks_per_node,
        threads_per_rank=asked.threads_per_rank, threads_per_core=asked.threads_per_core,
        launch_params=asked.launch_params,
    )  # fmt: skip


@dataclass
class App:
    """An app as this launcher runs it."""

    record: AppRecord
    number: int
    """Names this version of the app towards slot processes."""
    environment: dict[str, str]
    template: CommandTemplate | None
    texts: list[tuple[str, str]]
    """Input files rendered for each job: name, template."""
    fixed: list[tuple[str, str, bytes]]
    """Input files that are the same for all: name, path to copy from or "", content."""

    @property
    def worker_key(self) -> tuple[Any, ...]:
        """Python apps with equal keys share a warm process."""
        return (
            self.record.python_exe,
            tuple(self.record.preamble),
            tuple(sorted(self.record.environment_variables.items())),
        )


class Preparer:
    """Prepares jobs of any app; what depends on the app alone is computed once."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self._numbers = 0
        self._programs: dict[tuple[str, str], bytes] = {}

    def app(self, record: AppRecord) -> App:
        self._numbers += 1
        template = CommandTemplate(record.command_template) if record.kind == "shell" else None
        texts = [(name, given["template"]) for name, given in record.inputs.items() if "template" in given]
        fixed = [
            (name, given.get("path", ""), given.get("text", "").encode())
            for name, given in record.inputs.items()
            if "template" not in given
        ]
        return App(record, self._numbers, {**self.environment, **record.environment_variables}, template, texts, fixed)

    def argv(
        self, app: App, values: Mapping[str, Any], launch: Sequence[str] = (), preamble: Sequence[str] = ()
    ) -> list[str]:
        """The exact argument list of a command; `launch` are the words that start its ranks.

        As in Balsam, they stand before the command's text: of a pipeline, the first program has ranks.
        """
        assert app.template is not None
        lines = app.record.preamble or preamble
        argv = None if lines else app.template.argv(values)
        if argv is not None and not (launch and app.template.needs_shell):
            return [*launch, *argv]
        text = " ".join([*(shlex.quote(word) for word in launch), app.template.shell_text(values)])
        return [shell(), "-c", "\n".join([*lines, text])]

    def files(self, app: App, values: Mapping[str, Any]) -> list[tuple[str, str, bytes]]:
        if not app.texts:
            return app.fixed
        return app.fixed + [(name, "", render_text(text, values).encode()) for name, text in app.texts]

    def command(
        self,
        app: App,
        number: int,
        job: int,
        attempt: int,
        directory: str,
        parameters: str | bytes,
        launch: Sequence[str] = (),
        preamble: Sequence[str] = (),
    ) -> tuple[Any, ...]:
        """A spawner's task; `number` names the environment there, `preamble` has the lines of this job alone."""
        values = decode(parameters)
        argv = [os.fsencode(word) for word in self.argv(app, values, launch, preamble)]
        argv[0] = self._program(argv[0], app.environment.get("PATH", os.defpath))
        return job, attempt, directory, argv, number, self.files(app, values), attempt > 1

    def ranks(
        self,
        app: App,
        number: int,
        work: Work,
        directory: str,
        info: Mapping[str, Any],
        launch: Sequence[str],
        task: Path,
    ) -> tuple[Any, ...]:
        """A spawner's task for a Python app of several ranks; writes the file that the ranks read."""
        record = app.record
        ranks.write_task(
            task, (record.name, record.payload, record.sys_path, record.outputs), work.id, work.parameters,
            encode(dict(info)),
        )  # fmt: skip
        argv = [*launch, record.python_exe or sys.executable, "-u", ranks.__file__, str(task)]
        if record.preamble:
            argv = [shell(), "-c", "\n".join([*record.preamble, 'exec "$0" "$@"']), *argv]
        files = self.files(app, decode(work.parameters) if app.texts else {})
        return work.id, work.attempt, directory, [os.fsencode(word) for word in argv], number, files, work.attempt > 1

    def _program(self, name: bytes, path: str) -> bytes:
        """Where the program is; a name that is not found stays, and the shell will say so in the task's log."""
        if b"/" in name:
            return name
        key = os.fsdecode(name), path
        if key not in self._programs:
            self._programs[key] = os.fsencode(shutil.which(key[0], path=path) or name)
        return self._programs[key]

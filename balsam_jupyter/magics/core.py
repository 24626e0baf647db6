"""The magics: each is a few lines over the executor, and returns a value that shows itself."""
# IPython's decorators have no types.
# mypy: disable-error-code="untyped-decorator, no-untyped-call"

from __future__ import annotations

from typing import Any

from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments

from ..api_check import nodes_of, partition
from ..errors import BadInput, NotFound, listing
from ..failures import log_of
from ..models import TASK_STATES, Query
from ..status import explain, queued_behind, task_counts
from ..submission import newest
from ..verbs import kill
from . import appcell, service
from .line import assignments, pair, words
from .progress import point_to_failed, wait
from .report import Log, Report, Table
from .session import Session, one_line_errors
from .submission import dry_run, sweep_of

WANTS = (
    "num_procs", "num_nodes", "procs_per_node", "max_tasks_per_node", "threads_per_rank", "gpus_per_rank",
    "wall_time_min", "max_retries",
)  # fmt: skip
_LIVE = ("pending_submission", "queued", "running", "pending_deletion")


@magics_class
class BalsamMagics(Magics):
    """The ``%balsam_…`` magics of one notebook."""

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self._ipython = shell
        self.session = Session()

    def _options(self, magic: Any, line: str) -> Any:
        return magic.parser.parse_args(words(line))

    @magic_arguments()
    @argument("name", nargs="?", help="the site's name; left out with --path too: the current site, else 'default'")
    @argument("--path", help="its directory; left out: where the site of that name is, or a new one")
    @argument("--engine", help="'embedded' (the default): this machine")
    @line_magic
    @one_line_errors
    def balsam_site(self, line: str) -> Any:
        """Open a site, creating it if need be; the other magics then work on it. No arguments: show the current one.

        Example::

            %balsam_site melts --path ~/melts
        """
        from ..api import open_site

        asked = self._options(self.balsam_site, line)
        if asked.name is asked.path is asked.engine is None:
            return self.session.site
        return open_site(asked.name, asked.path, asked.engine or "embedded")

    @magic_arguments()
    @argument("name", help="the app's name")
    @argument("--param", action="append", default=[], metavar="NAME[=DEFAULT]", help="a parameter of the template")
    @argument("--output", action="append", default=[], metavar="NAME=SPEC",
              help="a value it yields: a regular expression with one group for its log, or file.json:key")  # fmt: skip
    @argument("--input", action="append", default=[], nargs="+", metavar="FILE",
              help="a file for each task: copied, or filled in with the parameters if it ends in .j2")  # fmt: skip
    @argument("--env", action="append", default=[], metavar="KEY=VALUE", help="an environment variable")
    @argument("--python", action="store_true", help="the cell is Python; its last function is the app")
    @no_var_expand
    @cell_magic
    @one_line_errors
    def balsam_app(self, line: str, cell: str) -> Any:
        """Make an app of the cell: a command with {{ parameters }}, or with --python a function.

        Examples::

            %%balsam_app hello --output 'words=Hello, (.*)!'
            echo "Hello, {{ name }}!"

            %%balsam_app area --python
            def area(width: float, height: float = 1.0):
                return width * height
        """
        asked = self._options(self.balsam_app, line)
        body: dict[str, Any] = {
            "outputs": appcell.pairs(asked.output, "--output"),
            "inputs": appcell.input_files(name for names in asked.input for name in names),
            "environment_variables": appcell.pairs(asked.env, "--env"),
        }
        if asked.python:
            if asked.param:
                raise BadInput("--param is for commands; with --python the function's arguments are the parameters.")
            body["run"] = appcell.define(self._ipython, cell)
        else:
            body["command_template"] = cell.strip()
            if asked.param:
                body["parameters"] = appcell.parameters(asked.param)
        return appcell.register(self.session.site, asked.name, body, f"%%balsam_app {line}\n{cell}")

    @magic_arguments()
    @argument("-n", "--nodes", type=int, help="nodes (default 1, or as many as the partitions have)")
    @argument("-t", "--minutes", type=float, default=10, help="minutes of wall time (default 10)")
    @argument("-q", "--queue", default="local", help="the queue")
    @argument("-A", "--project", default="local", help="the project that is charged")
    @argument("-j", "--job-mode", default="serial", help="'serial' (the default) or 'mpi'")
    @argument("--tag", action="append", default=[], metavar="KEY=VALUE", help="run only tasks with this tag")
    @argument("--wf-filter", default="", metavar="TEXT", help="run only tasks whose ensemble has this in its name")
    @argument("-p", "--partition", action="append", default=[], metavar="MODE:NODES[:KEY=VALUE]",
              help="a part with a job mode, nodes and tags of its own")  # fmt: skip
    @line_magic
    @one_line_errors
    def balsam_allocate(self, line: str) -> Any:
        """Ask for nodes for some minutes, in which tasks then run. Returns the BatchJob.

        Examples::

            %balsam_allocate -n 1 -t 10 -q local -A local --job-mode serial
            %balsam_allocate -t 10 -p mpi:2:role=leader -p serial:6:role=worker
        """
        asked = self._options(self.balsam_allocate, line)
        parts = [partition(text) for text in asked.partition]
        allocation = self.session.executor.submit_allocation(
            self.session.site.id,
            nodes_of(asked.nodes, parts),
            asked.minutes,
            job_mode=asked.job_mode,
            queue=asked.queue,
            project=asked.project,
            filter_tags=appcell.pairs(asked.tag, "--tag"),
            partitions=parts,
            wf_filter=asked.wf_filter,
        )
        if behind := queued_behind(self.session.site.engine, allocation.id):
            print(f"Allocation {allocation.id} is queued, behind {behind}.")
        return allocation

    @magic_arguments()
    @argument("app", help="the app's name")
    @argument("values", nargs="*", metavar="name=expression", help="the parameters")
    @argument("--name", help="the ensemble's name; left out: the app's and a hash of the sweep")
    @argument("--tag", action="append", default=[], metavar="KEY=VALUE", help="a tag of the tasks")
    @argument("--num-procs", type=int, metavar="N", help="processes (ranks) of a task")
    @argument("--num-nodes", type=int, metavar="N", help="nodes of a task")
    @argument("--procs-per-node", type=int, metavar="N", help="processes on each node")
    @argument("--max-tasks-per-node", type=int, metavar="N", help="tasks at most on one node")
    @argument("--threads-per-rank", type=int, default=1, metavar="N", help="threads of each process")
    @argument("--gpus-per-rank", type=float, default=0, metavar="N", help="GPUs of each process")
    @argument("--wall-time-min", type=float, default=0, metavar="MINUTES", help="what a task may take")
    @argument("--max-retries", type=int, default=0, metavar="N", help="run a task that fails again so often")
    @argument("--zip", action="store_true", help="pair the lists item by item instead of a grid")
    @argument("--dry-run", action="store_true", help="show the rows and the first commands; store nothing")
    @no_var_expand
    @line_magic
    @one_line_errors
    def balsam_submit(self, line: str) -> Any:
        """Submit a task for each row of a sweep. Returns the ensemble.

        Values are Python expressions in your namespace. Lists, ranges and arrays are the sweep's dimensions; numbers
        and (quoted) texts are the same for all rows. The same name again keeps its rows and adds the new ones.

        Example::

            %balsam_submit melt T=[1.0, 2.0] P=np.linspace(0, 1, 5) element='Ar' --name scan-1 --tag study=eos
        """
        parser = self.balsam_submit.parser
        takes_value = {text: action.nargs != 0 for action in parser._actions for text in action.option_strings}
        plain, expressions = assignments(line, takes_value)
        asked = parser.parse_args(plain)
        if asked.values:
            raise BadInput(f"{asked.values[0]}: write name=expression for each parameter of {asked.app}.")
        sweep = sweep_of(expressions, self._ipython.user_ns, asked.zip)
        if asked.dry_run:
            return dry_run(self.session.executor, asked.app, sweep)
        tags = dict(pair(text, "--tag") for text in asked.tag)
        wants = {name: getattr(asked, name) for name in WANTS}
        ensemble = self.session.executor.submit_sweep(asked.app, sweep, name=asked.name, tags=tags, **wants)
        if ensemble.kept:
            point_to_failed(ensemble)
        return ensemble

    @magic_arguments()
    @argument("name", nargs="?", help="an ensemble; left out: all of the site")
    @line_magic
    @one_line_errors
    def balsam_status(self, line: str) -> Any:
        """Count the tasks by state, list the allocations, and say why nothing runs when nothing runs.

        Example::

            %balsam_status scan-1
        """
        name = self._options(self.balsam_status, line).name
        engine = self.session.site.engine
        if name is not None:
            self.session.ensemble(name)  # a misspelt name is an error
            return explain(engine, name)
        rows = []
        for record in reversed(newest(engine.ensembles()).values()):
            counts = task_counts(engine.count(Query(ensemble=record.name)))
            rows.append([record.name, record.app_name, sum(counts.values()), *counts.values()])
        table = [Table(["ensemble", "app", "tasks", *TASK_STATES], rows)] if rows else []
        return Report("", [explain(engine), *table])

    @magic_arguments()
    @argument("name", help="the ensemble")
    @line_magic
    @one_line_errors
    def balsam_watch(self, line: str) -> Any:
        """Follow an ensemble in the background, in a live figure of its tasks' states; other cells run meanwhile.

        Example::

            %balsam_watch scan-1
        """
        from ..widgets.watch import watch

        ensemble = self.session.ensemble(self._options(self.balsam_watch, line).name)
        return watch(self.session.site.engine, ensemble.name)

    @magic_arguments()
    @argument("name", help="the ensemble")
    @argument("--timeout", type=float, metavar="S", help="give up after so many seconds")
    @line_magic
    @one_line_errors
    def balsam_wait(self, line: str) -> Any:
        """Wait until all tasks of an ensemble are done. Interrupting the cell leaves the tasks running.

        Example::

            %balsam_wait scan-1 --timeout 600
        """
        asked = self._options(self.balsam_wait, line)
        ensemble = self.session.ensemble(asked.name)
        wait(self.session.site.engine, ensemble.name, asked.timeout, self._ipython, ensemble.callbacks)
        point_to_failed(ensemble)
        return ensemble

    @magic_arguments()
    @argument("name", help="the ensemble")
    @line_magic
    @one_line_errors
    def balsam_results(self, line: str) -> Any:
        """One row a task: parameters, state, return code, runtime, and what it yields, in a pandas DataFrame.

        Example::

            df = %balsam_results scan-1
        """
        return self.session.ensemble(self._options(self.balsam_results, line).name).to_dataframe()

    @magic_arguments()
    @argument("what", metavar="task", help="a task's id, name or work directory, or an ensemble: its first failed task")
    @argument("-n", "--lines", type=int, default=20, help="how many of the last lines (default 20)")
    @line_magic
    @one_line_errors
    def balsam_logs(self, line: str) -> Any:
        """Show the last lines of a task's log.

        Examples::

            %balsam_logs 17
            %balsam_logs scan-1
        """
        asked = self._options(self.balsam_logs, line)
        if asked.lines < 1:
            raise BadInput(f"-n {asked.lines}: show at least 1 line.")
        engine = self.session.site.engine
        query, words_for_it = self.session.find(asked.what)
        if query.ensemble is not None:
            query = Query(ensemble=query.ensemble, states=("FAILED",), limit=1)
        found = engine.jobs(query)
        if not found:
            return Log(f"No task of {words_for_it} has failed. %balsam_logs ID shows the log of any task.")
        return Log(log_of(engine, found[0], asked.lines))

    @magic_arguments()
    @argument(
        "what", nargs="+", metavar="task", help="a task's id, name or work directory, or an ensemble: all its tasks"
    )
    @argument("--now", action="store_true", help="SIGKILL at once, instead of SIGTERM and half a second")
    @line_magic
    @one_line_errors
    def balsam_kill(self, line: str) -> Any:
        """End tasks, or all tasks of ensembles, that are not done.

        Examples::

            %balsam_kill scan-1
            %balsam_kill 17 18 --now
        """
        asked = self._options(self.balsam_kill, line)
        found = [self.session.find(what) for what in asked.what]  # a mistake in one kills none
        wait_time = 0.0 if asked.now else 0.5
        return Report("\n".join(kill(self.session.site.engine, *each, wait_time) for each in found))

    @magic_arguments()
    @argument("which", nargs="?", help="the allocation's id, or 'all'; left out: the only one there is")
    @line_magic
    @one_line_errors
    def balsam_revoke(self, line: str) -> Any:
        """End an allocation; its running tasks are stopped gracefully and run again in the next one.

        Example::

            %balsam_revoke 1
        """
        from ..api import BatchJob

        which = self._options(self.balsam_revoke, line).which
        known = {str(one.id): one for one in BatchJob.objects.all()} if self.session.site else {}
        live = {number: one for number, one in known.items() if one.state in _LIVE}
        if which is None and len(live) > 1:
            raise BadInput(f"Which one? Allocations {listing(live)} are there: give an id, or 'all'.")
        if which not in (None, "all", *known):
            raise NotFound(f"There is no allocation {which}; there are {listing(live)}.")
        chosen = live if which in (None, "all") else {which: known[which]}
        if not chosen:
            return Report("No allocation is queued or running; nothing to revoke.")
        ended = {number: self.session.executor.revoke_allocation(one) for number, one in chosen.items()}
        said = [f"Allocation {at} {'ended' if gone else 'is still ending'}." for at, gone in ended.items()]
        return Report("", [], said)

    @magic_arguments()
    @service.arguments
    @line_magic
    @one_line_errors
    def balsam_service(self, line: str) -> Any:
        """Let the site ask for allocations by itself while work waits: start, stop or status.

        Examples::

            %balsam_service start --max-nodes 2 -t 20 --job-mode serial
            %balsam_service status
            %balsam_service stop
        """
        return service.act(self.session.site, self._options(self.balsam_service, line))

"""Run by test_balsam_classes.py in the environment that has balsam: classes that subclass Balsam's own."""

import json
import sys
from pathlib import Path

from balsam.api import ApplicationDefinition

import balsam_jupyter as bj

folder = Path(sys.argv[1])
hello = folder / "hello.py"
hello.write_text("import os, sys\nprint('Hello,', sys.argv[1], os.environ.get('GREETER', 'nobody'))\n")
SCALE = 2


# libEnsemble's example, of its documentation of the Balsam executor.
class HelloApp(ApplicationDefinition):
    site = "my-balsam-site"
    command_template = f"{sys.executable} {hello} {{{{ my_name }}}}"


class Polite(ApplicationDefinition):
    """With more of what Balsam's contract has: a default, an environment, a preamble."""

    site = "my-balsam-site"
    command_template = f"{sys.executable} {hello} {{{{ my_name }}}}"
    parameters = {"my_name": {"required": False, "default": "stranger", "help": "whom to greet"}}
    environment_variables = {"GREETER": "from the class"}

    def shell_preamble(self):
        return ["echo before"]


class VecNorm(ApplicationDefinition):
    site = "my-balsam-site"

    def run(self, vec):
        return SCALE * sum(x**2 for x in vec) ** 0.5


class Fixed(ApplicationDefinition):
    """With Balsam's hooks, a transfer slot, and files to clean up."""

    site = "my-balsam-site"
    command_template = "sh -c 'cat deck; test -e fixed'"
    transfers = {
        "deck": {
            "required": True,
            "direction": "in",
            "local_path": "deck",
            "description": "Input Deck",
            "recursive": False,
        }
    }
    cleanup_files = ["deck"]

    def handle_error(self):
        dat = self.job.data
        retry_count = dat.get("retry_count", 0)
        if retry_count <= 3:
            self.fix_inputs()
            self.job.state = "RESTART_READY"
            self.job.data = {**dat, "retry_count": retry_count + 1}
        else:
            self.job.state = "FAILED"
            self.job.state_data = {"reason": "Exceeded maximum retries"}

    def fix_inputs(self):
        (self.job.resolve_workdir(site_path / "data") / "fixed").touch()


site_path = folder / "site"
site_path.mkdir()
(folder / "decks").mkdir()
(folder / "decks" / "a.dat").write_text("a deck\n")
(site_path / "settings.yml").write_text(f"transfer_locations: {{laptop: {folder}/decks}}\n")
site = bj.open_site("my-balsam-site", path=str(folder / "site"))
exctr = bj.BalsamExecutor()
exctr.register_app(HelloApp, app_name="hello")
exctr.register_app(Polite)
exctr.register_app(VecNorm)
exctr.register_app(Fixed)
allocation = exctr.submit_allocation(
    site_id=site.id, num_nodes=1, wall_time_min=5, job_mode="serial", queue="local", project="local"
)
tasks = {
    "hello": exctr.submit(app_name="hello", app_args={"my_name": "World"}),
    "polite": exctr.submit(app_name="Polite", app_args={}),
    "fixed": exctr.submit(app_name="Fixed", transfers={"deck": "laptop:/a.dat"}),
    "norm": exctr.submit(app_name="VecNorm", app_args={"vec": [3, 4]}),
}
for task in tasks.values():
    task.wait(timeout=60)
found = {name: [task.state, task.read_stdout()] for name, task in tasks.items()}
found["fixed"].append(tasks["fixed"].process.data)
found["value"] = tasks["norm"].value()
found["revoked"] = exctr.revoke_allocation(allocation)
found["modules"] = sorted(name for name in sys.modules if name == "pydantic" or name.startswith("libensemble"))
print(json.dumps(found))

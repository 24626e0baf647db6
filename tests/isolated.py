"""Python in a process of its own."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def python(code, *args, seed="0", cwd=None):
    """Run a script in a process of its own; what it prints."""
    env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, *args], env=env, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


CALL = """
import pickle, sys, json
from types import SimpleNamespace
with open(sys.argv[1], "rb") as file:
    name, payload = pickle.load(file)
parts = pickle.loads(payload)
app = type(name, (), {**parts["attributes"], **parts["functions"]})()
app.job = SimpleNamespace(id=7)
print(json.dumps(app.run(**json.loads(sys.argv[2]))))
assert not {"jinja2", "balsam", "balsam_jupyter.apps"} & sys.modules.keys()
"""


def called_elsewhere(record, tmp_path, **params):
    """What `run` gives in a process that knows nothing of the user's modules."""
    file = tmp_path / "payload"
    file.write_bytes(pickle.dumps((record.name, record.payload)))
    return json.loads(python(CALL, str(file), json.dumps(params), cwd="/"))

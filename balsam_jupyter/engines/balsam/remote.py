"""What runs at a Balsam site: makes an app's class there. Its text travels with every app.

Standard library and what Balsam itself needs (Jinja2) only, and Python 3.7 or later; nothing of this package is there,
except the modules whose texts come along.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import pickle
import shlex
import shutil
import sys
import time
import types
from pathlib import Path
from typing import Any

PACKAGE = "_balsam_jupyter"
LOOK_S = 1.0
"""How long an agent believes that an app is as it knows it, for jobs of a version that it has seen."""
CARRIED = "bj_cloudpickle"
HOOKS = ("preprocess", "postprocess", "handle_error", "handle_timeout")
STATES = (
    "CREATED", "AWAITING_PARENTS", "READY", "STAGED_IN", "PREPROCESSED", "RUNNING", "RUN_DONE", "POSTPROCESSED",
    "STAGED_OUT", "JOB_FINISHED", "RUN_ERROR", "RUN_TIMEOUT", "RESTART_READY", "FAILED",
)  # fmt: skip
MOST = 500_000  # characters of a value or an exception; a service refuses 512,000


def application(spec: str, payload: bytes | None, texts: dict[str, str]) -> Any:
    """The app as a class of Balsam's.

    `spec` is the text of a mapping (see `apps.py`), `payload` a pickle of functions or None, `texts` the source of the
    modules that render templates and read outputs, by name.
    """
    base = importlib.import_module("balsam._api.app").ApplicationDefinition
    given = json.loads(spec)
    box = Box(given, payload, texts)
    attributes = {
        "__module__": "__main__",
        "__doc__": given["description"] or None,
        "site": given["site"],
        "transfers": given["transfers"],
        "cleanup_files": given["cleanup_files"],
        "environment_variables": given["environment_variables"],
        "__init__": lambda self, job: setattr(self, "job", Job.around(job)),
        "__getattr__": lambda self, name: box.attribute(self, name),
        "shell_preamble": lambda self: box.preamble(self),
        "preprocess": lambda self: box.call(self, "preprocess"),
        "postprocess": lambda self: box.call(self, "postprocess"),
        "handle_error": lambda self: box.call(self, "handle_error"),
    }
    if given["python_exe"]:
        attributes["python_exe"] = given["python_exe"]
    if "handle_timeout" in given["hooks"]:
        attributes["handle_timeout"] = lambda self: box.hook(self, "handle_timeout")
    if given["kind"] == "python":
        attributes["run"] = lambda self, **parameters: box.run(self, parameters)
    else:
        attributes["command_template"] = "true"  # rendered below instead
        attributes["_render_shell_command"] = lambda self: box.command(self)
    for name in HOOKS:
        if name in attributes:  # as Balsam calls it where it fails
            attributes[name].__qualname__ = given["name"] + "." + name
    cls = type(base)(given["name"], (base,), attributes)
    cls.parameters = given["parameters"]
    return cls


class Job:
    """A job of Balsam's with the fields that apps know: `parameters`, and an absolute `workdir`."""

    def __init__(self, job: Any) -> None:
        object.__setattr__(self, "_job", job)

    @classmethod
    def around(cls, job: Any) -> Job:
        """The job so wrapped; once is enough."""
        return job if isinstance(job, cls) else cls(job)

    @property
    def parameters(self) -> Any:
        return self._job.get_parameters()

    @parameters.setter
    def parameters(self, value: Any) -> None:
        self._job.set_parameters(dict(value))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._job, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "parameters":
            self._job.set_parameters(dict(value))
            return
        # What the service refuses would end the site's agent.
        if name == "state" and str(value).rpartition(".")[2].upper() not in STATES:
            raise ValueError(repr(value) + " is no state of a job: " + " ".join(STATES))
        if name in ("data", "state_data"):
            value = json.loads(_text(dict(value or {})))
        setattr(self._job, name, value)


class Box:
    """The parts of an app, loaded when they are needed: only some processes of a site need each."""

    def __init__(self, given: dict[str, Any], payload: bytes | None, texts: dict[str, str]) -> None:
        self.given, self.payload, self.texts = given, payload, texts
        self._parts: dict[str, Any] | None = None
        self._template: Any = None
        self._looked = float("-inf")
        self._versions: set[str] = set()

    def call(self, app: Any, name: str) -> None:
        """Do what is to be done around a run, as the app is now."""
        newer = self._newer(app)
        getattr(self, name)(app) if newer is None else getattr(newer, name)()

    def _newer(self, app: Any) -> Any:
        """The app in its class of now, if it was updated: a site's agent runs for days, and loads each class once."""
        base = importlib.import_module("balsam._api.app").ApplicationDefinition
        version, now = (app.job.tags or {}).get("bj_version", ""), time.monotonic()
        if version in self._versions and now - self._looked < LOOK_S:
            return None
        self._versions.add(version)
        self._looked = now
        row = base._App.objects.get(id=app.job.app_id)
        if row.serialized_class == type(app)._serialized_class:
            return None
        cls = base._app_id_cache[app.job.app_id] = base.from_serialized(row)
        return cls(app.job)

    def module(self, name: str) -> Any:
        """One of our modules."""
        full = PACKAGE + "." + name
        if full not in sys.modules:
            package = sys.modules.setdefault(PACKAGE, types.ModuleType(PACKAGE))
            package.__path__ = []
            module = types.ModuleType(full)
            module.__package__ = PACKAGE
            for needed in self.given["needs"].get(name, ()):
                self.module(needed)
            sys.modules[full] = module
            try:
                exec(compile(self.texts[name], "<balsam-jupyter>/" + name + ".py", "exec"), module.__dict__)
            except BaseException:
                del sys.modules[full]
                raise
        return sys.modules[full]

    @property
    def parts(self) -> dict[str, Any]:
        """Functions, attributes and outputs of the class as it was declared."""
        if self._parts is None:
            for folder in self.given["sys_path"]:
                if os.path.isdir(folder) and folder not in sys.path:
                    sys.path.append(folder)
            self._parts = {"functions": {}, "attributes": {}, "outputs": {}}
            if self.payload:
                self._refuse_other_python()
                try:
                    importlib.import_module("cloudpickle")
                except ImportError:
                    self._bring_cloudpickle()
                self._parts = pickle.loads(self.payload)
                lines = importlib.import_module("linecache")
                for name, text in self._parts.get("sources", {}).items():
                    lines.cache[name] = (len(text), None, text.splitlines(True), name)
        return self._parts

    def _refuse_other_python(self) -> None:
        """What another minor version compiled may crash this one, or compute something else."""
        here = "{}.{}".format(*sys.version_info[:2])
        if self.given["python"] != here:
            raise RuntimeError(
                f"App {self.given['name']} cannot run here: its functions are code of Python {self.given['python']}, "
                f"and this is Python {here}. Register it from a kernel of Python {here}, or set its python_exe to a "
                f"Python {self.given['python']} of this site that has balsam."
            )

    def _bring_cloudpickle(self) -> None:
        """A site need not have it: it came along."""
        package = types.ModuleType("cloudpickle")
        package.__path__ = []
        inner = types.ModuleType("cloudpickle.cloudpickle")
        inner.__package__ = "cloudpickle"
        sys.modules["cloudpickle"], sys.modules["cloudpickle.cloudpickle"] = package, inner
        exec(compile(self.texts["cloudpickle"], "<balsam-jupyter>/cloudpickle.py", "exec"), inner.__dict__)
        setattr(package, "cloudpickle", inner)  # noqa: B010

    def attribute(self, app: Any, name: str) -> Any:
        """What an app's functions find on `self`."""
        if name.startswith("__"):
            raise AttributeError(name)
        if name in self.parts["functions"]:
            found = self.parts["functions"][name]
            return found.__get__(app) if hasattr(found, "__get__") else found
        if name in self.parts["attributes"]:
            return self.parts["attributes"][name]
        raise AttributeError(f"app {self.given['name']} has no {name!r}")

    def run(self, app: Any, parameters: dict[str, Any]) -> Any:
        """Run a Python app."""
        try:
            return self.portable(self.parts["functions"]["run"](app, **parameters))
        except Exception as error:
            if self._is_large(error):
                raise RuntimeError(type(error).__name__ + ": " + str(error)[:1000] + "…").with_traceback(
                    error.__traceback__
                ) from None
            raise

    def _is_large(self, error: Exception) -> bool:
        try:
            return len(importlib.import_module("balsam.schemas").serialize_exception(error)) > MOST
        except Exception:  # then Balsam sends none
            return False

    def portable(self, value: Any) -> Any:
        """A value as whoever reads it can: Balsam pickles with dill, which is not everywhere.

        One that is larger than a service takes would end the site's agent.
        """
        serialize = importlib.import_module("balsam.schemas").serialize
        text = serialize(value)
        if b"dill" in base64.b64decode(text):
            value = {CARRIED: importlib.import_module("cloudpickle.cloudpickle").dumps(value)}
            text = serialize(value)
        if len(text) > MOST:
            raise ValueError(
                f"What run() returned takes {len(text) * 3 // 4:,} bytes as a pickle, and Balsam takes "
                f"{MOST * 3 // 4:,}: write it to a file, and return where it is."
            )
        return value

    def command(self, app: Any) -> str:
        """The command line."""
        if self._template is None:
            self._template = self.module("templates").CommandTemplate(self.given["command_template"])
        values = {**self.given["defaults"], **app.job.parameters}
        return " ".join(map(shlex.quote, self._template.argv(values)))

    def preamble(self, app: Any) -> Any:
        """Shell lines before the command."""
        if "shell_preamble" in self.given["hooks"]:
            return guarded(self.parts["functions"]["shell_preamble"], app)
        return self.given["preamble"]

    def hook(self, app: Any, name: str) -> bool:
        """Call a hook, as Balsam would; what it prints is flushed before anything else is said."""
        before = app.job.state
        guarded(self.parts["functions"][name], app)
        return bool(app.job.state != before)

    def preprocess(self, app: Any) -> None:
        """Write the input files, then call the app's own, unless this is a retry of a run that failed."""
        for name, source in self.given["inputs"].items():
            file = Path(name)
            file.parent.mkdir(parents=True, exist_ok=True)
            if "path" in source:
                shutil.copyfile(source["path"], str(file))
            elif "template" in source:
                values = {**self.given["defaults"], **app.job.parameters}
                file.write_text(self.module("templates").render_text(source["template"], values), encoding="utf-8")
            else:
                file.write_text(source["text"], encoding="utf-8")
        first = app.job.return_code is None
        if not (first and "preprocess" in self.given["hooks"] and self.hook(app, "preprocess")):
            app.job.state = "PREPROCESSED"

    def postprocess(self, app: Any) -> None:
        """Call the app's own, then compute the outputs."""
        moved = "postprocess" in self.given["hooks"] and self.hook(app, "postprocess")
        if not moved:
            app.job.state = "POSTPROCESSED"
        if self.given["outputs"] and str(app.job.state).rpartition(".")[2].upper() == "POSTPROCESSED":
            outputs = {}
            for name, output in self.given["outputs"].items():
                outputs[name] = self.parts["outputs"][name] if output is None else output
            values, note = guarded(self.module("outputs").extract, Path.cwd(), outputs)
            data = dict(app.job.data or {}, bj_value=_text(values))
            if note:
                data["bj_note"] = _storable(note)
            app.job.data = data

    def handle_error(self, app: Any) -> None:
        """Run again while that is wanted, else call the app's own, else fail."""
        if "handle_error" in self.given["hooks"] and self.hook(app, "handle_error"):
            return
        left = int((app.job.tags or {}).get("bj_retries", 0))
        used = int((app.job.data or {}).get("bj_retried", 0))
        if used < left:
            app.job.data = dict(app.job.data or {}, bj_retried=used + 1)
            app.job.state = "RESTART_READY"
        else:
            app.job.state = "FAILED"


def guarded(function: Any, *given: Any) -> Any:
    """Call what a user wrote in a process of the site's agent, which is to outlive it.

    An exit would end the agent; so would an error without a text, or with one that no database holds.
    """
    try:
        return function(*given)
    except SystemExit as end:
        raise RuntimeError(f"sys.exit({end.code}) was called") from None
    except Exception as error:
        try:
            text = str(error)
        except Exception:
            text = "\0"
        if _storable(text) != text:
            raise RuntimeError(type(error).__name__ + ": " + _storable(text)) from None
        raise


def _storable(text: str) -> str:
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def _text(values: dict[str, Any]) -> str:
    """A mapping as JSON text; of what JSON cannot hold its text."""
    plain = {}
    for name, value in values.items():
        try:
            plain[name] = json.loads(json.dumps(value, default=_plain))
        except (TypeError, ValueError, RecursionError):
            plain[name] = str(value)
    return json.dumps(plain)


def _plain(value: Any) -> Any:
    for name in ("tolist", "item"):
        if hasattr(value, name):
            return getattr(value, name)()
    return str(value)

"""Classes of Balsam are taken by their shape."""

import pickle
import sys

from balsam_jupyter.apps import app_record
from balsam_jupyter.models import Parameter

from .isolated import called_elsewhere

BALSAM = """
# The shape of balsam.api's classes, without its dependencies.
import sys
class Meta(type):
    def __new__(mcls, name, bases, attrs):
        attrs["parameters"] = attrs.pop("parameters", {}).copy()
        cls = super().__new__(mcls, name, bases, attrs)
        if bases:
            cls._app_type = object()
            cls._default_params = {}
            if "command_template" in attrs:
                cls.parameters["say_hello_to"] = {"required": True, "default": None, "help": ""}
            else:
                cls.parameters["b"] = {"required": False, "default": 2, "help": "_empty"}
        return cls
class ApplicationDefinition(metaclass=Meta):
    environment_variables = {}
    parameters = {}
    transfers = {}
    cleanup_files = []
    run = None
    python_exe = "/somewhere/python"
    _client = object()
    __app_id__ = None
    def preprocess(self): self.job.state = "PREPROCESSED"
    def postprocess(self): self.job.state = "POSTPROCESSED"
    def shell_preamble(self): return []
    def handle_timeout(self): pass
    def handle_error(self): pass
"""


def test_classes_of_balsam_are_taken_by_their_shape(tmp_path, monkeypatch):
    (tmp_path / "balsam").mkdir()
    (tmp_path / "balsam" / "__init__.py").write_text("")
    (tmp_path / "balsam" / "api.py").write_text(BALSAM)
    monkeypatch.syspath_prepend(tmp_path)
    from balsam.api import ApplicationDefinition as Theirs

    class HelloApp(Theirs):
        site = "one_site"
        command_template = "echo Hello, {{ say_hello_to }}! && uname"

    class Adder(Theirs):
        site = 3

        def run(self, a, b=2):
            return self.twice(a) + b + 0 * Adder.twice(self, b)

        def twice(self, x):
            return 2 * x

    hello, adder = app_record(HelloApp), app_record(Adder)
    assert (hello.kind, hello.payload, hello.python_exe) == ("shell", None, "")
    assert hello.parameters == {"say_hello_to": Parameter(True)}
    assert adder.parameters == {"a": Parameter(True), "b": Parameter(False, 2)}
    assert hello.source.startswith("class HelloApp(Theirs):")
    assert set(pickle.loads(adder.payload)["functions"]) == {"run", "twice"}
    assert called_elsewhere(adder, tmp_path, a=1) == 4
    for name in [name for name in sys.modules if name.partition(".")[0] == "balsam"]:
        del sys.modules[name]

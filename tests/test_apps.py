"""Declaring apps: the class contract, what it becomes, and what is refused."""

import json
import pickle
import re
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import pytest

from balsam_jupyter import ApplicationDefinition
from balsam_jupyter.apps import app_from_record, app_record, app_version, check_parameters
from balsam_jupyter.codec import decode, encode
from balsam_jupyter.errors import BadInput
from balsam_jupyter.models import Parameter

from .isolated import CALL, called_elsewhere, python


class Melt(ApplicationDefinition):
    """A Lennard-Jones melt."""

    site = "laptop"
    command_template = "\n  lmp -in in.melt -var T {{ T }} -var steps {{ steps }}\n"
    parameters = {"steps": {"required": False, "default": 100, "help": "time steps"}}
    environment_variables = {"OMP_NUM_THREADS": 1}
    inputs = {"in.melt": "run ${steps}\n", "sub/pot.txt": "{{ eps }} {% if T > 1 %}hot{% endif %}\n"}
    outputs = {
        "energy": r"E = (\S+)",
        "p": "out.json:a.b",
        "size": lambda workdir: (workdir / "job.out").stat().st_size,
    }

    def shell_preamble(self):
        return ["module load lammps", f"export THREADS={self.environment_variables['OMP_NUM_THREADS']}"]


def test_a_command_becomes_a_record():
    record = app_record(Melt)
    assert (record.name, record.kind, record.description) == ("Melt", "shell", "A Lennard-Jones melt.")
    assert record.command_template == "lmp -in in.melt -var T {{ T }} -var steps {{ steps }}"
    assert record.parameters == {
        "steps": Parameter(False, 100, "time steps"),
        "T": Parameter(True),
        "eps": Parameter(True),
    }
    assert record.environment_variables == {"OMP_NUM_THREADS": "1"}
    template = Melt.inputs["sub/pot.txt"]
    assert record.inputs == {"in.melt": {"text": "run ${steps}\n"}, "sub/pot.txt": {"template": template}}
    assert record.outputs == {"energy": r"E = (\S+)", "p": "out.json:a.b", "size": None}
    assert record.preamble == ["module load lammps", "export THREADS=1"]
    assert record.source.startswith("class Melt(ApplicationDefinition):") and "THREADS" in record.source
    assert pickle.loads(record.payload)["outputs"].keys() == {"size"}
    assert Melt.parameters["T"] == {"required": True, "default": None, "help": ""}


def test_parameters_belong_to_the_template_beside_them():
    class Hot(Melt):
        inputs = {}
        command_template = "lmp {{ T }}"

    class Renamed(Melt):
        pass

    assert list(app_record(Hot).parameters) == ["T"]
    assert app_record(Renamed).parameters == app_record(Melt).parameters


FACTOR = 3
TABLE = {"a": 1.5}


def scaled(x):
    return FACTOR * x


class Base:
    offset = 1

    def helper(self, x):
        return scaled(x) + self.offset


def test_a_function_travels_with_all_it_needs(tmp_path):
    local = 10

    class Compute(Base, ApplicationDefinition):
        """Docs."""

        site = "laptop"
        parameters = {"x": {"help": "where"}}
        offset = 2

        def run(self, x: float, y: "int" = 5, *, names: list[str] | None = None):
            return [self.helper(x), y, local, TABLE["a"], self.static(1), self.job.id, Compute.offset, names]

        @staticmethod
        def static(value):
            return -value

    record = app_record(Compute)
    assert record.kind == "python" and record.command_template == ""
    assert record.parameters == {
        "x": Parameter(True, None, "where", "float"),
        "y": Parameter(False, 5, "", "int"),
        "names": Parameter(False, None, "", "list[str] | None"),
    }
    assert called_elsewhere(record, tmp_path, x=2) == [8, 5, 10, 1.5, -1, 7, 2, None]


def test_functions_of_the_users_modules_travel_by_value(tmp_path):
    (tmp_path / "my_helper.py").write_text("SCALE = 7\ndef helped(x):\n    return SCALE * x\n")
    (tmp_path / "my_app.py").write_text(
        textwrap.dedent("""
        import my_helper
        from my_helper import helped
        from balsam_jupyter import ApplicationDefinition
        class Modular(ApplicationDefinition):
            site = 1
            def run(self, x):
                return [helped(x), my_helper.helped(x + 1)]
        """)
    )
    script = textwrap.dedent("""
        import pickle, sys
        from balsam_jupyter.apps import app_record
        import my_app
        record = app_record(my_app.Modular)
        with open("payload", "wb") as file:
            pickle.dump((record.name, record.payload), file)
        print(record.version)
        print(record.sys_path)
        print(record.source)
        """)
    version, sys_path, source = python(script, cwd=tmp_path).split("\n", 2)
    assert str(tmp_path) in sys_path and "site-packages" not in sys_path and "''" not in sys_path
    assert source.startswith("class Modular(ApplicationDefinition):")
    assert json.loads(python(CALL, str(tmp_path / "payload"), '{"x": 1}', cwd="/")) == [7, 14]
    (tmp_path / "my_helper.py").write_text("SCALE = 80\ndef helped(x):\n    return SCALE * x\n")
    assert python(script, cwd=tmp_path).split("\n")[0] != version


def test_inputs_from_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in.melt.j2").write_text("T {{ T }}\n")
    Path("pot.txt").write_text("{{ not a template }}\n")

    class Files(ApplicationDefinition):
        command_template = "lmp"
        parameters = {"T": {"default": 1}}
        inputs = {"in.melt": Path("in.melt.j2"), "pot.txt": Path("pot.txt")}

    record = app_record(Files)
    assert record.inputs == {"in.melt": {"template": "T {{ T }}\n"}, "pot.txt": {"path": str(tmp_path / "pot.txt")}}
    assert record.parameters == {"T": Parameter(False, 1)}
    Path("pot.txt").write_text("other\n")
    assert app_version(Files) != record.version
    Path("pot.txt").unlink()
    with pytest.raises(BadInput, match=r"pot.txt.*does not exist"):
        app_record(Files)


def declare(**attributes):
    return lambda: app_record(type("Broken", (ApplicationDefinition,), attributes))


lock = threading.Lock()


def uses_lock():
    return lock


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (declare(command_template="x", run=lambda self: 1), "both of `command_template` and `run`"),
        (declare(), "neither of"),
        (declare(command_template="echo {{ a b }}"), "App Broken: Syntax error in the command template, line 1"),
        (declare(command_template="echo {{ a-b }}"), "App Broken: .*identifier"),
        (declare(command_template=5), "is a int"),
        (declare(command_template="echo {{ temp }}", parameters={"tmp": {}}), "'tmp' .* not used.*Did you mean 'temp'"),
        (declare(command_template="echo {{ a }}", parameters={"a": {"required": False}}), "has no default"),
        (declare(command_template="echo {{ a }}", parameters={"a": {"defualt": 1}}), "Did you mean 'default'"),
        (declare(command_template="echo {{ a }}", parameters={"a": 5}), "give a dict"),
        (declare(command_template="echo {{ a }}", parameters={"a": {"default": lock}}), "default of 'a'.*lock"),
        (declare(command_template="echo", parameters=["a"]), "dict of dicts"),
        (declare(command_template="echo", environment_variables={"A=B": "1"}), "environment variable"),
        (declare(command_template="echo", environment_variables={"A": None}), "A is None"),
        (declare(command_template="echo", inputs={"/etc/x": ""}), "below the work directory"),
        (declare(command_template="echo", inputs={"a/../../x": ""}), r"without '\.\.'"),
        (declare(command_template="echo", inputs={"job.out": ""}), "name of the task's log"),
        (declare(command_template="echo", inputs={"x": Path("/nowhere/x")}), "does not exist"),
        (declare(command_template="echo", inputs={"x": Path("/")}), "is not a file"),
        (declare(command_template="echo", inputs={"x": 5}), "pathlib.Path"),
        (declare(command_template="echo", inputs={"x": "a", "./x": "b"}), "two inputs"),
        (declare(command_template="echo", inputs={"x": "{{ a"}), "input template, line 1"),
        (declare(command_template="echo", outputs={"p": "no group"}), "Output 'p' of app Broken has 0 groups"),
        (declare(command_template="echo", outputs={"p": "(a)(b)"}), "2 groups"),
        (declare(command_template="echo", outputs={"p": "(a"}), "not a regular expression"),
        (declare(command_template="echo", outputs={"p": lambda: 1}), "one argument"),
        (declare(command_template="echo", outputs={"p": 5}), "is a int"),
        (declare(run=lambda x: x), "lacks the `self` argument"),
        (declare(run=staticmethod(lambda self: 1)), "plain method"),
        (declare(run=lambda self, *args: 1), r"instead of \*args"),
        (declare(run=lambda self, **kwargs: 1), r"instead of \*\*kwargs"),
        (declare(run=lambda self, x: 1, parameters={"y": {}}), "'y' of app Broken is not used in run"),
        (declare(run=lambda self: 1, inputs={"f": "{{ x }}"}), r"use x, which run\(\) does not take"),
        (declare(run=lambda self: uses_lock()), "the global 'lock' .*lock.* cannot be pickled.*Create it inside run"),
        (declare(run=lambda self, x=lock: 1), "default of 'x'.*lock"),
        (declare(run=lambda self: 1, held=lock), "held .*lock.* cannot be pickled"),
        (declare(run=lambda self: 1, shell_preamble=lambda self: f"x {self.job.id}"), "uses self.job"),
        (declare(command_template="echo", shell_preamble=lambda self: 1 / 0), "ZeroDivisionError"),
        (declare(command_template="echo", shell_preamble=lambda self: 5), "gives 5"),
        (lambda: app_record(5), "not a int"),
    ],
)
def test_classes_that_break_the_contract_are_refused(make, message):
    with pytest.raises(BadInput, match=message) as caught:
        make()
    assert len(str(caught.value).splitlines()) <= 2


def test_a_broken_class_is_refused_where_it_is_written():
    with pytest.raises(BadInput, match="both"):

        class Both(ApplicationDefinition):
            command_template = "echo"

            def run(self):
                return 1

    with pytest.raises(BadInput, match="neither"):

        class Neither(ApplicationDefinition):
            site = 1


def test_super_in_run_is_refused():
    class Child(Base, ApplicationDefinition):
        def run(self):
            return super().helper(1)

    with pytest.raises(BadInput, match=r"run\(\) of app Child uses super"):
        app_record(Child)


def test_hooks_transfers_and_clean_up_are_kept():
    class Base:
        def preprocess(self):
            self.job.data["made"] = self.helper()

        def helper(self):
            return 2

    class Whole(Base, ApplicationDefinition):
        command_template = "true"
        transfers = {"deck": {"direction": "in", "local_path": "./input.nw"}}
        cleanup_files = ["*.tmp", "sub/*.h5"]

        def handle_error(self):
            self.job.state = "FAILED"

    record = app_record(Whole)
    assert record.hooks == ["preprocess", "handle_error"]
    slot = {"required": True, "direction": "in", "local_path": "input.nw", "description": "", "recursive": False}
    assert record.transfers == {"deck": slot} and record.cleanup_files == ["*.tmp", "sub/*.h5"]
    again = app_from_record(record)
    assert again.transfers == {"deck": slot} and app_record(again).version == record.version
    assert {"preprocess", "handle_error", "helper"} <= vars(again).keys()


def test_hooks_and_transfers_are_part_of_the_version():
    def versions(**attributes):
        return declare(command_template="true", **attributes)().version

    def first(self):
        return 1

    def second(self):
        return 2

    slot = {"direction": "in", "local_path": "a"}
    told = [
        versions(), versions(preprocess=first), versions(preprocess=second), versions(postprocess=second),
        versions(transfers={"x": slot}), versions(transfers={"y": slot}), versions(cleanup_files=["*"]),
    ]  # fmt: skip
    assert len(set(told)) == len(told)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"preprocess": lambda: None}, r"called with `self` alone: def preprocess\(self\)"),
        ({"postprocess": lambda self, job: None}, "called with `self` alone"),
        ({"handle_error": staticmethod(lambda self: None)}, "`handle_error` of app Broken must be a plain method"),
        ({"handle_eror": lambda self: None}, "did you mean `handle_error`"),
        ({"transfers": ({"x": {}},)}, "are a tuple; is there a comma too many"),
        (
            {"transfers": {"x": {"local_path": "a"}}},
            'Transfer slot \'x\' of app Broken: its direction is "in" or "out"',
        ),
        ({"transfers": {"x": {"direction": "in"}}}, "local_path must be a path below the work directory, not ''"),
        ({"transfers": {"x": {"direction": "in", "local_path": "/a"}}}, "local_path must be a path below"),
        ({"transfers": {"x": {"direction": "in", "local_path": "a/../b"}}}, "local_path must be a path below"),
        ({"transfers": {"x": {"direction": "in", "local_path": "job.out"}}}, "the name of a log"),
        ({"transfers": {"x": {"direction": "out", "local_path": "."}}}, "the whole work directory"),
        ({"transfers": {"x": {"direction": "out", "local": "a"}}}, "has no 'local'.*Did you mean 'local_path'"),
        ({"transfers": {"x": {"direction": "out", "local_path": "a", "recursive": 1}}}, "`recursive` is True or False"),
        ({"cleanup_files": "*.tmp"}, "give a list of globs"),
        ({"cleanup_files": ["../*"]}, r"'\.\./\*' must be a glob of files below the work directory"),
        ({"cleanup_files": ["/tmp/*"]}, "must be a glob of files below"),
    ],
)
def test_hooks_and_transfers_that_cannot_be(attributes, message):
    with pytest.raises(BadInput, match=message):
        declare(command_template="echo", **attributes)()


def test_a_stored_app_becomes_a_class_again(tmp_path):
    class Sum(ApplicationDefinition):
        """Adds."""

        python_exe = sys.executable
        start = 1

        def run(self, x: int, y: int = 2):
            return self.start + x + y

    for cls in (Melt, Sum):
        record = app_record(cls)
        again = app_from_record(record)
        assert issubclass(again, ApplicationDefinition) and again.__name__ == cls.__name__
        assert again.__doc__.strip() == record.description
        again.site = 5
        assert app_record(again) == record
    assert again(SimpleNamespace()).run(1) == 4
    again.start = 100
    assert app_record(again).version != record.version
    assert called_elsewhere(app_record(again), tmp_path, x=1) == 103
    record.payload = cloudpickle.dumps(0)[:-2]
    with pytest.raises(BadInput, match="cannot be loaded here"):
        app_from_record(record)


def test_parameters_of_a_run_are_checked():
    record = app_record(Melt)
    full = check_parameters(record, {"eps": 1, "T": 0.5})
    assert full == {"steps": 100, "T": 0.5, "eps": 1} and list(full) == list(record.parameters)
    assert check_parameters(record, {"eps": 1, "T": "a\nb", "steps": 5})["steps"] == 5
    assert check_parameters(record, {"eps": "only in a file \0", "T": 1})
    with pytest.raises(BadInput, match=r"no parameter 'step'; its parameters: steps, T, eps.*Did you mean 'steps'"):
        check_parameters(record, {"eps": 1, "T": 1, "step": 5})
    with pytest.raises(BadInput, match=r"no parameter 'temp'"):
        check_parameters(record, {"eps": 1, "temp": 5})
    with pytest.raises(BadInput, match=r"needs a value for T, eps"):
        check_parameters(record, {})
    for value, message in (("a\0", "'T' holds a NUL"), ("\ud800", "encoded"), ("x" * 10**6, "longer")):
        with pytest.raises(BadInput, match=message):
            check_parameters(record, {"eps": 1, "T": value})


def test_defaults_can_be_any_value():
    class Any(ApplicationDefinition):
        def run(self, x=(1, 2), where=Path("a")):
            return x

    parameters = app_record(Any).parameters
    assert check_parameters(app_record(Any), {}) == {"x": (1, 2), "where": Path("a")}
    assert {name: decode(encode(one.default)) for name, one in parameters.items()} == {"x": (1, 2), "where": Path("a")}


def test_nothing_of_this_machine_is_in_messages_of_a_type():
    with pytest.raises(BadInput) as caught:
        declare(run=lambda self: 1, held=lock)()
    assert not re.search(r"/(home|tmp|work)/", str(caught.value))

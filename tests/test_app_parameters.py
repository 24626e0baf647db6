"""What an app says of the parameters it is given."""

import re
from pathlib import Path

import pytest

from balsam_jupyter import ApplicationDefinition
from balsam_jupyter.apps import app_record, check_parameters
from balsam_jupyter.codec import decode, encode
from balsam_jupyter.errors import BadInput


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
    for value, message in (("a\0", "'T' holds a NUL"), (["x", "\ud800"], "encoded"), ("x" * 10**6, "longer")):
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

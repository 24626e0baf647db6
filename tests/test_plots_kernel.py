"""Plots of results in real kernels: what is displayed, that they grow while no cell runs, and what they leave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from balsam_jupyter import BalsamExecutor, Site

from .test_kernel import VIEW, Kernel, Message, Start, start

__all__ = ["start"]
pytestmark = pytest.mark.kernel

GATED = """%%balsam_app gated --python
def run(i, gate):
    import os, time
    while not os.path.exists(f"{gate}{i}"):
        time.sleep(0.02)
    return {"twice": 2 * i}
"""

SUBMIT = """from balsam_jupyter import BalsamExecutor
ens = BalsamExecutor(site).submit_sweep("plain", {"i": [1, 2]}, name="scan")"""


def comms_of(message: Message) -> str:
    return str(message["content"].get("comm_id"))


def shown(kernel: Kernel, code: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The picture and the widget that a line displays, and the comm of its figure."""
    cell = kernel.run(code)
    assert cell.reply["status"] == "ok", cell.reply
    picture, widget = (one["content"] for one in cell.messages if one["msg_type"] == "display_data")
    opened = [one["content"] for one in cell.messages if one["msg_type"] == "comm_open"]
    (figure,) = [one["comm_id"] for one in opened if "Figure" in str(one["data"]["state"].get("_anywidget_id"))]
    return picture, widget, figure


def test_a_plot_grows_while_no_cell_runs(start: Start, site: Site, tmp_path: Path) -> None:
    kernel = start()
    kernel.run(GATED)
    kernel.run("from balsam_jupyter import BalsamExecutor\nexctr = BalsamExecutor(site)")
    kernel.run(
        f"ens = exctr.submit_sweep('gated', {{'i': range(6)}} | {{'gate': [{str(tmp_path / 'gate')!r}]}}, name='scan')"
    )
    kernel.run("%balsam_allocate -n 1 -t 10 --job-mode serial")
    picture, widget, figure = shown(kernel, "plot = ens.plot('i', 'twice')\nplot")
    assert picture["data"]["text/plain"] == "scan: twice over i: 0 points · 6 rows to come"
    assert "data:image/svg+xml;base64," in picture["data"]["text/html"]
    assert widget["data"][VIEW]["model_id"] and widget["data"]["text/plain"] == ""

    def grown(one: Message) -> bool:
        content = one["content"]
        return one["msg_type"] == "comm_msg" and content["comm_id"] == figure and "row 1" in json.dumps(content["data"])

    (tmp_path / "gate1").touch()
    message = kernel.until(grown)
    assert len(json.dumps(message["content"])) < 10_000
    # A page that is opened only now asks for all of it.
    kernel.run("state = plot.figure.get_state()")
    assert kernel.run("list(state['_widget_data'][0]['x']), plot.live").text == "([1.0], True)"

    for i in range(6):
        (tmp_path / f"gate{i}").touch()
    end = kernel.until(
        lambda one: (
            one["msg_type"] == "update_display_data"
            and one["content"]["transient"] == picture["transient"]
            and "6 points" in one["content"]["data"]["text/plain"]
        )
    )
    assert set(end["content"]["data"]) == {"text/plain", "text/html"}
    assert end["content"]["data"]["text/plain"] == "scan: twice over i: 6 points"

    # Rows that are added later come, too: the plot follows an ensemble that has ended once.
    (tmp_path / "gate7").touch()
    assert kernel.run(f"ens.add([{{'i': 7, 'gate': {str(tmp_path / 'gate')!r}}}])").reply["status"] == "ok"
    kernel.until(lambda one: "7 points" in json.dumps(one["content"], default=str))

    closed = kernel.run("plot.close()\nplot.live")
    assert closed.text == "False"
    assert [one for one in closed.messages if one["msg_type"] == "comm_close" and comms_of(one) == figure]
    kernel.run(
        "import threading, time\nwhile any('plot' in one.name for one in threading.enumerate()): time.sleep(0.05)"
    )
    assert kernel.run("plot").bundles("display_data")[0]["text/plain"] == "scan: twice over i: 7 points"


def test_a_plot_of_an_ensemble_that_goes_says_so(start: Start, site: Site) -> None:
    kernel = start()
    kernel.run("%%balsam_app plain --python\ndef run(i):\n    return i\n")
    kernel.run(SUBMIT)
    kernel.run("ens.kill()")
    picture, _, _ = shown(kernel, "plot = ens.plot('i', 'state')\nplot")
    assert picture["data"]["text/plain"] == "scan: state over i: 2 points"
    BalsamExecutor(site).ensemble("scan").rename("study")
    end = kernel.until(lambda one: one["msg_type"] == "update_display_data")
    assert "scan: state over i: Site 'here' has no ensemble 'scan'." in end["content"]["data"]["text/plain"]


def test_what_cannot_be_read_is_told_in_no_cell(start: Start, site: Site) -> None:
    """The log's warnings of a table are for who asks for it, not for a thread in the background."""
    kernel = start()
    kernel.run("%%balsam_app plain --output 'y=no (match)'\necho {{ i }}")
    kernel.run(SUBMIT)
    told = kernel.run("plot = ens.plot('i', 'y')\nplot").messages
    told += kernel.run("_ = %balsam_allocate -n 1 -t 10 --job-mode serial").messages

    def over(one: Message) -> bool:
        return one["msg_type"] == "update_display_data"

    def noted(one: Message) -> bool:
        told.append(one)
        return over(one)

    end = next(filter(over, told), None) or kernel.until(noted)
    assert end["content"]["data"]["text/plain"] == "scan: y over i: 0 points · 2 rows without y"
    assert not [one for one in told if one["msg_type"] == "stream"]
    assert "outputs missing in 2 of 2 finished rows" in kernel.run("_ = ens.to_dataframe()").streams

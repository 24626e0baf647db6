"""Views in real kernels: cells that run again, interrupts, and pages that are opened later."""

from __future__ import annotations

import pytest

from balsam_jupyter import Site

from .test_kernel import VIEW, Cell, Kernel, Message, Start, start

__all__ = ["start"]
pytestmark = pytest.mark.kernel

APP = "%%balsam_app plain\n/bin/echo {{ i }}"
SUBMIT = """from balsam_jupyter import BalsamExecutor
exctr = BalsamExecutor(site)
ens = exctr.submit_sweep("plain", {"i": range(3)}, name="scan")"""
COMMS = "import comm\nlen(comm.get_comm_manager().comms)"


def run_as(kernel: Kernel, code: str, cell: str) -> Cell:
    """Run a cell as JupyterLab does, which tells its id."""
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
    message = kernel.client.session.msg("execute_request", content, metadata={"cellId": cell})
    kernel.client.shell_channel.send(message)
    return kernel.finish(message["header"]["msg_id"])


@pytest.mark.parametrize(
    "view",
    [
        "ens.watch()", "exctr.dashboard()", "ens.watch(plotly=True)",
        "ens.plot('i', 'runtime_s')", "ens.plot.parallel()",
        "exctr.app_form('plain')", "exctr.sweep_form('plain')", "exctr.allocation_form()",
    ],
)  # fmt: skip
def test_a_cell_that_runs_again_leaves_nothing_of_its_last_view(start: Start, view: str) -> None:
    kernel = start()
    kernel.run(APP)
    kernel.run(SUBMIT)
    numbers = []
    for _ in range(3):
        cell = run_as(kernel, view, "a")
        assert cell.reply["status"] == "ok" and any(VIEW in data for data in cell.bundles("display_data"))
        numbers.append(int(kernel.run(COMMS).text))
    assert numbers[0] > 0 and len(set(numbers)) == 1


def test_a_form_that_is_kept_comes_back_in_another_cell(start: Start) -> None:
    kernel = start()
    kernel.run(APP)
    kernel.run(SUBMIT)
    run_as(kernel, "form = exctr.app_form('plain')\nform", "a")
    kernel.run("kept = form")
    run_as(kernel, "form = exctr.app_form('plain')\nform", "a")
    again = run_as(kernel, "kept", "b")
    assert [one for one in again.messages if one["msg_type"] == "comm_open"]
    assert any(VIEW in data for data in again.bundles("display_data"))


def test_a_display_that_is_interrupted_follows_nothing(start: Start) -> None:
    kernel = start()
    kernel.run(APP)
    kernel.run(SUBMIT)
    shown = 0
    for _ in range(5):
        request = kernel.start("while True: display(ens.watch())")
        kernel.until(lambda one: one["msg_type"] == "display_data" and VIEW in one["content"]["data"])
        kernel.manager.interrupt_kernel()
        cell = kernel.finish(request)
        assert cell.reply["ename"] == "KeyboardInterrupt"
        shown += 1 + sum(VIEW in data for data in cell.bundles("display_data"))
    kernel.run("import gc\nfrom balsam_jupyter.widgets.watch import LiveView")
    live = kernel.run("sum(isinstance(one, LiveView) and one.live for one in gc.get_objects())").text
    assert int(live) <= shown


def test_a_page_that_comes_later_gets_the_plotly_figure_as_it_is(start: Start) -> None:
    kernel = start()
    kernel.run(APP)
    kernel.run(SUBMIT)
    opened = [one["content"] for one in kernel.run("ens.watch(plotly=True)").messages if one["msg_type"] == "comm_open"]
    (figure,) = [one["comm_id"] for one in opened if "Figure" in str(one["data"]["state"].get("_anywidget_id"))]
    kernel.client.shell_channel.send(
        kernel.client.session.msg("comm_msg", {"comm_id": figure, "data": {"method": "request_state"}})
    )
    told = kernel.until(lambda one: one["msg_type"] == "comm_msg" and one["content"]["comm_id"] == figure)
    data = told["content"]["data"]
    assert all("x0" in trace for trace in data["state"]["_widget_data"])
    assert ["_widget_data", 0, "y", "buffer"] in data["buffer_paths"]


def test_a_view_of_a_site_that_cannot_be_read_prints_in_no_other_cell(start: Start, site: Site) -> None:
    kernel = start()
    kernel.run(APP)
    kernel.run(f"{SUBMIT}\n_ = ens.kill()\nens.watch()")
    files = sorted(site.engine.path.glob("balsam.db*"))
    kept = [file.read_bytes() for file in files]
    for file, content in zip(files, kept, strict=True):
        file.write_bytes(bytes(255 - byte for byte in content))
    cell = kernel.run("1 + 1")
    for file, content in zip(files, kept, strict=True):
        file.write_bytes(content)
    assert cell.text == "2" and cell.streams == ""
    assert not [one for one in cell.messages if one["msg_type"] == "error"]


def test_an_allocation_that_ends_after_the_last_task_is_shown_so(start: Start) -> None:
    kernel = start()
    kernel.run(APP)
    kernel.run(SUBMIT)
    kernel.run("_ = %balsam_allocate -t 10 --job-mode serial")
    kernel.run("w = %balsam_wait scan --timeout 60")
    watched = kernel.run("view = ens.watch()\nview")
    assert kernel.run("view.live").text == "False", "all have ended, so that it follows nothing"
    opened = [one["content"] for one in watched.messages if one["msg_type"] == "comm_open"]
    (dashboard,) = [one for one in opened if "start" in one["data"]["state"]]
    assert [one["state"] for one in dashboard["data"]["state"]["start"]["allocations"]] == ["running"]

    def told(one: Message) -> list[str]:
        if one["msg_type"] != "comm_msg" or one["content"]["comm_id"] != dashboard["comm_id"]:
            return []
        value = one["content"]["data"].get("content", {}).get("value") or {}
        return [one["state"] for one in value.get("allocations") or []]

    revoked = kernel.run("_ = %balsam_revoke")
    assert any(told(one) == ["finished"] for one in revoked.messages) or kernel.until(
        lambda one: told(one) == ["finished"]
    )

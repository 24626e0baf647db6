"""The task table alone in a widget, for tests; the dashboard mounts the same module."""

from __future__ import annotations

from pathlib import Path

from balsam_jupyter import Site, widgets
from balsam_jupyter.monitor import Monitor
from balsam_jupyter.widgets.live import Live, module
from balsam_jupyter.widgets.palette import COLOURS
from balsam_jupyter.widgets.tasks import answers

_RENDER = """
export default {
  render({ model, el }) {
    const link = connect(model);
    const tasks = mountTasks(el, link, { palette: model.get("palette") ?? PALETTE });
    const off = link.on("changed", () => tasks.changed());
    window.bjTasks = tasks;
    return () => { off(); tasks.close(); };
  },
};
"""


class TaskView(Live):
    """A live task table of an ensemble."""

    _esm = module("tasks.js") + module("link.js") + f"\nconst PALETTE = {COLOURS!r};\n" + _RENDER
    _css = (Path(widgets.__file__).parent / "esm" / "tasks.css").read_text()

    def __init__(self, site: Site, ensemble: str) -> None:
        super().__init__(answers(site, ensemble))
        self.subscription = Monitor.of(site.engine).watch(ensemble, lambda told: self.push("changed"))

"""A plotly FigureWidget that a page can ask for at any time."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go


class Figure(go.FigureWidget):  # type: ignore[misc]  # plotly has no types
    """As plotly's, but a page that is opened later gets what there is then; plotly's keeps the state of its display."""

    _config: dict[str, Any]

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._config = {**self._config, "responsive": True, "displaylogo": False}

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """The state of the widget, with the traces and the layout as they are now."""
        state: dict[str, Any] = super().get_state(key, drop_defaults)
        for name, now in (("_widget_data", "_data"), ("_widget_layout", "_layout")):
            if name in state and hasattr(self, now):  # it is asked for while it is being made, too
                state[name] = self.trait_metadata(name, "to_json")(getattr(self, now), self)
        return state

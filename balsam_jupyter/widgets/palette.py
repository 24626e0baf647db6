"""The colours of the states, in one place; told apart by people with any colour vision."""

from __future__ import annotations

# Okabe and Ito's palette (jfly.uni-koeln.de/color), and a light grey for what has not begun.
COLOURS: dict[str, str] = {
    "FINISHED": "#009E73",  # bluish green
    "FAILED": "#D55E00",  # vermillion
    "USER_KILLED": "#CC79A7",  # reddish purple
    "RUNNING": "#56B4E9",  # sky blue
    "WAITING": "#D4D4D4",
}
"""Task state → colour, in the order in which areas are stacked, from below."""

DARK: dict[str, str] = {**COLOURS, "WAITING": "#4A4F55"}
"""The same on a dark page, where what has not begun must not be the brightest."""

ANYWHERE: dict[str, str] = {**COLOURS, "WAITING": "rgba(128,128,128,0.35)"}
"""The same for a picture that does not know its page."""

INK = "#7C7C7C"
"""Its text, legible on a white and on a black page."""

GRID = "rgba(128,128,128,0.25)"
"""Its lines."""

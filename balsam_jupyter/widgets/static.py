"""A snapshot as text, and as HTML that needs no kernel, no script and no trust (for saved notebooks)."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..history import Series
from ..models import TASK_STATES, Allocation
from ..monitor import Snapshot
from .palette import ANYWHERE, INK

WIDTH, HEIGHT = 720, 200
_LEFT, _BOTTOM, _TOP, _RIGHT = 60, 22, 8, 12
_SHOWN = 5

# While the live view below it is there, the static one is hidden; and once that is gone with its kernel, what the page
# says of it ("model not found") is. A notebook that is not trusted drops the style, and with it shows no live view.
# VS Code has all outputs of a cell in one container, in no certain order, and other words for "model not found".
STYLE = (
    "<style>.jp-OutputArea-child:has(.bj-still):has(+ .jp-OutputArea-child .bj-live){display:none!important}"
    ".jp-OutputArea-child:has(.bj-still) + .jp-OutputArea-child .jupyter-widgets:not(:has(*)){display:none!important}"
    ".cell_container:has(.bj-live) .bj-still{display:none}"
    ".cell_container:has(.bj-still) .output:has(.no-renderer-error){display:none}"
    "</style>"
)


def duration(seconds: float) -> str:
    """A time span in at most two units: ``3 s``, ``4 min 10 s``, ``2 h 05 min``, ``3 d 4 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def numbers(counts: dict[str, int]) -> str:
    """``12 FINISHED, 1 FAILED``: the states that have tasks."""
    return ", ".join(f"{counts[state]:,} {state}" for state in TASK_STATES if counts.get(state)) or "no tasks"


def progress_line(snapshot: Snapshot) -> str:
    """One line: how far, how fast, when it ends, and whether the numbers are old."""
    parts = [f"{snapshot.ended:,}/{snapshot.total:,} done ({numbers(snapshot.counts)})"]
    if snapshot.rate:
        per_second = snapshot.rate >= 1
        parts.append(f"{snapshot.rate:.3g}/s" if per_second else f"{60 * snapshot.rate:.3g}/min")
    runs = any(one.state == "running" for one in snapshot.allocations)
    left = snapshot.total - snapshot.ended
    if snapshot.remaining_s is not None and left and runs:
        ends = time.localtime(snapshot.time + snapshot.remaining_s)
        clock = "%H:%M:%S" if snapshot.remaining_s < 3600 else "%H:%M" if snapshot.remaining_s < 43200 else "%a %H:%M"
        parts.append(f"about {duration(snapshot.remaining_s)} left, until {time.strftime(clock, ends)}")
    if left and not runs:
        waiting = [one for one in snapshot.allocations if one.state in ("queued", "pending_submission")]
        parts.append("allocation queued" if waiting else "no allocation runs")
    if snapshot.gone:
        parts.append("renamed or deleted since")
    if snapshot.error:
        parts.append(f"no answer for {duration(snapshot.age_s)}: {snapshot.error}")
    return " · ".join(parts)


def text(snapshot: Snapshot, title: str = "") -> str:
    """The view as plain text."""
    share = snapshot.ended / snapshot.total if snapshot.total else 1.0
    filled = int(20 * share)
    return f"{title or snapshot.ensemble} [{'#' * filled}{'.' * (20 - filled)}] {progress_line(snapshot)}"


def svg(series: Series, allocations: Sequence[Allocation] = ()) -> str:
    """Task states over time as stacked areas, and below them a line for each time in which nodes were there."""
    bins = len(series)
    most = max((sum(column) for column in zip(*series.counts.values(), strict=True)), default=0) or 1
    shapes: list[str] = []
    heights = [0] * bins
    for state, colour in ANYWHERE.items():
        if any(series.counts[state]):
            heights = [low + number for low, number in zip(heights, series.counts[state], strict=True)]
            shapes.insert(0, f'<path fill="{colour}" d="{_area(heights, most)}"><title>{state}</title></path>')
    shapes += _bands(series, allocations)
    ends = [time.strftime("%H:%M:%S", time.localtime(moment)) for moment in (series.start, series.end)] if bins else []
    bottom = HEIGHT - _BOTTOM
    labels = [
        (_LEFT - 6, bottom, "end", "0"),
        (_LEFT - 6, _TOP + 10, "end", f"{most:,}"),
        *zip((_LEFT, WIDTH - _RIGHT), (HEIGHT - 4, HEIGHT - 4), ("start", "end"), ends, strict=False),
    ]
    texts = "".join(f'<text x="{x}" y="{y}" text-anchor="{anchor}">{label}</text>' for x, y, anchor, label in labels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f"{''.join(shapes)}"
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{WIDTH - _RIGHT}" fill="none" stroke="{INK}"/>'
        f'<g font-family="sans-serif" font-size="11" fill="{INK}">{texts}</g></svg>'
    )


def _area(heights: list[int], most: int) -> str:
    """The path of one area, down to the axis: what is below it is painted over it. Equal neighbours are one step."""
    plot_width, plot_height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    path = f"M{_LEFT} {HEIGHT - _BOTTOM}"
    for at, height in enumerate(heights):
        if at == 0 or heights[at - 1] != height:
            path += f"V{HEIGHT - _BOTTOM - plot_height * height / most:.4g}"
        if heights[at + 1 : at + 2] != [height]:
            path += f"H{_LEFT + plot_width * (at + 1) / len(heights):.4g}"
    return f"{path}V{HEIGHT - _BOTTOM}Z"


def _bands(series: Series, allocations: Sequence[Allocation]) -> list[str]:
    """A thin line below the axis for the time of each allocation."""
    span = len(series) * series.width
    bands = []
    for one in allocations if span else ():
        begin = ((one.start_time or series.end) - series.start) / span
        end = ((one.end_time or series.end) - series.start) / span
        begin, end = max(0.0, begin), min(1.0, end)
        if end > begin:
            x, width = _LEFT + (WIDTH - _LEFT - _RIGHT) * begin, (WIDTH - _LEFT - _RIGHT) * (end - begin)
            title = f"<title>allocation {one.id}</title>"
            bands.append(
                f'<rect x="{x:.1f}" y="{HEIGHT - _BOTTOM + 2}" width="{width:.1f}" height="3" fill="{INK}">'
                f"{title}</rect>"
            )
    return bands


def html(snapshot: Snapshot, title: str = "", failures: Mapping[str, Any] | None = None) -> str:
    """The view as HTML: a picture in an image tag (untrusted notebooks show no inline SVG), the numbers, failures."""
    picture = base64.b64encode(svg(snapshot.series, snapshot.allocations).encode()).decode()
    legend = " ".join(
        f'<span style="white-space:nowrap;margin-right:1em"><span style="color:{ANYWHERE[state]}">&#9632;</span> '
        f"{state} {snapshot.counts[state]:,}</span>"
        for state in TASK_STATES
        if snapshot.counts[state]
    )
    return (
        f'<div class="bj-still">{STYLE}<b>{escape(title or snapshot.ensemble)}</b>: {escape(progress_line(snapshot))}'
        f'<br><img alt="{escape(text(snapshot, title))}" width="{WIDTH}" height="{HEIGHT}" style="max-width:100%" '
        f'src="data:image/svg+xml;base64,{picture}"><br>{legend}{_table(failures)}</div>'
    )


def _table(failures: Mapping[str, Any] | None) -> str:
    if not failures or not failures["groups"]:
        return ""
    left = 'style="text-align:left"'
    rows = "".join(
        f"<tr><td {left}>{escape(one['title'])}</td><td {left}><code>{escape(one['shape'])}</code></td></tr>"
        for one in failures["groups"][:_SHOWN]
    )
    more = len(failures["groups"][_SHOWN:]) + failures["more"]
    rest = f"<tr><td {left} colspan=2>… and {more:,} more groups</td></tr>" if more else ""
    return f"<table><tr><th {left}>failed</th><th {left}>error</th></tr>{rows}{rest}</table>"


def bundle(snapshot: Snapshot, title: str = "", failures: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The view for a saved notebook, as a MIME bundle."""
    return {"text/plain": text(snapshot, title), "text/html": html(snapshot, title, failures)}

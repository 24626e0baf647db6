"""A snapshot as text, and as HTML that needs no kernel, no script and no trust (for saved notebooks)."""

from __future__ import annotations

import base64
import time
from html import escape

from ..history import Series
from ..models import TASK_STATES
from ..monitor import Snapshot
from .palette import COLOURS

WIDTH, HEIGHT = 720, 200
_LEFT, _BOTTOM, _TOP, _RIGHT = 48, 22, 8, 12


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
    return ", ".join(f"{counts[state]} {state}" for state in TASK_STATES if counts.get(state)) or "no tasks"


def progress_line(snapshot: Snapshot) -> str:
    """One line: how far, how fast, when it ends, and whether the numbers are old."""
    parts = [f"{snapshot.ended}/{snapshot.total} done ({numbers(snapshot.counts)})"]
    if snapshot.rate:
        per_second = snapshot.rate >= 1
        parts.append(f"{snapshot.rate:.3g}/s" if per_second else f"{60 * snapshot.rate:.3g}/min")
    runs = any(one.state == "running" for one in snapshot.allocations)
    if snapshot.remaining_s is not None and not snapshot.done and runs:
        ends = time.localtime(snapshot.time + snapshot.remaining_s)
        clock = "%H:%M:%S" if snapshot.remaining_s < 3600 else "%H:%M" if snapshot.remaining_s < 43200 else "%a %H:%M"
        parts.append(f"about {duration(snapshot.remaining_s)} left, until {time.strftime(clock, ends)}")
    if not snapshot.done and not runs:
        waiting = [one for one in snapshot.allocations if one.state in ("queued", "pending_submission")]
        parts.append("allocation queued" if waiting else "no allocation runs")
    if snapshot.error:
        parts.append(f"no answer for {duration(snapshot.age_s)}: {snapshot.error}")
    return " · ".join(parts)


def text(snapshot: Snapshot) -> str:
    """The view as plain text."""
    share = snapshot.ended / snapshot.total if snapshot.total else 1.0
    filled = int(20 * share)
    return f"{snapshot.ensemble} [{'#' * filled}{'.' * (20 - filled)}] {progress_line(snapshot)}"


def svg(series: Series) -> str:
    """Task states over time as stacked areas."""
    bins = len(series)
    plot_width, plot_height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    most = max((sum(column) for column in zip(*series.counts.values(), strict=True)), default=0) or 1
    base = [0] * bins
    shapes = []
    for state, colour in COLOURS.items():
        top = [low + number for low, number in zip(base, series.counts[state], strict=True)]
        if top != base:
            edge = _steps(top, plot_width, plot_height, most)
            back = _steps(base, plot_width, plot_height, most)[::-1]
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in edge + back)
            shapes.append(f'<polygon fill="{colour}" points="{points}"><title>{state}</title></polygon>')
        base = top
    ends = [time.strftime("%H:%M:%S", time.localtime(moment)) for moment in (series.start, series.end)] if bins else []
    bottom = HEIGHT - _BOTTOM
    labels = [
        (_LEFT - 6, bottom, "end", "0"),
        (_LEFT - 6, _TOP + 10, "end", str(most)),
        *zip((_LEFT, WIDTH - _RIGHT), (HEIGHT - 6, HEIGHT - 6), ("start", "end"), ends, strict=False),
    ]
    texts = "".join(f'<text x="{x}" y="{y}" text-anchor="{anchor}">{label}</text>' for x, y, anchor, label in labels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(shapes)}'
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{WIDTH - _RIGHT}" fill="none" stroke="#666"/>'
        f'<g font-family="sans-serif" font-size="11" fill="#333">{texts}</g></svg>'
    )


def _steps(heights: list[int], plot_width: int, plot_height: int, most: int) -> list[tuple[float, float]]:
    points = []
    for at, height in enumerate(heights):
        y = HEIGHT - _BOTTOM - plot_height * height / most
        points += [(_LEFT + plot_width * (at + edge) / len(heights), y) for edge in (0, 1)]
    return points


def html(snapshot: Snapshot) -> str:
    """The view as HTML: a picture in an image tag (untrusted notebooks show no inline SVG) and the numbers."""
    picture = base64.b64encode(svg(snapshot.series).encode()).decode()
    legend = " ".join(
        f'<span style="white-space:nowrap;margin-right:1em"><span style="color:{COLOURS[state]}">&#9632;</span> '
        f"{state} {snapshot.counts[state]}</span>"
        for state in TASK_STATES
        if snapshot.counts[state]
    )
    return (
        f"<div><b>{escape(snapshot.ensemble)}</b>: {escape(progress_line(snapshot))}<br>"
        f'<img alt="{escape(text(snapshot))}" width="{WIDTH}" height="{HEIGHT}" '
        f'src="data:image/svg+xml;base64,{picture}"><br>{legend}</div>'
    )


def bundle(snapshot: Snapshot) -> dict[str, str]:
    """The view for a saved notebook, as a MIME bundle."""
    return {"text/plain": text(snapshot), "text/html": html(snapshot)}

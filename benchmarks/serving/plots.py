"""The figures as SVG. Topwork is blue, what it could reach is a line, all others are grey."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from benchmarks.measure import number
from benchmarks.serving.parts import PARTS
from benchmarks.serving.results import chosen, middle
from benchmarks.serving.targets import Stored, batched, busiest, cpu_ms, names, share_of_ceiling, streamed

BLUES = {"topwork cpu": "#6baed6", "topwork auto": "#08519c"}
GREYS = ("#737373", "#969696", "#bdbdbd", "#525252", "#a6a6a6", "#d0d0d0")
MARKS = "osD^vP*X"
STYLE: Any = {
    "svg.hashsalt": "topwork", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "legend.frameon": False,
}  # fmt: skip


def draw(results: dict[str, Any], folder: Path) -> list[str]:
    """Names of the files written."""
    with matplotlib.rc_context(STYLE):
        figures = drawn(results)
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
    return [f"{name}.svg" for name in figures]


def drawn(results: dict[str, Any]) -> dict[str, Figure]:
    """By the names of their files."""
    figures = {"serving-shares": shares(results)}
    for name, stored in results["parts"].items():
        if not names(stored):
            continue
        figures |= {f"serving-{name}-rates": rates(name, stored), f"serving-{name}-cpu": cpu(name, stored)}
        if any(record["load"] == "open" for record in stored["records"]):
            figures[f"serving-{name}-open"] = open_loop(name, stored)
    return figures


def shares(results: dict[str, Any]) -> Figure:
    """Of the ceiling on the same device: bars by part and way to ask."""
    bars: list[tuple[str, dict[str, float | None]]] = []
    for name, stored in results["parts"].items():
        for way, records_of in {"one item a request": busiest, "batched": batched, "streamed": streamed}.items():
            found = {contender: middle(records_of(stored, contender), share_of_ceiling) for contender in BLUES}
            bars += [(f"{PARTS[name].heading.lower()}, {way}", found)] if any(found.values()) else []
    axes = canvas(7.2, 0.8 + 0.36 * len(bars))
    for row, (_label, found) in enumerate(bars):
        for offset, (contender, share) in zip((-0.2, 0.2), found.items(), strict=True):
            if share is not None:
                bar = axes.barh(row + offset, share, 0.4, color=BLUES[contender])
                axes.bar_label(bar, [f"{share:.2f}"], fontsize=7, padding=2)
    axes.axvline(1, color="#d94801", linewidth=1)
    axes.set_yticks(range(len(bars)), [label for label, _found in bars], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("share of the ceiling on the same device")
    legend(axes, BLUES)
    return figure_of(axes)


def rates(name: str, stored: Stored) -> Figure:
    """Bars for each contender, by callers; the ceilings as lines."""
    servers, callers = names(stored), PARTS[name].callers
    axes = canvas(7.2, 0.8 + 0.42 * len(servers))
    height = 0.8 / len(callers)
    for row, contender in enumerate(servers):
        for index, count in enumerate(callers):
            rate = middle(chosen(stored, contender, "closed", callers=count, size=1), "rows_per_s") or 0
            tone = 0.45 + 0.55 * (index + 1) / len(callers)
            bar = axes.barh(
                row + (index - (len(callers) - 1) / 2) * height, rate, height, color=color(stored, contender), alpha=tone
            )
            axes.bar_label(bar, [f"{number(rate)} ({count})"], fontsize=6, padding=2)
    for contender in (c for c in BLUES if c in servers):
        if ceiling := middle(chosen(stored, contender, "closed"), "ceiling"):
            axes.axvline(ceiling, color=BLUES[contender], linestyle="--", linewidth=1)
            axes.annotate("ceiling", (ceiling, 1), xycoords=("data", "axes fraction"), fontsize=7, ha="center", va="bottom")
    axes.set_yticks(range(len(servers)), servers)
    axes.invert_yaxis()
    axes.set_xlabel(f"{PARTS[name].unit} a second, one item a request (callers)")
    return figure_of(axes)


def cpu(name: str, stored: Stored) -> Figure:
    """Bars of both sides' CPU time an item."""
    servers = names(stored)
    axes = canvas(7.2, 0.8 + 0.3 * len(servers))
    for row, contender in enumerate(servers):
        records = busiest(stored, contender)
        server = middle(records, cpu_ms("server")) or 0
        client = middle(records, cpu_ms("client")) or 0
        axes.barh(row, server, 0.6, color=color(stored, contender))
        bar = axes.barh(row, client, 0.6, left=server, color=color(stored, contender), alpha=0.4)
        axes.bar_label(bar, [f"{server:.2g} + {client:.2g}"], fontsize=7, padding=2)
    axes.set_yticks(range(len(servers)), servers)
    axes.invert_yaxis()
    axes.set_xlabel(f"CPU milliseconds an item at {max(PARTS[name].callers)} callers: server + client")
    return figure_of(axes)


def open_loop(name: str, stored: Stored) -> Figure:
    """p99 over the rate that was asked for, to the rate at which each falls behind."""
    axes = canvas(7.2, 3.4)
    for index, contender in enumerate(names(stored)):
        known = sorted({r["rate"] for r in chosen(stored, contender, "open")})
        found = {rate: middle(chosen(stored, contender, "open", rate=rate), "p99_ms") for rate in known}
        points = [(rate, p99) for rate, p99 in found.items() if p99 is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker=MARKS[index % len(MARKS)], markersize=4, linewidth=1.5,
                      color=color(stored, contender), label=contender)  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"{PARTS[name].unit} asked for a second (open loop); a line ends where its server falls behind")
    axes.set_ylabel("p99, ms")
    axes.grid(axis="y", color="#eeeeee")
    axes.legend(fontsize=7, ncols=2)
    return figure_of(axes)


def color(stored: Stored, contender: str) -> str:
    others = [name for name in stored["contenders"] if name not in BLUES]
    return BLUES.get(contender) or GREYS[others.index(contender) % len(GREYS)]


def canvas(width: float, height: float) -> Axes:
    return Figure((width, height)).add_subplot()


def figure_of(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def legend(axes: Axes, colors: dict[str, str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=color, label=name) for name, color in colors.items()]
    axes.legend(handles=patches, fontsize=7, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))

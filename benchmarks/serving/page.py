"""The tables of a JSON file, written into a page between its two marks:

    python -m benchmarks.serving.page [docs/benchmarks.json] [docs/benchmarks.md]

Everything else in the page stays as it is; without marks the tables come at its end.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import number, table
from benchmarks.serving import targets
from benchmarks.serving.parts import PARTS
from benchmarks.serving.results import Record, chosen, middle
from benchmarks.serving.targets import Stored, busiest, cpu_ms, names, share_of_ceiling

BEGIN, END = "<!-- serving: written by benchmarks.serving.page -->", "<!-- /serving -->"


def write(results: dict[str, Any], page: Path) -> None:
    section = f"{BEGIN}\n\n{all_parts(results)}\n{END}"
    before = page.read_text("utf-8") if page.exists() else "# Benchmarks\n"
    found = re.search(f"{re.escape(BEGIN)}.*?{re.escape(END)}", before, re.DOTALL)
    after = before[: found.start()] + section + before[found.end() :] if found else f"{before.rstrip()}\n\n{section}\n"
    page.write_text(after, "utf-8")


def all_parts(results: dict[str, Any]) -> str:
    """The machine, and a section for each part."""
    about = results["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    machine = (
        f"Measured on {about['processor']} ({about['cores']} cores with {', '.join(about['instructions'])};"
        f" {about['memory GiB']:g} GiB), {about['system']}, Python {about['python']}; {packages}.\n"
    )
    measured = {name: part for name, part in results["parts"].items() if part["records"] or part["failed"]}
    sections = [section(name, part) for name, part in measured.items()]
    return "\n".join([machine, *sections])


def section(name: str, stored: Stored) -> str:
    part, settings = PARTS[name], stored["settings"]
    lines = [
        f"### {part.heading}\n",
        f"`{part.encoder}`: {part.title}. `python -m benchmarks.serving --parts {name}` at {stored['commit']}, {stored['began']},"
        f" {settings['rounds']} rounds (peers {settings['peer_rounds']}), a load {settings['seconds'] * part.longer:g} s.\n",
        targets.table_of(name, stored),
        f"{part.unit.capitalize()} a second; in brackets, the share of the ceiling on the same device.\n",
        rates(stored),
        "Milliseconds of a request of one item, p50 / p99. In process: one call, from the item to its row.\n",
        latencies(stored),
        "CPU milliseconds an item at the most callers, and the least cosine to the rows of fp32 in process.\n",
        costs(stored),
        *open_loop(part.unit, stored),
        *(f"{key}, round {int(key.split()[-1]) + 1}: not measured: {why}\n" for key, why in stored["failed"].items()),
    ]
    return "\n".join(line for line in lines if line)


def rates(stored: Stored) -> str:
    """A line for each contender, with its ceiling above it where it has one of its own."""
    loads = closed_loads(stored)
    lines: list[list[object]] = []
    for name in names(stored):
        streamed = chosen(stored, name, "streamed")
        ceiling = middle([*streamed, *chosen(stored, name, "closed")], "ceiling")
        if ceiling is not None:
            whole = number(middle(chosen(stored, name, "ceiling"), "pipeline"))
            label = f"ceiling, {stored['contenders'][name]['device']}"
            lines.append([label, *[""] * len(loads), f"{number(ceiling)}; with preparing {whole}"])
        closed = [chosen(stored, name, "closed", callers=load["callers"], size=load["size"]) for load in loads]
        lines.append([bold(name), *map(rate_cell, [*closed, streamed])])
    for name in stored["contenders"]:
        if alone := chosen(stored, name, "in process"):
            one, many = (middle([r for r in alone if r["size"] == size], "rows_per_s") for size in (1, 0))
            lines.append([f"{name}, in process", one, *[""] * (len(loads) - 1), f"{number(many)} (batch encode)"])
    return table(["", *map(load_name, loads), "streamed"], lines)


def rate_cell(records: list[Record]) -> str:
    share = middle(records, share_of_ceiling)
    return number(middle(records, "rows_per_s")) + (f" ({share:.2f})" if share is not None else "")


def latencies(stored: Stored) -> str:
    loads = [load for load in closed_loads(stored) if load["size"] == 1]
    lines = []
    for name in names(stored):
        cells = [chosen(stored, name, "closed", callers=load["callers"], size=1) for load in loads]
        alone = middle(cells[0], "call_ms") if cells else None
        lines.append([bold(name), number(alone), *map(latency_cell, cells)])
    return table(["", "in process", *map(load_name, loads)], lines)


def latency_cell(records: list[Record]) -> str:
    return f"{number(middle(records, 'p50_ms'))} / {number(middle(records, 'p99_ms'))}" if records else ""


def costs(stored: Stored) -> str:
    lines: list[list[object]] = []
    for name in [*names(stored), *(name for name in stored["contenders"] if chosen(stored, name, "in process"))]:
        about, most = stored["contenders"][name], busiest(stored, name)
        server, client = (middle(most, cpu_ms(side)) for side in ("server", "client"))
        cosines = [min(record["cosine"], 1) for record in chosen(stored, name, "check")]
        versions = ", ".join(f"{package} {version}" for package, version in about["versions"].items())
        lines.append([bold(name), about["device"], server, client, f"{min(cosines):.5f}" if cosines else "", versions])
    return table(["", "device", "server", "client", "cosine", "versions"], lines)


def open_loop(unit: str, stored: Stored) -> list[str]:
    """p99 by the rate that was asked for, as far as each contender was asked."""
    asked = sorted({record["rate"] for record in stored["records"] if record["load"] == "open"})
    if not asked:
        return []
    title = f"Open loop: p99 in milliseconds by {unit} asked for a second, until a server falls behind.\n"
    cells = {name: [chosen(stored, name, "open", rate=rate) for rate in asked] for name in names(stored)}
    lines = [[bold(name), *(middle(records, "p99_ms") for records in found)] for name, found in cells.items()]
    return [title, table(["", *(f"{rate:g}" for rate in asked)], lines)]


def closed_loads(stored: Stored) -> list[Record]:
    """Return the closed loops by callers, those of single items first. Peers may take smaller batches than ours."""
    found = {(r["size"], r["callers"]): r for r in stored["records"] if r["load"] == "closed"}
    return [found[key] for key in sorted(found)]


def load_name(record: Record) -> str:
    callers = f"{record['callers']} caller{'s' if record['callers'] > 1 else ''}"
    return callers if record["size"] == 1 else f"{callers}, {record['size']} a request"


def bold(name: str) -> str:
    return f"**{name}**" if name.startswith("topwork") else name


def main(source: str = "docs/benchmarks.json", page: str = "docs/benchmarks.md") -> None:
    write(json.loads(Path(source).read_text("utf-8")), Path(page))


if __name__ == "__main__":
    main(*sys.argv[1:])

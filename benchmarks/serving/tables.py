"""The figures as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.serving.contest import load_name
from benchmarks.serving.parts import PARTS
from benchmarks.serving.results import Record, chosen, middle

Stored = dict[str, Any]

HEADINGS = {"text": "Texts", "pictures": "Pictures", "video": "Video", "words": "Word vectors"}


def section(results: dict[str, Any], drawn: Sequence[str]) -> str:
    """All parts, and the machine."""
    parts = [
        part_section(name, stored, drawn) for name, stored in results["parts"].items() if stored["records"] or stored["failed"]
    ]
    overview = [picture("serving-shares", "Share of the ceiling, part by part", drawn)]
    return "\n".join([*overview, machine(results["machine"]), *parts])


def machine(about: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    return (
        f"Measured on {about['processor']} ({about['cores']} cores with {', '.join(about['instructions'])};"
        f" {about['memory GiB']:g} GiB), {about['system']}, Python {about['python']}; {packages}.\n"
    )


def part_section(name: str, stored: Stored, drawn: Sequence[str]) -> str:
    from benchmarks.serving import aims  # it reads these tables

    part, settings = PARTS[name], stored["settings"]
    lines = [
        f"### {HEADINGS[name]}\n",
        f"`{part.encoder}`: {part.title}. `python -m benchmarks.serving --parts {name}` at {stored['commit']}, {stored['began']},"
        f" {settings['rounds']} rounds (peers {settings['peer_rounds']}), a load {settings['seconds'] * part.longer:g} s.\n",
        aims.table_of(name, stored),
        f"{part.unit.capitalize()} a second; in brackets, the share of the ceiling on the same device.\n",
        rates(stored),
        "Milliseconds of a request of one item, p50 / p99. In process: one call, from the item to its row.\n",
        latencies(stored),
        "CPU milliseconds an item at the most callers, and the least cosine to the rows of fp32 in process.\n",
        costs(stored),
        picture(f"serving-{name}-rates", f"{HEADINGS[name]}: rates", drawn),
        picture(f"serving-{name}-cpu", f"{HEADINGS[name]}: CPU time", drawn),
        picture(f"serving-{name}-open", f"{HEADINGS[name]}: open loop", drawn),
        *(f"{key}, round {int(key.split()[-1]) + 1}: not measured: {why}\n" for key, why in stored["failed"].items()),
    ]
    return "\n".join(line for line in lines if line)


def rates(stored: Stored) -> str:
    """A line for each contender, with its ceiling above it where it has one of its own."""
    loads = closed_loads(stored)
    header = ["", *(load_name(load) for load in loads), "streamed"]
    lines = []
    for name in names(stored):
        cells = [rate_cell(chosen(stored, name, "closed", callers=load["callers"], size=load["size"])) for load in loads]
        streamed = chosen(stored, name, "streamed")
        ceiling = middle([*streamed, *chosen(stored, name, "closed")], "ceiling")
        if ceiling is not None:
            whole = middle(chosen(stored, name, "ceiling"), "pipeline")
            label = f"ceiling, {stored['contenders'][name]['device']}"
            lines.append([label, *[""] * len(loads), f"{number(ceiling)}; with preparing {number(whole)}"])
        lines.append([bold(name), *cells, rate_cell(streamed)])
    for name in stored["contenders"]:
        if alone := chosen(stored, name, "in process"):
            one, many = (middle([r for r in alone if r["size"] == size], "rows_per_s") for size in (1, 0))
            lines.append([f"{name}, in process", number(one), *[""] * (len(loads) - 1), f"{number(many)} (batch encode)"])
    return table(header, lines)


def rate_cell(records: list[Record]) -> str:
    share = middle(records, share_of_ceiling)
    return number(middle(records, "rows_per_s")) + (f" ({share:.2f})" if share is not None else "")


def share_of_ceiling(record: Record) -> float | None:
    """Within its round, of the ceiling measured before and after it."""
    return record["rows_per_s"] / record["ceiling"] if record.get("ceiling") and "rows_per_s" in record else None


def latencies(stored: Stored) -> str:
    loads = [load for load in closed_loads(stored) if load["size"] == 1]
    lines = []
    for name in names(stored):
        cells = [chosen(stored, name, "closed", callers=load["callers"], size=1) for load in loads]
        alone = middle(cells[0], "call_ms") if cells else None
        lines.append([bold(name), number(alone), *(latency_cell(records) for records in cells)])
    return table(["", "in process", *(load_name(load) for load in loads)], lines)


def latency_cell(records: list[Record]) -> str:
    return f"{number(middle(records, 'p50_ms'))} / {number(middle(records, 'p99_ms'))}" if records else ""


def costs(stored: Stored) -> str:
    lines = []
    libraries = [name for name in stored["contenders"] if chosen(stored, name, "in process")]
    for name in [*names(stored), *libraries]:
        about, most = stored["contenders"][name], busiest(stored, name)
        server, client = (middle(most, lambda r, side=side: cpu_ms(r, side)) for side in ("server", "client"))  # type: ignore[misc]
        cosine = min((r["cosine"] for r in chosen(stored, name, "check")), default=None)
        versions = ", ".join(f"{package} {version}" for package, version in about["versions"].items())
        said = "" if cosine is None else f"{min(cosine, 1):.5f}"
        lines.append([bold(name), about["device"], number(server), number(client), said, versions])
    return table(["", "device", "server", "client", "cosine", "versions"], lines)


def busiest(stored: Stored, name: str) -> list[Record]:
    """Its closed loop of single items with the most callers."""
    records = [r for r in chosen(stored, name, "closed") if r["size"] == 1]
    most = max((r["callers"] for r in records), default=0)
    return [r for r in records if r["callers"] == most]


def batched(stored: Stored, name: str) -> list[Record]:
    """Its closed loop of several items a request."""
    return [r for r in chosen(stored, name, "closed") if r["size"] > 1]


def cpu_ms(record: Record, side: str) -> float | None:
    """CPU milliseconds an item of the "server" or the "client"."""
    return 1e3 * record[f"{side}_cores"] / record["items_per_s"] if record.get("items_per_s") else None


def closed_loads(stored: Stored) -> list[Record]:
    """By callers, those of single items first. Batched ones are told apart by nothing: peers may take smaller requests."""
    found = {(r["size"], r["callers"]): r for r in stored["records"] if r["load"] == "closed"}
    return [found[key] for key in sorted(found)]


def names(stored: Stored) -> list[str]:
    """Of the servers: ours, then those of others by their rate."""
    servers = [name for name in stored["contenders"] if chosen(stored, name, "closed")]
    rates = {name: middle(busiest(stored, name), "rows_per_s") or 0.0 for name in servers}
    return sorted(servers, key=lambda name: (not name.startswith("topwork"), name != "topwork cpu", -rates[name]))


def picture(name: str, title: str, drawn: Sequence[str]) -> str:
    return f"![{title}](pictures/{name}.svg)\n" if f"{name}.svg" in drawn else ""


def bold(name: str) -> str:
    return f"**{name}**" if name.startswith("topwork") else name


def number(value: float | None) -> str:
    """Three significant digits."""
    if value is None:
        return ""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"

"""The project's targets beside what was measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.measure import table
from benchmarks.serving.parts import PARTS
from benchmarks.serving.results import Record, chosen, middle

Stored = dict[str, Any]
Found = tuple[str, float, bool]
"""A measurement: what it is of, the figure, and whether less is better."""

PLAIN, AUTO = "topwork cpu", "topwork auto"


def table_of(name: str, stored: Stored) -> str:
    """A line for each target of the part that could be measured."""
    lines = []
    for target, wanted in PARTS[name].targets.items():
        for what, figure, less in MEASURES[target](stored):
            met = figure <= wanted if less else figure >= wanted
            shown = f"{figure:,.3g}" if figure < 1e4 else f"{figure:,.0f}"
            lines.append([what, f"{'<=' if less else '>='} {wanted:,g}", shown, "yes" if met else "no"])
    return table(["target", "wanted", "measured", "reached"], lines) if lines else ""


def names(stored: Stored) -> list[str]:
    """Return the names of the servers: ours, then those of others by their rate."""
    servers = [name for name in stored["contenders"] if chosen(stored, name, "closed")]
    rates = {name: single_rate(stored, name) or 0.0 for name in servers}
    return sorted(servers, key=lambda name: (not name.startswith("topwork"), name != PLAIN, -rates[name]))


def busiest(stored: Stored, name: str) -> list[Record]:
    """Return its closed loop of single items with the most callers."""
    records = [r for r in chosen(stored, name, "closed") if r["size"] == 1]
    most = max((r["callers"] for r in records), default=0)
    return [r for r in records if r["callers"] == most]


def batched(stored: Stored, name: str) -> list[Record]:
    """Return its closed loop of several items a request."""
    return [r for r in chosen(stored, name, "closed") if r["size"] > 1]


def streamed(stored: Stored, name: str) -> list[Record]:
    return chosen(stored, name, "streamed")


def share_of_ceiling(record: Record) -> float | None:
    """Return its share, within its round, of the ceiling measured before and after it."""
    return record["rows_per_s"] / record["ceiling"] if record.get("ceiling") and "rows_per_s" in record else None


def cpu_ms(side: str) -> Callable[[Record], float | None]:
    """CPU milliseconds an item of the "server" or the "client"."""
    return lambda r: 1e3 * r[f"{side}_cores"] / r["items_per_s"] if r.get("items_per_s") else None


def single_rate(stored: Stored, name: str) -> float | None:
    return middle(busiest(stored, name), "rows_per_s")


def single(stored: Stored) -> list[Found]:
    """The closed loop with the most callers."""
    return [
        (f"{name}: one item a request, {most[0]['callers']} callers: share of the ceiling", share, False)
        for name in (PLAIN, AUTO)
        if (most := busiest(stored, name)) and (share := middle(most, share_of_ceiling)) is not None
    ]


def bulk(stored: Stored) -> list[Found]:
    """Streamed or batched, whichever is faster."""
    found: list[Found] = []
    for name in (PLAIN, AUTO):
        ways = {"streamed": streamed(stored, name), "batched": batched(stored, name)}
        shares = {way: share for way, records in ways.items() if (share := middle(records, share_of_ceiling)) is not None}
        if shares:
            way = max(shares, key=lambda way: shares[way])
            found.append((f"{name}: {way}: share of the ceiling", shares[way], False))
    return found


def added_ms(stored: Stored) -> list[Found]:
    """Compare one caller's median with the same call in process, in the same minute."""

    def added(record: Record) -> float | None:
        return record["p50_ms"] - record["call_ms"] if "p50_ms" in record and "call_ms" in record else None

    return [
        (f"{name}: one caller's p50 above the call in process, ms", figure, True)
        for name in (PLAIN, AUTO)
        if (figure := middle(chosen(stored, name, "closed", callers=1, size=1), added)) is not None
    ]


def peer(stored: Stored) -> list[Found]:
    """Beside the fastest server that is not ours, at the most callers."""
    rates = {name: single_rate(stored, name) for name in names(stored)}
    others = {name: rate for name, rate in rates.items() if rate and not name.startswith("topwork")}
    if not others:
        return []
    best = max(others, key=lambda name: others[name])
    return [
        (f"{name}: times the best peer ({best}) at the most callers", ours / others[best], False)
        for name in (PLAIN, AUTO)
        if (ours := rates.get(name))
    ]


def auto(stored: Stored) -> list[Found]:
    """Compare `--provider auto` with our own fp32."""
    return [
        (f"{AUTO} ({stored['contenders'][AUTO]['device']}) times {PLAIN}: {way}", fast / plain, False)
        for way, rate in WAYS.items()
        if (fast := rate(stored, AUTO)) and (plain := rate(stored, PLAIN))
    ]


WAYS: dict[str, Callable[[Stored, str], float | None]] = {
    "the graph in process": lambda stored, name: middle(chosen(stored, name, "closed") + streamed(stored, name), "ceiling"),
    "streamed": lambda stored, name: middle(streamed(stored, name), "rows_per_s"),
    "one item a request, most callers": single_rate,
}


def words(stored: Stored) -> list[Found]:
    """Words a second for each core that the server kept busy."""
    return [
        (f"{name}: streamed words a second, a core of the server", rate, False)
        for name in (PLAIN, AUTO)
        if (rate := middle(streamed(stored, name), lambda r: stored["words"] * r["rows_per_s"] / r["server_cores"]))
    ]


MEASURES: dict[str, Callable[[Stored], list[Found]]] = {
    "single": single, "bulk": bulk, "added_ms": added_ms, "peer": peer, "auto": auto, "words": words,
}  # fmt: skip

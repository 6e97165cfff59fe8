"""What the project aims at, beside what was measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.serving import tables
from benchmarks.serving.parts import PARTS
from benchmarks.serving.results import Record, chosen, middle

Stored = dict[str, Any]
Found = tuple[str, float, bool]
"""What it is, the figure, and whether less is better."""

PLAIN, AUTO = "topwork cpu", "topwork auto"


def table_of(name: str, stored: Stored) -> str:
    """A line for each aim of the part that could be measured."""
    lines = []
    for aim, wanted in PARTS[name].aims.items():
        for what, figure, less in MEASURES[aim](stored):
            met = figure <= wanted if less else figure >= wanted
            lines.append([what, f"{'<=' if less else '>='} {wanted:,g}", f"{figure:,.3g}" if figure < 1e4 else f"{figure:,.0f}",
                          "yes" if met else "no"])  # fmt: skip
    return tables.table(["aim", "wanted", "measured", "reached"], lines) if lines else ""


def single(stored: Stored) -> list[Found]:
    """The closed loop with the most callers."""
    return [
        (f"{name}: one item a request, {most[0]['callers']} callers: share of the ceiling", share, False)
        for name in (PLAIN, AUTO)
        if (most := tables.busiest(stored, name)) and (share := middle(most, tables.share_of_ceiling)) is not None
    ]


def bulk(stored: Stored) -> list[Found]:
    """Streamed or batched, whichever is faster."""
    found: list[Found] = []
    for name in (PLAIN, AUTO):
        ways = {"streamed": chosen(stored, name, "streamed"), "batched": tables.batched(stored, name)}
        shares = {way: middle(records, tables.share_of_ceiling) for way, records in ways.items()}
        known = {way: share for way, share in shares.items() if share is not None}
        if known:
            way = max(known, key=lambda way: known[way])
            found.append((f"{name}: {way}: share of the ceiling", known[way], False))
    return found


def added_ms(stored: Stored) -> list[Found]:
    """One caller's median beside the same call in process, in the same minute."""
    return [
        (f"{name}: one caller's p50 above the call in process, ms", added, True)
        for name in (PLAIN, AUTO)
        if (added := middle(chosen(stored, name, "closed", callers=1, size=1), _added)) is not None
    ]


def _added(record: Record) -> float | None:
    return record["p50_ms"] - record["call_ms"] if "p50_ms" in record and "call_ms" in record else None


def peer(stored: Stored) -> list[Found]:
    """Beside the fastest server that is not ours, at the most callers."""
    rates = {name: middle(tables.busiest(stored, name), "rows_per_s") for name in tables.names(stored)}
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
    """`--provider auto` beside our own fp32."""
    return [
        (f"{AUTO} ({stored['contenders'][AUTO]['device']}) times {PLAIN}: {way}", fast / plain, False)
        for way, rate in WAYS.items()
        if (fast := rate(stored, AUTO)) and (plain := rate(stored, PLAIN))
    ]


def _graph_rate(stored: Stored, name: str) -> float | None:
    return middle([*chosen(stored, name, "closed"), *chosen(stored, name, "streamed")], "ceiling")


def _streamed_rate(stored: Stored, name: str) -> float | None:
    return middle(chosen(stored, name, "streamed"), "rows_per_s")


def _single_rate(stored: Stored, name: str) -> float | None:
    return middle(tables.busiest(stored, name), "rows_per_s")


WAYS = {"the graph in process": _graph_rate, "streamed": _streamed_rate, "one item a request, most callers": _single_rate}


def words(stored: Stored) -> list[Found]:
    """Words a second for each core that the server kept busy."""
    return [
        (f"{name}: streamed words a second, a core of the server", rate, False)
        for name in (PLAIN, AUTO)
        if (rate := middle(chosen(stored, name, "streamed"), lambda r: stored["words"] * r["rows_per_s"] / r["server_cores"]))
    ]


MEASURES: dict[str, Callable[[Stored], list[Found]]] = {
    "single": single, "bulk": bulk, "added_ms": added_ms, "peer": peer, "auto": auto, "words": words,
}  # fmt: skip

"""`topwork encoders` and `topwork nearest`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import click

from topwork.cli import output
from topwork.cli.connection import connected, connection
from topwork.cli.verb import verb
from topwork.encoders import DeviceInfo, EncoderInfo, TapInfo, TowerInfo, Word
from topwork.features import Numerics

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Columns of a terminal from which on the catalog shows all that it has; below that, these.
WIDE = 120
NARROW = ("name", "reads", "default tap", "params", "state")


@verb()
@click.argument("name", required=False, metavar="[NAME]", help="show this one in full")
@connection
def encoders(arguments: SimpleNamespace) -> int:
    with connected(arguments) as client:
        found = [client.encoder(arguments.name)] if arguments.name else client.encoders()
    return output.show(found, arguments.name, arguments.json, _print_one, _print_table)


def _print_table(found: list[EncoderInfo]) -> None:
    console = output.console()
    wide = console.width >= WIDE
    table = output.table()
    for title in ("name", "reads", "taps", "parameters", "license", "state", "numerics") if wide else NARROW:
        table.add_column(title, justify="right" if title.startswith("param") else "left", no_wrap=title in ("name", "state"))
    for info in sorted(found, key=lambda info: info.state == "absent"):
        table.add_row(*(_wide(info) if wide else _narrow(info)))
    console.print(table)
    console.print()
    for line in _details(found):
        console.print(line, markup=False, style="dim")


def _details(found: list[EncoderInfo]) -> Iterable[str]:
    """Describe each state, or some of the encoders that are in it."""
    details: dict[tuple[str, str], list[str]] = {}
    for info in found:
        details.setdefault((info.state, info.detail.replace(info.name, "NAME")), []).append(info.name)
    states = [state for state, _ in details]
    for (state, detail), names in details.items():
        if len(names) == 1:
            detail = detail.replace("NAME", names[0])
        if detail:
            yield f"{state if states.count(state) == 1 else ', '.join(names)}: {detail}"


def _wide(info: EncoderInfo) -> tuple[str, ...]:
    size, numerics = short_count(info.parameters), short_numerics(info.numerics)
    return info.name, info.reads, short_taps(info), size, info.license, info.state, numerics


def _narrow(info: EncoderInfo) -> tuple[str, ...]:
    return info.name, info.reads, short_taps(info).partition(",")[0], short_count(info.parameters), info.state


def _print_one(info: EncoderInfo) -> None:
    console = output.console()
    output.facts(_facts(info))
    console.print()
    taps = output.table("tap", "dim", "a row is", "fingerprint", "")
    for tap in info.taps:
        name = f"{tap.name} (default)" if tap.name == info.default_tap else tap.name
        taps.add_row(name, str(tap.dim), _row(tap), tap.fingerprint[:16], tap.description)
    console.print(taps)
    if info.towers:
        console.print()
        console.print(_towers(info))
    for one in (info, *(_alone(info, tower) for tower in info.towers)):
        _print_devices(console, one)
    if info.options:
        console.print()
        options = output.table("option", "type", "default", "description")
        for option in info.options:
            options.add_row(option.name, option.type, option.default, option.description)
        console.print(options)
    if info.prompts:
        console.print()
        console.print(_prompts(info))


def _prompts(info: EncoderInfo) -> Table:
    table = output.table("prompt", "for the role", "text")
    for prompt in info.prompts:
        name = f"{prompt.name} (default)" if prompt.default else prompt.name
        table.add_row(name, prompt.role or "-", repr(prompt.text))
    return table


def _towers(info: EncoderInfo) -> Table:
    table = output.table("tower", "parameters", "numerics", "taps", right=("parameters",))
    for tower in info.towers:
        taps = short_taps(_alone(info, tower))
        table.add_row(tower.modality, short_count(tower.parameters), short_numerics(tower.numerics), taps)
    return table


def _alone(info: EncoderInfo, tower: TowerInfo) -> EncoderInfo:
    """One tower as if it were an encoder of its own."""
    taps = tuple(tap for tap in info.taps if tap.name in tower.taps)
    return replace(info, taps=taps, devices=tower.devices, modality=tower.modality, modalities=(), towers=())


def _print_devices(console: Console, info: EncoderInfo) -> None:
    if not info.devices:
        return
    console.print()
    console.print(_devices(info))
    for device in info.devices:
        if device.detail:
            console.print(f"{short_device(device)}: {device.detail}", markup=False, style="dim")


def _devices(info: EncoderInfo) -> Table:
    """Compare the devices: speed beside that of the slowest, and how near the rows are to the reference and to themselves
    alone."""
    rates, titles = [device.samples_per_second for device in info.devices], ("samples/s", "parity", "worst tap", "in a batch")
    made = output.table("device", *titles, "computes", right=titles)
    slowest = min((rate for rate in rates if rate), default=1.0)
    for device in info.devices:
        speed = f"{device.samples_per_second:,.0f} ({device.samples_per_second / slowest:.1f}x)"
        cosines = device.parity.get(info.default_tap), min(device.parity.values(), default=None), device.invariance
        cells = [f"{cosine:.6f}" if device.parity and cosine is not None else "-" for cosine in cosines]
        made.add_row(short_device(device), speed, *cells, _computes(info, device))
    return made


def _computes(info: EncoderInfo, device: DeviceInfo) -> str:
    if len(device.taps) == len(info.taps):
        return "all taps"
    return short_taps(replace(info, taps=tuple(tap for tap in info.taps if tap.name in device.taps))) or "-"


def short_device(device: DeviceInfo) -> str:
    return f"{device.numerics.provider} {device.numerics.precision}"


def _facts(info: EncoderInfo) -> Iterable[tuple[str, str]]:
    yield "name", info.name
    yield "reads", info.reads
    yield "what", info.description or "-"
    yield "parameters", short_count(info.parameters)
    yield "trained on", info.trained_on
    yield "license", info.license
    yield "source", info.source
    yield "plugin", info.plugin
    yield "state", info.state + (f": {info.detail}" if info.detail else "")
    if info.numerics:
        numerics = info.numerics
        yield "numerics", f"{numerics.provider} {numerics.precision}"
        yield "parity", f"minimum cosine {numerics.parity:.7f}, largest error {numerics.max_abs_error:.1e}"
    if info.heads:
        yield "heads", ", ".join(f"{info.name}/{head}" for head in info.heads)
    if info.unused_weights:
        yield "not used", unused_weights(info.unused_weights)
    if info.artifact_bytes:
        yield "on disk", f"{info.artifact_bytes / 1e6:.1f} MB"


def unused_weights(names: Sequence[str], most: int = 4) -> str:
    """Format as "5 weights of the source: a.bias, a.weight, b.bias, b.weight, ..."."""
    shown = ", ".join(names[:most]) + (", ..." if len(names) > most else "")
    return f"{len(names)} weight{'s' * (len(names) != 1)} of the source: {shown}"


def _row(tap: TapInfo) -> str:
    return tap.granularity + (f" of {'x'.join(map(str, tap.grid))}" if tap.grid else "")


def short_taps(info: EncoderInfo) -> str:
    """Format the taps, the default first, a numbered family as one, dims where they differ: "pooled 384, tokens, hidden.0-6"."""
    families: dict[str, list[TapInfo]] = {}
    for tap in sorted(info.taps, key=lambda tap: tap.name != info.default_tap):
        families.setdefault(re.sub(r"\d+", "#", tap.name, count=1), []).append(tap)
    parts, before = [], ""
    for pattern, taps in families.items():
        dims = _range(tap.dim for tap in taps)
        parts.append(_family(pattern, taps) + (f" {dims}" if dims != before else ""))
        before = dims
    return ", ".join(parts)


def _family(pattern: str, taps: list[TapInfo]) -> str:
    if "#" not in pattern:
        return taps[0].name
    numbers = [int(found[0]) for tap in taps if (found := re.search(r"\d+", tap.name))]
    return pattern.replace("#", _range(numbers), 1)


def _range(numbers: Iterable[int]) -> str:
    ordered = sorted(numbers)
    return str(ordered[0]) if ordered[0] == ordered[-1] else f"{ordered[0]}-{ordered[-1]}"


def short_count(parameters: int) -> str:
    """Format a count as 22.7M, or - where it is not known."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= size:
            return f"{parameters / size:.3g}{unit}"
    return str(parameters) if parameters else "-"


def short_numerics(numerics: Numerics | None) -> str:
    return f"{numerics.provider} {numerics.precision} {numerics.parity:.6f}" if numerics else "-"


@verb()
@click.argument("encoder", metavar="ENCODER")
@click.argument("words", nargs=-1, required=True, metavar="WORD...")
@click.option("-k", type=int, default=10, show_default=True, metavar="N", help="how many")
@connection
def nearest(arguments: SimpleNamespace) -> int:
    with connected(arguments) as client:
        found = client.nearest_words(arguments.encoder, arguments.words, arguments.k)
    if arguments.json:
        print(json.dumps([_record(*pair) for pair in zip(arguments.words, found, strict=True)]))
        return 0
    console = output.console()
    for word, nearest in zip(arguments.words, found, strict=True):
        console.print(word, style="bold", markup=False)
        for entry in nearest:
            console.print(f"  {entry.score:.3f}  {entry.word}", markup=False)
    return 0


def _record(word: str, nearest: list[Word]) -> dict[str, object]:
    return {"word": word, "nearest": [entry._asdict() for entry in nearest]}

"""`topwork heads`: what heads there are, one in full, export and drop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import click

from topwork.cli import output
from topwork.cli.confirmation import confirmed, yes_flag
from topwork.cli.connection import connected, connection
from topwork.cli.output import cut
from topwork.cli.train import source, with_interval
from topwork.cli.verb import PATH, verb
from topwork.heads import DESCRIBED, HeadInfo, LabelShift, beside
from topwork.probes import settings_text

VERBS = ("export", "drop")
#: Classes that are named.
NAMED, LONGEST = 20, 40
#: Classes whose recent shares are told.
MOVED = 5
EXAMPLES = """\
examples:
  topwork heads
  topwork heads birds-label
  topwork heads export birds-label -o birds.onnx
  topwork heads drop birds-label
"""


@verb(EXAMPLES)
@click.argument("items", nargs=-1, metavar="[[export | drop] NAME]")
@click.option("--encoder", default="", metavar="E", help="only those on this one")
@click.option("-o", "--out", type=PATH, metavar="FILE", help="of export: the .onnx, trunk and head in one")
@yes_flag
@connection
def heads(arguments: SimpleNamespace) -> int:
    words = arguments.items
    verb = words[0] if len(words) == 2 else ""
    if len(words) > 2 or (verb and verb not in VERBS):
        raise click.UsageError(f"name one head, or say what to do with it: {' NAME, '.join(VERBS)} NAME")
    if arguments.yes and verb != "drop":
        raise click.UsageError("--yes does something only with drop NAME")
    if arguments.encoder and words:
        raise click.UsageError("--encoder lists heads, and one is named")
    if (verb == "export") != bool(arguments.out):
        raise click.UsageError("export NAME -o FILE: the two go together")
    if verb == "export":
        return _export(arguments, words[1])
    if verb == "drop":
        return _drop(arguments, words[1])
    return _show(arguments, words[0] if words else "")


def _show(arguments: SimpleNamespace, name: str) -> int:
    with connected(arguments) as client:
        found = [client.head(name)] if name else client.heads(arguments.encoder)
    return output.show(found, name, arguments.json, lambda head: output.facts(_facts(head)), _print_all)


def _export(arguments: SimpleNamespace, name: str) -> int:
    with connected(arguments) as client:
        about = client.export_head(name, arguments.out, progress=not arguments.json)
    size = arguments.out.stat().st_size
    if arguments.json:
        output.as_json({"head": name, "file": str(arguments.out), "bytes": size, "description": about})
        return 0
    print(f"head {name} with its trunk -> {arguments.out}, {output.size(size)}")
    output.facts(_about(about))
    print("--json says all that a caller of the file must know, its preprocessing too")
    return 0


def _about(about: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """List what a caller feeds the file with, and what comes out."""
    for key in ("inputs", "outputs"):
        found = about.get(key)
        for tensor in found if isinstance(found, list) else ():
            shape = ", ".join(map(str, tensor.get("shape", ())))
            yield key.removesuffix("s"), f"{tensor.get('name')} ({shape}) {tensor.get('dtype')}"
    if about.get("how_to_read"):
        yield "reading", str(about["how_to_read"])


def _drop(arguments: SimpleNamespace, name: str) -> int:
    with connected(arguments) as client:
        if not confirmed(arguments, f"drop head {name}", lambda: " with its report"):
            return 1
        client.drop_head(name)
    if arguments.json:
        output.as_json({"head": name, "dropped": True})
    else:
        print(f"head {name} is dropped")
    return 0


def _print_all(found: list[HeadInfo]) -> None:
    if not found:
        output.console().print("there are no heads: `topwork train SET --target COLUMN` makes one", style="dim")
        return
    titles = ("head", "task", "kind", "reads", "from", "state", "metric", "interval")
    output.rows(output.table(*titles, whole=("head", "metric", "interval")), map(_line, found))


def _line(head: HeadInfo) -> Iterable[str]:
    metric = head.metric
    reads = f"{head.encoder or '-'}/{head.tap}"
    learned = f"{head.set} {head.target or DESCRIBED}, version {head.version}" if head.set else "its encoder"
    shown = (
        (
            f"{metric.name} {metric.text()}",
            metric.interval_text,
        )
        if metric
        else ("-", "")
    )
    return head.name, head.task, head.kind or "pretrained", reads, learned, head.state, *shown


def _facts(head: HeadInfo) -> Iterable[tuple[str, str]]:
    yield "head", f"{head.name}, {head.task}"
    yield "state", head.state + (f": {head.detail}" if head.detail else "")
    if head.names:
        more = f" and {len(head.names) - NAMED} more" if len(head.names) > NAMED else ""
        apart = "; " if any("," in name for name in head.names[:NAMED]) else ", "
        yield "names", f"{len(head.names)}: {apart.join(cut(name, LONGEST) for name in head.names[:NAMED])}{more}"
    yield "reads", f"{head.encoder or 'ready vectors'}/{head.tap}, {head.pooling}"
    for metric, baseline in beside(head.metrics, head.baseline):
        yield (
            metric.name,
            with_interval(metric) + (f", baseline {metric.text(baseline.value)}" if baseline else ""),
        )
    if head.estimate:
        yield "judged by", head.estimate
    yield from _training(head)
    yield "fingerprint", head.fingerprint
    if head.bytes:
        yield "on disk", output.size(head.bytes)
    if head.recent:
        yield from _recent(head.recent)
    for warning in head.warnings:
        yield "warning", warning


def _recent(recent: LabelShift) -> Iterable[tuple[str, str]]:
    """List the classes whose shares have moved most."""
    yield "lately", f"{recent.items:,} predictions; as different without a shift: p = {recent.p_value:.2g}"
    moved = sorted(recent.shares, key=lambda one: -abs(one.estimated - one.evaluated))
    for one in moved[:MOVED]:
        now = f"{one.estimated:.1%} of recent items ({one.low:.1%} to {one.high:.1%})"
        yield "", f"{cut(one.name, LONGEST)}: {now}, {one.evaluated:.1%} of the evaluated ones"
    if recent.warning:
        yield "warning", recent.warning


def _training(head: HeadInfo) -> Iterable[tuple[str, str]]:
    if head.pretrained:
        yield "came with", head.encoder
        return
    if head.created:
        yield "learned", f"{head.target or DESCRIBED}, {head.kind}, from {source(head)}, seed {head.seed}"
    else:
        yield "is to learn", f"{head.target or DESCRIBED}, {head.kind}, from {head.set}, version {head.version}"
    if head.weight:
        yield "weighed by", head.weight
    if head.options:
        yield "options", settings_text(head.options)
    if head.chosen:
        yield "chosen", settings_text(head.chosen)
    if head.created:
        yield "trained", f"{output.when(head.created)}, in {output.seconds(head.training_seconds)}"
        yield "served graph", f"largest difference of a score to the trainer's own {head.max_abs_error:.1e}"
    if head.job:
        yield "job", f"{head.job.id}, {head.job.state}"

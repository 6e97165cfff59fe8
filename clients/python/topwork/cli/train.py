"""`topwork train` trains a head and says how good it is; `topwork trainers` lists what trains them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from topwork._codec.decode_heads import TASKS
from topwork.cli import output
from topwork.cli.arg_types import option, pair, version
from topwork.cli.connection_flags import connected
from topwork.cli.jobs import awaited
from topwork.cli.output import counted
from topwork.heads import HeadInfo, MetricValue, TrainerInfo, beside
from topwork.probes import said

Commands = argparse._SubParsersAction
METHODS = ("self-training", "label-propagation")
TARGET = "of metadata, that holds the labels"
EXAMPLES = """\
Labels are a column of the set's metadata; items without a value are unlabelled. The figures are of items that the head has not
learnt from, with 95% intervals. `topwork trainers` lists the kinds, `topwork trainers KIND` what --option may set.

examples:
  topwork train birds --target label
  topwork train birds --target label --taps layer3 pooled --option class_weight=balanced --name owls
  topwork train reviews --target stars --task regression --test-where "year = 2024"
  topwork train birds --target label --kind prototype --replace
  topwork train birds --target label --kind zero-shot --describe "owl=a photo of an owl" --describe "wren=a photo of a wren"
"""


def add(commands: Commands[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    train = commands.add_parser("train", parents=[common], epilog=EXAMPLES, formatter_class=raw)
    train.add_argument("set", metavar="SET")
    train.add_argument("--name", default="", metavar="N", help="default: SET-TARGET, or close to it")
    train.add_argument("--target", default="", metavar="COLUMN", help=f"{TARGET} (none: where classes are described)")
    add_task(train)
    train.add_argument("--test-where", default="", metavar="SQL", help="these items judge the head, and are never learnt from")
    train.add_argument(
        "--version", type=version, default=0, metavar="N|PIN", help="of the set, or a pin of it (default: the current one)"
    )
    train.add_argument("--unlabelled", choices=METHODS, default="", help="let items without a label help (default: left out)")
    train.add_argument("--describe", action="append", default=[], type=pair, metavar="CLASS=TEXT", help="for kinds that read it")
    train.add_argument("--replace", action="store_true", help="a head of that name, which serves until the new one is ready")
    train.add_argument("--no-wait", action="store_true", help="begin it, and print its job")
    train.set_defaults(run=lambda arguments: _train(arguments, train))
    trainers = commands.add_parser("trainers", parents=[common])
    trainers.add_argument("kind", nargs="?", metavar="KIND", help="show this one in full")
    trainers.set_defaults(run=lambda arguments: _trainers(arguments, trainers))


def add_task(parser: argparse.ArgumentParser) -> None:
    """The flags of how it is learnt: `train` and `probe` share them."""
    parser.add_argument("--kind", default="linear", metavar="K", help="default: %(default)s")
    parser.add_argument("--task", choices=list(TASKS), default="", help="default: by the column's type")
    taps = "of several, the best is chosen (default: the set's first; of probe: all)"
    parser.add_argument("--tap", "--taps", dest="taps", action="extend", nargs="+", default=[], metavar="T", help=taps)
    poolings = "of an item's rows: mean, max, mean+std, pair (default: mean); of pairs of texts: two-tower, cosine"
    parser.add_argument(
        "--pooling", "--poolings", dest="poolings", action="extend", nargs="+", default=[], metavar="P", help=poolings
    )
    parser.add_argument("--option", action="append", default=[], type=option, metavar="K=V", help="what the kind declares")
    parser.add_argument("--where", default="", metavar="SQL", help="only items of which this is true, over id and metadata")
    parser.add_argument(
        "--group", default="", metavar="COLUMN", help="items with the same value are never on both sides of a split"
    )
    parser.add_argument("--folds", type=int, default=0, metavar="N", help="default: 5, or one split where there are many items")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="the same seed gives the same head (default: %(default)s)"
    )


def task_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `add_task` found, as the client takes it."""
    names = ("target", "kind", "task", "taps", "poolings", "where", "group", "folds", "seed")
    return {name: getattr(arguments, name) for name in names} | {"options": dict(arguments.option)}


def _train(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if not (arguments.target or arguments.describe):
        parser.error("name the column of labels with --target, or describe each class with --describe")
    with connected(arguments) as client, awaited(arguments.json or arguments.no_wait) as progress:
        head = client.train(
            arguments.set,
            **task_of(arguments),
            name=arguments.name,
            test_where=arguments.test_where,
            version=arguments.version,
            unlabelled=arguments.unlabelled,
            descriptions=dict(arguments.describe),
            replace=arguments.replace,
            wait=not arguments.no_wait,
            progress=progress,
        )
    if arguments.json:
        output.as_json(head)
    elif arguments.no_wait:
        print(f"head {head.name} is being trained{f': `topwork jobs {head.job.id} --watch`' if head.job else ''}")
    else:
        for line in summary(head):
            print(line)
    return 0


def summary(head: HeadInfo) -> Iterator[str]:
    """What a person wants to know of a head that is ready."""
    yield f"head {head.name}: {what(head)}, from {source(head)}, in {output.seconds(head.seconds)}"
    facts = list(_facts(head))
    width = max(len(name) for name, _ in facts)
    for name, fact in facts:
        yield f"  {name:>{width}}  {fact}"
    for warning in head.warnings:
        yield f"warning: {warning}"
    yield f"next: `topwork report {head.name}` says where it fails, `topwork predict {head.name} ITEM...` uses it"


def _facts(head: HeadInfo) -> Iterator[tuple[str, str]]:
    for figure, baseline in beside(head.metrics[:1], head.baseline):
        yield (
            figure.name,
            with_interval(figure) + (f", baseline {figure.text(baseline.value)}" if baseline else ""),
        )
    calibration = {figure.name.removeprefix("calibration error").strip(): figure for figure in head.metrics[1:]}
    if "" in calibration:
        before = calibration.get("before scaling")
        yield "calibration error", f"{calibration[''].value:.3f}" + (f" ({before.value:.3f} before scaling)" if before else "")
    yield "judged by", head.estimate
    if head.chosen:
        yield "chosen", f"{head.tap} {head.pooling}, {said(head.chosen)}"


def what(head: HeadInfo) -> str:
    """Classification of 16 classes, linear on efficientnet-lite0/pooled."""
    names = {"classification": "classes", "multi-label": "labels", "segmentation": "classes", "tagging": "tags"}
    of = f" of {len(head.names)} {names[head.task]}" if head.task in names and head.names else ""
    return f"{head.task}{of}, {head.kind or 'native'} on {head.encoder or 'ready vectors'}/{head.tap}"


def source(head: HeadInfo) -> str:
    """482 items of birds, version 12, 18 more without a label."""
    unlabelled = f", {head.unlabelled:,} more without a label" if head.unlabelled else ""
    return f"{counted(head.labelled, 'item')} of {head.set}, version {head.version}{unlabelled}"


def with_interval(figure: MetricValue) -> str:
    return f"{figure.text()} ({figure.interval_text})"


def _trainers(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    with connected(arguments) as client:
        found = client.trainers()
    if arguments.kind:
        found = [trainer for trainer in found if trainer.kind == arguments.kind] or parser.error(
            f"there is no kind {arguments.kind!r}: the server has {', '.join(trainer.kind for trainer in found)}"
        )
    if arguments.json:
        output.as_json(found[0] if arguments.kind else found)
    else:
        _print_trainers(found, in_full=bool(arguments.kind))
    return 0


def _print_trainers(found: list[TrainerInfo], in_full: bool) -> None:
    table = output.table("kind", "", "tasks", "needs", "plugin", whole=("kind",))
    output.rows(table, ((t.kind, t.description, _tasks(t), _needs(t), t.plugin) for t in found))
    print()
    if in_full:
        options = output.table("option", "type", "default", "", whole=("option",))
        output.rows(options, ((o.name, o.type, o.default, o.description) for t in found for o in t.options))
    else:
        output.console().print("`topwork trainers KIND` says what --option may set", style="dim")


def _tasks(trainer: TrainerInfo) -> str:
    return "all" if set(trainer.tasks) >= set(TASKS) else ", ".join(trainer.tasks)


def _needs(trainer: TrainerInfo) -> str:
    inputs = "raw inputs" if trainer.needs_inputs else ""
    described = "classes described" if trainer.needs_descriptions else ""
    least = f"{counted(trainer.least_per_class, 'example')} a class" if trainer.least_per_class else ""
    return ", ".join(need for need in (least, inputs, described) if need)

"""`topwork train` trains a head and says how good it is; `topwork probe` compares trunks, and how deep in them, on one task;
`topwork trainers` lists the kinds of training, or those of one task."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import click

from topwork._codec.decode_heads import TASKS
from topwork._display.number_text import counted
from topwork.cli import kinds, output
from topwork.cli.connection import connected, connection
from topwork.cli.jobs import awaited
from topwork.cli.verb import Several, by_name, flags, key_value, verb, version
from topwork.cli.wording import in_commands
from topwork.heads import HeadInfo, MetricValue, TrainerInfo, beside
from topwork.probes import ProbeTable, settings_text

METHODS = ("self-training", "label-propagation")
TARGET = "of metadata, that holds the labels"
EXAMPLES = """\
Labels are a column of the set's metadata; items without a value are unlabeled. Metrics are of items that the head has not
learned from, with 95% intervals. `topwork trainers` lists the kinds, `topwork trainers KIND` what --option may set.

examples:
  topwork train birds --target label
  topwork train birds --target label --taps layer3 pooled --option class_weight=balanced --name owls
  topwork train reviews --target stars --task regression --test-where "year = 2024"
  topwork train birds --target label --kind prototype --replace
  topwork train birds --target label --kind zero-shot --describe "owl=a photo of an owl" --describe "wren=a photo of a wren"
"""


PROBE_EXAMPLES = """\
The same task is learned from each tap of each set, on the same folds. Best first, with 95% intervals; "to the best" is the
difference item by item: where its interval holds 0, the two cannot be distinguished.

examples:
  topwork probe birds --target label
  topwork probe birds-resnet birds-efficientnet --target label --taps layer2 layer3 layer4 pooled
"""


def _description(text: str) -> tuple[str, str]:
    """Read CLASS=TEXT."""
    name, equals, description = text.partition("=")
    if not name or not equals or not description:
        raise click.BadParameter(f"{text!r} is not CLASS=TEXT")
    return name, description


def _weight(text: str) -> tuple[str, float]:
    """Read COLUMN=WEIGHT, or COLUMN, which weighs 1."""
    name, _, weight = text.partition("=")
    try:
        return name, float(weight or 1)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not COLUMN=WEIGHT") from None


#: How a head is learned: of `train` and of `probe`.
task_flags = flags(
    click.option("--kind", default="", metavar="K", help="default: linear; of detection fcos"),
    click.option("--task", type=click.Choice(list(TASKS)), help="default: by the column's type"),
    click.option(
        "--tap",
        "--taps",
        "taps",
        cls=Several,
        multiple=True,
        metavar="T...",
        help="of several, the best is chosen (default of train: the set's first; of probe: all)",
    ),
    click.option(
        "--pooling",
        "--poolings",
        "poolings",
        cls=Several,
        multiple=True,
        metavar="P...",
        help="of an item's rows: mean, max, mean+std, pair (default: mean); of pairs of texts: two-tower, cosine",
    ),
    click.option("--option", multiple=True, type=key_value, metavar="K=V", help="what the kind declares"),
    click.option("--where", default="", metavar="SQL", help="only items of which this is true, over id and metadata"),
    click.option("--group", default="", metavar="COLUMN", help="items with the same value are never on both sides of a split"),
    click.option("--weight", default="", metavar="COLUMN", help="of numbers: what each item counts for, in metrics too"),
    click.option("--folds", type=int, default=0, metavar="N", help="default: 5, or one split where there are many items"),
    click.option(
        "--seed",
        type=int,
        default=0,
        show_default=True,
        metavar="N",
        help="the same seed gives the same folds and the same result",
    ),
)


def task_of(arguments: SimpleNamespace) -> dict[str, Any]:
    """Collect the values of `task_flags`, as the client takes them."""
    names = ("target", "kind", "taps", "poolings", "where", "group", "weight", "folds", "seed")
    values = {name: getattr(arguments, name) for name in names}
    return {**values, "task": arguments.task or "", "options": by_name("--option", arguments.option)}


@verb(EXAMPLES)
@click.argument("set", metavar="SET")
@click.option("--name", default="", metavar="N", help="default: SET-TARGET, or close to it")
@click.option("--target", default="", metavar="COLUMN", help=f"{TARGET} (none: where classes are described)")
@task_flags
@click.option(
    "--combine",
    is_flag=True,
    help="read all of --taps side by side, instead of choosing one; also SET:TAP, of other sets of the same items",
)
@click.option("--test-where", default="", metavar="SQL", help="these items evaluate the head, and are never learned from")
@click.option(
    "--version", type=version, default="0", metavar="N|PIN", help="of the set, or a pin of it (default: the current one)"
)
@click.option("--unlabeled", type=click.Choice(METHODS), help="let items without a label help (default: left out)")
@click.option("--describe", multiple=True, type=_description, metavar="CLASS=TEXT", help="for kinds that read it")
@click.option("--replace", is_flag=True, help="a head of that name, which serves until the new one is ready")
@click.option(
    "--also", multiple=True, type=_weight, metavar="COLUMN=WEIGHT", help="of fine-tune: learned together, a head NAME-COLUMN"
)
@click.option("--no-wait", is_flag=True, help="begin it, and print its job")
@connection
def train(arguments: SimpleNamespace) -> int:
    if not (arguments.target or arguments.describe):
        raise click.UsageError("name the column of labels with --target, or describe each class with --describe")
    with connected(arguments) as client, awaited(arguments.json or arguments.no_wait) as progress:
        head = client.train(
            arguments.set,
            **task_of(arguments),
            name=arguments.name,
            combine=arguments.combine,
            test_where=arguments.test_where,
            version=arguments.version,
            unlabeled=arguments.unlabeled or "",
            descriptions=by_name("--describe", arguments.describe),
            replace=arguments.replace,
            also=by_name("--also", arguments.also),
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
    """Describe a head that is ready."""
    yield f"head {head.name}: {what(head)}, from {source(head)}, in {output.seconds(head.training_seconds)}"
    facts = list(_facts(head))
    width = max(len(name) for name, _ in facts)
    for name, fact in facts:
        yield f"  {name:>{width}}  {fact}"
    for warning in head.warnings:
        yield f"warning: {in_commands(warning)}"
    report = f"`topwork report {head.name}` says where it fails, " if head.metrics else ""
    aligned = f"`topwork write SET --encoder {head.chosen.get('encoder')} ITEM...` makes a set that texts search"
    yield f"next: {report}{aligned if head.task == 'alignment' else f'`topwork predict {head.name} ITEM...` uses it'}"


def _facts(head: HeadInfo) -> Iterator[tuple[str, str]]:
    for metric, baseline in beside(head.metrics[:1], head.baseline):
        yield (
            metric.name,
            with_interval(metric) + (f", baseline {metric.text(baseline.value)}" if baseline else ""),
        )
    calibration = {metric.name.removeprefix("calibration error").strip(): metric for metric in head.metrics[1:]}
    if "" in calibration:
        before = calibration.get("before scaling")
        yield "calibration error", f"{calibration[''].value:.3f}" + (f" ({before.value:.3f} before scaling)" if before else "")
    yield "judged by", head.estimate
    if head.chosen:
        yield "chosen", f"{head.tap} {head.pooling}, {settings_text(head.chosen)}"


def what(head: HeadInfo) -> str:
    """Format as "classification of 16 classes, linear on efficientnet-lite0/pooled"."""
    names = {
        "classification": "classes",
        "multi-label": "labels",
        "segmentation": "classes",
        "tagging": "tags",
        "detection": "classes",
    }
    of = f" of {len(head.names)} {names[head.task]}" if head.task in names and head.names else ""
    return f"{head.task}{of}, {head.kind or 'pretrained'} on {head.encoder or 'ready vectors'}/{head.tap}"


def source(head: HeadInfo) -> str:
    """Format as "482 items of birds, version 12, 18 more without a label"."""
    unlabeled = f", {head.unlabeled:,} more without a label" if head.unlabeled else ""
    return f"{counted(head.labeled, 'item')} of {head.set}, version {head.version}{unlabeled}"


def with_interval(metric: MetricValue) -> str:
    return f"{metric.text()} ({metric.interval_text})"


@verb()
@click.argument("kind", required=False, metavar="[KIND|TASK]", help="show this kind in full, or the kinds that learn this task")
@connection
def trainers(arguments: SimpleNamespace) -> int:
    with connected(arguments) as client:
        found = client.trainers()
    kind, hint = arguments.kind, "`topwork trainers KIND` says what --option may set"
    tasks = list(dict.fromkeys(task for one in found for task in one.tasks))
    if kind in tasks and kind not in [one.kind for one in found]:
        found, kind = [one for one in found if kind in one.tasks], None
    return kinds.show(found, kind, arguments.json, lambda one: {"tasks": _tasks(one), "needs": _needs(one)}, hint, tasks)


#: Tasks whose targets have no classes.
CLASSLESS = {"regression", "question-answering", "alignment"}


def _tasks(trainer: TrainerInfo) -> str:
    missing = [task for task in TASKS if task not in trainer.tasks]
    if len(missing) > 1 or not trainer.tasks:
        return ", ".join(trainer.tasks)
    return f"all but {missing[0]}" if missing else "all"


def _needs(trainer: TrainerInfo) -> str:
    inputs = "raw inputs" if trainer.needs_inputs else ""
    described = "classes described" if trainer.needs_descriptions else ""
    of_classes = trainer.min_per_class and set(trainer.tasks) - CLASSLESS
    least = f"{counted(trainer.min_per_class, 'example')} a class" if of_classes else ""
    return ", ".join(need for need in (least, inputs, described) if need)


@verb(PROBE_EXAMPLES)
@click.argument("sets", nargs=-1, required=True, metavar="SET...")
@click.option("--target", required=True, metavar="COLUMN", help=TARGET)
@task_flags
@click.option("--no-wait", is_flag=True, help="begin it, and print its job")
@connection
def probe(arguments: SimpleNamespace) -> int:
    with connected(arguments) as client, awaited(arguments.json or arguments.no_wait) as progress:
        found = client.probe(arguments.sets, **task_of(arguments), wait=not arguments.no_wait, progress=progress)
    if arguments.json:
        output.as_json(found)
    elif isinstance(found, ProbeTable):
        _print_probe(found)
    else:
        print(f"the probe goes on: `topwork jobs {found.id} --watch`")
    return 0


def _print_probe(found: ProbeTable) -> None:
    table = output.table(*found.titles(), right=("dim", found.measure), whole=("tap", found.measure, "interval", "to the best"))
    output.rows(table, found.lines())
    console = output.console()
    console.print()
    for line in found.remarks():
        console.print(line, markup=False, style="bold" if line == found.advice else None)

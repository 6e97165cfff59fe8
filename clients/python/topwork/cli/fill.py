"""`topwork fill`: words for the gaps of texts."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import click

from topwork.cli import output
from topwork.cli.connection import connected, connection, explained
from topwork.cli.inputs import OF_A_FILE, encoding_flags, gather, source_flags
from topwork.cli.verb import by_name, verb
from topwork.fills import FilledGap, FilledText, Fills, FillWord

EXAMPLES = """\
a gap is written as [MASK], or as the encoder's own mask; GPT and its kin go on after a text

examples:
  topwork fill bert-base-uncased "the [MASK] sat on the mat"
  topwork fill bert-base-uncased --from cloze.csv --column sentence -k 10 --json
"""


@verb(EXAMPLES, only_with=OF_A_FILE)
@click.argument("encoder", metavar="ENCODER")
@click.argument("items", nargs=-1, metavar="[TEXT]...")
@source_flags
@click.option("-k", type=int, default=5, show_default=True, metavar="N", help="how many words for each gap")
@click.option("--target", multiple=True, metavar="WORD", help="choose among these words; may be repeated")
@encoding_flags
@connection
def fill(arguments: SimpleNamespace) -> int:
    if bool(arguments.items) == bool(arguments.source):
        raise click.UsageError("name texts, or a file of them with --from (one of the two)")
    inputs = gather(arguments, "text", skip=arguments.skip_bad_items)
    with connected(arguments) as client, explained(arguments, arguments.encoder):
        found = client.fill(
            arguments.encoder,
            inputs.items,
            arguments.k,
            targets=arguments.target,
            options=by_name("--option", arguments.option),
            skip_bad_items=arguments.skip_bad_items,
            priority=arguments.priority,
            progress=not arguments.json,
        )
    found = replace(found, failures={**found.failures, **inputs.refused})
    if arguments.json:
        output.as_json({"encoder": found.encoder, "head": found.head, "texts": [_record(found, i) for i in range(len(found))]})
    else:
        _print(found)
    return 0


def _record(found: Fills, i: int) -> dict[str, Any]:
    text, error = found[i], found.failures.get(i)
    gaps = [{**gap._asdict(), "words": [word._asdict() for word in gap.words]} for gap in text.gaps]
    return {"text": text.item, "gaps": gaps, **({"error": str(error)} if error else {})}


def _print(found: Fills) -> None:
    console = output.console()
    for i, text in enumerate(found):
        if i in found.failures:
            continue
        console.print(str(text.item), style="bold", markup=False)
        for number, gap in enumerate(text.gaps, 1):
            if len(text.gaps) > 1:
                console.print(f"  gap {number}, {_shown(text, gap)}", style="dim", markup=False)
            for word in gap.words:
                console.print(f"  {word.probability:.3f}  {_word(word)}", markup=False)
    output.say_first("skipped", [f"{found[i].item!r}: {error}" for i, error in found.failures.items()], len(found.failures))


def _shown(text: FilledText, gap: FilledGap) -> str:
    """Tell which gap it is by the words before it."""
    part = text.item if isinstance(text.item, str) else text.item[gap.part]
    return f"after {part[max(0, gap.start - 20) : gap.start].strip()!r}"


def _word(found: FillWord) -> str:
    """Show a word that is white space, or has some in it that breaks the line, as Python writes it."""
    word = found.word
    return word if word.isprintable() and word.strip() else repr(word)

"""`topwork pretrain` learns an encoder from texts without labels; without texts it lists the ways to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import click

from topwork.cli import kinds, output
from topwork.cli.connection import connected, connection
from topwork.cli.inputs import OF_A_FILE, stdin_lines
from topwork.cli.jobs import awaited
from topwork.cli.verb import PATH, by_name, encoding_name, key_value, separator, verb, version
from topwork.pretraining import PretrainerInfo, PretrainReport

#: What is said of a pretraining that is to begin; without any of it, kinds are shown.
BEGINNING = ("encoder", "source", "set", "name", "option", "seed", "no_wait")
EXAMPLES = """\
KIND is one that the server's plugins bring: words (word2vec, of texts alone), mlm (masked language model) and lm (next token),
which train ENCODER further. `topwork pretrain` lists them, `topwork pretrain KIND` what --option may set. The result is a new
encoder; `topwork forget NAME` deletes it.

examples:
  topwork pretrain
  topwork pretrain words --from corpus.txt --name my-words --option algorithm=skip-gram --option dim=200
  topwork pretrain mlm all-minilm-l6-v2 --from reviews.jsonl.gz --column text --name minilm-reviews --option max_seconds=3600
  zcat texts.gz | topwork pretrain words --from - --name my-words
  topwork pretrain mlm bert-base-uncased --from-set reviews --where "year > 2020" --name bert-reviews
"""


@verb(
    EXAMPLES,
    only_with={**dict.fromkeys(("where", "version"), ("set",)), **OF_A_FILE},
    not_with={"set": ("source",)},
)
@click.argument("kind", required=False, default="", metavar="[KIND]")
@click.argument("encoder", required=False, default="", metavar="[ENCODER]")
@click.option("--from", "source", type=PATH, metavar="FILE", help=".txt (a text a line), .jsonl, .csv, .parquet; .gz; - is stdin")
@click.option("--column", default="", metavar="C", help="its column of texts (default: text, or the only one)")
@click.option("--separator", type=separator, metavar="S", help="what is between the columns of a .csv (default: a comma)")
@click.option("--encoding", type=encoding_name, metavar="E", help="of the file's letters (default: utf-8)")
@click.option("--from-set", "set", default="", metavar="SET", help="the texts that a set keeps (write --keep-inputs)")
@click.option("--where", default="", metavar="SQL", help="only items of the set of which this is true, over id and metadata")
@click.option("--version", type=version, default="0", metavar="N|PIN", help="of the set (default: the current one)")
@click.option("--name", default="", metavar="N", help="of the new encoder")
@click.option("--option", multiple=True, type=key_value, metavar="K=V", help="what the kind declares")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N")
@click.option("--no-wait", is_flag=True, help="begin it, and print its job")
@connection
def pretrain(arguments: SimpleNamespace) -> int:
    if not any(getattr(arguments, name) for name in BEGINNING):
        return _list(arguments)
    if not arguments.kind or not arguments.name:
        raise click.UsageError("say the kind, and name the new encoder with --name")
    if (arguments.source is None) == (not arguments.set):
        raise click.UsageError("name the texts: --from FILE, or --from-set SET")
    from_stdin = arguments.source == Path("-")
    if from_stdin and (arguments.column or arguments.separator or arguments.encoding):
        raise click.UsageError("--column, --separator and --encoding are of files: stdin has a text a line")
    with connected(arguments) as client, awaited(arguments.json or arguments.no_wait) as progress:
        made = client.pretrain(
            arguments.kind,
            stdin_lines() if from_stdin else arguments.source,
            name=arguments.name,
            encoder=arguments.encoder,
            set=arguments.set,
            where=arguments.where,
            version=arguments.version,
            column=arguments.column,
            separator=arguments.separator or "",
            encoding=arguments.encoding or "",
            options=by_name("--option", arguments.option),
            seed=arguments.seed,
            wait=not arguments.no_wait,
            progress=progress,
        )
    if arguments.json:
        output.as_json(made)
    elif isinstance(made, PretrainReport):
        print(made)
        print(
            f"next: `topwork embed {made.encoder} TEXT` gives features, `topwork write SET --encoder {made.encoder}` keeps them"
        )
    else:
        print(f"encoder {arguments.name} is being made: `topwork jobs {made.id} --watch`")
    return 0


def _list(arguments: SimpleNamespace) -> int:
    """List the kinds, or show one in full."""
    with connected(arguments) as client:
        found = client.pretrainers()
    hint = "`topwork pretrain KIND` says what --option may set"

    def about(one: PretrainerInfo) -> dict[str, str]:
        return {"needs": "an encoder" if one.needs_encoder else ""}

    return kinds.show(found, arguments.kind, arguments.json, about, hint)

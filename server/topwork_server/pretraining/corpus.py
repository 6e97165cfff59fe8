"""The texts of a pretraining as a file: a JSON string a line, so that a text may have lines of its own."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from topwork._display.excerpts import listed

from topwork_server.access.passes import set_pass, visible_sets
from topwork_server.errors import InvalidInput, NotReady, TopworkError
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.set_types import Selection, SetDefinition
from topwork_server.types import Modality, TextItem


def encoded(texts: Iterable[str], first: int = 0) -> tuple[bytes, int]:
    """The lines of some texts, and how many texts they are: blank ones are left out. InvalidInput names the position of one that
    is no text; `first` is that of the first."""
    lines = []
    for position, text in enumerate(texts, first):
        if "\0" in text:
            raise InvalidInput(
                "it holds NUL characters: it is no text, or was decoded wrongly",
                remedy="send texts (of a file: say its encoding)",
                item=position,
            )
        if text and not text.isspace():
            lines.append(json.dumps(text, ensure_ascii=False))
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace"), len(lines)


class CorpusFile(Collection[str]):
    """The texts of such a file, read anew at each iteration."""

    def __init__(self, path: Path, count: int) -> None:
        self._path, self._count = path, count

    def __iter__(self) -> Iterator[str]:
        with self._path.open(encoding="utf-8", newline="\n") as file:
            for line in file:
                yield json.loads(line)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, text: object) -> bool:
        return any(text == one for one in self)


def check_set(sets: FeatureSets, name: str) -> None:
    """Raise the error of a set that has no texts to learn from: NotFound; InvalidInput for other items; NotReady where it keeps
    none."""
    definition = sets.get(set_pass(name)).definition
    if not _of_texts(definition):
        raise InvalidInput(
            f"the set {name!r} holds {definition.modalities[0].plural} of {definition.encoder}, and no texts to learn from",
            remedy=_what_fits(sets, "name a set that keeps texts"),
        )
    if not definition.keep_inputs:
        advice = "write the texts to a set that does: `Write(SET, keep_inputs=True)`"
        raise NotReady(f"the set {name!r} keeps no raw inputs", remedy=_what_fits(sets, advice))


def _what_fits(sets: FeatureSets, advice: str) -> str:
    """The advice, with the sets that have texts."""
    able = list[str]()
    for name in map(set_pass, visible_sets(sets.names())):
        with suppress(TopworkError):  # damaged ones
            found = sets.get(name)
            if found.definition.keep_inputs and found.definition.modalities == (Modality.TEXT,) and found.describe().items:
                able.append(name)
    return f"{advice}; {listed(able)} can be learned from" if able else advice


def _of_texts(definition: SetDefinition) -> bool:
    return not definition.modalities or Modality.TEXT in definition.modalities


def copy_set(sets: FeatureSets, name: str, where: str, version: int, path: Path) -> int:
    """Write the texts that a set keeps into a file, those of items that match `where`, and count them. Errors as of `check_set`;
    InvalidInput where no item matches."""
    check_set(sets, name)
    found, count = sets.get(set_pass(name)), 0
    with path.open("wb") as file:
        for batch in found.read(Selection(version=version, taps=(), columns=(), inputs=True, where=where)).batches:
            texts = [text for item in batch.inputs if isinstance(item, TextItem) for text in (item.text, item.pair) if text]
            lines, more = encoded(texts, count)
            file.write(lines)
            count += more
    if not count:
        chosen = f" where {where}" if where else ""
        raise InvalidInput(f"the set {name!r} has no texts{chosen}", remedy="write some to it, or choose others by `where`")
    return count

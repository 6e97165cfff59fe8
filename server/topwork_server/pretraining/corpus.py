"""The texts of a pretraining as a file: a JSON string a line, so that a text may have lines of its own."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from topwork_server.errors import InvalidInput, NotReady
from topwork_server.feature_sets.set_registry import FeatureSets
from topwork_server.feature_sets.set_types import Selection
from topwork_server.types import TextItem


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


def copy_set(sets: FeatureSets, name: str, where: str, version: int, path: Path) -> int:
    """Write the texts that a set keeps into a file, those of items that match `where`, and count them. NotReady where it keeps
    none."""
    found = sets.get(name)
    if not found.definition.keep_inputs:
        raise NotReady(
            f"the set {name!r} keeps no raw inputs", remedy="write the texts to a set that does: `Write(SET, keep_inputs=True)`"
        )
    count = 0
    with path.open("wb") as file:
        for batch in found.read(Selection(version=version, taps=(), columns=(), inputs=True, where=where)).batches:
            texts = [text for item in batch.inputs if isinstance(item, TextItem) for text in (item.text, item.pair) if text]
            lines, more = encoded(texts, count)
            file.write(lines)
            count += more
    return count

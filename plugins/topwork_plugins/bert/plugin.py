"""Texts through models of transformers and folders of sentence-transformers with their own pooling: BERT and its kin, decoders,
encoders of T5 and its kin, and any other architecture that can be exported (`architectures`).

Devlin et al. 2019 (BERT), Reimers & Gurevych 2019 (sentence embeddings, section 3: pooling). Graph inputs are (batch, tokens)
int64; taps are `pooled`, `mean`, `max`, `cls` or `last` (a row a text) and `tokens`, `hidden.0` .. `hidden.N` (a row a token), of
cross-encoders `score` (a row a pair of texts).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from topwork_server import (
    Array,
    ChunkOptions,
    Encoder,
    EncoderSpec,
    InvalidInput,
    Item,
    Modality,
    Prompt,
    Refusal,
    Role,
    Sample,
    SourceUri,
    TextItem,
    Token,
    Trunk,
    hookimpl,
    item_kind,
    option,
)

from topwork_plugins import weight_files
from topwork_plugins.bert import known_models as bert_catalog
from topwork_plugins.bert import layout as bert_layout
from topwork_plugins.bert.settings import Settings
from topwork_plugins.bert.tokens import FILE, UNKNOWN_HELP, Tokenization, Tokens, Unknown, check_known, stacked

#: Names of prompts for each role: sentence-transformers' own, and those of nomic and Jina.
ROLE_PROMPTS: Mapping[Role, tuple[str, ...]] = {
    Role.QUERY: ("query", "search_query", "retrieval.query"),
    Role.DOCUMENT: ("document", "passage", "corpus", "search_document", "retrieval.passage"),
}


@dataclass(frozen=True)
class BertOptions(ChunkOptions):
    """Options of a request."""

    truncate: bool = field(default=False, metadata={"help": "cut a text over the limit instead of refusing it"})
    pair_tokens: int = option(0, "cut the second text of a pair to so many tokens of its own; 0: no such limit", minimum=0)
    prompt: str = field(default="", metadata={"help": "put before the text; takes part in attention, gives no rows"})
    prompt_name: str = field(
        default="", metadata={"help": "a prompt that the model names; empty: the model's default; 'none': no prompt"}
    )
    unknown: Unknown = field(default="keep", metadata={"help": UNKNOWN_HELP})


class BertEncoder(Encoder):
    """Encodes texts and pairs of texts. Padding stands on the right, hidden from attention and pooling, so batch-mates change
    nothing. The class is named in fingerprints, so it keeps the name of its first architecture."""

    options = BertOptions
    settings: ClassVar[Sequence[str]] = ("max_tokens", "pooling", "trunk_only")
    pads = True
    budget = 1024
    inline_max_chars = 512
    fill_options: ClassVar[Mapping[str, Any]] = {"unknown": "allow"}  # a mask is one, and may stand alone
    needs_to_fill = (
        "pull weights that hold the head of a language model (config.json: ...ForMaskedLM with a mask, ...ForCausalLM), or train"
        " one with `Pretrain(mlm)`; an encoder from before heads were read gets its own by `topwork export NAME --force`"
    )

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        """Export the trunk. `assets` is a model's folder; `spec.settings["pooling"]`, a mode or a list of modes, overrides its
        own pooling.

        A cross-encoder's scores are a tap, the default one, unless `spec.settings["trunk_only"]` is true.
        """
        from topwork_server import prepare_torchvision

        prepare_torchvision()
        from topwork_plugins.bert.export import export

        return export(spec, assets, out)

    @classmethod
    def prompts(cls, folder: Path) -> Sequence[Prompt]:
        settings = Settings.read(folder)
        roles = {_prompt_of(role, settings.prompts): role for role in Role}
        named = settings.prompts.items()
        return [Prompt(name, text, roles.get(name), name == settings.default_prompt) for name, text in named]

    def __init__(self, spec: EncoderSpec, folder: Path) -> None:
        super().__init__(spec, folder)
        self._settings = Settings.read(folder)
        self._tokenization = Tokenization(folder / FILE, self._settings.max_tokens)

    def role_options(self, role: Role, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The prompt that the model names for the role goes before each text, unless the caller chose one that is of no role."""
        of_roles = {name for names in ROLE_PROMPTS.values() for name in names}
        if options.get("prompt") or options.get("prompt_name", "") not in {"", *of_roles}:
            return options
        named = _prompt_of(role, self._settings.prompts)
        return {**options, "prompt_name": named} if named or options.get("prompt_name") else options

    @property
    def example_options(self) -> BertOptions:
        """Examples are in English, of which a tokenizer of another language may know no token."""
        return BertOptions(unknown="allow")

    def preprocess(self, item: Item, options: BertOptions) -> Iterable[Sample]:
        if isinstance(item, np.ndarray) and item.ndim == 1 and item.dtype.kind in "iu":
            return [self._sample(self._tokenization.of_ids(item, truncate=options.truncate))]
        if not isinstance(item, TextItem):
            raise InvalidInput(f"{self.spec.name} reads text, not {item_kind(item)}", remedy="send a text or a pair of texts")
        tokens = self._tokenization.encode(
            item.text, item.pair, prompt=self._prompt(options), truncate=options.truncate, pair_tokens=options.pair_tokens
        )
        check_known(tokens, item, options.unknown, self.spec.name)
        return [self._sample(tokens)]

    def preprocess_long(self, item: Item, options: BertOptions) -> Iterable[Sample]:
        """Windows of a text over the limit, unless `truncate` cuts it."""
        if options.truncate or not isinstance(item, TextItem) or item.pair is not None:
            yield from self.preprocess(item, options)
            return
        for tokens in self._tokenization.windows.of(item.text, self._prompt(options)):
            check_known(tokens, item, options.unknown, self.spec.name)
            yield self._sample(tokens)

    def preprocess_many(self, items: Sequence[Item], options: BertOptions) -> Iterable[Iterable[Sample] | Exception]:
        """Plain texts together. What is out of the ordinary, and what has to be refused, goes through `preprocess`."""
        prompted = options.prompt or options.prompt_name or self._settings.default_prompt
        plain = [isinstance(item, TextItem) and item.pair is None and not prompted and _has_ink(item.text) for item in items]
        texts = [item.text for item, so in zip(items, plain, strict=True) if so and isinstance(item, TextItem)]
        together = iter(self._tokenization.encode_many(texts) if len(texts) > 1 else [None] * len(texts))
        for item, so in zip(items, plain, strict=True):
            tokens = next(together) if so else None
            if tokens is None or (tokens.unknown and options.unknown == "error"):
                yield from super().preprocess_many([item], options)
            else:
                yield [self._sample(tokens)]

    def cost(self, sample: Sample) -> int:
        return len(sample.inputs["input_ids"])

    def collate(self, samples: Sequence[Sample]) -> dict[str, Array]:
        fillers = {"input_ids": self._settings.padding}
        return {name: stacked([each.inputs[name] for each in samples], fillers.get(name, 0)) for name in self._settings.inputs}

    @property
    def mask(self) -> str:
        return self._settings.mask

    def words(self, entries: Sequence[int]) -> list[str]:
        return self._tokenization.words_of(entries, spaced=not self.mask)

    def entry(self, word: str) -> int:
        return self._tokenization.id_of(word)

    @property
    def max_tokens(self) -> int:
        return self._settings.max_tokens

    def tokenize(self, text: str, options: BertOptions) -> Sequence[Token]:
        return self._tokenization.tokens_of(self._prompt(options) + text)

    def detokenize(self, ids: Sequence[int], *, special: bool) -> str:
        return self._tokenization.text_of(ids, special=special)

    def _sample(self, tokens: Tokens) -> Sample:
        return Sample(self._arrays(tokens), tokens=tokens.spans, notes=tokens.notes)

    def _arrays(self, tokens: Tokens) -> dict[str, Array]:
        ones = np.ones(len(tokens.ids), np.int64)
        made = {
            "input_ids": tokens.ids,
            "attention_mask": ones,
            "token_type_ids": tokens.types,
            "pooling_mask": np.where(np.arange(len(ones)) < tokens.prompt, 0, ones) if tokens.prompt else ones,
        }
        return {name: made[name] for name in self._settings.inputs}

    def _prompt(self, options: BertOptions) -> str:
        if options.prompt and options.prompt_name:
            raise InvalidInput("both prompt and prompt_name are set", remedy="set one of them")
        name = options.prompt_name or self._settings.default_prompt
        if options.prompt or not name:
            return options.prompt
        if name in self._settings.prompts:
            return self._settings.prompts[name]
        if name == "none":
            return ""
        known = ", ".join(sorted(self._settings.prompts)) or "none at all"
        raise InvalidInput(f"{self.spec.name} has no prompt named {name!r}", remedy=f"it names {known}; or set prompt itself")


def _prompt_of(role: Role, prompts: Mapping[str, str]) -> str:
    """Return the name of the prompt that a model has for a role, "" for none."""
    return next((name for name in ROLE_PROMPTS[role] if name in prompts), "")


def _has_ink(text: str) -> bool:
    return bool(text) and not text.isspace()


@hookimpl
def register_encoders() -> Iterable[EncoderSpec]:
    return bert_catalog.specs(BertEncoder)


@hookimpl
def resolve_source(name: str, source: SourceUri) -> EncoderSpec | None:
    """Hub repositories, and folders whose config.json or modules.json is of this family; anything where the user says bert."""
    if source.family not in ("", "bert") or source.scheme in ("onnx", "timm"):
        return None
    hub = source.scheme == "hf" and not source.location.startswith("timm/")
    local = source.scheme == "file" and bert_layout.is_ours(Path(source.location))
    if not (hub or local or source.family):
        return None
    return EncoderSpec(name=name, encoder=BertEncoder, source=str(source), modality=Modality.TEXT)


@hookimpl
def refuse_source(source: SourceUri) -> Refusal | None:
    path = Path(source.location)
    if source.scheme != "file":
        return None
    if not path.is_dir():
        return Refusal("it is no folder of transformers or sentence-transformers")
    try:
        bert_layout.read_ours(path)
    except InvalidInput as error:
        known = any((path / name).exists() for name in ("config.json", "modules.json", *weight_files.NAMES))
        return Refusal(error.message, error.remedy if known else "", nearness=2 if known else 0)
    return None

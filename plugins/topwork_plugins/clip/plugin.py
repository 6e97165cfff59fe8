"""CLIP, SigLIP and SigLIP 2: a tower of pictures and one of texts, which embed into one space.

Radford et al. 2021 (CLIP), Zhai et al. 2023 (SigLIP), Tschannen et al. 2025 (SigLIP 2); of transformers and of open_clip.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from topwork_server import (
    Array,
    Encoder,
    EncoderSpec,
    InvalidInput,
    Item,
    Modality,
    Refusal,
    Sample,
    SourceUri,
    TextItem,
    Token,
    TokenSpans,
    Trunk,
    hookimpl,
    item_kind,
    option,
)

from topwork_plugins.bert.tokens import FILE, UNKNOWN_HELP, Tokenization, Tokens, Unknown, check_known, stacked
from topwork_plugins.clip import layout
from topwork_plugins.clip.settings import TextSettings, cleaned
from topwork_plugins.images.picture_encoder import RECIPE, PictureEncoder

FAMILY = "clip"
#: Repositories of the hub that are taken for this family's by their names, such as MetaCLIP; not by "eclipse".
NAMES = re.compile("(clip|siglip)(?![a-z])", re.IGNORECASE)
HUB = {
    "clip-vit-base-patch32": ("openai", 151_277_313, "400 million pairs of the web (WIT)", "MIT"),
    "clip-vit-large-patch14": ("openai", 427_616_513, "400 million pairs of the web (WIT)", "MIT"),
    "siglip-base-patch16-224": ("google", 203_155_970, "WebLI, English", "Apache-2.0"),
    "siglip2-base-patch16-224": ("google", 375_187_970, "WebLI, many languages", "Apache-2.0"),
}


class ImageTower(PictureEncoder):
    """Pictures to features, prepared as the model was trained."""

    settings = ()

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        from topwork_plugins.clip.export import export_images

        return export_images(assets, out / RECIPE)


@dataclass(frozen=True)
class TextOptions:
    """Options of a request; they are of texts."""

    truncate: bool = option(False, "cut a text over the limit instead of refusing it")
    unknown: Unknown = field(default="keep", metadata={"help": UNKNOWN_HELP})


class TextTower(Encoder):
    """Texts to features, cleaned, tokenized and padded as the model was trained."""

    settings = ()

    options = TextOptions
    pads = True
    budget = 1024
    inline_max_chars = 64  # open_clip's cleaning takes 0.2 ms for 80 characters

    @classmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        from topwork_plugins.clip.export import export_texts

        return export_texts(assets, out)

    def __init__(self, spec: EncoderSpec, folder: Path) -> None:
        super().__init__(spec, folder)
        self._settings = TextSettings.read(folder)
        self._tokenization = Tokenization(folder / FILE, self._settings.max_tokens)
        cleaned("", self._settings.cleaning)  # its first call imports for 0.2 s

    @property
    def example_options(self) -> TextOptions:
        """Some examples are longer than the limit, and a tokenizer of another language may know no token of them."""
        return TextOptions(truncate=True, unknown="allow")

    def preprocess(self, item: Item, options: TextOptions) -> Iterable[Sample]:
        if not isinstance(item, TextItem) or item.pair is not None:
            kind = "a pair of texts" if isinstance(item, TextItem) else item_kind(item)
            raise InvalidInput(f"the text tower of {self.spec.name} reads a text, not {kind}", remedy="send a text")
        tokens = self._tokenization.encode(cleaned(item.text, self._settings.cleaning), truncate=options.truncate)
        check_known(tokens, item, options.unknown, self.spec.name)
        return [self._sample(tokens)]

    def cost(self, sample: Sample) -> int:
        return len(sample.inputs["input_ids"])

    def collate(self, samples: Sequence[Sample]) -> dict[str, Array]:
        fillers = {"input_ids": self._settings.padding}
        return {name: stacked([each.inputs[name] for each in samples], fillers.get(name, 0)) for name in self._settings.inputs}

    @property
    def max_tokens(self) -> int:
        return self._settings.max_tokens

    def tokenize(self, text: str, options: TextOptions) -> Sequence[Token]:
        """Tokens without padding; their characters are those of the text as it is cleaned."""
        return self._tokenization.tokens_of(cleaned(text, self._settings.cleaning))

    def detokenize(self, ids: Sequence[int], *, special: bool) -> str:
        return self._tokenization.text_of(ids, special=special)

    def _sample(self, tokens: Tokens) -> Sample:
        settings = self._settings
        missing = settings.max_tokens - len(tokens.ids) if settings.fixed else 0
        around = (missing, 0) if settings.side == "left" else (0, missing)
        made = {
            "input_ids": np.pad(tokens.ids, around, constant_values=settings.padding),
            "attention_mask": np.pad(np.ones(len(tokens.ids), np.int64), around),
        }
        spans = TokenSpans(tokens.spans.positions + around[0], tokens.spans.chars, tokens.spans.parts)
        return Sample({name: made[name] for name in settings.inputs}, tokens=spans, notes=tokens.notes)


def _spec(name: str, source: str, **about: Any) -> EncoderSpec:
    image = EncoderSpec(name, ImageTower, source, Modality.IMAGE, **about)
    return replace(image, other_towers=(EncoderSpec(name, TextTower, source, Modality.TEXT, **about),))


@hookimpl
def register_encoders() -> Iterable[EncoderSpec]:
    for name, (owner, parameters, trained_on, license) in HUB.items():
        what = f"{owner}/{name}: pictures and texts in one space; its weights come from the model hub"
        spec = _spec(name, f"hf:{owner}/{name}", trained_on=trained_on, license=license, description=what)
        yield replace(spec, parameters=parameters)


@hookimpl(tryfirst=True)
def resolve_source(name: str, source: SourceUri) -> EncoderSpec | None:
    """Folders whose config.json or open_clip_config.json is of this family, repositories of the hub that are named so, and
    anything where the user says clip."""
    if source.family not in ("", FAMILY) or source.scheme in ("onnx", "timm"):
        return None
    hub = source.scheme == "hf" and NAMES.search(source.location)
    local = source.scheme == "file" and layout.is_ours(Path(source.location))
    return _spec(name, str(source)) if hub or local or source.family else None


@hookimpl
def refuse_source(source: SourceUri) -> Refusal | None:
    path = Path(source.location)
    if source.scheme != "file" or not path.is_dir():
        return None
    try:
        layout.read_layout(path)
    except InvalidInput as error:
        known = (path / layout.OPEN_CLIP_CONFIG).exists() or "NaFlex" in error.message
        return Refusal(error.message, error.remedy if known else "", nearness=2 if known else 0)
    return None

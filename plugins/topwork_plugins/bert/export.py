"""Makes a Trunk of a model's folder, and the files that the server reads beside the graph. Export process only."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork_server import EncoderSpec, InvalidInput, PretrainedHead, TextItem, Trunk, example_texts

from topwork_plugins.bert.architectures import GENERIC, GENERIC_CAUSAL, Architecture
from topwork_plugins.bert.graph import PooledEncoder, blocks, build_stages
from topwork_plugins.bert.layout import SCORE, Layout, read_json, read_layout, taps
from topwork_plugins.bert.loading import Loaded, is_causal, load_encoder, load_language_model, position_limit
from topwork_plugins.bert.mask_token import mask_of
from topwork_plugins.bert.pair_head import PairHead, load_cross_encoder
from topwork_plugins.bert.settings import Settings
from topwork_plugins.bert.tokenizer_file import write_tokenizer
from topwork_plugins.bert.tokens import FILE, Tokenization, known_examples
from topwork_plugins.bert.word_head import MASKED, head_of, kind_of
from topwork_plugins.pretrained_models import remarks_on

#: The longest example on which parity is measured, in tokens: enough to read far into the position table.
LONGEST_EXAMPLE = 512
#: The limit in tokens unless the setting max_tokens raises it: attention over 8,192 takes 3 GB for 12 heads, over twice as many
#: four times that.
MOST_TOKENS = 8192
#: The limit of a model that says nothing of it, whose positions are relative; and from where on a limit means that there is none.
DEFAULT_TOKENS, UNSAID = 512, 1 << 24


def export(spec: EncoderSpec, folder: Path, out: Path) -> Trunk:
    """See `BertEncoder.export`."""
    layout = read_layout(folder, spec.settings.get("pooling"))
    opened = _opened(layout, trunk_only=bool(spec.settings.get("trunk_only")))
    loaded, scores = opened.loaded, opened.scores
    model, architecture = loaded.model, _settled(layout.architecture, loaded)
    stages, width = build_stages(layout, loaded.dim)
    rows = model.get_input_embeddings().num_embeddings
    tokenizer = write_tokenizer(layout.transformer, out, lower_case=layout.lower_case, rows=rows, framed=architecture.framed)
    settings = _settings(model, layout, spec.settings.get("max_tokens"))
    settings.write(out)
    hidden = loaded.hidden if architecture.checked else ()
    module = PooledEncoder(
        model, settings.inputs, layout.poolings, stages, architecture.poolings, hidden=bool(hidden), scores=scores
    )
    return Trunk(
        inputs=dict.fromkeys(settings.inputs, ("batch", "tokens")),
        taps=taps(loaded.dim, hidden, width, architecture, scores.labels if scores else ()),
        default_tap=SCORE if scores else "",
        definition=layout.definition,
        preprocessing=_preprocessing(settings, layout, tokenizer),
        module=module.eval(),
        exporter="legacy",  # its graph is the one that attention fusion recognizes
        examples=_examples(Tokenization(out / FILE, settings.max_tokens), settings.prompts.get(settings.default_prompt, "")),
        blocks=blocks(model),
        heads=opened.heads,
        unused=loaded.unused,
        remarks=(*remarks_on(layout.config, model), *opened.remarks),
    )


@dataclass(frozen=True)
class _Opened:
    """The trunk, the head that it was trained with where that fills gaps, why one that there is does not, and the head of a
    cross-encoder."""

    loaded: Loaded
    heads: tuple[PretrainedHead, ...] = ()
    remarks: tuple[str, ...] = ()
    scores: PairHead | None = None


def _opened(layout: Layout, *, trunk_only: bool) -> _Opened:
    folder, why = layout.transformer, ""
    if layout.is_cross_encoder and not trunk_only:
        loaded, scores = load_cross_encoder(folder)
        return _Opened(loaded, scores=scores)
    kind = kind_of(layout)
    if kind is MASKED and not mask_of(folder):
        why = "the files of its tokenizer name no mask (add mask_token to tokenizer_config.json)"
    elif kind and (found := load_language_model(folder, kind.opened_by)):
        model, loaded = found
        if head := head_of(model, kind):
            return _Opened(loaded, (head,))
        why = f"it is not one of the last rows of its {model.config.model_type} trunk alone"
    remarks = (f"its head over the vocabulary, of a language model, is not used: {why}",) if why else ()
    return _Opened(load_encoder(folder, layout.architecture), remarks=remarks)


def _settled(architecture: Architecture, loaded: Loaded) -> Architecture:
    return GENERIC_CAUSAL if architecture is GENERIC and is_causal(loaded.model) else architecture


def _settings(model: Any, layout: Layout, most: int | None) -> Settings:
    padding = model.config.pad_token_id or 0
    return Settings(
        inputs=_inputs(model, layout),
        padding=max(padding, 0),  # some Llamas say -1
        max_tokens=_max_tokens(model, layout, most),
        prompts=layout.prompts,
        default_prompt=layout.default_prompt,
        mask=mask_of(layout.transformer),
    )


def _preprocessing(settings: Settings, layout: Layout, tokenizer: str) -> dict[str, Any]:
    return {
        "tokenizer_sha256": tokenizer,
        "lower_case": layout.lower_case,
        "inputs": list(settings.inputs),
        "max_tokens": settings.max_tokens,
        "prompts": dict(settings.prompts),
        "default_prompt": settings.default_prompt,
    }


def _inputs(model: Any, layout: Layout) -> tuple[str, ...]:
    types = ("token_type_ids",) if _takes_types(model, layout) else ()
    pooling = () if layout.pools_prompt else ("pooling_mask",)
    return ("input_ids", "attention_mask", *types, *pooling)


def _takes_types(model: Any, layout: Layout) -> bool:
    """RoBERTa's forward has the argument, but a table of one row; and a tokenizer may say that it gives none."""
    inputs = read_json(layout.transformer / "tokenizer_config.json", missing_ok=True).get("model_input_names")
    has_argument = "token_type_ids" in inspect.signature(model.forward).parameters
    tells_types = layout.architecture.typed or getattr(model.config, "type_vocab_size", 0) > 1
    return has_argument and tells_types and (not inputs or "token_type_ids" in inputs)


def _max_tokens(model: Any, layout: Layout, most: int | None) -> int:
    """The limit of a text in tokens: what the model takes, or less where the folder says so (sentence-transformers' limit before
    the tokenizer's), and no more than `MOST_TOKENS`; or `most`, the setting max_tokens, where the model takes it."""
    limit = position_limit(model)
    if most is not None:
        if not isinstance(most, int) or most < 3 or (limit is not None and most > limit):
            raise InvalidInput(f"max_tokens is {most!r}", remedy=f"the model takes 3 to {limit or 'any number of'} tokens")
        return most
    declared = layout.max_length
    if declared is None:
        declared = read_json(layout.transformer / "tokenizer_config.json", missing_ok=True).get("model_max_length")
    if limit is None and (declared is None or declared > UNSAID):
        return DEFAULT_TOKENS
    return min(int(number) for number in (limit, declared, MOST_TOKENS) if number is not None)


def _examples(tokenization: Tokenization, prompt: str) -> Sequence[TextItem]:
    """The server's sentences, cut where this model's limit is lower; a pair; and one as long as the limit allows.
    Those of which the vocabulary knows nothing, which may be of another script, are left out."""

    def cut(text: str, limit: int) -> str:
        while text and (length := tokenization.length(prompt + text)) > limit:
            text = text[: len(text) * limit // length]
        return text

    limit = tokenization.limit
    short = [cut(text.text, limit) for text in example_texts()]
    pair = TextItem(*(cut(text, limit // 2) for text in short[1:3]))
    made = [*map(TextItem, short), pair, TextItem(cut(" ".join(short) * 8, min(limit, LONGEST_EXAMPLE)))]
    return known_examples(tokenization, made, lambda text: tokenization.encode(text.text, text.pair, prompt=prompt))

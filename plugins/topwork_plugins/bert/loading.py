"""Opens a transformers model of a local folder: the part that gives features, with all of its weights. Export process only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from topwork_server import InvalidInput
from torch import nn

from topwork_plugins.bert.architectures import Architecture
from topwork_plugins.bert.traceable_attention import make_traceable
from topwork_plugins.pretrained_models import from_pretrained, refuse_gaps, without_place

#: Tokens of a text on which a model is tried: Funnel halves their number again and again, and fails on a few.
PROBED = 16


@dataclass(frozen=True)
class Loaded:
    """`model` takes input_ids and attention_mask; its rows have `dim` numbers, its embeddings and each layer's output `hidden`.
    `unused` are the weights of the folder that it has no place for: heads, the pooler, a decoder."""

    model: Any
    dim: int
    hidden: tuple[int, ...]
    unused: list[str]


def load_encoder(folder: Path, architecture: Architecture) -> Loaded:
    """Load what gives the features of texts."""
    model, unused = load_model(folder, "AutoModelForTextEncoding" if architecture.encoder_alone else "AutoModel")
    if getattr(model.config, "is_encoder_decoder", False) and not architecture.encoder_alone:
        model = model.get_encoder()
    return measured(folder, model, unused)


def load_model(folder: Path, kind: str = "AutoModel") -> tuple[Any, list[str]]:
    """Load the fp32 model of a folder, by an auto class of transformers, and name the weights that it has no place for.
    InvalidInput where a weight is missing or does not fit; nothing is unpickled."""
    model, report = _from_pretrained(folder, kind)
    refuse_gaps(folder, report)
    unused = without_place(folder, model, report)
    if getattr(model, "pooler", None) is not None:
        names = [f"pooler.{name}" for name, _ in model.pooler.named_parameters()]
        unused += [name for name in names if name not in report["missing_keys"]]
        model.pooler = nn.Identity()  # trained for another task, or not at all; SqueezeBERT calls it unasked, so that None fails
    return model, sorted(unused)


def load_language_model(folder: Path, kind: str) -> tuple[Any, Loaded] | None:
    """Load the fp32 model of a folder with its head over the vocabulary, and its trunk as `load_encoder` gives it; None where the
    weights of that head are not there. `kind` is the auto class: AutoModelForMaskedLM."""
    model, report = _from_pretrained(folder, kind)
    trunk = f"{model.base_model_prefix}."
    if any(not key.startswith(trunk) for key in map(str, report["missing_keys"])):
        return None
    refuse_gaps(folder, report)
    unused = without_place(folder, model, report)
    unused = [key.removeprefix(trunk) if key.startswith(f"{trunk}pooler.") else key for key in unused]
    return model, measured(folder, model.base_model, unused)


def _from_pretrained(folder: Path, kind: str) -> tuple[Any, Mapping[str, Any]]:
    model, report = from_pretrained(folder, kind)
    make_traceable(model.base_model)
    return model, report


def measured(folder: Path, model: Any, unused: list[str]) -> Loaded:
    """Describe a trunk by running it once: what config.json calls the width of a row differs between architectures."""
    model.eval()
    model.config.use_cache = False
    found = _probed(model, torch.ones((1, PROBED), dtype=torch.int64), output_hidden_states=True)
    hidden = tuple(state.shape[-1] for state in found.hidden_states or ())
    return Loaded(model, found.last_hidden_state.shape[-1], hidden, sorted(unused))


def is_causal(model: Any) -> bool:
    """Tell whether a token sees only those before it: whether the first one's row is the same before other tokens. InvalidInput
    as `_probed`."""
    ones = torch.ones((1, PROBED), dtype=torch.int64)
    others = torch.full_like(ones, 2).index_fill_(1, torch.tensor([0]), 1)
    one, other = (_probed(model, ids).last_hidden_state[:, 0] for ids in (ones, others))
    return bool(torch.equal(one, other))


def _probed(model: Any, ids: torch.Tensor, **settings: Any) -> Any:
    """Run the model on (1, tokens) ids. InvalidInput, which names its architecture, where it fails or gives no row a token."""
    try:
        with torch.no_grad():
            found = model(input_ids=ids, attention_mask=torch.ones_like(ids), return_dict=True, **settings)
        shape = tuple(found.last_hidden_state.shape[:2])
        failure = "" if shape == ids.shape else f"its rows are {shape} for {tuple(ids.shape)} tokens"
    except MemoryError:
        raise
    except Exception as error:  # an architecture fails with errors of any kind
        failure = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        found = None
    if failure:
        raise InvalidInput(
            f"{Path(model.config.name_or_path).name} ({type(model).__name__} of transformers) gives no row for each token of a"
            f" text: {failure}",
            remedy="take a model that transformers runs on texts, or name the family that reads this one with --family",
        )
    return found


def position_limit(model: Any) -> int | None:
    """The most tokens that the model takes; RoBERTa and MPNet begin to count after the padding index. None where its positions
    are relative, and it does not say on how many it was trained."""
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if isinstance(table, nn.Embedding):
        return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    named = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    found = [int(limit) for name in named if (limit := getattr(model.config, name, None))]
    rope = getattr(model.config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":  # beyond it all tokens are turned otherwise, those of shorter batch mates too
        found.insert(0, int(rope.get("original_max_position_embeddings") or model.config.original_max_position_embeddings))
    return next((limit for limit in found if limit > 0), None)

"""Attention with the numbers of transformers' own where that has no graph, or one for the lengths alone that it was traced with.

Imported by the export process alone. Longformer's window (Beltagy et al. 2020, section 3) becomes one product with a mask: its
chunks are as many in a graph as in the text that was traced. It takes memory as full attention does, and has no global attention,
as transformers' model has none unless a task says so. The masks of Gemma 3 where a token sees those after it too (EmbeddingGemma)
are given to it, since its own cannot be traced.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor


def make_traceable(model: Any) -> None:
    """Replace what cannot be traced in a transformers model without a head."""
    if model.config.model_type == "longformer":
        _attend_by_mask(model)
    elif model.config.model_type == "gemma3_text" and model.config.use_bidirectional_attention:
        model.register_forward_pre_hook(_give_masks, with_kwargs=True)


def _attend_by_mask(model: Any) -> None:
    """Replace the attention of every layer of a LongformerModel, and the padding to a multiple of the window."""
    for layer in model.encoder.layer:
        attention = layer.attention.self
        attention.forward = partial(_attend, attention)
    model._pad_to_window_size = _unpadded


def _attend(attention: Any, rows: Tensor, attention_mask: Tensor, **_: Any) -> tuple[Tensor]:
    """Attend over (batch, tokens, dim); `attention_mask` (batch, tokens) is below 0 for padding."""
    count, tokens, dim = rows.shape

    def heads(projected: Tensor) -> Tensor:
        return projected.view(count, tokens, attention.num_heads, attention.head_dim).transpose(1, 2)

    query, key, value = (heads(project(rows)) for project in (attention.query, attention.key, attention.value))
    places = torch.arange(tokens)
    far = (places[None] - places[:, None]).abs() > attention.one_sided_attn_window_size
    lowest = torch.finfo(rows.dtype).min
    scores = (query @ key.transpose(2, 3)) / math.sqrt(attention.head_dim)
    scores = scores.masked_fill(far | (attention_mask < 0)[:, None, None], lowest)
    return ((scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(count, tokens, dim),)


def _unpadded(**given: Any) -> tuple[Any, ...]:
    """Stand in for LongformerModel._pad_to_window_size: nothing is added."""
    names = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")
    return (0, *(given[name] for name in names))


def _give_masks(model: Any, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Replace the (batch, tokens) mask by those of both kinds of layers, (batch, 1, tokens, tokens): 0 or the lowest number."""
    hidden = (given["attention_mask"] == 0)[:, None, None, :]
    places = torch.arange(hidden.shape[-1])
    far = (places[None] - places[:, None]).abs() >= model.config.sliding_window
    both = {"full_attention": hidden | torch.zeros_like(far), "sliding_attention": hidden | far}
    lowest = torch.finfo(torch.float32).min
    masks = {kind: torch.zeros(mask.shape).masked_fill(mask, lowest) for kind, mask in both.items()}
    return args, {**given, "attention_mask": masks}

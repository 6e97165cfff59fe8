"""Longformer's attention within a window, as one product with a mask: the same numbers as transformers' own, whose chunks are as
many in a graph as in the text that it was traced with. Takes memory as full attention does. (Beltagy et al. 2020, section 3.)

Imported by the export process alone. Without global attention, as transformers' model has it unless a task says otherwise.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor


def attend_by_mask(model: Any) -> None:
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

"""What an item is, and whether an encoder reads that."""

from __future__ import annotations

from collections.abc import Sequence

from topwork_server.errors import NotReady
from topwork_server.types import Clip, Item, Modality, Picture, Text


def check_modality(items: Sequence[Item], reads: Modality | None, whose: str, remedy: str) -> None:
    """NotReady names the first item of another modality. Arrays are left to the encoder: they may be pictures, clips or plain
    tensors."""
    for position, item in enumerate(items):
        modality = modality_of(item)
        if reads and modality and modality is not reads:
            raise NotReady(f"{whose} reads {reads}, not {modality}", remedy=remedy, item=position)


def modality_of(item: Item) -> Modality | None:
    match item:
        case Text():
            return Modality.TEXT
        case Picture():
            return Modality.IMAGE
        case Clip():
            return Modality.VIDEO
    return None

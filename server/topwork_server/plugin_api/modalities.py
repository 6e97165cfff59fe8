"""What an item is, and whether an encoder reads that."""

from __future__ import annotations

from collections.abc import Sequence

from topwork_server.errors import NotReady
from topwork_server.types import ImageItem, Item, Modality, TextItem, VideoItem


def check_modality(items: Sequence[Item], reads: Modality | None, whose: str, remedy: str) -> None:
    """NotReady names the first item of another modality. Arrays are left to the encoder: they may be pictures, clips or plain
    tensors."""
    for position, item in enumerate(items):
        modality = modality_of(item)
        if reads and modality and modality is not reads:
            raise NotReady(f"{whose} reads {reads}, not {modality}", remedy=remedy, item=position)


def item_kind(item: Item) -> str:
    """Name what an item is, with its article, for messages: "a text", "an image", "a video" or "an array"."""
    return {Modality.TEXT: "a text", Modality.IMAGE: "an image", Modality.VIDEO: "a video", None: "an array"}[modality_of(item)]


def modality_of(item: Item) -> Modality | None:
    match item:
        case TextItem():
            return Modality.TEXT
        case ImageItem():
            return Modality.IMAGE
        case VideoItem():
            return Modality.VIDEO
    return None

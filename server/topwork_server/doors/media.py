"""Pictures, videos and recordings within JSON: data URIs (RFC 2397), plain base64, or links to them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from topwork._display.excerpts import excerpt

from topwork_server.errors import InvalidInput
from topwork_server.types import AudioItem, ImageItem, Item, Modality, VideoItem

KINDS: Mapping[Modality, Callable[[bytes], Item]] = {
    Modality.IMAGE: ImageItem,
    Modality.VIDEO: VideoItem,
    Modality.AUDIO: AudioItem,
}


#: Characters at the beginning of a URI that have its scheme and, of a data URI, the kind of its media type.
LONGEST_TYPE = 64
#: The scheme of a URI (RFC 3986, section 3.1). Base64 has no colon.
_SCHEME = re.compile(r"\s*([a-z][a-z0-9+.-]{0,31}):", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Link:
    """An item at a URL of http or https, which links.py fetches. `modality` is None where the type of the file tells it."""

    url: str
    modality: Modality | None


def is_data_uri(text: str) -> bool:
    """Tell whether a text is a data URI of a kind that can be read."""
    return _scheme(text) == "data" and modality_of_uri(text) is not None


def modality_of_uri(uri: str) -> Modality | None:
    """The modality that the media type of a data URI names."""
    kind = uri[:LONGEST_TYPE].partition(":")[2].partition("/")[0].lower()
    return next((one for one in KINDS if one == kind), None)


def _scheme(text: str) -> str:
    """The scheme of a URI in small letters; "" of what is none."""
    found = _SCHEME.match(text[:LONGEST_TYPE])
    return found[1].lower() if found else ""


def linked_item_of(uri: str, modality: Modality | None = None) -> Item | Link:
    """The item of a URI as `item_of` makes it, or the link that a URL of http or https is."""
    return Link(uri.strip(), modality) if _scheme(uri) in ("http", "https") else item_of(uri, modality)


def item_of(uri: str, modality: Modality | None = None) -> Item:
    """The item of a data URI, or of base64 where its modality is known. InvalidInput for what is neither, and for other URIs."""
    scheme = _scheme(uri)
    if scheme not in ("", "data"):
        raise InvalidInput(
            f"{excerpt(uri)}: this server fetches no URLs of {scheme} here", remedy="send the file's own bytes as a data URI"
        )
    if scheme:
        head, _, data = uri.partition(",")
        modality = modality_of_uri(uri)
        if head[-7:].lower() != ";base64" or modality is None:
            raise InvalidInput(
                f"{excerpt(uri)} is no data URI of a picture, video or recording",
                remedy="write data:image/png;base64, and the bytes in base64",
            )
    else:
        data = uri
    if modality is None or modality not in KINDS:
        raise InvalidInput(
            f"{excerpt(uri)} is no data URI, and may be a picture, a video or a recording", remedy="send a data URI"
        )
    try:
        return KINDS[modality](base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(
            f"{excerpt(uri)}: its base64 is wrong: {error}", remedy="encode the file's bytes as they are"
        ) from None

"""A head with its trunk, to be run elsewhere."""

from __future__ import annotations

import json

from topwork_server.errors import NotReady
from topwork_server.heads.head_store import HeadStore
from topwork_server.heads.head_types import Head
from topwork_server.heads.pretrained import native_kept
from topwork_server.models.artifacts import MODEL, verify
from topwork_server.models.catalog import Catalog


def exported(head: Head, shelf: HeadStore, catalogue: Catalog) -> tuple[bytes, str]:
    """The ONNX file, and how to use it, in JSON. NotReady where the head's trunk is not here, or is another one now."""
    from topwork_server.heads.export.merge import merged

    if not head.encoder:
        raise NotReady(
            f"the head {head.name!r} learnt from ready vectors of no encoder: there is no trunk to export it with",
            remedy="export heads of sets that an encoder made",
        )
    entry = catalogue.entry(head.encoder)
    if entry.folder is None or entry.manifest is None:
        raise NotReady(f"the encoder {head.encoder} of the head {head.name!r} is not ready", remedy=entry.detail)
    tap = entry.manifest.tap(head.tap.tap.name)
    if tap is None or tap.fingerprint != head.tap.fingerprint:
        raise NotReady(
            f"the head {head.name!r} stands on fingerprint {head.tap.fingerprint}, and {head.encoder} now has"
            f" {tap.fingerprint if tap else 'no such tap'}",
            remedy=f"train it again, or serve the {head.encoder} that it stands on",
        )
    kept = native_kept(catalogue, head.name) if head.native else shelf.kept(head.name)
    kept.check()
    verify(entry.folder, entry.manifest)
    data, description = merged(entry.folder / MODEL, kept.graph, kept.head)
    return data, json.dumps(description)

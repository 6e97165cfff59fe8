"""The one call behind all doors that embed: an encoder by name, items, and rows in return."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from topwork_server.access.passes import encoder_pass, visible_encoders
from topwork_server.doors.calls import MODEL, Call
from topwork_server.doors.links import LinkReader
from topwork_server.doors.media import Link
from topwork_server.doors.text_inputs import ROLES
from topwork_server.errors import InvalidInput
from topwork_server.features import EmbedResult, TapRows
from topwork_server.inference.engine import EmbedParams, Engine
from topwork_server.models.catalog import Catalog
from topwork_server.models.catalog_entry import CatalogEntry
from topwork_server.plugin_api import options as request_options
from topwork_server.plugin_api.encoder import Encoder
from topwork_server.services.encoders import check_fingerprint
from topwork_server.types import EncoderSpec, FingerprintedTap, Granularity, Item, Modality, Numerics, Role

T = TypeVar("T")


class Embedder:
    """Embeds for doors. `default` is the encoder of requests that name none; `links` fetches items that are links."""

    def __init__(self, engine: Engine, catalog: Catalog, default: str, links: LinkReader) -> None:
        self._engine, self._catalog, self._default, self._links = engine, catalog, default, links

    def name(self, call: Call[Any], model: str = "") -> str:
        """The model that a request is for: as its body has it, its headers, or else the server's default."""
        found = model or call.model or self._default
        if not found:
            raise InvalidInput(
                "no model is named", remedy=f"set `model` or the header {MODEL}, or serve with --default-encoder NAME"
            )
        return found

    async def names(self) -> Sequence[str]:
        """The names of all encoders that the caller may use."""
        return visible_encoders(await asyncio.to_thread(self._catalog.names))

    async def spec(self, encoder: str) -> EncoderSpec:
        """The encoder's spec. NotFound where there is none of that name."""
        loaded = self._engine.loaded_encoder(encoder_pass(encoder))
        return loaded.spec if loaded else await asyncio.to_thread(self._catalog.spec, encoder)

    async def modalities(self, encoder: str) -> Sequence[Modality]:
        """Return what an encoder reads. NotFound where there is none of that name."""
        return (await self.spec(encoder)).modalities

    async def takes(self, encoder: str, option: str) -> bool:
        """Tell whether requests to an encoder may set an option of that name. NotFound where there is none of that name."""
        declared = request_options.declared_by(await self.spec(encoder))
        return option in {field.name for field in dataclasses.fields(declared)}

    async def prompt(self, encoder: str, name: str) -> tuple[dict[str, Any], Role | None]:
        """Return the options, or the role, that the name of a prompt stands for: where the encoder has a prompt for a role, and
        none of that name, the names that protocols have for the role stand for it. NotFound where there is no such encoder."""
        if role := ROLES.get(name):
            async with self._engine.acquire(encoder_pass(encoder)):  # exported first, if need be: only then its prompts are known
                prompts = await asyncio.to_thread(lambda: self._catalog.entry(encoder).prompts)
            if role in {prompt.role for prompt in prompts} and name not in {prompt.name for prompt in prompts}:
                return {}, role
        return ({"prompt_name": name} if name else {}), None

    async def entry(self, encoder: str) -> CatalogEntry:
        """Return what is known of an encoder. NotFound where there is none of that name."""
        return await asyncio.to_thread(self._catalog.entry, encoder_pass(encoder))

    async def taps(self, encoder: str) -> Sequence[FingerprintedTap]:
        """The taps of an encoder, of all its towers; none before it is exported. NotFound where there is none of that name."""
        if loaded := self._engine.loaded_encoder(encoder_pass(encoder)):
            return loaded.taps
        return (await self.entry(encoder)).taps

    async def usual_tap(self, encoder: str) -> FingerprintedTap:
        """The default tap of an encoder. NotFound where there is none of that name."""
        known = self._engine.loaded_encoder(encoder) or await self.entry(encoder)
        if not known.taps:
            async with self._engine.acquire(encoder_pass(encoder)) as known:  # exported first: only then its taps are known
                pass
        return next(info for info in known.taps if info.tap.name == known.spec.default_tap)

    def numerics(self, entry: CatalogEntry) -> Numerics | None:
        """Return what computes the encoder's usual tap here, or did so at its export; None before that."""
        plans = self._engine.plans_of(entry)
        if plans and plans.plans:
            return plans.plans[0].numerics
        return entry.manifest.numerics if entry.manifest else None

    async def ask(
        self,
        call: Call[Any],
        encoder: str,
        places: int,
        work: Callable[[Encoder, Any], T],
        options: Mapping[str, Any],
        role: Role | None = None,
    ) -> T:
        """Return what `work` makes of the encoder of texts and of the options, as `Engine.ask_encoder` runs it."""
        params = EmbedParams(
            encoder_pass(encoder), (), options, deadline=call.deadline, client=call.client, priority=call.priority, role=role
        )
        return await self._engine.ask_encoder(params, places, work)

    async def embed(
        self,
        call: Call[Any],
        encoder: str,
        items: Sequence[Item | Link],
        *,
        tap: str = "",
        options: Mapping[str, Any] | None = None,
        role: Role | None = None,
        skip_bad_items: bool = False,
    ) -> EmbedResult:
        """Rows of one tap, the encoder's default where none is named. NotReady where the request insists on another
        fingerprint. With `skip_bad_items` the items that are to blame have failures in place of rows."""
        taps = (tap,) if tap else ()
        return await self.embed_taps(call, encoder, items, taps, options or {}, role, skip_bad_items=skip_bad_items)

    async def embed_taps(
        self,
        call: Call[Any],
        encoder: str,
        items: Sequence[Item | Link],
        taps: Sequence[str],
        options: Mapping[str, Any],
        role: Role | None = None,
        *,
        wait: bool = False,
        skip_bad_items: bool = False,
    ) -> EmbedResult:
        """Rows of several taps, as `embed`; a fingerprint belongs to the first. `wait` waits for room in the encoder's queue."""
        params = EmbedParams(
            encoder_pass(encoder),
            tuple(taps),
            options,
            deadline=call.deadline,
            wait=wait,
            skip_bad_items=skip_bad_items,
            client=call.client,
            priority=call.priority,
            role=role,
        )
        async with self._links.read(items) as whole:
            result = await self._engine.embed(params, whole)
        check_fingerprint(call.fingerprint, encoder, result.taps[0].tap)
        return result


def one_row_each(result: EmbedResult) -> TapRows:
    """The tap's rows, one an item. InvalidInput for a tap that has several."""
    rows = result.taps[0]
    if rows.tap.tap.granularity is not Granularity.ITEM:
        raise InvalidInput(
            f"the tap {rows.tap.tap.name} has a row for each {rows.tap.tap.granularity} of an item, and one an item is asked for",
            remedy="ask for a tap such as `pooled`, or call topwork.v1.Encoders/Embed",
        )
    return rows

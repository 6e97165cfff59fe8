"""Requests of pretrainings, and the checks that need none of their texts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from topwork._display.excerpts import listed

from topwork_server.errors import AlreadyExists, InvalidInput, TopworkError
from topwork_server.models.catalog import Catalog
from topwork_server.names import check_name
from topwork_server.plugin_api import options as declared_options
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.plugin_api.pretrainer import BaseEncoder, PretrainerSpec
from topwork_server.types import Modality


@dataclass(frozen=True, slots=True)
class PretrainRequest:
    """`encoder` is trained further, "" for none. The texts are those that the set `set` keeps, or, where it is "", sent; `source`
    names where those came from, for a person."""

    kind: str
    name: str
    encoder: str
    options: Mapping[str, Any]
    seed: int
    set: str = ""
    where: str = ""
    version: int = 0
    source: str = ""

    @property
    def origin(self) -> str:
        """Name where the texts come from."""
        return f"the set {self.set}" if self.set else self.source or "a corpus"


def check(request: PretrainRequest, catalog: Catalog, plugins: PluginRegistry) -> None:
    """Raise the error of a request that cannot be: InvalidInput, NotFound, NotReady, AlreadyExists."""
    spec = plugins.pretrainer(request.kind)
    options = parsed_options(spec, request.options)
    if not request.name:
        raise InvalidInput("the encoder has no name", remedy="give it a `name`")
    check_name(request.name, "an encoder")
    if request.name in catalog.names() or request.name in catalog.added():
        raise AlreadyExists(
            f"there is an encoder {request.name!r}", remedy=f"choose another name, or `topwork forget {request.name}` first"
        )
    if request.where and not request.set:
        raise InvalidInput("`where` chooses items of a set, and none is named", remedy="name the set, or leave `where` out")
    try:
        spec.pretrainer.check(base_encoder(spec, request.encoder, catalog), options)
    except InvalidInput as error:
        if spec.continues and request.encoder not in (able := trainable(spec, catalog)):
            there = (
                f"{spec.kind} can train {listed(able)}"
                if able
                else f"no encoder whose weights are here is one that {spec.kind} trains"
            )
            error.remedy = f"{error.remedy}; {there}"
        raise


def trainable(spec: PretrainerSpec, catalog: Catalog) -> list[str]:
    """The encoders whose weights are here that a kind trains further with its usual options."""
    return [name for name in catalog.names() if _is_trainable(spec, name, parsed_options(spec, {}), catalog)]


def _is_trainable(spec: PretrainerSpec, name: str, options: Any, catalog: Catalog) -> bool:
    try:
        spec.pretrainer.check(base_encoder(spec, name, catalog), options)
    except TopworkError:
        return False
    return True


def check_texts(request: PretrainRequest, texts: Collection[str], plugins: PluginRegistry) -> None:
    """Raise InvalidInput for texts from which this kind cannot learn, as far as the first of them tell."""
    spec = plugins.pretrainer(request.kind)
    spec.pretrainer.check_texts(texts, parsed_options(spec, request.options))


def parsed_options(spec: PretrainerSpec, given: Mapping[str, Any]) -> Any:
    return declared_options.parse(spec.pretrainer.options, given, f"the pretrainer {spec.kind}")


def base_encoder(spec: PretrainerSpec, name: str, catalog: Catalog) -> BaseEncoder | None:
    """The encoder that is trained further, whose weights are on this disk. InvalidInput: it needs one, or takes none."""
    if not spec.continues:
        if name:
            raise InvalidInput(f"{spec.kind} learns from texts alone, and takes no encoder", remedy=f"leave {name!r} out")
        return None
    if not name:
        raise InvalidInput(f"{spec.kind} trains an encoder further, and none is named", remedy="name one")
    base = catalog.spec(name)
    if base.modalities != (Modality.TEXT,):
        reads = " and ".join(modality.plural for modality in base.modalities)
        towers = f" by {len(base.modalities)} towers" if base.other_towers else ""
        raise InvalidInput(
            f"{name} reads {reads}{towers}, and {spec.kind} trains encoders of texts alone", remedy="name an encoder of texts"
        )
    made = "fine-tuned" if base.tuned else "quantized" if base.int8 else ""
    if made:
        of = base.tuned.base if base.tuned else base.int8.base if base.int8 else ""
        raise InvalidInput(f"{name} was {made} here: its file is not one that {spec.kind} reads", remedy=f"train {of} further")
    return BaseEncoder(base, catalog.family(name), catalog.find_weights(name, base))

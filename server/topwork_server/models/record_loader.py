"""Makes encoders of the records in $TOPWORK_HOME/encoders: what was pulled by URI, or made of other encoders here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from topwork_server.models import source_refusals
from topwork_server.models.encoder_records import INT8_SUFFIX, MAP_SUFFIX, WEIGHTS_SUFFIX, EncoderRecords
from topwork_server.plugin_api import sources
from topwork_server.plugin_api.plugin_registry import PluginRegistry, Registered
from topwork_server.plugin_api.sources import SourceUri
from topwork_server.types import Adapter, AlignedMap, Int8Graph, Modality, TunedWeights


class RecordLoader:
    """Makes encoders of records; `lookup` finds, by name, an encoder that another was made of."""

    def __init__(self, plugins: PluginRegistry, home: Path, records: EncoderRecords, lookup: Callable[[str], Registered]) -> None:
        self._plugins, self._home, self._records, self._lookup = plugins, home, records, lookup

    def load(self, name: str, record: Mapping[str, Any]) -> Registered:
        """The encoder of a record. InvalidInput where no plugin reads its weights; NotFound where what it was made of is gone."""
        if "int8_of" in record:
            return self._load_quantized(name, record)
        if "pretrained" in record:
            return self.load_pretrained(name, record)
        if "texts" in record:
            return self._load_aligned(name, record)
        return self._load_fine_tuned(name, record) if "base" in record else self._load_pulled(name, record)

    def _load_quantized(self, name: str, record: Mapping[str, Any]) -> Registered:
        base = self._lookup(record["int8_of"])
        path = str(self._records.path(name).with_suffix(INT8_SUFFIX))
        graph = Int8Graph(base.spec.name, path, record["sha256"], record["parity"], record["made"])
        what = f"{base.spec.name} in int8: {record['made']}"
        spec = replace(base.spec, name=name, int8=graph, description=what, other_towers=())
        return Registered(spec, base.plugin, base.owner)

    def _load_fine_tuned(self, name: str, record: Mapping[str, Any]) -> Registered:
        base = self._lookup(record["base"])
        adapter = Adapter(**record["adapter"], below=base.spec.tuned) if record.get("adapter") else None
        path = str(self._records.path(name).with_suffix(WEIGHTS_SUFFIX))
        weights = TunedWeights(base.spec.name, path, record["sha256"], adapter)
        declared = {key: record[key] for key in ("default_tap", "trained_on")}
        description = f"{base.spec.name}, fine-tuned{' by an adapter' if adapter else ''}"
        spec = replace(base.spec, name=name, tuned=weights, description=description, other_towers=(), **declared)
        return Registered(spec, base.plugin, base.owner)

    def _load_aligned(self, name: str, record: Mapping[str, Any]) -> Registered:
        base, texts = self._lookup(record["base"]), self._lookup(record["texts"])
        path = str(self._records.path(name).with_suffix(MAP_SUFFIX))
        of_texts = next(tower for tower in texts.spec.towers if tower.modality is Modality.TEXT)
        spec = replace(
            base.spec,
            name=name,
            aligned=AlignedMap(base.spec.name, path, record["sha256"], tuple(record["taps"])),
            default_tap=of_texts.default_tap,
            taps=(),
            trained_on=record["trained_on"],
            description=f"{base.spec.name}, aligned with the texts of {of_texts.name}",
            other_towers=(of_texts,),
        )
        return Registered(spec, base.plugin, base.owner)

    def load_pretrained(self, name: str, record: Mapping[str, Any]) -> Registered:
        """The encoder of a record of a pretraining."""
        found = self._load_pulled(name, {**record, "source": f"file:{self._records.folder_of(name)}"})
        of = f"{record['made_from']}, trained further" if record["made_from"] else "trained here"
        spec = replace(found.spec, description=f"{of} ({record['pretrained']})", trained_on=record["trained_on"])
        return Registered(spec, found.plugin, found.owner)

    def _load_pulled(self, name: str, record: Mapping[str, Any]) -> Registered:
        source = replace(SourceUri.parse(record["source"], record["family"]), settings=record["settings"])
        source = sources.with_files(source, self._home)
        found = self._plugins.resolve_source(name, source)
        if found is None:
            families = [plugin.name for plugin in self._plugins.found() if "resolve_source" in plugin.hooks]
            source_refusals.check_there(source)
            raise source_refusals.unread(source, self._plugins.refusals(source), families)
        first, *others = (
            replace(tower, name=name, settings={**tower.settings, **record["settings"]}) for tower in found.spec.towers
        )
        return Registered(replace(first, other_towers=tuple(others)), found.plugin, found.owner)

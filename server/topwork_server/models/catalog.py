"""The encoders that can be asked for by name: their specs, where their weights come from, and what of them is on this disk."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from topwork._display.excerpts import excerpt

from topwork_server.access.passes import visible_encoders
from topwork_server.atomic_store import delete_if_possible, file_sha256, make_folder, publish, sync
from topwork_server.errors import DataLoss, InvalidInput, NotFound, NotReady, TopworkError
from topwork_server.jobs.child_processes import ChildProcesses
from topwork_server.models import artifacts, source_refusals, unfinished
from topwork_server.models.artifacts import Manifest
from topwork_server.models.catalog_entry import CatalogEntry, EncoderState, join_entries
from topwork_server.models.encoder_records import (
    INT8_SUFFIX,
    MAP_SUFFIX,
    WEIGHTS_SUFFIX,
    EncoderRecords,
    PretrainedEncoder,
    made_of,
)
from topwork_server.models.export_process import run_export
from topwork_server.models.record_loader import RecordLoader
from topwork_server.names import LONGEST_NAME, check_name, instead
from topwork_server.plugin_api import saved_models, sources
from topwork_server.plugin_api.environments import Environment
from topwork_server.plugin_api.plugin_registry import PluginRegistry, Registered
from topwork_server.plugin_api.sources import Progress, SourceUri, quiet
from topwork_server.plugin_api.untrusted_files import check_files
from topwork_server.types import Adapter, EncoderSpec

log = logging.getLogger(__name__)


def _name_from(source: SourceUri) -> str:
    """The last part of what the source names. InvalidInput where it is too long for a name."""
    name = saved_models.short_name(source.location) if source.scheme == "tfhub" else Path(source.location).name
    name = name.removesuffix(".tar.gz").removesuffix(".tgz") if source.archive else name
    if len(name) > LONGEST_NAME:
        raise InvalidInput(f"{name!r} is too long to name an encoder", remedy="choose a name with --name")
    return name


class Catalog:
    """The encoders of a home. `proposed` are records by name that are not on its disk, and stand in place of those that are."""

    def __init__(self, plugins: PluginRegistry, home: Path, proposed: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._plugins = plugins
        self._registered = plugins.encoders()
        self.home = home
        self._records = EncoderRecords(home / "encoders", proposed)
        self._loader = RecordLoader(plugins, home, self._records, self._lookup)

    def names(self) -> list[str]:
        """List all encoders that can be asked for: registered by plugins, then pulled by URI."""
        return [*self._registered, *sorted(self._added_records())]

    def spec(self, name: str) -> EncoderSpec:
        """Return an encoder's spec. NotFound names what is near."""
        return self._lookup(name).spec

    def source(self, name: str) -> SourceUri:
        record = self._added_records().get(name, {})
        parents = made_of(record)
        family = self.source(parents[0]).family if parents else record.get("family", "")
        return SourceUri.parse(self.spec(name).source, family)

    def tower_source(self, name: str, tower: EncoderSpec) -> SourceUri:
        """The source of the weights of a tower of an encoder."""
        return SourceUri.parse(tower.source, self.source(name).family)

    def family(self, name: str) -> str:
        """The name of the plugin that reads an encoder."""
        return self._lookup(name).plugin

    def entry(self, name: str) -> CatalogEntry:
        """Describe what is on this disk now; download and import nothing."""
        found = self._lookup(name)
        towers = [self._tower_entry(name, tower, found.owner) for tower in found.spec.towers]
        return towers[0] if len(towers) == 1 else join_entries(found.spec, towers)

    def _tower_entry(self, name: str, spec: EncoderSpec, owner: str) -> CatalogEntry:
        """Describe the one artifact of a spec, which belongs to the encoder of that name."""
        folder = artifacts.find(self.home, spec)
        if folder:
            manifest = Manifest.read(folder)
            spec = replace(spec, default_tap=manifest.default_tap or spec.default_tap)
            return CatalogEntry(spec, owner, EncoderState.READY, "", manifest, folder)
        damage = artifacts.damage(artifacts.folder_of(self.home, spec))
        if sources.locate(self.tower_source(name, spec), self.home):
            detail = f"{damage}: the next use exports it again" if damage else "the first use exports it"
            return CatalogEntry(spec, owner, EncoderState.FETCHED, detail)
        return CatalogEntry(spec, owner, EncoderState.ABSENT, f"run `topwork pull {name}` where the server runs")

    def add(
        self,
        uri: str,
        name: str | None = None,
        family: str = "",
        settings: Mapping[str, Any] | None = None,
        progress: Progress = quiet,
    ) -> EncoderSpec:
        """Give a name to weights that no plugin registered, and remember it. Errors as of `propose`."""
        name = self.name_for(uri, name)
        proposed = self.propose(uri, name, family, settings, progress)
        proposed.keep()
        return proposed.spec(name)

    def propose(
        self,
        uri: str,
        name: str | None = None,
        family: str = "",
        settings: Mapping[str, Any] | None = None,
        progress: Progress = quiet,
    ) -> Catalog:
        """Return a catalog in which a name means weights that no plugin registered. On the disk, and for a server, it means that
        from `keep` on. InvalidInput where no plugin reads them. What has to be unpacked before it is known what it reads
        (`tfhub:`) is downloaded."""
        source, name = SourceUri.parse(uri), self.name_for(uri, name)
        source_refusals.check_there(source)
        sources.with_files(source, self.home, progress)
        record = {"source": str(source), "family": family, "settings": dict(settings or {})}
        found = self._loader.load(name, record)
        source_refusals.check_settings(found.spec, settings or {})
        record["family"] = found.plugin  # it is known again where the file that it was read from is gone
        return Catalog(self._plugins, self.home, {name: record})

    def keep(self) -> None:
        """Remember what was proposed, in place of what its name meant before."""
        self._records.keep()

    def name_for(self, uri: str, name: str | None = None) -> str:
        """The name that weights of a source get. InvalidInput where it is none, or that of a registered encoder."""
        given, name = name, name or _name_from(SourceUri.parse(uri))
        try:
            check_name(name, "an encoder")
        except InvalidInput as error:
            raise error if given else InvalidInput(error.message, remedy=f"choose another with --name: {error.remedy}") from None
        if name in self._registered:
            raise InvalidInput(f"{name!r} is the name of a registered encoder", remedy="choose another with --name")
        return name

    def add_fine_tuned(
        self, name: str, base: str, weights: Path, tap: str, trained_on: str, adapter: Adapter | None = None
    ) -> EncoderSpec:
        """Remember an encoder that was fine-tuned of `base`; the file of its weights, or of its adapter, is moved here. `tap` is
        its default."""
        self.spec(base)
        sha256 = self._take_file(weights, name, WEIGHTS_SUFFIX)
        record: dict[str, Any] = {"base": base, "sha256": sha256, "default_tap": tap, "trained_on": trained_on}
        if adapter:
            record["adapter"] = {"config": dict(adapter.config), "trunk": adapter.trunk}
        self._records.write(name, record)
        return self.spec(name)

    def add_aligned(self, name: str, base: str, texts: str, map: Path, taps: Sequence[str], trained_on: str) -> EncoderSpec:
        """Remember an encoder of two towers: `base` with the graph of a map to the space of `texts`, and `texts` itself, which
        keeps its artifact. The file is moved here."""
        self.spec(base), self.spec(texts)
        sha256 = self._take_file(map, name, MAP_SUFFIX)
        record = {"base": base, "texts": texts, "sha256": sha256, "taps": list(taps), "trained_on": trained_on}
        self._records.write(name, record)
        return self.spec(name)

    def add_quantized(
        self, name: str, base: str, graph: Path, parity: Mapping[str, Mapping[str, float]], made: str
    ) -> EncoderSpec:
        """Remember an encoder whose graph is the int8 form of that of `base`; the file is moved here."""
        self.spec(base)
        record = {"int8_of": base, "sha256": self._take_file(graph, name, INT8_SUFFIX), "parity": parity, "made": made}
        self._records.write(name, record)
        return self.spec(name)

    def add_pretrained(self, name: str, folder: Path, made: PretrainedEncoder) -> EncoderSpec:
        """Remember an encoder that was pretrained here; the folder of its files is moved here. InvalidInput where its family
        does not read it."""
        place = self._records.folder_of(name)
        publish(folder, place)
        record = asdict(made)
        spec = self._loader.load_pretrained(name, record).spec
        self._records.write(name, record)
        return spec

    def _take_file(self, file: Path, name: str, suffix: str) -> str:
        """Move a file beside the record of its encoder, durably, and return its checksum."""
        path = self._records.path(name).with_suffix(suffix)
        make_folder(path.parent)
        shutil.move(file, path)
        sync(path)
        return file_sha256(path)

    def derived_from(self, base: str) -> list[str]:
        """The encoders that were fine-tuned, aligned or quantized of another, or have it as their tower of texts."""
        return sorted(name for name, record in self._added_records().items() if base in made_of(record))

    def fine_tuned(self) -> list[str]:
        """The encoders that were fine-tuned, or aligned with a text encoder, here: those that go with a head. Those too of which
        a killed training left the file alone."""
        found = self._records.read()
        files = [path.name for path in self._records.folder.glob("[!.]*")]
        left = {file.removesuffix(suffix) for suffix in (WEIGHTS_SUFFIX, MAP_SUFFIX) for file in files if file.endswith(suffix)}
        alone = left - {*found.damaged, *map(artifacts.slug, found.intact)}
        return sorted({name for name, record in found.intact.items() if "base" in record} | alone)

    def delete_fine_tuned(self, name: str) -> None:
        """Delete an encoder that was fine-tuned or aligned here, with its file and artifact; no error where there is none."""
        if name in self.fine_tuned() or name in self.damaged():
            self.delete(name)

    def delete(self, name: str) -> None:
        """Delete an added encoder: its name, its artifact, and the file that was made for it here. Downloads stay."""
        try:
            for tower in self.spec(name).towers:
                if tower.name == name:
                    artifacts.remove(self.home, tower)
        except DataLoss:  # what it was made from is not known any more: by its name
            for folder in artifacts.folders(self.home):
                if artifacts.is_of(folder, [name]):
                    artifacts.discard(folder)
        except TopworkError:  # one whose base or plugin is gone has no artifact that could be named
            pass
        self.remove(name)
        for suffix in (WEIGHTS_SUFFIX, INT8_SUFFIX, MAP_SUFFIX):
            self._records.path(name).with_suffix(suffix).unlink(missing_ok=True)
        delete_if_possible(self._records.folder_of(name))

    def added(self) -> list[str]:
        """List the encoders that were pulled by URI, fine-tuned, quantized or pretrained here, those too whose record is damaged;
        not what plugins register."""
        found = self._records.read()
        return sorted({*found.intact, *found.damaged})

    def damaged(self) -> Mapping[str, DataLoss]:
        """Encoders whose record is damaged, by name, and how."""
        return self._records.read().damaged

    def unused_artifacts(self) -> list[Path]:
        """Artifacts that no encoder refers to: of older servers, of weights or settings that were changed, of encoders that are
        gone. What has no complete spec any more (its plugin is not here), or is being made, keeps its own."""
        in_use, unknown = set[str](), [*self.damaged(), *unfinished.names(self._records.folder)]
        for name in self.names():
            try:
                in_use.update(artifacts.folder_of(self.home, tower).name for tower in self.spec(name).towers)
            except Exception:  # a plugin may raise anything on weights that are damaged
                unknown.append(name)
        return [path for path in artifacts.folders(self.home) if path.name not in in_use and not artifacts.is_of(path, unknown)]

    def remove(self, name: str) -> None:
        """Take an added name back; its files stay."""
        self._records.remove(name)

    def pull(self, name: str, progress: Progress = quiet) -> Path:
        """Fetch the weights of an encoder, of all its towers; give those of the first."""
        first, *_ = [self.pull_tower(name, tower, progress) for tower in self.spec(name).towers]
        return first

    def pull_tower(self, name: str, tower: EncoderSpec, progress: Progress = quiet) -> Path:
        """Fetch the weights of one tower of an encoder."""
        return sources.fetch(self.tower_source(name, tower), self.home, tower.sha256, progress)

    def find_weights(self, name: str, tower: EncoderSpec) -> Path:
        """Find the weights of one tower on this disk, for a look. NotReady where they are not there: `topwork pull` alone
        downloads."""
        source = self.tower_source(name, tower)
        found = sources.locate(source, self.home)
        if found is None:
            source_refusals.check_there(source)
            raise NotReady(f"the weights of {name} are not here", remedy=f"run `topwork pull {name}` where the server runs")
        check_files(found)
        return found

    def weights(self, name: str, tower: EncoderSpec) -> Path:
        """Find the weights of one tower on this disk, to use them: NotReady also where they are not what was downloaded."""
        self.find_weights(name, tower)
        return sources.fetch(self.tower_source(name, tower), self.home, tower.sha256)

    def missing_environments(self, name: str) -> list[Environment]:
        """The environments that the export of an encoder needs, and that are not on this disk."""
        needed = {tower.encoder.environment for tower in self.spec(name).towers} - {None}
        return [environment for environment in needed if environment and not environment.is_made(self.home)]

    def export(self, name: str, *, force: bool = False, children: ChildProcesses | None = None) -> Path:
        """Make the artifact of each tower in a process of its own, one of `children`; wait for it and return the first folder."""
        if self.entry(name).state is EncoderState.ABSENT:
            raise NotReady(f"the weights of {name} are not here", remedy=self.entry(name).detail)
        return run_export(self.home, name, force, children or ChildProcesses(), self._records.proposed.get(name))

    def _lookup(self, name: str) -> Registered:
        if name in self._registered:
            return self._registered[name]
        found = self._records.read()
        record = found.intact.get(name)
        if record is None and name in found.damaged:
            raise found.damaged[name]
        if record is None:
            remedy = instead(name, visible_encoders(self.names()), "install a plugin, or `topwork pull` one")
            raise NotFound(f"there is no encoder {excerpt(name)}", remedy=remedy)
        return self._loader.load(name, record)

    def _added_records(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the encoders whose records are whole."""
        return self._records.read().intact

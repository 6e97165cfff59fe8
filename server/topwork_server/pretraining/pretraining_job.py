"""The pretraining job: learns an encoder in a process of its own, exports it and adds it to the catalog, or leaves nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from topwork._display.number_text import counted

from topwork_server import atomic_store
from topwork_server.blocking_calls import Report, part
from topwork_server.errors import InvalidInput
from topwork_server.models import unfinished
from topwork_server.models.catalog import Catalog
from topwork_server.models.encoder_records import PretrainedEncoder
from topwork_server.plugin_api.plugin_registry import PluginRegistry
from topwork_server.plugin_api.pretrainer import PretrainResult
from topwork_server.plugin_api.sources import PRETRAINING_REPORT, SourceUri
from topwork_server.pretraining.corpus import CorpusFile
from topwork_server.pretraining.request import PretrainRequest, base_encoder, parsed_options
from topwork_server.types import EncoderSpec, FingerprintedTap


@dataclass(frozen=True, slots=True)
class PretrainingJob:
    """The arguments of a job. `corpus` is the file of the texts, `count` of them."""

    home: Path
    request: PretrainRequest
    corpus: Path
    count: int
    threads: int

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> PretrainingJob:
        paths = {name: Path(arguments[name]) for name in ("home", "corpus")}
        return cls(**{**arguments, **paths, "request": PretrainRequest(**arguments["request"])})


def pretrain(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Run the job. Returns its report: the encoder's name and fingerprint, measures, history, options, seconds, warnings."""
    return run_pretraining(PretrainingJob.of(arguments), PluginRegistry.load(), report)


def run_pretraining(job: PretrainingJob, plugins: PluginRegistry, report: Report) -> dict[str, Any]:
    """Learn, export and publish an encoder. TopworkError where it cannot be; then nothing has changed."""
    began, catalog, name = time.monotonic(), Catalog(plugins, job.home), job.request.name
    with (
        atomic_store.room_for(f"the encoder {name}", "train again"),
        unfinished.scratch_folder(job.home / "encoders", name) as scratch,
    ):
        folder = scratch / "encoder"
        folder.mkdir()
        result = _learn(job, catalog, plugins, folder, part(report, 0.0, 0.9))
        report(0.9, "exporting the encoder")
        try:
            spec = catalog.add_pretrained(name, folder, _record(job, catalog, result))
            catalog.export(name)
            default = _default_tap(catalog, name)
            made = _report(job, catalog, result) | {
                "tap": default.tap.name,
                "fingerprint": default.fingerprint,
                "seconds": time.monotonic() - began,
            }
            published = Path(SourceUri.parse(spec.source).location)
            atomic_store.write(published / PRETRAINING_REPORT, json.dumps(made, indent=1) + "\n")
        except BaseException:
            catalog.delete(name)
            raise
    return made


def _default_tap(catalog: Catalog, name: str) -> FingerprintedTap:
    entry = catalog.entry(name)
    assert entry.manifest is not None, "it was exported"
    default = entry.manifest.tap(entry.spec.default_tap)
    assert default is not None, "it is one of its taps"
    return default


def _learn(job: PretrainingJob, catalog: Catalog, plugins: PluginRegistry, folder: Path, report: Report) -> PretrainResult:
    request = job.request
    spec = plugins.pretrainer(request.kind)
    if not job.count:
        raise InvalidInput("there are no texts to learn from", remedy="give a file with a text a line")
    base, options = base_encoder(spec, request.encoder, catalog), parsed_options(spec, request.options)
    if base:
        catalog.weights(request.encoder, base.spec)  # those that learn further are the ones that were downloaded
    corpus = CorpusFile(job.corpus, job.count)
    return spec.pretrainer.pretrain(corpus, base, options, request.seed, job.threads, folder, report)


def _trained_on(job: PretrainingJob, catalog: Catalog) -> str:
    own = f"{counted(job.count, 'text')} of {job.request.origin}"
    if not job.request.encoder:
        return own
    before = catalog.spec(job.request.encoder).trained_on
    return f"{f'as {job.request.encoder}' if before == EncoderSpec.trained_on else before}; then {own}"


def _record(job: PretrainingJob, catalog: Catalog, result: PretrainResult) -> PretrainedEncoder:
    request = job.request
    return PretrainedEncoder(
        pretrained=request.kind,
        family=result.family,
        settings=dict(result.settings),
        made_from=request.encoder,
        trained_on=_trained_on(job, catalog),
        options=dict(request.options),
    )


def _report(job: PretrainingJob, catalog: Catalog, result: PretrainResult) -> dict[str, Any]:
    request = job.request
    return {
        "encoder": request.name,
        "kind": request.kind,
        "made_from": request.encoder,
        "texts": job.count,
        "trained_on": _trained_on(job, catalog),
        "measures": [asdict(measure) for measure in result.measures],
        "history": [dict(entry) for entry in result.history],
        "options": dict(request.options),
        "seed": request.seed,
        "warnings": list(result.warnings),
    }

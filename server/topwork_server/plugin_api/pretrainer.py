"""The class that a pretrainer plugin subclasses: it learns an encoder from texts without labels, and knows nothing of jobs or
catalogs.

Where the texts come from, what the encoder is named, how it is exported and served is the server's (`pretraining/`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from topwork_server.blocking_calls import Report
from topwork_server.plugin_api.encoder import NoOptions
from topwork_server.types import EncoderSpec


@dataclass(frozen=True)
class BaseEncoder:
    """The encoder that is trained further: its spec, the plugin that reads it, and the file or folder of its weights."""

    spec: EncoderSpec
    family: str
    assets: Path


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of a pretraining: "held-out loss", after it, and before where there was anything to measure."""

    name: str
    after: float
    before: float | None = None


@dataclass(frozen=True)
class PretrainResult:
    """The result of a pretraining, besides the folder that was written.

    family      the plugin whose `resolve_source` reads the folder
    measures    the main one first
    history     an entry an epoch or an evaluation, as JSON: {"epoch": 1, "loss": 4.2}
    settings    of the new encoder's spec, as `topwork pull --set` would give them
    warnings    sentences for a person to read
    """

    family: str
    measures: Sequence[Measure] = ()
    history: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()


class Pretrainer(ABC):
    """`options` is a frozen dataclass of what Pretrain may set, with defaults; its field types are checked."""

    options: ClassVar[type[Any]] = NoOptions

    @classmethod  # noqa: B027 (most have nothing to check)
    def check(cls, base: BaseEncoder | None, options: Any) -> None:
        """Raise InvalidInput for a base or options that cannot be trained. It runs in the server before texts are read: quick,
        without torch."""

    @classmethod  # noqa: B027 (as above)
    def check_texts(cls, texts: Collection[str], options: Any) -> None:
        """Raise InvalidInput for texts that cannot be learned from. It runs in the server when all have come, before the job: it
        reads no more of them than it must, which is the first few of a usual corpus."""

    @classmethod
    @abstractmethod
    def pretrain(
        cls,
        texts: Collection[str],
        base: BaseEncoder | None,
        options: Any,
        seed: int,
        threads: int,
        out: Path,
        report: Report,
    ) -> PretrainResult:
        """Train, and write the encoder's files into the empty folder `out`, as the family reads them of a `file:` source.

        texts can be iterated over again and again; none is blank. Raise InvalidInput for what cannot be learned. Runs in a
        process of its own, with `threads` for BLAS and torch. The same arguments give the same encoder (with one thread).
        """


@dataclass(frozen=True)
class PretrainerSpec:
    """A plugin's description of a way to learn without labels. `continues`: it trains an encoder further, and needs one."""

    kind: str
    pretrainer: type[Pretrainer]
    description: str = ""
    continues: bool = False

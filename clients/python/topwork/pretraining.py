"""Records of pretrainings: encoders that are learned from texts without labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from topwork._display.number_text import counted
from topwork._records import of_job
from topwork.encoders import OptionInfo
from topwork.jobs import Job

#: Entries of a history that the text of a report shows at most.
SHOWN = 10


@dataclass(frozen=True)
class PretrainerInfo:
    """A kind of pretraining that `pretrain` takes, and what its `options` may set.

    needs_encoder  it trains an encoder further, which must be named
    """

    kind: str
    description: str
    needs_encoder: bool
    options: tuple[OptionInfo, ...]
    plugin: str


@dataclass(frozen=True)
class PretrainMeasure:
    """A figure of a pretraining, after it and before; `before` is None where there was nothing to measure."""

    name: str
    after: float
    before: float | None = None

    def __str__(self) -> str:
        before = "" if self.before is None else f", {self.before:.4g} before"
        return f"{self.name} {self.after:.4g}{before}"


@dataclass(frozen=True, repr=False)
class PretrainReport:
    """The encoder that a pretraining made, and how it went; `str` of it is to be read.

    made_from    the encoder that was trained further; "" for none
    texts        how many it learned from
    measures     the main one first
    history      an entry an epoch or an evaluation, by name
    tap          the default tap of the encoder, and its fingerprint
    """

    encoder: str
    kind: str
    texts: int
    made_from: str = ""
    trained_on: str = ""
    measures: tuple[PretrainMeasure, ...] = ()
    history: tuple[Mapping[str, Any], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    warnings: tuple[str, ...] = ()
    tap: str = ""
    fingerprint: str = ""
    seconds: float = 0.0

    @staticmethod
    def of(job: Job) -> PretrainReport:
        """The report of a job of `pretrain` that is done. Raises JobFailed for one that failed, InvalidInput for any other."""
        return of_job(PretrainReport, job, "pretrain", "report", {"encoder": job.subject, "kind": "", "texts": 0})

    def lines(self) -> Iterator[str]:
        """The lines of its text."""
        of = f" from {self.made_from}" if self.made_from else ""
        yield f"encoder {self.encoder}: {self.kind}{of} on {counted(self.texts, 'text')}, in {self.seconds:,.0f} s"
        yield from (f"  {measure}" for measure in self.measures)
        yield from (
            f"  {', '.join(f'{name} {_shown(value)}' for name, value in entry.items())}" for entry in _spread(self.history)
        )
        yield from (f"warning: {warning}" for warning in self.warnings)

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def __repr__(self) -> str:
        best = f", {self.measures[0]}" if self.measures else ""
        return f"<PretrainReport: {self.encoder}, {self.kind}{best}>"


def _spread(history: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The first, the last and some between, where there are more than a screen likes."""
    last = len(history) - 1
    return history if last < SHOWN else [history[round(last * at / (SHOWN - 1))] for at in range(SHOWN)]


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"

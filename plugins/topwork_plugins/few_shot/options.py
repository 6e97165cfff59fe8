"""Options that Train may set. None leaves the choice to the examples: each is then judged by those that were left out."""

from __future__ import annotations

from dataclasses import dataclass

from topwork_server import option

#: Bounds of a temperature, above 0.
COLDEST, HOTTEST = 1e-4, 1e4


@dataclass(frozen=True)
class PrototypeOptions:
    """A mean for each class."""

    temperature: float | None = option(None, "what cosines are divided by", minimum=COLDEST, maximum=HOTTEST)
    centre: bool | None = option(None, "whether the mean of all rows is taken off before cosines")
    #: Of MiniLM and 20 topics of docstrings, 3 was better than 1 with one to five examples a class.
    prior: float = option(3.0, "how many examples the description of a class counts for", minimum=0, maximum=1e6)


@dataclass(frozen=True)
class KnnOptions:
    """The nearest examples vote."""

    k: int | None = option(None, "how many neighbours vote", minimum=1, maximum=1000)
    temperature: float | None = option(None, "what cosines are divided by in a vote's weight", minimum=COLDEST, maximum=HOTTEST)
    centre: bool | None = option(None, "whether the mean of all rows is taken off before cosines")


@dataclass(frozen=True)
class ZeroShotOptions:
    """Descriptions alone."""

    temperature: float | None = option(
        None,
        "what cosines are divided by; fitted on the examples, 0.07 where there are none",
        minimum=COLDEST,
        maximum=HOTTEST,
    )

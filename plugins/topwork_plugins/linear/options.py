"""What Train may set for a linear head."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class LinearOptions:
    """The defaults are right unless you know better."""

    model: Literal["auto", "logistic", "discriminant", "ridge"] = field(
        default="auto",
        metadata={
            "help": "logistic: softmax regression (a sigmoid a label); discriminant: Gaussian classes of one covariance, shrunk "
            "(classes only); ridge: least squares (numbers always); auto: what is likelier on held-out folds"
        },
    )
    strengths: int = field(default=45, metadata={"help": "regularisation strengths that are tried, 1 to 500"})
    class_weight: Literal["none", "balanced"] = field(
        default="none", metadata={"help": "balanced: rare classes (or labels) count as much as frequent ones"}
    )
    standardise: Literal["auto", "always", "never"] = field(
        default="auto",
        metadata={"help": "give columns equal variance before they are penalised; auto: where their scales differ widely"},
    )

    def __post_init__(self) -> None:
        if not 1 <= self.strengths <= 500:
            raise ValueError(f"strengths is {self.strengths}; give 1 to 500")

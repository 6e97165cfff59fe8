"""What Train may set for a linear head."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from topwork_server import option


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
    strengths: int = option(45, "regularisation strengths that are tried", minimum=1, maximum=500)
    class_weight: Literal["none", "balanced"] = field(
        default="none", metadata={"help": "balanced: rare classes (or labels) count as much as frequent ones"}
    )
    standardise: Literal["auto", "always", "never"] = field(
        default="auto",
        metadata={"help": "give columns equal variance before they are penalised; auto: where their scales differ widely"},
    )

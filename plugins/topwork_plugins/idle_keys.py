"""Keys of a config.json of transformers that no feature depends on: definitions, and so fingerprints, go without them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: Keys of any model. One more or less here changes the fingerprints of all models that have it.
ALWAYS = (
    r"_name_or_path|architectures|transformers_version|torchscript|(torch_)?dtype|output_(attentions|hidden_states)|return_dict"
    r"|id2label|label2id|problem_type"
)
#: Keys of how a model learns.
LEARNING = r".*dropout.*|initializer_.*|gradient_.*|torch_script"


def without_idle(config: Mapping[str, Any], *others: str) -> dict[str, Any]:
    """Leave out the keys of `ALWAYS`, and those that one of `others`, each a pattern, matches as a whole."""
    idle = re.compile("|".join((ALWAYS, *others)))
    return {key: value for key, value in config.items() if not idle.fullmatch(key)}

"""Reads what a model's folder says of itself, in the hub's two layouts:

    transformers            config.json, weights, tokenizer
    sentence-transformers   modules.json names folders: a Transformer, a Pooling, and stages after it (Dense, Normalize)

JSON only: no weights are opened here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from topwork_server import Granularity, InvalidInput, Tap

from topwork_plugins import json_files
from topwork_plugins.bert.architectures import CHECKED, ENCODER, Architecture, architecture_of
from topwork_plugins.idle_keys import LEARNING, without_idle

#: Older names of sentence-transformers' pooling modes, in the order in which it concatenates them.
POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLINGS = frozenset(POOLING_KEYS.values())
#: Architectures that began as code of their own on the hub, to which config.json still points, and that transformers now has; and
#: what their files say in words that transformers passes over: anything else than what its class takes for granted is refused.
NATIVE: Mapping[str, Mapping[str, Any]] = {
    "nomic_bert": {
        **{
            "n_embd": 768,
            "n_head": 12,
            "n_layer": 12,
            "n_inner": 3072,
            "activation_function": "swiglu",
            "layer_norm_epsilon": 1e-12,
        },
        **{"rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False, "rotary_scaling_factor": None},
        **dict.fromkeys(("causal", "mlp_fc1_bias", "parallel_block", "prenorm", "qkv_proj_bias", "use_rms_norm"), False),
    }
}
#: Files of a tokenizer, by which a folder of any architecture is known as one of texts.
TOKENIZER_FILES = frozenset(
    {"tokenizer.json", "tokenizer_config.json", "vocab.txt", "merges.txt", "spiece.model", "spm.model", "tokenizer.model"}
)
PROCESSOR_FILES = frozenset({"preprocessor_config.json", "processor_config.json"})

#: What sentence-transformers before release 4 writes into config.json of a cross-encoder.
CROSS_ENCODER_KEY = "sbert_ce_default_activation_function"

#: The tap of a cross-encoder's own head.
SCORE = "score"

#: What else config.json says that no feature depends on.
IDLE_KEYS = r"output_past|use_cache|tie_.*|finetuning_task|task_specific_params"
WANTED = "name the folder of a transformers or sentence-transformers model, with all of its files"


@dataclass(frozen=True)
class Stage:
    """A sentence-transformers module after the pooling: its class name, its folder and its config.json."""

    kind: str
    folder: Path
    config: Mapping[str, Any]

    @property
    def definition(self) -> dict[str, Any]:
        keys = ("in_features", "out_features", "bias", "activation_function") if self.kind == "Dense" else ()
        return {"kind": self.kind, **{key: self.config[key] for key in keys if key in self.config}}


@dataclass(frozen=True)
class Layout:
    """`transformer` is the folder of config.json; `max_length` counts special tokens; `poolings` are concatenated.
    `is_cross_encoder`: the model was made to score pairs of texts."""

    transformer: Path
    config: Mapping[str, Any]
    poolings: tuple[str, ...]
    stages: tuple[Stage, ...] = ()
    max_length: int | None = None
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str = ""
    pools_prompt: bool = True
    is_cross_encoder: bool = False

    @property
    def architecture(self) -> Architecture:
        return architecture_of(self.config["model_type"])

    @property
    def definition(self) -> dict[str, Any]:
        """The parts of the architecture that change what a feature means."""
        return {
            "config": without_idle(self.config, LEARNING, IDLE_KEYS),
            "poolings": list(self.poolings),
            "stages": [stage.definition for stage in self.stages],
            "pools_prompt": self.pools_prompt,
        }


def read_layout(folder: Path, pooling: str | Sequence[str] | None = None) -> Layout:
    """Read the layout of a folder; `pooling` overrides the folder's own. InvalidInput where the folder is not a model that this
    family reads."""
    modules = _modules(folder)
    transformer = json_files.folder_in(folder, str(modules[0]["path"]), "modules.json") if modules else folder
    config = read_json(transformer / "config.json")
    _check_config(folder, config)
    own: tuple[str, ...] = ("mean",)
    pools_prompt = True
    stages = list(_stages(folder, modules[1:]))
    if stages and stages[0].kind == "Pooling":
        own, pools_prompt = _poolings(stages[0].config), bool(stages.pop(0).config.get("include_prompt", True))
    sentence = _sentence_settings(transformer)
    prompts = read_json(folder / "config_sentence_transformers.json", missing_ok=True)
    return Layout(
        transformer,
        config,
        _checked_poolings(own if pooling is None else pooling),
        tuple(stages),
        max_length=sentence.get("max_seq_length"),
        lower_case=bool(sentence.get("do_lower_case", False)),
        prompts=prompts.get("prompts") or {},
        default_prompt=prompts.get("default_prompt_name") or "",
        pools_prompt=pools_prompt,
        is_cross_encoder=_is_cross_encoder(prompts, config),
    )


def _check_config(folder: Path, config: Mapping[str, Any]) -> None:
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise InvalidInput(
            f"{folder.name} does not say what it is (config.json has no model_type)", remedy="name a model of transformers"
        )
    if config.get("auto_map") and not _is_native(config):
        raise json_files.code_refusal(folder.name, json_files.own_code(config))


def _is_native(config: Mapping[str, Any]) -> bool:
    granted = NATIVE.get(config["model_type"])
    return granted is not None and all(config.get(key, value) == value for key, value in granted.items())


def _is_cross_encoder(sentence: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Tell whether a classifier of texts has one score, or was written by sentence-transformers to score pairs; `sentence` is its
    config_sentence_transformers.json."""
    written = config.get("sentence_transformers")
    if sentence.get("model_type") == "CrossEncoder" or CROSS_ENCODER_KEY in config:
        return True
    return (isinstance(written, dict) and "activation_fn" in written) or (_classifies_texts(config) and _labels(config) == 1)


def _classifies_texts(config: Mapping[str, Any]) -> bool:
    return any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ())


def _labels(config: Mapping[str, Any]) -> int:
    """2 is what transformers takes where the file does not say."""
    return len(config.get("id2label") or ()) or int(config.get("num_labels") or 2)


def taps(
    dim: int,
    hidden: Sequence[int],
    pooled: int | None = None,
    architecture: Architecture = ENCODER,
    labels: Sequence[str] = (),
) -> tuple[Tap, ...]:
    """List the taps of a trunk with rows of width `dim`; `hidden` are the widths of its embeddings and of each layer's output,
    `pooled` is the width of its pooled row if that differs, `labels` are those of a cross-encoder. The first one's description
    says of a generic one what it is."""
    generic = "" if architecture.checked else "; a generic encoder: checked at its export alone, of an architecture without tests"
    each = [
        Tap(f"hidden.{n}", width, Granularity.TOKEN, description=f"tokens after layer {n}" if n else "token embeddings")
        for n, width in enumerate(hidden)
    ]
    return (
        Tap("pooled", pooled or dim, Granularity.ITEM, description=f"the model's own pooling and normalization{generic}"),
        Tap("tokens", dim, Granularity.TOKEN, description="tokens after the last layer"),
        *(Tap(tap.name, dim, Granularity.ITEM, description=tap.description) for tap in architecture.poolings),
        *each,
        *([Tap(SCORE, len(labels), Granularity.ITEM, description=_scores_of(labels))] if labels else ()),
    )


def _scores_of(labels: Sequence[str]) -> str:
    what = "score" if len(labels) == 1 else f"scores of {', '.join(labels)}"
    return f"the cross-encoder's {what} of a pair of texts, before any activation"


def read_ours(folder: Path) -> Layout:
    """Read the layout of a folder that nobody has said to be a model of texts: as `read_layout`, and one of an architecture that
    our tests do not compare has a tokenizer, and nothing that prepares pictures or sound."""
    layout = read_layout(folder)
    there = {path.name for path in layout.transformer.iterdir()}
    if not layout.architecture.checked and (not there & TOKENIZER_FILES or there & PROCESSOR_FILES):
        raise InvalidInput(
            f"{folder.name} is a {layout.config['model_type']!r} model (config.json), and no encoder of texts alone",
            remedy=f"this family reads {', '.join(sorted(CHECKED))}, and others of transformers that have a tokenizer and no"
            " preprocessor_config.json",
        )
    return layout


def is_ours(folder: Path) -> bool:
    """Tell whether the folder holds a model of texts, by its JSON files alone."""
    try:
        read_ours(folder)
    except InvalidInput:
        return False
    return True


def read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """Read the object of a JSON file of the folder; {} where `missing_ok` and it is not there."""
    return json_files.read_json(path, WANTED, missing_ok=missing_ok)


def _modules(folder: Path) -> list[dict[str, Any]]:
    """The entries of modules.json, the Transformer first; none for a plain transformers model."""
    path = folder / "modules.json"
    if not path.exists():
        return []
    try:
        modules = sorted(json_files.load(path), key=lambda module: int(module["idx"]))
        assert all({"path", "type"} <= set(module) for module in modules)
    except InvalidInput:
        raise
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"{path} is no list of modules", remedy="copy the model's folder again") from error
    foreign = [module["type"] for module in modules if not str(module["type"]).startswith("sentence_transformers.")]
    if foreign:
        raise InvalidInput(
            f"{folder.name} is computed by code of its own ({foreign[0]} in modules.json), which is never run here",
            remedy="take a model of sentence-transformers' own modules",
        )
    if not modules or _kind(modules[0]) != "Transformer":
        raise InvalidInput(f"{folder.name} does not begin with a Transformer (modules.json)", remedy="name another model")
    return modules


def _kind(module: Mapping[str, Any]) -> str:
    return str(module["type"]).rpartition(".")[2]


def _stages(folder: Path, modules: Sequence[Mapping[str, Any]]) -> Iterator[Stage]:
    for position, module in enumerate(modules):
        kind = _kind(module)
        place = json_files.folder_in(folder, str(module["path"]), "modules.json")
        config = read_json(place / "config.json", missing_ok=kind in ("Normalize", "Dropout"))
        if kind not in ("Pooling", "Dense", "Normalize", "Dropout") or (kind == "Pooling" and position):
            raise InvalidInput(f"{folder.name} has a {kind} module (modules.json) that is not supported here")
        places = {config.get("module_input_name") or "sentence_embedding"}
        places.add(config.get("module_output_name") or "sentence_embedding")
        if places != {"sentence_embedding"} or config.get("use_residual"):
            raise InvalidInput(f"{place.name} of {folder.name} is not a plain {kind} of the pooled row: not supported here")
        if kind != "Dropout":  # it does nothing outside training
            yield Stage(kind, place, config)


def _poolings(config: Mapping[str, Any]) -> tuple[str, ...]:
    """sentence-transformers 5.3 and later name the modes; earlier ones hold a flag for each."""
    if "pooling_mode" in config:
        named = config["pooling_mode"]
        return (named,) if isinstance(named, str) else tuple(named)
    return tuple(mode for key, mode in POOLING_KEYS.items() if config.get(key)) or ("mean",)


def _checked_poolings(named: str | Sequence[str]) -> tuple[str, ...]:
    modes = (named,) if isinstance(named, str) else tuple(named)
    unknown = [mode for mode in modes if mode not in POOLINGS]
    if unknown or not modes:
        raise InvalidInput(f"unknown pooling {unknown}", remedy=f"choose among {', '.join(sorted(POOLINGS))}")
    return modes


def _sentence_settings(transformer: Path) -> dict[str, Any]:
    """sentence_bert_config.json; older releases named the file after the architecture."""
    return next((read_json(path) for path in sorted(transformer.glob("sentence_*_config.json"))), {})

"""The description beside an ONNX file: what the graph reads and where its taps are. docs/onnx.md teaches it.

`Description.parse` checks everything that can be checked without the graph, and names the field and the file that are wrong.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from topwork_server import Granularity, InvalidInput, Modality

from topwork_plugins.images.preprocess import INTERPOLATIONS, Recipe
from topwork_plugins.onnx_file.fields import Fields

TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
#: What granularities the rows of a modality may have: only these have spans to go with them.
GRANULARITIES = {Modality.IMAGE: ("item", "cell"), Modality.TEXT: ("item", "token"), Modality.TENSOR: ("item",)}
LAYOUTS = ("NCHW", "NHWC", "NLC")


@dataclass(frozen=True)
class ImageReads:
    """Pictures: the recipe (its mean and std in the order RGB) and how its array lies in the graph's input."""

    input: str | None
    recipe: Recipe
    channels: str
    layout: str


@dataclass(frozen=True)
class TextReads:
    """Texts: the tokenizer file beside the graph, and the graph's names of TEXT_INPUTS, by those names."""

    tokenizer: str
    max_tokens: int
    padding: int
    inputs: Mapping[str, str]


@dataclass(frozen=True)
class TensorReads:
    """Arrays: axes after the batch axis, as in `Trunk.inputs`; None takes the graph's. `examples` is an .npy beside it."""

    input: str | None
    shape: tuple[str | int, ...] | None
    examples: str | None


@dataclass(frozen=True)
class TapReads:
    """A tap, and the tensor of the graph that it comes from.

    `layout` names the tensor's axes: NCHW, NHWC, or NLC (batch, cells or tokens, features), whose first `skip` are left out.
    `pool` "mean" or "first" makes one row of them.
    """

    name: str
    output: str
    granularity: Granularity
    layout: str
    grid: tuple[int, int] | None
    pool: str | None
    skip: int
    description: str


Reads: TypeAlias = ImageReads | TextReads | TensorReads


@dataclass(frozen=True)
class Description:
    file: str
    modality: Modality
    reads: Reads
    taps: tuple[TapReads, ...]
    default_tap: str
    license: str
    trained_on: str
    about: str

    @classmethod
    def parse(cls, record: Mapping[str, Any], file: str) -> Description:
        """Read a description from a mapping as TOML or JSON gives it; `file` is what errors call it."""
        fields = Fields(file, "", record)
        modality = Modality(fields.choice("modality", [str(m) for m in GRANULARITIES]))
        reads = _READERS[modality](fields.section(modality))
        sections = fields.section("taps")
        taps = tuple(_tap(sections.section(name), name, modality) for name in sections.names())
        if not taps:
            raise fields.wrong("taps", {}, 'describe at least one: [taps.pooled] with output = "the graph\'s tensor"')
        described = cls(
            file,
            modality,
            reads,
            taps,
            fields.choice("default_tap", [tap.name for tap in taps], taps[0].name),
            fields.text("license", "not said"),
            fields.text("trained_on", "not said"),
            fields.text("description", ""),
        )
        fields.finish()
        return described


def read(path: Path) -> dict[str, Any]:
    """The TOML beside an ONNX file, parsed but not checked."""
    beside = path.with_suffix(".toml")
    try:
        return tomllib.loads(beside.read_text("utf-8"))
    except FileNotFoundError:
        raise InvalidInput(
            f"{path.name} has no description beside it", remedy=f"write {beside.name} as docs/onnx.md shows"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{beside.name} is not TOML: {error}", remedy="correct it as docs/onnx.md shows") from error


def _image(fields: Fields) -> ImageReads:
    channels = fields.choice("channels", ("RGB", "BGR"), "RGB")
    order = 1 if channels == "RGB" else -1
    size = fields.size("size")
    recipe = Recipe(
        size=size,
        resize=fields.size("resize", size),
        mode=fields.choice("fit", ("center", "squash", "border"), "center"),  # type: ignore[arg-type]
        interpolation=fields.choice("interpolation", INTERPOLATIONS, "bilinear"),
        mean=fields.numbers("mean", 3, (0, 0, 0))[::order],
        std=fields.numbers("std", 3, (1, 1, 1))[::order],
        white=fields.number("white", 1.0),
    )
    if min(recipe.std) <= 0 or recipe.white <= 0:
        name, value = ("white", recipe.white) if recipe.white <= 0 else ("std", list(recipe.std))
        raise fields.wrong(name, value, "write positive numbers")
    if recipe.mode == "center" and (recipe.resize[0] < size[0] or recipe.resize[1] < size[1]):
        raise fields.wrong("resize", list(recipe.resize), f"write at least the size, {list(size)}, from which it is cut")
    reads = ImageReads(fields.optional_text("input"), recipe, channels, fields.choice("layout", LAYOUTS[:2], "NCHW"))
    fields.finish()
    return reads


def _text(fields: Fields) -> TextReads:
    inputs = fields.section("inputs")
    names = {name: found for name in TEXT_INPUTS if (found := inputs.optional_text(name))}
    inputs.finish()
    reads = TextReads(
        fields.text("tokenizer", "tokenizer.json"), fields.whole("max_tokens", least=2), fields.whole("padding", 0), names
    )
    fields.finish()
    if Path(reads.tokenizer).name != reads.tokenizer:
        raise fields.wrong("tokenizer", reads.tokenizer, "write the name of a file beside the ONNX file")
    return reads


def _tensor(fields: Fields) -> TensorReads:
    reads = TensorReads(fields.optional_text("input"), fields.axes("shape"), fields.optional_text("examples"))
    fields.finish()
    if reads.examples and Path(reads.examples).name != reads.examples:
        raise fields.wrong("examples", reads.examples, "write the name of an .npy file beside the ONNX file")
    return reads


_READERS: Mapping[Modality, Any] = {Modality.IMAGE: _image, Modality.TEXT: _text, Modality.TENSOR: _tensor}


def _tap(fields: Fields, name: str, modality: Modality) -> TapReads:
    if not re.fullmatch(r"[A-Za-z_][\w.-]*", name):
        raise fields.wrong("", name, "name taps with letters, digits, and . _ -")
    tap = TapReads(
        name,
        fields.text("output"),
        Granularity(fields.choice("granularity", GRANULARITIES[modality], "item")),
        fields.choice("layout", LAYOUTS, "NCHW" if modality is Modality.IMAGE else "NLC"),
        fields.size("grid") if "grid" in fields.names() else None,
        fields.choice("pool", ("mean", "first")) if "pool" in fields.names() else None,
        fields.whole("skip", 0),
        fields.text("description", ""),
    )
    fields.finish()
    if tap.pool and tap.granularity is not Granularity.ITEM:
        raise fields.wrong("pool", tap.pool, "leave it out: only an item is pooled")
    if tap.grid and tap.granularity is not Granularity.CELL:
        raise fields.wrong("grid", list(tap.grid), 'leave it out, or set granularity = "cell"')
    return tap

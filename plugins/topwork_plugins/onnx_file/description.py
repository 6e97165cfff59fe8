"""The description beside an ONNX file: what the graph reads and where its taps are. docs/onnx.md teaches it.

`Description.parse` checks everything that can be checked without the graph, and names the field and the file that are wrong.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from topwork_server import Granularity, InvalidInput, Modality

from topwork_plugins.images.preprocess import INTERPOLATIONS, Recipe


class Fields:
    """One table of a description: fields are taken by name and kind, and what is left over is refused."""

    def __init__(self, file: str, path: str, record: Any) -> None:
        self._file, self._path, self._taken = file, path, set[str]()
        if not isinstance(record, Mapping):
            raise InvalidInput(f"{file}: {path} is {record!r}", remedy=f"write it as a table: [{path}]")
        self._record = record

    def names(self) -> Sequence[str]:
        return list(self._record)

    def section(self, name: str) -> Fields:
        self._taken.add(name)
        return Fields(self._file, self._where(name), self._record.get(name, {}))

    def text(self, name: str, default: str | None = None) -> str:
        value = self._take(name, default)
        if not isinstance(value, str) or (not value and default is None):
            raise self.wrong(name, value, "write a text in quotes")
        return value

    def optional_text(self, name: str) -> str | None:
        return self.text(name) if name in self._record else None

    def choice(self, name: str, choices: Sequence[str], default: str | None = None) -> str:
        value = self.text(name, default)
        if value not in choices:
            raise self.wrong(name, value, f"write one of {', '.join(choices)}")
        return value

    def number(self, name: str, default: float) -> float:
        return float(self.numbers(name, 1, (default,))[0])

    def whole(self, name: str, default: int | None = None, least: int = 0) -> int:
        value = self._take(name, default)
        if type(value) is not int or value < least:
            raise self.wrong(name, value, f"write a whole number of at least {least}")
        return value

    def numbers(self, name: str, count: int, default: Sequence[float]) -> tuple[float, ...]:
        """Read so many numbers, or one that stands for all."""
        value = self._take(name, list(default))
        values = value if isinstance(value, list) else [value] * count
        if len(values) != count or not all(type(v) in (int, float) for v in values):
            raise self.wrong(name, value, f"write {count} numbers in brackets" if count > 1 else "write a number")
        return tuple(float(v) for v in values)

    def size(self, name: str, default: tuple[int, int] | None = None) -> tuple[int, int]:
        """Height and width, or one number for both."""
        value = self._take(name, None if default is None else list(default))
        values = value if isinstance(value, list) else [value, value]
        if len(values) != 2 or not all(type(v) is int and 0 < v <= 8192 for v in values):
            raise self.wrong(name, value, "write [height, width], whole numbers up to 8192")
        return values[0], values[1]

    def axes(self, name: str) -> tuple[str | int, ...] | None:
        value = self._take(name, None) if name in self._record else None
        if value is None:
            return None
        if not isinstance(value, list) or not all(_is_axis(axis) for axis in value):
            raise self.wrong(name, value, 'write the axes after the batch axis, such as ["time", 80] or [3, "8*eighths"]')
        return tuple(value)

    def finish(self) -> None:
        """Refuse fields that were not taken."""
        for name in self._record:
            if name not in self._taken:
                near = difflib.get_close_matches(name, sorted(self._taken), n=1)
                remedy = f"did you mean {near[0]}?" if near else f"known here are {', '.join(sorted(self._taken))}"
                raise InvalidInput(f"{self._file}: unknown field {self._where(name)}", remedy=remedy)

    def wrong(self, name: str, value: Any, remedy: str) -> InvalidInput:
        fault = "is missing" if value is None else f"is {value!r}"
        return InvalidInput(f"{self._file}: {self._where(name)} {fault}", remedy=remedy)

    def _take(self, name: str, default: Any) -> Any:
        self._taken.add(name)
        return self._record.get(name, default)

    def _where(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name


def _is_axis(axis: object) -> bool:
    if isinstance(axis, str):
        return re.fullmatch(r"([1-9]\d*\*)?[A-Za-z_]\w*", axis) is not None
    return type(axis) is int and axis > 0


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

"""The class that a plugin author subclasses: the two ends of an ONNX graph. The server owns the session between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from topwork_server.errors import InvalidInput
from topwork_server.plugin_api import example_inputs
from topwork_server.plugin_crashes import contained
from topwork_server.types import Array, EncoderSpec, Item, Prompt, Role, Sample, Tap, Token

if TYPE_CHECKING:
    import torch

    from topwork_server.plugin_api.environments import Environment
    from topwork_server.plugin_api.trainer import PretrainedHead


@dataclass(frozen=True)
class NoOptions:
    """An encoder whose requests set nothing."""


#: Runs a network: the names of taps, and inputs by name with their batch axis; a tensor a tap.
Run = Callable[[Sequence[str], Mapping[str, Array]], Sequence[Array]]


@dataclass(frozen=True)
class Reference:
    """The network that a graph is compared with, and what that comparison is called in the encoder's record."""

    name: str
    run: Run


@dataclass(frozen=True)
class Trunk:
    """The trunk that `Encoder.export` gives to the exporter: a torch module, or a ready ONNX graph, and what it means.

    `module(*inputs)` (in evaluation mode) returns a tuple, one tensor a tap, in the order and with the shapes of `taps`.
    `inputs` maps each input's name, in the order of forward's arguments, to its axes: a str names a dynamic axis ("batch" is
    always the first), an int is fixed; "8*eighths" is a dynamic axis that must be a multiple of 8.
    `graph` is an ONNX file instead of a module; its outputs already have the names of the taps. It is compared with `reference`,
    where that is given, or else with itself, run plainly.
    `definition` and `preprocessing` are JSON: together with the weights and the tap they are the fingerprint, so they name
    everything that changes what a feature means, and nothing else (no paths, no versions of libraries).
    `default_tap` is the one that is meant where a request names none, where only the weights tell: it replaces that of the spec.
    `blocks` name the parameters of `module` from the bottom up, by prefix, a group for each block that may be frozen or trained
    at a rate of its own: (("embeddings.",), ("layer.0.",), ...). What no prefix names belongs to the last. `heads` are those
    that the pretrained network brings. `unused` names the weights of the source that neither the graph nor a head has, such as
    the classifier of a model that was trained for one task: `topwork pull` tells its user. `remarks` are sentences on the source
    that it tells too.
    """

    inputs: Mapping[str, tuple[str | int, ...]]
    taps: tuple[Tap, ...]
    definition: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    module: torch.nn.Module | None = None
    graph: Path | None = None
    reference: Reference | None = None
    exporter: Literal["dynamo", "legacy"] = "dynamo"
    examples: Sequence[Item] = field(default_factory=tuple)
    blocks: tuple[tuple[str, ...], ...] = ()
    heads: tuple[PretrainedHead, ...] = ()
    unused: Sequence[str] = ()
    remarks: Sequence[str] = ()
    default_tap: str = ""


class Encoder(ABC):
    """A frozen trunk's two ends: `preprocess` and `collate` before the graph; the taps name what comes out of it.

    `revision` is part of the fingerprint: raise it when a change in this class changes what its features mean.
    `options` is a frozen dataclass of what a request may set, with defaults; its field types are checked.
    `settings` names what `topwork pull --set` may set, which comes as `spec.settings`; None: anything, unchecked.
    `pads` says that `collate` may join samples of different shapes (and masks the padding); without it only samples of
    equal shapes share a batch. `budget` is the most that a batch may cost on a CPU, padding included, in units of `cost`.
    `chunk_items` is how many items one thread preprocesses at a time; 0: as many as is usual for the modality.
    `environment` is a virtual environment that `export` starts a program in, for libraries that must not enter ours: `pull` makes
    it.
    `inline_max_chars` promises that texts of so many characters in all are preprocessed sooner than a thread wakes, and never
    wait for anything: the server preprocesses them on its event loop. 0: always in threads.
    """

    revision: ClassVar[int] = 1
    options: ClassVar[type[Any]] = NoOptions
    settings: ClassVar[Sequence[str] | None] = None
    pads: ClassVar[bool] = False
    budget: ClassVar[int] = 32
    chunk_items: ClassVar[int] = 0
    inline_max_chars: ClassVar[int] = 0
    environment: ClassVar[Environment | None] = None
    fill_options: ClassVar[Mapping[str, Any]] = {}
    needs_to_fill: ClassVar[str] = "ask for an encoder with a head over its vocabulary: `GetEncoder(NAME)` lists its heads"

    @classmethod
    @abstractmethod
    def export(cls, spec: EncoderSpec, assets: Path, out: Path) -> Trunk:
        """Build the trunk from the files at `assets`, and write into `out` what `__init__` reads.

        Runs in a process of its own: import torch here, not at the top of the module. `assets` is the file or folder that
        `spec.source` names. Raise InvalidInput where the weights are not what this encoder reads.
        """

    @classmethod
    def prompts(cls, folder: Path) -> Sequence[Prompt]:
        """Return the prompts that the model names, from what `export` wrote into `folder`, for the catalog to show. What has a
        role is the prompt that `role_options` chooses for it."""
        return ()

    def __init__(self, spec: EncoderSpec, folder: Path) -> None:
        """Open what `export` wrote into `folder`. No torch here: this runs in the server."""
        self.spec = spec
        self.folder = folder

    @abstractmethod
    def preprocess(self, item: Item, options: Any) -> Iterable[Sample]:
        """Return one item's samples; this runs in any thread. Raise InvalidInput for a bad item: the engine adds its position.

        A long item (a video) should yield lazily: the engine takes a few samples at a time.
        """

    @property
    def example_options(self) -> Any:
        """Options with which examples are preprocessed: the defaults, unless those refuse what an example may be."""
        return self.options()

    def role_options(self, role: Role, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the options of a request whose items play a role in retrieval, of those that its caller set: for a model that
        prompts queries and documents in different ways. What is written to a set is a document, and what searches it a query, to
        whose options those of the set are given here. Where a request sets an option that this replaces, or that keeps the role
        from having effect, it is refused."""
        return options

    def preprocess_many(self, items: Sequence[Item], options: Any) -> Iterable[Iterable[Sample] | Exception]:
        """Return what `preprocess` gives for each item, in order; in the place of a bad item its error. For an encoder to which
        several items at once come cheaper than one after another; rows must not depend on which of the two was called."""
        for item in items:
            yield _preprocessed(self, item, options)

    def preprocess_long(self, item: Item, options: Any) -> Iterable[Sample]:
        """Return the samples of a text of any length, for its chunks alone: one over the limit in windows that overlap, lazily.
        Each token is a row of one sample, in the order of the text. The default leaves the limit to `preprocess`."""
        return self.preprocess(item, options)

    def cost(self, sample: Sample) -> int:
        """Return what the sample takes of `budget`; where `pads`, also its length (a batch costs count x longest)."""
        return 1

    def collate(self, samples: Sequence[Sample]) -> dict[str, Array]:
        """The graph's inputs for a batch. The default stacks samples of equal shapes."""
        if len(samples) == 1:  # not copied: a clip has 10 MB
            return {name: np.asarray(array, order="C")[np.newaxis] for name, array in samples[0].inputs.items()}
        return {name: np.stack([s.inputs[name] for s in samples]) for name in samples[0].inputs}

    def nearest(self, vector: Array, count: int) -> list[tuple[str, float]]:
        """The entries of this encoder's own vocabulary nearest to a (dim,) vector, with their cosines; where it has one."""
        raise NotImplementedError

    @property
    def mask(self) -> str:
        """Its vocabulary's own mask, which stands for a missing word, such as "<mask>"; "" where it has none."""
        return ""

    def words(self, entries: Sequence[int]) -> list[str]:
        """Entries of this encoder's own vocabulary, as a text would have them; where it brings a head over them."""
        raise NotImplementedError

    def entry(self, word: str) -> int:
        """The entry of this encoder's own vocabulary that a word is, -1 where it is not one; where it brings a head over them."""
        raise NotImplementedError

    @property
    def max_tokens(self) -> int:
        """The most tokens of a text, special ones included; 0 where there is no such bound."""
        return 0

    @property
    def array(self) -> tuple[str, Sequence[int]] | None:
        """The dtype of the arrays that an encoder of tensors reads, by numpy's name, and their shape, -1 for an axis of several
        lengths; None where that is not known."""
        return None

    def tokenize(self, text: str, options: Any) -> Sequence[Token]:
        """The tokens of a text, those of its prompt and special ones included; where this encoder has a tokenizer. It is called
        in any thread."""
        raise InvalidInput(f"{self.spec.name} tells no tokens", remedy=self._with_tokenizer)

    def detokenize(self, ids: Sequence[int], *, special: bool) -> str:
        """The text of token ids, `special` tokens written out or left away; where this encoder has a tokenizer. It is called in
        any thread."""
        raise InvalidInput(f"{self.spec.name} reads no token ids", remedy=self._with_tokenizer)

    _with_tokenizer: ClassVar[str] = "name an encoder of texts that has a tokenizer, such as a BERT"

    @classmethod
    def examples(cls, spec: EncoderSpec) -> Sequence[Item]:
        """Real inputs on which the export measures parity where the trunk brings none of its own."""
        return example_inputs.of(spec.modality)


def batch_key(encoder: Encoder, sample: Sample) -> Hashable:
    """Samples of equal keys may share a batch: all of them where the encoder pads, else those of equal shapes."""
    return None if encoder.pads else tuple((name, array.shape) for name, array in sample.inputs.items())


def _preprocessed(encoder: Encoder, item: Item, options: Any) -> Iterable[Sample] | Exception:
    try:
        return encoder.preprocess(item, options)
    except BaseException as error:
        return contained(error)

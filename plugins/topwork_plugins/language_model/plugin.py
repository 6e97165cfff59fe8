"""Language models of one's own texts, trained further: by masked words (Devlin et al. 2019), and by the next token."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from topwork_server import BaseEncoder, InvalidInput, Pretrainer, PretrainerSpec, PretrainResult, Report, hookimpl

from topwork_plugins.bert.architectures import DECODER, GENERIC, architecture_of
from topwork_plugins.cuda_device import check_device
from topwork_plugins.language_model.model_folder import ModelFolder
from topwork_plugins.language_model.options import CausalOptions, LanguageModelOptions, MaskedOptions
from topwork_plugins.language_model.tokenized import check_held_out

#: What config.json calls the most tokens of a text.
LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def checked_folder(base: BaseEncoder | None, options: LanguageModelOptions) -> ModelFolder:
    """The folder of the base. InvalidInput where there is no such device, or pieces are longer than what its config.json lets it
    read (a little less, of some architectures, is found in the job)."""
    folder = ModelFolder.of(base)
    check_device(options.device)
    limit = next((int(found) for name in LIMITS if isinstance(found := folder.layout.config.get(name), int) and found > 0), None)
    if limit is not None and options.tokens > limit and options.tokens != LanguageModelOptions.tokens:
        raise InvalidInput(f"tokens is {options.tokens:,}, and {folder.name} reads {limit:,}", remedy=f"give at most {limit:,}")
    return folder


class MaskedLanguageModel(Pretrainer):
    """Predicts hidden words from those on both sides. An encoder without such a head gets one."""

    options = MaskedOptions

    @classmethod
    def check(cls, base: BaseEncoder | None, options: Any) -> None:
        """Raise InvalidInput where the base is no transformers model, or its tokenizer has no mask."""
        folder = checked_folder(base, options)
        if not folder.mask:
            raise InvalidInput(
                f"the tokenizer of {folder.name} has no mask token: a masked language model cannot learn from it",
                remedy="name a model with a mask, such as BERT; decoders learn by the next token (lm)",
            )

    @classmethod
    def check_texts(cls, texts: Collection[str], options: Any) -> None:
        """Raise InvalidInput where all texts are equal: none could be held out."""
        check_held_out(texts)

    @classmethod
    def pretrain(
        cls,
        texts: Collection[str],
        base: BaseEncoder | None,
        options: MaskedOptions,
        seed: int,
        threads: int,
        out: Path,
        report: Report,
    ) -> PretrainResult:
        """Train further, and write the model with its head into `out`."""
        from topwork_plugins.language_model.masked import MaskedObjective
        from topwork_plugins.language_model.training import pretrain

        return pretrain(MaskedObjective, texts, ModelFolder.of(base), options, seed, threads, out, report)


class CausalLanguageModel(Pretrainer):
    """Predicts each token from those before it."""

    options = CausalOptions

    @classmethod
    def check(cls, base: BaseEncoder | None, options: Any) -> None:
        """Raise InvalidInput where the base is no transformers model, or reads in both directions."""
        folder = checked_folder(base, options)
        if architecture_of(folder.model_type) not in (DECODER, GENERIC):
            raise InvalidInput(
                f"{folder.name} ({folder.model_type}) reads texts in both directions: the next token would be no secret",
                remedy="train it further as a masked language model (mlm), or name a decoder such as GPT-2",
            )

    @classmethod
    def check_texts(cls, texts: Collection[str], options: Any) -> None:
        """Raise InvalidInput where all texts are equal: none could be held out."""
        check_held_out(texts)

    @classmethod
    def pretrain(
        cls,
        texts: Collection[str],
        base: BaseEncoder | None,
        options: CausalOptions,
        seed: int,
        threads: int,
        out: Path,
        report: Report,
    ) -> PretrainResult:
        """Train further, and write the model with its head into `out`."""
        from topwork_plugins.language_model.causal import CausalObjective
        from topwork_plugins.language_model.training import pretrain

        return pretrain(CausalObjective, texts, ModelFolder.of(base), options, seed, threads, out, report)


@hookimpl
def register_pretrainers() -> Iterable[PretrainerSpec]:
    """Register both kinds: by masked words, and by the next token."""
    yield PretrainerSpec("mlm", MaskedLanguageModel, "masked language model: BERT and its kin", continues=True)
    yield PretrainerSpec("lm", CausalLanguageModel, "language model by the next token: GPT and its kin", continues=True)

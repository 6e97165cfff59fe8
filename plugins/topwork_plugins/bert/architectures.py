"""Known architectures of transformers, by the model_type of their config.json: the rows that a text gives, and how the torch side
is built. No weights and no torch here.

    encoder           BERT and its kin: every token sees every other
    decoder           GPT-2, Llama and their kin: a token sees those before it
    encoder-decoder   T5 and its kin: the encoder alone
    generic           any other that transformers builds; what it gives is checked at export
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PooledTap:
    """A tap with a row a text: a pooling `mode` of sentence-transformers over all tokens, for any pooling of the model itself."""

    name: str
    mode: str
    description: str


FIRST = PooledTap("cls", "cls", "the first token")
LAST = PooledTap("last", "lasttoken", "the last token, which sees all before it")
MEAN = PooledTap("mean", "mean", "mean over all tokens")
MAX = PooledTap("max", "max", "maximum over all tokens")


@dataclass(frozen=True)
class Architecture:
    """`kind` is a word for messages; `poolings` are taps. `framed`: its tokenizer puts special tokens around a text, always.

    `encoder_alone`: transformers has a class for its encoder without its decoder. `typed`: it takes token types, whatever its
    config.json says. `checked`: our tests compare every tap with transformers.
    """

    kind: str
    poolings: tuple[PooledTap, ...]
    framed: bool = False
    encoder_alone: bool = False
    typed: bool = False
    checked: bool = True


ENCODER = Architecture("encoder", (FIRST, MEAN, MAX), framed=True)
DECODER = Architecture("decoder", (LAST, MEAN, MAX))
ENCODER_DECODER = Architecture("encoder-decoder", (MEAN, MAX), framed=True, encoder_alone=True)
XLNET = Architecture(
    "encoder", (PooledTap("cls", "lasttoken", "the classification token, which stands last"), MEAN, MAX), framed=True, typed=True
)
GENERIC = Architecture("generic", (FIRST, MEAN), checked=False)
#: What `GENERIC` becomes where a token sees only those before it: its first token is the same for every text.
GENERIC_CAUSAL = Architecture("generic", (LAST, MEAN), checked=False)

ENCODERS = (
    *("albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "longformer", "megatron-bert"),
    *("modernbert", "mpnet", "nomic_bert", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"),
)
DECODERS = (
    *(
        "bloom",
        "gemma",
        "gemma2",
        "gemma3_text",
        "gpt2",
        "gpt_neo",
        "gpt_neox",
        "llama",
        "mistral",
        "opt",
        "phi3",
        "qwen2",
        "qwen3",
    ),
)
ENCODER_DECODERS = ("mt5", "t5", "umt5")

#: Those whose every tap our tests compare with transformers.
CHECKED = {
    **dict.fromkeys(ENCODERS, ENCODER),
    **dict.fromkeys(DECODERS, DECODER),
    **dict.fromkeys(ENCODER_DECODERS, ENCODER_DECODER),
    "xlnet": XLNET,
}


def architecture_of(model_type: str) -> Architecture:
    """The architecture of a config.json's model_type: `GENERIC` where it is not one that our tests compare."""
    return CHECKED.get(model_type, GENERIC)

"""Makes tokenizer.json of the vocabulary of WordPiece that a SavedModel has in its assets. Export process only."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from topwork_server import InvalidInput

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_tokenizer(source: Path, place: Path, lower_case: bool | None) -> int:
    """Write a tokenizer.json at `place`: a copy of one, or made of a vocabulary, and give the id of its padding. `lower_case`
    says whether the model was trained on lowercase letters; None: it was if its vocabulary has no capital ones."""
    if source.suffix == ".json":
        shutil.copyfile(source, place)
        return _padding(place)
    words = _words(source)
    lower = lower_case if lower_case is not None else not any(word != word.lower() for word in words if word not in SPECIAL)
    tokenizer = _word_piece({word: id for id, word in enumerate(words)}, lower)
    tokenizer.save(str(place))
    return words.index("[PAD]")


def _words(path: Path) -> list[str]:
    """The entries of a vocabulary, one a line. InvalidInput where it is not one of BERT's."""
    try:
        words = path.read_text("utf-8").removesuffix("\n").split("\n")  # not splitlines: an entry may be U+2028
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not in UTF-8: {error}", remedy="copy the model again") from error
    if missing := [word for word in SPECIAL[:4] if word not in words]:
        raise InvalidInput(
            f"{path} is no vocabulary of WordPiece: it lacks {', '.join(missing)}",
            remedy="put a tokenizer.json beside saved_model.pb",
        )
    return words


def _word_piece(vocabulary: dict[str, int], lower_case: bool) -> Tokenizer:
    """BERT's tokenizer, as transformers makes it of a vocabulary."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    made.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    ends = [(word, vocabulary[word]) for word in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    made.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL if word in vocabulary])
    return made


def _padding(path: Path) -> int:
    """The id of a tokenizer's padding, 0 where it has none. InvalidInput where it cannot be read."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise InvalidInput(f"the tokenizer of the model cannot be read: {error}", remedy="copy it again") from error
    padding = tokenizer.padding
    found = tokenizer.token_to_id("[PAD]")
    return int(padding["pad_id"]) if padding else 0 if found is None else int(found)

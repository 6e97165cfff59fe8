"""Chooses the signature of a SavedModel that is called, and the modality of its inputs. Asked at each listing: light."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork_server import InvalidInput, Modality

from topwork_plugins.saved_model.signatures import STRING, SavedModel, Signature, Tensor

#: The signatures that are taken where no setting names one: TensorFlow 2 writes the first, modules of TensorFlow 1 the second.
USUAL = ("serving_default", "default")
FLOATS = ("float32", "float16", "float64", "bfloat16")
INTEGERS = ("int32", "int64")
#: What the inputs of texts are called, by TextReads' names of them: those of BERT on TensorFlow Hub, of Keras, of transformers.
ROLES = {
    "input_ids": r"(input_|word_|token_|input_word_)?ids|tokens",
    "attention_mask": r"(input_|attention_|padding_)?mask",
    "token_type_ids": r"(input_|token_)?type_ids|segment_ids",
}
#: Operators that every SavedModel has, to save itself.
SAVERS = {"StaticRegexFullMatch", "StringJoin", "ShardedFilename"}
#: Operators of strings and of encoded files, which ONNX does not have; TensorFlow Text has most of them.
TEXT_OPERATORS = r"String|Regex|[Ss]entence[Pp]iece|CaseFold|UTF8|Unicode|Wordpiece|WordPiece|Tokeniz|LookupTable|Decode|Substr"
#: Operators that reach beyond the model: into files, over the network, or into Python. Not those by which each saves itself.
UNSAFE = re.compile(
    r"(Read|Write|Append)\w*File|MatchingFiles|\w*PyFunc\w*|\w*Reader\w*|\w*Dataset\w*|Summary\w*|\w*SummaryWriter\w*"
    r"|Write\w*Summary|Debug\w*|\w*LMDB\w*|(De|En)codeProto\w*|Rpc\w*|\w*RpcCall\w*|SaveSlices|RestoreSlice|FileSystem\w*|PrintV2"
)


@dataclass(frozen=True)
class Reading:
    """A signature and what its inputs are. `inputs` are their names by what the ONNX family calls them: of texts TextReads'
    names, of others their own. `tokens` is the fixed length of texts, if they have one."""

    signature: Signature
    modality: Modality
    inputs: Mapping[str, str]
    tokens: int | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that can be taps."""
        return tuple(sorted(_usable_outputs(self.signature)))


def choose(model: SavedModel, settings: Mapping[str, Any]) -> Reading:
    """Choose the signature that the settings name, else a usual one that can be served, else the only one. InvalidInput where
    there is none, with why each cannot, or where there are several."""
    wanted = str(settings.get("signature", ""))
    if unsafe := sorted(filter(UNSAFE.fullmatch, model.operators)):
        raise InvalidInput(
            f"{model.folder.name} runs {', '.join(unsafe)}, which reach into this machine's files, its network or Python",
            remedy="save the model without them",
        )
    if wanted and wanted not in model.signatures:
        raise InvalidInput(
            f"{model.folder.name} has no signature {wanted!r}",
            remedy=f"name one that it has: {', '.join(sorted(model.signatures)) or 'none'}",
        )
    found, reasons = dict[str, Reading](), []
    for name in [wanted] if wanted else sorted(model.signatures):
        try:
            found[name] = _read(model, model.signatures[name])
        except InvalidInput as error:
            reasons.append(error)
    usual = [name for name in USUAL if name in found]
    if usual or len(found) == 1:
        return found[usual[0] if usual else next(iter(found))]
    if found:
        listed = "; ".join(
            f"{name} reads {reading.modality} and gives {', '.join(reading.outputs)}" for name, reading in found.items()
        )
        raise InvalidInput(
            f"{model.folder.name} has several signatures, and none of them is {' or '.join(USUAL)}: {listed}",
            remedy=f"name one of them: --set signature={next(iter(found))}",
        )
    if len(reasons) == 1:
        raise InvalidInput(f"{model.folder.name}: {reasons[0].message}", remedy=reasons[0].remedy)
    raise InvalidInput(
        f"{model.folder.name} has no signature that can be served: "
        + ("; ".join(error.message for error in reasons) or "it has none at all"),
        remedy=next((error.remedy for error in reasons), "save it with tf.saved_model.save(model, folder, signatures=...)"),
    )


def tokenizer_file(folder: Path) -> Path | None:
    """The tokenizer.json of a SavedModel, or the vocabulary of WordPiece in its assets."""
    names = ("tokenizer.json", "assets/tokenizer.json", "assets/vocab.txt")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read(model: SavedModel, signature: Signature) -> Reading:
    texts = [name for name, tensor in signature.inputs.items() if tensor.dtype == STRING]
    if texts:
        found = sorted(op for op in model.operators - SAVERS if re.search(TEXT_OPERATORS, op)) or ["string tensors"]
        raise InvalidInput(
            f"the signature {signature.name} reads strings ({', '.join(texts)}), through operators that ONNX does not have:"
            f" {', '.join(found)}",
            remedy="take a model whose signature reads token ids (input_word_ids, input_mask), or decoded pictures",
        )
    fixed = [f"{name}: {tensor}" for name, tensor in signature.inputs.items() if tensor.shape and tensor.shape[0] is not None]
    if fixed:
        raise InvalidInput(
            f"the signature {signature.name} reads batches of one size only ({', '.join(fixed)})",
            remedy="save a signature whose first axis is None: batches of any size",
        )
    if not _usable_outputs(signature):
        outputs = ", ".join(f"{name}: {tensor}" for name, tensor in signature.outputs.items())
        raise InvalidInput(
            f"the signature {signature.name} gives no rows of floating-point numbers (it gives {outputs or 'nothing'})",
            remedy="save a signature whose outputs are features",
        )
    if roles := _text_roles(signature):
        return _texts(model, signature, roles)
    if len(signature.inputs) != 1:
        inputs = ", ".join(f"{name}: {tensor}" for name, tensor in signature.inputs.items())
        raise InvalidInput(
            f"the signature {signature.name} reads {len(signature.inputs)} inputs ({inputs or 'none'}), which are no token ids"
            " with their mask",
            remedy="save a signature of one input, or of input_word_ids, input_mask and input_type_ids",
        )
    ((name, tensor),) = signature.inputs.items()
    return Reading(signature, _modality(signature, name, tensor), {name: name})


def _usable_outputs(signature: Signature) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in signature.outputs.items()
        if tensor.dtype in FLOATS and tensor.shape is not None and 2 <= len(tensor.shape) <= 4
    }


def _modality(signature: Signature, name: str, tensor: Tensor) -> Modality:
    shape = tensor.shape
    numbers = tensor.dtype in (*FLOATS[:3], *INTEGERS, "uint8", "int8", "int16", "uint16", "bool")
    if shape is None or len(shape) < 2 or not numbers:
        raise InvalidInput(
            f"the signature {signature.name} reads {name}: {tensor}, which is no batch of pictures, of token ids nor of arrays",
            remedy="save a signature whose input has a batch axis, and numbers",
        )
    picture = len(shape) == 4 and shape[3] == 3 and tensor.dtype in (*FLOATS[:2], "uint8")
    return Modality.IMAGE if picture else Modality.TENSOR


def _text_roles(signature: Signature) -> dict[str, str]:
    """The inputs by their roles where they are token ids and a mask; {} where they are anything else."""
    roles = {}
    for name, tensor in signature.inputs.items():
        role = next((role for role, pattern in ROLES.items() if re.fullmatch(pattern, name)), None)
        if role is None or tensor.dtype not in INTEGERS or len(tensor.shape or ()) != 2:
            return {}
        roles[role] = name
    whole = len(roles) == len(signature.inputs) and {"input_ids", "attention_mask"} <= set(roles)
    return roles if whole else {}


def _texts(model: SavedModel, signature: Signature, roles: Mapping[str, str]) -> Reading:
    if tokenizer_file(model.folder) is None:
        raise InvalidInput(
            f"the signature {signature.name} reads token ids, and the model has no tokenizer for them",
            remedy="put the model's vocab.txt into its assets, or its tokenizer.json beside saved_model.pb",
        )
    lengths = {(tensor.shape or (None, None))[1] for tensor in signature.inputs.values()}
    return Reading(signature, Modality.TEXT, dict(roles), next(iter(lengths)) if len(lengths) == 1 else None)

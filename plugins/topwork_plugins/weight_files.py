"""Files of weights: safetensors, and what torch.save wrote. Errors name the file and its fault; no code in it runs."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

from topwork_server import InvalidInput, check_file

from topwork_plugins.json_files import folder_in, read_json

if TYPE_CHECKING:
    from torch import Tensor

#: Weights of a model's folder as transformers names them, in its order; each may be in several files that an index names.
NAMES = ("model.safetensors", "pytorch_model.bin")
#: The longest header that safetensors reads, in bytes.
MOST_HEADER = 100_000_000
SAVE = (
    "where you trust it, load it with the program that wrote it and save its weights as safetensors:"
    ' `model.save_pretrained(FOLDER)` of transformers, or `safetensors.torch.save_file(model.state_dict(), "model.safetensors")`'
)
AGAIN = "copy or download it again"
#: How torch names what a pickle would call.
_CODE = re.compile(r"GLOBAL (\S+)|(TorchScript) archive")

_MISMATCH = re.compile(r"size mismatch for (\S+): .*?torch\.Size\(\[(.*?)\]\) .*?torch\.Size\(\[(.*?)\]\)")

#: The name of a weight, its shape in the file, and the one that its architecture has.
Misshapen = tuple[str, Sequence[int], Sequence[int]]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the named tensors of a file, on the CPU. InvalidInput where it is damaged, holds code, or anything else."""
    import torch

    check_whole(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a broken file makes both readers raise errors of any class
        raise unreadable(path, error) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise InvalidInput(
            f"{_named(path)} holds something else than named tensors", remedy="save the net's state_dict(), best as safetensors"
        )
    return state


def check_whole(path: Path) -> None:
    """Raise InvalidInput where a file is cut off, or no weights at all, by its size and its beginning."""
    check_file(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(23) == b"version https://git-lfs":
            raise InvalidInput(
                f"{_named(path)} is a pointer of Git LFS ({size:,} bytes), and not the weights themselves",
                remedy="run `git lfs pull` in its folder, or download the file itself",
            )
    if path.suffix == ".safetensors":
        fault = _fault(path, size)
    else:
        fault = _cut(size) if not size or (_is_archive(path) and not zipfile.is_zipfile(path)) else ""
    if fault:
        raise InvalidInput(f"{_named(path)} {fault}", remedy=AGAIN)
    if path.suffix == ".safetensors":
        _check_header(path)


def _check_header(path: Path) -> None:
    """Let the library check names, dtypes, shapes and places of all tensors, of which it reads none. InvalidInput where they
    overlap, leave gaps or do not fit."""
    from safetensors import SafetensorError, safe_open

    try:
        safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from error


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of a file's tensors by name, and no numbers; none where it cannot be read."""
    try:
        if path.suffix == ".safetensors":
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
        import torch

        state = torch.load(path, map_location="meta", weights_only=True)
        return {name: tuple(tensor.shape) for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
    except Exception:  # whoever reads the numbers says what is wrong
        return {}


def is_of_file(error: BaseException) -> bool:
    """Tell whether a library that reads weights by itself failed at the file, and not at what it was to be put into."""
    from safetensors import SafetensorError

    return isinstance(error, UnpicklingError | SafetensorError) or bool(_code_in(error))


def unreadable(path: Path, error: BaseException) -> InvalidInput:
    """The error for a whole file that a reader did not take: a pickle that would run code, or anything else."""
    code = _code_in(error)
    if code:
        return InvalidInput(
            f"{_named(path)} is a pickle that runs code when it is loaded ({code}); such files are never loaded here", remedy=SAVE
        )
    if isinstance(error, UnpicklingError):  # torch's own words tell to load it all the same
        reason = "it is no file of torch.save, or holds more than named tensors"
        return InvalidInput(f"{_named(path)} cannot be read as weights: {reason}", remedy=f"{AGAIN}; if it is whole: {SAVE}")
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return InvalidInput(f"{_named(path)} cannot be read as weights: {reason}", remedy=f"it may be damaged: {AGAIN}")


def weights_of(folder: Path) -> list[Path]:
    """List the files from which transformers reads the weights of a folder; none where it has none. InvalidInput where an index
    names one that is not there."""
    for name in NAMES:
        if (folder / name).exists():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if not index.exists():
            continue
        named = read_json(index).get("weight_map")
        parts = sorted(set(map(str, named.values()))) if isinstance(named, dict) else []
        missing = [part for part in parts if not folder_in(folder, part, index.name).exists()]
        if missing or not parts:
            what = f"lacks {missing[0]}, which {index.name} names" if missing else f"has no weight_map in {index.name}"
            raise InvalidInput(f"{folder.name} {what}", remedy="copy or download the model's folder again")
        return [folder / part for part in parts]
    return []


def refuse_misfits(
    whose: str, missing: Iterable[str], misshapen: Iterable[Misshapen], surplus: Iterable[str], remedy: str
) -> None:
    """Raise InvalidInput for weights that an architecture has and a file lacks, that are of other shapes there, or that have no
    place in it. `whose` they are begins the message."""
    lacking, unplaced = sorted(missing), sorted(surplus)
    other = [f"{name} is {tuple(has)} and should be {tuple(needs)}" for name, has, needs in sorted(misshapen)]
    faults = [
        f"lacks {counted(lacking)} of its architecture" + _few(lacking),
        f"has {counted(other)} in {'another shape' if len(other) == 1 else 'other shapes'}" + _few(other),
        f"has {counted(unplaced)} that its architecture has no place for" + _few(unplaced),
    ]
    found = [fault for fault, names in zip(faults, (lacking, other, unplaced), strict=True) if names]
    if found:
        raise InvalidInput(f"{whose} {', and '.join(found)}", remedy=remedy)


def misshapen(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[Misshapen]:
    """List the tensors that both have, in different shapes."""
    both = wanted.keys() & found.keys()
    return [(key, found[key].shape, wanted[key].shape) for key in both if found[key].shape != wanted[key].shape]


def size_mismatches(error: BaseException) -> list[Misshapen]:
    """List the tensors of other shapes that torch's load_state_dict complains of."""

    def shape(numbers: str) -> tuple[int, ...]:
        return tuple(map(int, filter(None, numbers.split(", "))))

    return [(name, shape(has), shape(needs)) for name, has, needs in _MISMATCH.findall(str(error))]


def counted(weights: Sequence[str]) -> str:
    """Say how many: "1 weight", "2 weights"."""
    return f"{len(weights):,} weight{'' if len(weights) == 1 else 's'}"


def _few(names: Sequence[str], most: int = 3) -> str:
    if len(names) <= most:
        return f": {', '.join(names)}"
    return f", among them {', '.join(names[:most])}"


def _fault(path: Path, size: int) -> str:
    """Describe what is wrong with a safetensors file by its header: 8 bytes with the length of the JSON that follows, which tells
    where each tensor ends. "" where its size is right."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8:
            return _cut(size)
        if length > MOST_HEADER:
            return f"is damaged: it does not begin with a header of safetensors ({size:,} bytes)"
        if size < 8 + length:
            return _cut(size, f"at least {8 + length:,}")
        told = _end(file.read(length))
    if told is None:
        return f"is damaged: its header cannot be read ({size:,} bytes)"
    whole = 8 + length + told
    if size == whole:
        return ""
    return _cut(size, f"{whole:,}") if size < whole else f"is damaged: it has {size:,} bytes, and its header tells of {whole:,}"


def _end(header: bytes) -> int | None:
    """Find where the last tensor ends behind the header; None where the header is none."""
    try:
        entries = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        return max((int(entry["data_offsets"][1]) for entry in entries), default=0)
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError):
        return None


def _cut(size: int, whole: str = "") -> str:
    if not size:
        return "is empty"
    return f"is cut off: it has {size:,} bytes" + (f" of {whole}" if whole else "")


def _named(path: Path) -> str:
    """Name a file with its folder: a model may have one of that name in several."""
    return f"{path.parent.name}/{path.name}"


def _is_archive(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _code_in(error: BaseException | None) -> str:
    """Find what a pickle would call, as torch names it in an error or in what led to it; "" where it is none of this."""
    while error is not None:
        if found := _CODE.search(str(error)):
            return str(found[1] or found[2])
        error = error.__cause__ or error.__context__
    return ""

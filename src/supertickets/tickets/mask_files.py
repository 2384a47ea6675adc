"""A file of masks, or of a pruned model's weights, made a ticket; nothing in the file is run.

Content is read (`_content`) and flattened to tensors with dotted names (`_leaves`), which are matched with the model's
prunable matrices. Which tensors are masks is told by their names, else by their values (`_choose`). docs/choices.md
lists the layouts.
"""

import math
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supertickets.errors import TicketError
from supertickets.tickets.weights import METADATA, Bools, WeightTicket

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz", ".npy")
Weights = Mapping[str, NDArray[np.floating]]
_SHOWN = 6
# A name that says mask: NAME.weight_mask, NAME.mask, masks.NAME, pruning_masks.NAME.
_MASK = re.compile(r"(^|[._])masks?($|[._])", re.IGNORECASE)
_NO_WEIGHTS = re.compile(r"(optim|optimi[sz]ers?|(lr_)?schedulers?|rng)(_.*)?", re.IGNORECASE)
# What wrappers put anywhere in a name: DataParallel, torch.compile, FSDP, activation checkpointing, peft.
_PASSED_OVER = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer"}


@dataclass(frozen=True)
class MaskFile:
    """What a file gave: the ticket, and sentences on how it was read and what of it was not used."""

    ticket: WeightTicket
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Leaf:
    """A value in the file: the keys that lead to it, and the prunable matrix that a tensor is named like."""

    keys: tuple[str, ...]
    value: Any
    matrix: str | None = None

    @property
    def key(self) -> str:
        return ".".join(self.keys)

    @property
    def shape(self) -> list[int]:
        return [int(size) for size in self.value.shape]

    @property
    def says_mask(self) -> bool:
        return bool(self.shape) and _MASK.search(self.key) is not None

    @cached_property
    def zeros(self) -> int:
        """How many zeros the tensor has."""
        return int((self.numbers() == 0).sum())

    def numbers(self) -> NDArray[Any]:
        """Return the tensor as an array; raises TicketError if it is not one of bools, integers or floats."""
        import torch

        value = self.value
        try:
            if isinstance(value, torch.Tensor):
                value = value.dequantize() if value.is_quantized else value
                value = value if value.layout == torch.strided else value.to_dense()
                # numpy has neither bfloat16 nor 8-bit floats.
                value = (value.double() if value.is_floating_point() else value).numpy(force=True)
        except (RuntimeError, TypeError, ValueError) as error:
            raise TicketError(f"{self.key!r} cannot be read as an array ({_first_line(error)}).") from error
        if value.dtype.kind not in "biuf":
            raise TicketError(f"{self.key!r} has the type {value.dtype}, expected bools, integers or floats.")
        return np.asarray(value)

    def odd_value(self) -> str | None:
        """Say which value other than 0 and 1 the tensor has, and where; None if it has none."""
        numbers = self.numbers()
        odd = (numbers != 0) & (numbers != 1)
        if not odd.any():
            return None
        index = np.unravel_index(int(odd.argmax()), odd.shape)
        return f"{self.key!r} has the value {float(numbers[index]):g} at {[int(i) for i in index]}"


def read_masks(path: Path, weights: Weights, zeros: bool = False) -> MaskFile:
    """Return the ticket in a file of masks of a model with these prunable matrices, pre-trained `weights` by name.

    Masks are the tensors whose names say so (`weight_mask`, `masks.NAME`); if there are none, those named like the
    matrices, if they have only 0 and 1; or with `zeros` weights, whose zeros are pruned, but for matrices that have no
    zeros beside the model's own. Raises TicketError for a file that is not understood, or that prunes what a ticket
    cannot hold.
    """
    content = _content(path)
    try:
        return _ticket(list(_leaves(content, path.stem, weights)), weights, zeros)
    except TicketError as error:
        raise TicketError(f"{path}: {error}") from error


def _ticket(leaves: Sequence[_Leaf], weights: Weights, zeros: bool) -> MaskFile:
    used, others, notes = _choose([leaf for leaf in leaves if hasattr(leaf.value, "shape")], weights, zeros)
    for leaf in others:
        _check_prunes_nothing(leaf, weights)
    first: dict[str, _Leaf] = {}
    masks: dict[str, Bools] = {}
    for leaf in used:
        name, mask = str(leaf.matrix), leaf.numbers() != 0
        if not np.array_equal(masks.setdefault(name, mask), mask):
            raise TicketError(f"{first[name].key!r} and {leaf.key!r} are different masks of one matrix; expected one.")
        first.setdefault(name, leaf)
    whole = [name for name in weights if name not in masks]
    count = f"There is a mask for {len(masks)} of the model's {len(weights)} prunable matrices"
    notes.insert(1, f"{count}; the others stay whole: {_codes(whole)}." if whole else f"{count}.")
    if gone := [name for name, mask in masks.items() if not mask.any()]:
        notes.append(f"Every weight is pruned in {_codes(gone)}.")
    if others:
        notes.append(f"Masks that prune nothing, and have no place in a ticket: {_codes(x.key for x in others)}.")
    told = {id(leaf) for leaf in [*first.values(), *others]}
    if rest := [leaf for leaf in leaves if id(leaf) not in told]:
        notes.append(f"Not used: {_summary(rest, {leaf.keys[0] for leaf in used})}.")
    return MaskFile(WeightTicket({name: masks[name] for name in weights if name in masks}), tuple(notes))


def _choose(tensors: Sequence[_Leaf], weights: Weights, zeros: bool) -> tuple[list[_Leaf], list[_Leaf], list[str]]:
    """Return the masks of matrices (or weights with zeros), the masks of anything else, and what there is to say.

    Raises TicketError unless the first have the model's shapes and all have a mask's values.
    """
    fitting = [leaf for leaf in tensors if leaf.matrix]
    if not fitting:
        raise TicketError(
            f"none of its tensors is named like a prunable matrix of the model: the first is {tensors[0].key!r}, "
            f"expected a name that ends like {next(iter(weights))!r}."
            if tensors
            else "there are no masks in it, nor any other tensors."
        )
    masks = [leaf for leaf in fitting if leaf.says_mask]
    for leaf in masks or fitting:
        _check_shape(leaf, weights)
    if masks:
        others = [leaf for leaf in tensors if leaf.says_mask and not leaf.matrix]
        for leaf in [*masks, *others]:
            if odd := leaf.odd_value():
                raise TicketError(f"{odd}; a mask has only 0 and 1.")
        masked = {leaf.matrix for leaf in masks}
        unread = [leaf for leaf in fitting if leaf.matrix not in masked and _new_zeros(leaf, weights)]
        notes = [f"Read {_named(masks, 'mask')}."]
        notes += ["There are masks in the file, so --zeros changes nothing."] if zeros else []
        return masks, others, notes + _told_of_zeros(unread)
    if zeros:
        for leaf in fitting:
            if not np.isfinite(leaf.numbers()).all():
                raise TicketError(f"weights of {leaf.key!r} are NaN or infinite; the training of them diverged.")
        names = {leaf.matrix for leaf in fitting if _new_zeros(leaf, weights)}
        pruned = [leaf for leaf in fitting if leaf.matrix in names]  # of two copies both, which must agree
        if not pruned:
            raise TicketError("no weight in it is zero but in the model too, so --zeros has nothing to take as pruned.")
        weighing = [leaf for leaf in tensors if _is_weight(leaf, "f") or (leaf.says_mask and _is_weight(leaf))]
        unread = [leaf for leaf in weighing if leaf not in pruned and leaf.zeros]
        # Biases may just have begun at zero. An output layer may be the word embeddings by another name.
        others = [x for x in unread if not x.matrix and len(x.shape) > 1 and not _is_tied(x, fitting)]
        return pruned, others, [f"Took as pruned the zeros of {_named(pruned, 'tensor')}.", *_told_of_zeros(unread)]
    _check_only_masks(fitting, weights)
    others = [leaf for leaf in tensors if not leaf.matrix and _is_weight(leaf) and not leaf.odd_value()]
    return fitting, others, [f"Read as masks, since they have only 0 and 1, {_named(fitting, 'tensor')}."]


def _told_of_zeros(unread: Sequence[_Leaf]) -> list[str]:
    return [f"Zeros without a mask were not taken as pruned: {_codes(x.key for x in unread)}."] if unread else []


def _named(leaves: Sequence[_Leaf], what: str) -> str:
    return f"{len(leaves)} {what}{'' if len(leaves) == 1 else 's'} named like {_code(leaves[0].key)}"


def _check_shape(leaf: _Leaf, weights: Weights) -> None:
    expected = list(weights[str(leaf.matrix)].shape)
    if leaf.shape != expected:
        turned = "; it is transposed" if leaf.shape == expected[::-1] else ""
        raise TicketError(f"{leaf.key!r} has shape {leaf.shape}, the model's matrix {expected}{turned}.")


def _new_zeros(leaf: _Leaf, weights: Weights) -> int:
    """Return how many zeros a weight has, or 0 if the model has zeros in all those places, as where padding is."""
    there = weights[str(leaf.matrix)]
    return leaf.zeros if leaf.shape != list(there.shape) or ((leaf.numbers() == 0) & (there != 0)).any() else 0


def _check_only_masks(named: Sequence[_Leaf], weights: Weights) -> None:
    """Raise TicketError if one of these tensors, whose names do not say mask, is none by its values."""
    odd = [said for leaf in named if (said := leaf.odd_value())]
    if odd:
        pruned, total = sum(_new_zeros(leaf, weights) for leaf in named), sum(math.prod(leaf.shape) for leaf in named)
        none = "there are no masks in it: " if len(odd) == len(named) else ""
        hint = f"--zeros takes the zeros ({pruned:,} of {total:,}) as pruned" if pruned else "none was pruned"
        raise TicketError(f"{none}{odd[0]}, a mask has only 0 and 1; if these are a pruned model's weights, {hint}.")


def _check_prunes_nothing(leaf: _Leaf, weights: Weights) -> None:
    if leaf.zeros:
        near = get_close_matches(leaf.key, weights, n=1, cutoff=0)[0]
        raise TicketError(
            f"{leaf.key!r} prunes {leaf.zeros:,} of {math.prod(leaf.shape):,} weights, but no prunable matrix of the "
            f"model has that name (the nearest is {near!r}), and a ticket has no biases, LayerNorms or output layers; "
            "to import the rest, delete that entry from the file."
        )


def _is_weight(leaf: _Leaf, kinds: str = "biuf") -> bool:
    """Return whether a tensor may be a parameter or its mask: of these kinds, neither a count nor an optimizer's."""
    if not leaf.shape or any(_NO_WEIGHTS.fullmatch(key) for key in leaf.keys):
        return False
    try:
        return leaf.numbers().dtype.kind in kinds
    except TicketError:
        return False


def _is_tied(leaf: _Leaf, used: Sequence[_Leaf]) -> bool:
    """Return whether a weight is another name of one that is read, as an output layer's of the word embeddings'."""
    same = [other for other in used if other.shape == leaf.shape]
    return bool(leaf.numbers().any()) and any(np.array_equal(leaf.numbers(), other.numbers()) for other in same)


def _leaves(content: Any, name: str, weights: Weights) -> Iterator[_Leaf]:
    """Give what dictionaries and lists hold, at any depth; what is in neither has the file's `name`."""
    todo: list[tuple[tuple[str, ...], Any]] = [((), content)]
    seen = set()
    while todo:
        keys, value = todo.pop()
        held = (
            value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
        )
        items = [((*keys, str(key)), item) for key, item in held]
        if items and id(value) not in seen:  # a pickled dictionary may hold itself
            seen.add(id(value))
            todo += reversed(items)
        elif keys or hasattr(value, "shape") or isinstance(value, _Array):
            value = value.numbers if isinstance(value, _Array) else value
            keys = keys or (name,)
            yield _Leaf(keys, value, _matched(".".join(keys), weights) if hasattr(value, "shape") else None)


def _matched(key: str, weights: Weights) -> str | None:
    """Return the matrix whose name a key ends with, without words of masks and wrappers; None if there is none."""
    key = re.sub(r"\.parametrizations\.(\w+)\.\d+\.mask$", r".\1", key)
    parts = [part for part in key.split(".") if part not in _PASSED_OVER and part.lower() not in ("mask", "masks")]
    ends = re.sub(r"_masks?$", "", ".".join(parts)).removesuffix(".weight").split(".")
    names = (".".join([*ends[start:], "weight"]) for start in range(len(ends)))
    return next((name for name in names if name in weights), None)


def _summary(rest: Sequence[_Leaf], tops: set[str]) -> str:
    """Name what was not used: whole entries of the file by their key, tensors beside those used by count."""
    others, beside = [], []
    for leaf in rest:
        inside = leaf.keys[0] in tops
        if getattr(leaf.value, "shape", ()) and (inside or len(leaf.keys) == 1):
            beside.append(leaf.key)
        else:
            others.append(leaf.key if inside else leaf.keys[0])
    if len(beside) > 1:
        beside = [f"{len(beside)} tensors such as {_code(beside[0])}"]
    else:
        beside = [_code(key) for key in beside]
    return ", ".join(([_codes(others)] if others else []) + beside)


def _code(name: str) -> str:
    """Return a name of the file as a code span, for terminals and Markdown alike: nothing in it does anything."""
    return f"`{repr(name)[1:-1].replace('`', '')}`"


def _codes(names: Iterable[str]) -> str:
    every = [_code(name) for name in dict.fromkeys(names)]
    return ", ".join(every[:_SHOWN]) + (f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else "")


def _first_line(error: Exception) -> str:
    said = next(iter(str(error).splitlines()), "")
    said = "" if "weights_only" in said else said  # torch says how to run what is in the file
    return f"{type(error).__name__}: {said}".rstrip(".: ")


def _content(path: Path) -> Any:
    """Return what a file holds, whatever its name ends with; raises TicketError if it cannot be read."""
    if path.is_dir():
        inside = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        raise TicketError(f"{path}: a folder; expected a file of masks{f', such as {inside[0]}' if inside else ''}.")
    if not path.is_file():
        raise TicketError(f"{path}: no such file.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sparse tensors, which are new in torch, and of damaged bytes
            return _parsed(path)
    except TicketError:
        raise
    except Exception as error:  # a stranger's bytes may break a reader in any way
        if held := _pickled(str(error)):
            raise TicketError(
                f"{path}: there is {held} in it, which cannot be read without running code; save tensors alone "
                "where it was made, such as model.state_dict()."
            ) from error
        raise TicketError(
            f"{path}: not a file of tensors, or one that is cut short or damaged ({_first_line(error)}); expected what "
            "torch.save, safetensors or numpy.savez write."
        ) from error


def _parsed(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise TicketError(f"{path}: the file is empty.")
    if head.startswith(b"version https://git-lfs"):
        raise TicketError(f"{path}: a pointer of Git LFS, not the file itself; get it with `git lfs pull`.")
    if head.startswith(b"\x93NUMPY"):
        return np.load(path, allow_pickle=False)
    if head.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if all(name.endswith(".npy") for name in names):
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
    if path.suffix == ".safetensors" or head[8:10] in (b'{"', b"{}"):
        return _safetensors(path)
    return _torch(path)


def _pickled(said: str) -> str | None:
    """Return what a reader's error says that it would have to run; None if that was not the error."""
    if "TorchScript" in said:
        return "a TorchScript model"
    if "allow_pickle" in said:
        return "a pickled Python object"
    found = re.search(r"GLOBAL ([\w.]+)", said)
    return f"a Python object, {found[1]}," if found else None


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata() or {})
        if METADATA in metadata:  # a ticket's own file
            return dict(WeightTicket.from_bytes(path.read_bytes(), str(path)).masks)
        metadata.pop("format", None)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
    return tensors | ({"__metadata__": metadata} if metadata else {})


def _torch(path: Path) -> Any:
    import torch

    # numpy's own functions trust the sizes and flags in a pickle; these take numbers alone.
    stand_ins: list[Any] = [(_Dtype, "numpy.dtype"), (_Array, "numpy.ndarray")]
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        stand_ins += [(_Array.empty, f"{core}._reconstruct"), (_Array.scalar, f"{core}.scalar")]
    stand_ins.append((lambda: b"", "builtins.bytes"))  # an array without entries
    with torch.serialization.safe_globals(stand_ins):
        return torch.load(path, map_location="cpu", weights_only=True)


@dataclass
class _Dtype:
    """What a pickled numpy.dtype says: `f4` and the order of bytes."""

    name: str
    align: bool = False
    copy: bool = True
    order: str = "="

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.order = state[1]

    @property
    def of_numbers(self) -> "np.dtype[Any] | None":
        dtype = np.dtype(self.name).newbyteorder(self.order)  # type: ignore[arg-type]
        return dtype if dtype.kind in "biuf" else None


@dataclass
class _Array:
    """What a pickled numpy.ndarray holds, if it is numbers."""

    numbers: NDArray[Any] | None = field(default=None)

    @staticmethod
    def empty(*_: object) -> "_Array":
        return _Array()

    @staticmethod
    def scalar(dtype: _Dtype, raw: bytes = b"") -> "_Array":
        found = _Array()
        found.__setstate__((1, (), dtype, False, raw))
        return found

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, shape, dtype, fortran, raw = state
        if dtype.of_numbers:
            self.numbers = np.ndarray(shape, dtype.of_numbers, raw, order="F" if fortran else "C")

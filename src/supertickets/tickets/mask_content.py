"""What a file of tensors holds, by name; nothing in the file is run.

Content is read (`_content`) and flattened to tensors with dotted names (`leaves_of`), which are matched with a model's
prunable matrices.
"""

import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supertickets.errors import TicketError
from supertickets.tickets.weights import METADATA, WeightTicket

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz", ".npy")
Weights = Mapping[str, NDArray[np.floating]]
# A name that says mask: NAME.weight_mask, NAME.mask, masks.NAME, pruning_masks.NAME.
_MASK = re.compile(r"(^|[._])masks?($|[._])", re.IGNORECASE)
# What wrappers put anywhere in a name: DataParallel, torch.compile, FSDP, activation checkpointing, peft.
_PASSED_OVER = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer"}


@dataclass(frozen=True, eq=False)
class Leaf:
    """A value in the file: the keys that lead to it, and the prunable matrix that a tensor is named like."""

    keys: tuple[str, ...]
    value: Any
    matrix: str | None = None

    @property
    def key(self) -> str:
        """The keys as one name."""
        return ".".join(self.keys)

    @property
    def shape(self) -> list[int]:
        """The tensor's shape."""
        return [int(size) for size in self.value.shape]

    @property
    def says_mask(self) -> bool:
        """Whether its name says that the tensor is a mask."""
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


def leaves_of(path: Path, weights: Weights) -> list[Leaf]:
    """Return what a file holds, in order; raises TicketError, naming the file, if it cannot be read.

    `weights` are the model's prunable matrices by name.
    """
    return list(_leaves(_content(path), path.stem, weights))


def _leaves(content: Any, name: str, weights: Weights) -> Iterator[Leaf]:
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
            yield Leaf(keys, value, _matched(".".join(keys), weights) if hasattr(value, "shape") else None)


def _matched(key: str, weights: Weights) -> str | None:
    """Return the matrix whose name a key ends with, without words of masks and wrappers; None if there is none."""
    key = re.sub(r"\.parametrizations\.(\w+)\.\d+\.mask$", r".\1", key)
    parts = [part for part in key.split(".") if part not in _PASSED_OVER and part.lower() not in ("mask", "masks")]
    ends = re.sub(r"_masks?$", "", ".".join(parts)).removesuffix(".weight").split(".")
    names = (".".join([*ends[start:], "weight"]) for start in range(len(ends)))
    return next((name for name in names if name in weights), None)


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
                f"{path}: there is {held} in it, which cannot be read without running code; save only tensors, "
                "such as model.state_dict()."
            ) from error
        raise TicketError(
            f"{path}: not a file of tensors, or a truncated or damaged one ({_first_line(error)}); expected a file "
            "written by torch.save, safetensors or numpy.savez."
        ) from error


def _parsed(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise TicketError(f"{path}: the file is empty.")
    if head.startswith(b"version https://git-lfs"):
        raise TicketError(f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull`.")
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

"""Examples as token ids, and their way into batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from supertickets.errors import TicketError
from supertickets.tasks import Split, Task

_POOL = 50  # batches' worth of shuffled examples that are sorted by length together


@dataclass(frozen=True)
class Encoded:
    """A split as token ids: one int32 array an example, segment ids where the model has them, targets."""

    ids: list[NDArray[np.int32]]
    segments: list[NDArray[np.int32]] | None
    targets: NDArray[Any]
    pad_id: int

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each example."""
        return np.array([len(ids) for ids in self.ids])

    @cached_property
    def _begin(self) -> NDArray[np.int64]:
        """Where each example's tokens begin in `_tokens`."""
        return np.cumsum(self.lengths) - self.lengths

    @cached_property
    def _tokens(self) -> tuple[NDArray[np.int32], NDArray[np.int32] | None]:
        """The token ids and segment ids of all examples, one behind the other."""
        return np.concatenate(self.ids), None if self.segments is None else np.concatenate(self.segments)

    def collate(
        self, rows: Sequence[int] | NDArray[np.int64], device: torch.device, drawn: Sequence[int] = ()
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the inputs of some examples, padded to the longest of them, and their targets.

        `drawn` seeds what is random in examples of a masked corpus, with each one's row; empty: the same every time.
        """
        chosen = np.asarray(rows)
        lengths = self.lengths[chosen]
        place = np.arange(lengths.max())
        there = place < lengths[:, None]
        at = (self._begin[chosen, None] + place)[there]
        ids, segments = self._tokens
        inputs = {"input_ids": _laid_out(ids[at], there, self.pad_id), "attention_mask": there.astype(np.int64)}
        if segments is not None:
            inputs["token_type_ids"] = _laid_out(segments[at], there, 0)
        targets = torch.from_numpy(self.targets[chosen])
        return {name: torch.from_numpy(value).to(device) for name, value in inputs.items()}, targets.to(device)


def _laid_out(values: NDArray[np.int32], there: NDArray[np.bool_], elsewhere: int) -> NDArray[np.int64]:
    """Return rows of values where something is `there`, and else of one number."""
    found = np.full(there.shape, elsewhere, np.int64)
    found[there] = values
    return found


@dataclass(frozen=True)
class EncodedTask:
    """A task as token ids: the training set and every evaluation set by name, `dev` first."""

    task: Task
    train: Encoded
    evaluations: dict[str, Encoded]


def tokenised(tokenizer: Any, *texts: Any, **how: Any) -> Any:
    """Return what a tokenizer makes of texts; raises TicketError where it fails, as without an unknown token."""
    try:
        return tokenizer(*texts, **how)
    except Exception as error:  # the tokenizers library raises nothing more particular
        raise TicketError(
            f"the model's tokenizer cannot read the task's texts ({' '.join(str(error).split())[:200]})."
        ) from error


def encode_split(part: Split, tokenizer: Any, max_length: int) -> Encoded:
    """Tokenise one split; inputs longer than `max_length` tokens are cut, the longer text of a pair first.

    Raises TicketError for a text without any token."""
    found = tokenised(tokenizer, part.text, part.pair, truncation="longest_first", max_length=max_length)
    _refuse_empty(part, [row for row, ids in enumerate(found["input_ids"]) if not len(ids)])
    segments = found.get("token_type_ids") if "token_type_ids" in tokenizer.model_input_names else None
    return Encoded(
        [np.array(ids, np.int32) for ids in found["input_ids"]],
        [np.array(ids, np.int32) for ids in segments] if segments is not None else None,
        part.targets,
        tokenizer.pad_token_id,
    )


def check_texts(part: Split, tokenizer: Any) -> None:
    """Raise TicketError where `encode_split` would for a text without any token.

    It reads those alone that have neither letters nor digits, and none where special tokens are around each text.
    """
    if tokenizer.num_special_tokens_to_add(pair=part.pair is not None):
        return
    texts = [part.text] if part.pair is None else [part.text, part.pair]
    rows = [row for row, both in enumerate(zip(*texts, strict=True)) if not any(map(str.isalnum, "".join(both)))]
    if rows:
        ids = tokenised(tokenizer, *([of[row] for row in rows] for of in texts))["input_ids"]
        _refuse_empty(part, [row for row, found in zip(rows, ids, strict=True) if not len(found)])


def _refuse_empty(part: Split, rows: Sequence[int]) -> None:
    """Raise TicketError if there are rows of texts without any token."""
    if rows:
        raise TicketError(
            f"the tokenizer produces no tokens for {len(rows)} of {len(part)} texts, the first is example "
            f"{rows[0] + 1}: {part.text[rows[0]][:40]!r}; remove such examples."
        )


def in_length_order(lengths: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Yield batches of rows from the longest to the shortest example: the least padding, where order is free."""
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def in_file_order(lengths: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Yield contiguous batches of rows, first to last."""
    for start in range(0, len(lengths), batch_size):
        yield np.arange(start, min(start + batch_size, len(lengths)))


def in_random_parts(lengths: NDArray[np.int64], batch_size: int, seed: int) -> list[list[NDArray[np.int64]]]:
    """Return the batches of a random order of the examples, cut after 1/16, 1/8, 1/4 and 1/2 of them.

    Each part is a random sample; within it, examples of like length are together, the longest first.
    """
    order = np.random.default_rng([seed, 13]).permutation(len(lengths))
    parts = np.split(order, sorted({len(order) // share for share in (16, 8, 4, 2)} - {0}))
    return [[part[rows] for rows in in_length_order(lengths[part], batch_size)] for part in parts]


def bucketed(lengths: NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Return an epoch's batches: shuffled each epoch, examples of like length together, batches in random order."""
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), batch_size * _POOL):
        pool = order[start : start + batch_size * _POOL]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def released_order(lengths: NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Return the released code's batches: contiguous chunks of the file, shuffled once, the same in every epoch."""
    batches = list(in_file_order(lengths, batch_size))
    return [batches[i] for i in np.random.default_rng(seed).permutation(len(batches))]


ORDERS = {"bucketed": bucketed, "released": released_order}


def batches_by_task(sizes: Sequence[int], sampling: str, epoch: int, epochs: int) -> list[int]:
    """Return how many batches of each task an epoch has, from how many each task's training set gives.

    Task i's share is proportional to size_i ** alpha: `proportional` alpha 1, `uniform` 0, `annealed` from 1 in the
    first epoch to 0.2 in the last (Stickland and Murray, ICML 2019, section 3.4). Together as many as there are.
    """
    done = epoch / max(epochs - 1, 1)
    alpha = {"proportional": 1.0, "uniform": 0.0, "annealed": 1.0 - 0.8 * done}[sampling]
    total = sum(sizes)
    wanted = np.asarray(sizes, float) ** alpha
    wanted *= total / wanted.sum()
    counts = np.floor(wanted + 1e-9).astype(int)
    for task in np.argsort(counts - wanted, kind="stable")[: total - counts.sum()]:
        counts[task] += 1
    return [int(count) for count in counts]

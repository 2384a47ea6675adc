"""A corpus: lines of text as tokens one behind the other, some of which are predicted."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from supertickets.errors import TicketError
from supertickets.tasks import Task
from supertickets.training.batches import Encoded

IGNORED = -100
"""The target of a token that is not predicted."""
_LINES = 1000  # lines that are tokenised together


class PredictedTokens:
    """Forms in which tokens of a corpus are predicted: an example is a block, its loss the mean over those tokens.

    Outputs are the logits of predicted tokens alone `[predicted, vocabulary]`, in the order of `targets`.
    """

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each block's loss `[blocks]`: the mean cross-entropy of its predicted tokens (0 if it has none)."""
        return _by_block(_cross_entropy(outputs, targets), targets).sum(dim=1) / _count(targets).clamp(min=1)

    def judging(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Return a context that changes nothing."""
        return nullcontext()

    def blank(self, data: Encoded) -> NDArray[np.float32]:
        """Return an array for what `judge` returns for all blocks."""
        return np.zeros((len(data.ids), 3), np.float32)

    def judge(self, outputs: Tensor, targets: Tensor) -> NDArray[np.float32]:
        """Return of each block how many tokens are predicted, how many of them are right, and their summed loss."""
        right = (outputs.argmax(dim=-1) == targets[targets != IGNORED]).float()
        sums = [_by_block(value, targets).sum(dim=1) for value in (right, _cross_entropy(outputs, targets).float())]
        return torch.stack([_count(targets).float(), *sums], dim=1).cpu().numpy()

    def finish(self, found: NDArray[np.float32], data: Encoded) -> NDArray[np.float32]:
        """Return the outputs of an evaluation `[blocks, 3]`."""
        return found


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, targets[targets != IGNORED], reduction="none")


def _by_block(values: Tensor, targets: Tensor) -> Tensor:
    """Return values of predicted tokens in their places `[blocks, tokens]`, zeros elsewhere."""
    return torch.zeros(targets.shape, dtype=values.dtype, device=values.device).masked_scatter(
        targets != IGNORED, values
    )


def _count(targets: Tensor) -> Tensor:
    return (targets != IGNORED).sum(dim=1)


def tokens_of(lines: Iterable[str], tokenizer: Any) -> Iterator[NDArray[np.int32]]:
    """Yield the token ids of a corpus, some lines at a time: a large one's Python lists would fill the memory."""
    lines = iter(lines)
    while some := list(islice(lines, _LINES)):
        found = tokenizer(some, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        yield np.fromiter(chain.from_iterable(found), np.int32)


def whole_corpus(lines: Iterable[str], tokenizer: Any, width: int, max_length: int) -> NDArray[np.int32]:
    """Return the token ids of a corpus; raises TicketError if they do not fill one block of `width`."""
    tokens = np.concatenate([np.zeros(0, np.int32), *tokens_of(lines, tokenizer)])
    if len(tokens) < width:
        raise TicketError(_too_short("the corpus", len(tokens), 1, width, max_length))
    return tokens


def check_corpus(task: Task, tokenizer: Any, width: int, max_length: int) -> None:
    """Raise TicketError if a corpus is too short to train on, or to choose by: that takes two blocks of the dev set.

    Reads no more of it than it must.
    """
    for name, part, blocks in (("training set", task.train, 1), ("dev set", task.dev, 2)):
        tokens = 0
        for found in tokens_of(part.text, tokenizer):
            tokens += len(found)
            if tokens >= blocks * width:
                break
        else:
            raise TicketError(_too_short(f"task {task.name!r}: the {name}", tokens, blocks, width, max_length))


def _too_short(what: str, tokens: int, blocks: int, width: int, max_length: int) -> str:
    some = "one block" if blocks == 1 else f"{blocks} blocks"
    return f"{what} has {tokens} tokens, expected at least {some} of {width} (--max-length {max_length})."

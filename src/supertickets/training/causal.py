"""Causal language modelling: each token of a corpus predicted from those before it.

A training example is a block of `max_length` tokens, its loss the mean over all tokens but the first. An evaluation
reads overlapping windows, so that a token has context: each window begins half a window after the one before it, and
only its tokens that no earlier window had are predicted (the sliding window of transformers' "Perplexity of
fixed-length models", with a stride of half of the length).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from supertickets.tasks import Split, Task
from supertickets.training.batches import Encoded
from supertickets.training.corpus import IGNORED, PredictedTokens, check_corpus, whole_corpus


@dataclass(frozen=True)
class Windows(Encoded):
    """Windows of a corpus. In each, tokens before the one at `first` are context; `targets` are not read."""

    first: NDArray[np.int64]

    def collate(
        self, rows: Sequence[int] | NDArray[np.int64], device: torch.device, drawn: Sequence[int] = ()
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return inputs and targets `[windows, tokens]`: at each place the next token's id where it is predicted, else
        IGNORED.
        """
        inputs, _ = super().collate(rows, device)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        begins = torch.from_numpy(self.first[np.asarray(rows)]).to(device)[:, None]
        targets = torch.full_like(ids, IGNORED)
        places = torch.arange(1, ids.shape[1], device=device)
        predicted = (mask[:, 1:] > 0) & (places >= begins)
        targets[:, :-1] = torch.where(predicted, ids[:, 1:], IGNORED)
        return inputs, targets


class Causal(PredictedTokens):
    """The form `causal`: an example is a block, its loss the mean over its tokens but the first."""

    def encode(self, part: Split, tokenizer: Any, max_length: int) -> Windows:
        """Tokenise a corpus and cut it into overlapping windows, in which each token but the first is predicted once.

        Lines follow each other with an end of line between them, without special tokens. Raises TicketError if there
        are not `max_length` tokens.
        """
        tokens, step = self._tokens(part, tokenizer, max_length), max(1, max_length // 2)
        begins = np.arange(0, max(1, len(tokens) - max_length + step), step)
        first = np.where(begins == 0, 1, max_length - step)
        return self._windows([tokens[begin : begin + max_length] for begin in begins], first, tokenizer)

    def encode_training(self, part: Split, tokenizer: Any, max_length: int) -> Windows:
        """Tokenise a corpus and cut it into blocks that do not overlap; what does not fill one at the end is dropped.

        Raises TicketError if there is not one block.
        """
        tokens = self._tokens(part, tokenizer, max_length)
        blocks = list(tokens[: len(tokens) // max_length * max_length].reshape(-1, max_length))
        return self._windows(blocks, np.ones(len(blocks), np.int64), tokenizer)

    def check(self, task: Task, tokenizer: Any, max_length: int) -> None:
        """Raise TicketError where `encode` would, without reading all of the task, or for a dev set of one block."""
        check_corpus(task, tokenizer, max_length, max_length)

    def forward(self, model: PreTrainedModel, inputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        """Return the logits of predicted tokens `[predicted, vocabulary]`, in the order of `targets`."""
        logits: Tensor = model(**inputs, use_cache=False).logits
        return logits[targets != IGNORED]

    def _tokens(self, part: Split, tokenizer: Any, max_length: int) -> NDArray[np.int32]:
        return whole_corpus((f"{line}\n" for line in part.text), tokenizer, max_length, max_length)

    def _windows(self, ids: list[NDArray[np.int32]], first: NDArray[np.int64], tokenizer: Any) -> Windows:
        return Windows(ids, None, np.zeros(len(ids)), tokenizer.pad_token_id, first)

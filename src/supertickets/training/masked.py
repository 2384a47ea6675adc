"""Masked language modelling: blocks of a corpus, tokens masked in them, the loss on those alone.

Devlin et al., BERT (NAACL 2019), section 3.1, and the released code of the BERT lottery tickets: 15 % of the tokens are
chosen; of those 80 % are shown as the mask token, 10 % as a random one, 10 % as they are. The head's softmax over the
vocabulary costs as much as a small encoder, so only the chosen positions go through it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from supertickets.errors import TicketError
from supertickets.tasks import Split, Task
from supertickets.tasks.tables import counted
from supertickets.training.batches import Encoded
from supertickets.training.corpus import IGNORED, PredictedTokens, check_corpus, whole_corpus

SHARE, SHOWN_MASKED, SHOWN_RANDOM = 0.15, 0.8, 0.1
_ENDS = 2  # tokens of a block that begin and end it
_FIXED, _DRAWN = 1, 2  # seeds of the two kinds begin with these, so that no drawn mask is a fixed one


@dataclass(frozen=True)
class Blocks(Encoded):
    """Blocks of a corpus. `special` are the ids that are never masked; `targets` are not read."""

    mask_id: int
    vocabulary: int
    special: NDArray[np.int32]

    def collate(
        self, rows: Sequence[int] | NDArray[np.int64], device: torch.device, drawn: Sequence[int] = ()
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return masked inputs and targets `[blocks, tokens]`: the token's id where one is predicted, else IGNORED."""
        inputs, _ = super().collate(rows, torch.device("cpu"))
        ids = inputs["input_ids"].numpy()
        targets = np.full_like(ids, IGNORED)
        for i, row in enumerate(rows):
            seed = [_DRAWN, *drawn, int(row)] if drawn else [_FIXED, int(row)]
            n = len(self.ids[row])
            ids[i, :n], targets[i, :n] = self.masked(self.ids[row], np.random.default_rng(seed))
        inputs = {name: value.to(device) for name, value in inputs.items()}
        return inputs, torch.from_numpy(targets).to(device)

    def masked(self, ids: NDArray[np.int32], rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return what a block's tokens are shown as, and their targets."""
        chosen = (rng.random(len(ids)) < SHARE) & ~np.isin(ids, self.special)
        how = rng.random(len(ids))
        other = rng.integers(self.vocabulary, size=len(ids))
        shown = np.where(how < SHOWN_MASKED, self.mask_id, np.where(how < SHOWN_MASKED + SHOWN_RANDOM, other, ids))
        return np.where(chosen, shown, ids).astype(np.int64), np.where(chosen, ids, IGNORED).astype(np.int64)


class Masked(PredictedTokens):
    """The form `masked`: the tokens that were masked are predicted."""

    def encode(self, part: Split, tokenizer: Any, max_length: int) -> Blocks:
        """Tokenise a corpus and cut it into blocks of `max_length` tokens, [CLS] and [SEP] among them.

        Lines follow each other without anything between them; what does not fill a block at the end is dropped. Raises
        TicketError if there is not one block, or if the model has no mask token.
        """
        first, last = _ends(tokenizer)
        width = max_length - _ENDS
        tokens = whole_corpus(part.text, tokenizer, width, max_length)
        whole = tokens[: len(tokens) // width * width].reshape(-1, width)
        ends = np.ones((len(whole), 1), np.int32)
        blocks = np.hstack([first * ends, whole, last * ends])
        segments = "token_type_ids" in tokenizer.model_input_names
        special = [tokenizer.pad_token_id, first, last, tokenizer.mask_token_id]
        return Blocks(
            list(blocks),
            [np.zeros(max_length, np.int32)] * len(blocks) if segments else None,
            np.zeros(len(blocks)),
            tokenizer.pad_token_id,
            tokenizer.mask_token_id,
            len(tokenizer),
            np.array(special, np.int32),
        )

    def check(self, task: Task, tokenizer: Any, max_length: int) -> None:
        """Raise TicketError where `encode` would, without reading all of the task, or for a dev set of one block."""
        _ends(tokenizer)
        check_corpus(task, tokenizer, max_length - _ENDS, max_length)

    def forward(self, model: PreTrainedModel, inputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        """Return logits `[masked tokens, vocabulary]`, in the order of `targets`: no other position meets the head."""
        chosen = targets != IGNORED

        def gather(module: nn.Module, args: Any, output: Any) -> None:
            output.last_hidden_state = output.last_hidden_state[chosen]

        hook = model.base_model.register_forward_hook(gather)
        try:
            logits: Tensor = model(**inputs).logits
        finally:
            hook.remove()
        return logits


def _ends(tokenizer: Any) -> tuple[int, int]:
    """Return the ids that a block begins and ends with; raises TicketError if the model has none, or no mask token."""
    if tokenizer.mask_token_id is None:
        raise TicketError(
            "masked language modelling needs a mask token, which the model's tokenizer does not have; expected a model "
            "such as bert-base-uncased."
        )
    around = tokenizer("")["input_ids"]
    if len(around) != _ENDS:
        raise TicketError(
            "masked language modelling needs a token that begins a text and one that ends it, and the model's "
            f"tokenizer adds {counted(len(around), 'special token')}; expected a model such as bert-base-uncased."
        )
    first, last = around
    return first, last

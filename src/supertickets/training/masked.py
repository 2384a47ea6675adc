"""Masked language modelling: blocks of a corpus, tokens masked in them, the loss on those alone.

Devlin et al., BERT (NAACL 2019), section 3.1, and the released code of the BERT lottery tickets: 15 % of the tokens are
chosen; of those 80 % are shown as the mask token, 10 % as a random one, 10 % as they are. The head's softmax over the
vocabulary costs as much as a small encoder, so only the chosen positions go through it.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from supertickets.errors import TicketError
from supertickets.tasks import Split, Task
from supertickets.training.batches import Encoded

SHARE, SHOWN_MASKED, SHOWN_RANDOM = 0.15, 0.8, 0.1
IGNORED = -100
"""The target of a token that is not predicted."""
_FIXED, _DRAWN = 1, 2  # seeds of the two kinds begin with these, so that no drawn mask is a fixed one
_LINES = 1000  # lines that are tokenised together


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


class Masked:
    """The form `masked`: an example is a block, its loss the mean over its masked tokens (0 if it has none)."""

    def encode(self, part: Split, tokenizer: Any, max_length: int) -> Blocks:
        """Tokenise a corpus and cut it into blocks of `max_length` tokens, [CLS] and [SEP] among them.

        Lines follow each other without anything between them; what does not fill a block at the end is dropped. Raises
        TicketError if there is not one block, or if the model has no mask token.
        """
        first, last = _ends(tokenizer)
        width = max_length - 2
        tokens = np.concatenate([np.zeros(0, np.int32), *_tokens(part.text, tokenizer)])
        if len(tokens) < width:
            raise TicketError(_too_short("the corpus", len(tokens), 1, width, max_length))
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

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each block's loss `[blocks]`: the mean cross-entropy of its masked tokens."""
        return _by_block(_cross_entropy(outputs, targets), targets).sum(dim=1) / _count(targets).clamp(min=1)

    def judging(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Return a context that changes nothing."""
        return nullcontext()

    def blank(self, data: Encoded) -> NDArray[np.float32]:
        """Return an array for what `judge` returns for all blocks."""
        return np.zeros((len(data.ids), 3), np.float32)

    def judge(self, outputs: Tensor, targets: Tensor) -> NDArray[np.float32]:
        """Return of each block how many tokens are masked, how many of them are right, and their summed loss."""
        right = (outputs.argmax(dim=-1) == targets[targets != IGNORED]).float()
        sums = [_by_block(value, targets).sum(dim=1) for value in (right, _cross_entropy(outputs, targets).float())]
        return torch.stack([_count(targets).float(), *sums], dim=1).cpu().numpy()

    def finish(self, found: NDArray[np.float32], data: Encoded) -> NDArray[np.float32]:
        """Return the outputs of an evaluation `[blocks, 3]`."""
        return found


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, targets[targets != IGNORED], reduction="none")


def _by_block(values: Tensor, targets: Tensor) -> Tensor:
    """Return values of masked tokens in their places `[blocks, tokens]`, zeros elsewhere."""
    return torch.zeros(targets.shape, dtype=values.dtype, device=values.device).masked_scatter(
        targets != IGNORED, values
    )


def _count(targets: Tensor) -> Tensor:
    return (targets != IGNORED).sum(dim=1)


def _ends(tokenizer: Any) -> tuple[int, int]:
    """Return the ids that a block begins and ends with; raises TicketError if the model cannot mask tokens."""
    if tokenizer.mask_token_id is None:
        raise TicketError(
            "masked language modelling needs a mask token, which the model's tokenizer does not have; expected a model "
            "such as bert-base-uncased."
        )
    first, *_, last = tokenizer("")["input_ids"]
    return first, last


def _tokens(lines: Iterable[str], tokenizer: Any) -> Iterator[NDArray[np.int32]]:
    """Yield the token ids of a corpus, some lines at a time: a large one's Python lists would fill the memory."""
    lines = iter(lines)
    while some := list(islice(lines, _LINES)):
        found = tokenizer(some, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        yield np.fromiter(chain.from_iterable(found), np.int32)


def _too_short(what: str, tokens: int, blocks: int, width: int, max_length: int) -> str:
    some = "one block" if blocks == 1 else f"{blocks} blocks"
    return f"{what} has {tokens} tokens, expected at least {some} of {width} (--max-length {max_length})."


def check_corpus(task: Task, tokenizer: Any, max_length: int) -> None:
    """Raise TicketError if a corpus is too short to train on, or to choose by: that takes two blocks of the dev set.

    Reads no more of it than it must.
    """
    _ends(tokenizer)
    width = max_length - 2
    for name, part, blocks in (("training set", task.train, 1), ("dev set", task.dev, 2)):
        tokens = 0
        for found in _tokens(part.text, tokenizer):
            tokens += len(found)
            if tokens >= blocks * width:
                break
        else:
            raise TicketError(_too_short(f"task {task.name!r}: the {name}", tokens, blocks, width, max_length))

"""Training with only the word embeddings that a task's texts use.

A row whose token never occurs has a zero gradient: weight decay is all that touches it. Leaving such rows out of the
training and decaying them at the end gives the same model, and saves the optimiser most of the embedding matrix
(two thirds of the small default encoder's optimiser time).
"""

import copy
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from supertickets.tasks.task import CORPORA
from supertickets.training.batches import Encoded, EncodedTask


def _used(data: list[EncodedTask], read: Iterable[int | None]) -> NDArray[np.int64]:
    """Return the ids that occur, and those up to the largest that the tokenizer pads with or the model reads."""
    splits = [split for task in data for split in (task.train, *task.evaluations.values())]
    reserved = np.arange(max(0, *(one or 0 for one in read), *(split.pad_id for split in splits)) + 1)
    return np.unique(np.concatenate([reserved, *(ids for split in splits for ids in split.ids)]))


class UsedVocabulary:
    """A model's word embeddings cut to the tokens that occur in the data, and the way back.

    Rows up to the padding token's are always kept, so that its id stays what it was: RoBERTa counts positions by its
    config's, which may be another than the tokenizer's. A decoder beside an encoder looks for the end of a text by its
    id, and begins with one.
    Of a corpus every row is: any may be shown in place of a masked token, and all are predicted, mostly by this matrix.
    """

    def __init__(self, encoder: PreTrainedModel, data: list[EncodedTask]) -> None:
        embedding = encoder.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding)
        self._whole = any(task.task.form in CORPORA for task in data)
        config = encoder.config
        reads = (config.eos_token_id, config.decoder_start_token_id) if config.is_encoder_decoder else ()
        if getattr(config, "token_dropout", False):  # ESM counts masked tokens
            reads = (*reads, config.mask_token_id)
        self.used: NDArray[np.int64] = (
            np.arange(len(embedding.weight)) if self._whole else _used(data, (embedding.padding_idx, *reads))
        )
        self._full = embedding.weight.detach().cpu()
        self._encoder = encoder
        self._name = next(name for name, module in encoder.named_modules() if module is embedding)
        if self._whole:  # the module stays: the output layer's matrix may be its own
            return
        compact = copy.copy(embedding)
        compact._parameters = {"weight": nn.Parameter(embedding.weight.detach()[torch.from_numpy(self.used)])}
        compact.num_embeddings = len(self.used)
        encoder.set_input_embeddings(compact)

    @property
    def rows(self) -> dict[str, NDArray[np.int64]]:
        """The tensor that training has some rows of, by its name in the encoder, and which rows they are."""
        return {f"{self._name}.weight": self.used}

    @property
    def left_out(self) -> int:
        """How many parameters the training does without."""
        return (len(self._full) - len(self.used)) * self._full.shape[1]

    def translate(self, task: EncodedTask) -> EncodedTask:
        """Return the task with token ids that count the rows kept."""

        def split(part: Encoded) -> Encoded:
            return replace(part, ids=[np.searchsorted(self.used, ids).astype(np.int32) for ids in part.ids])

        return EncodedTask(task.task, split(task.train), {name: split(part) for name, part in task.evaluations.items()})

    def full_weight(self, compact: Tensor, decay: float) -> Tensor:
        """Return all rows again: trained ones from `compact`, the others times `decay`, the product of all steps'."""
        full = self._full * decay
        full[torch.from_numpy(self.used)] = compact.detach().to(full)
        return full

    def restore(self, decay: float) -> None:
        """Give the encoder all its rows back."""
        if self._whole:
            return
        embedding = self._encoder.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding)
        weight = self.full_weight(embedding.weight, decay)
        embedding.weight = nn.Parameter(weight.to(embedding.weight.device))
        embedding.num_embeddings = len(weight)

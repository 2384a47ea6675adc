"""A forward pass of a model, as costs are measured with it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from supertickets.lab.measured import Batch

Forward = Callable[[], object]


def forward_of(model: PreTrainedModel, batch: Batch, seed: int = 0) -> Forward:
    """Return a forward pass of random tokens without padding; a decoder beside an encoder reads them again."""
    vocabulary, pad = int(model.config.vocab_size), getattr(model.config, "pad_token_id", None)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (batch.batch_size, batch.length), generator=generator)
    if pad is not None:  # it would be no token: RoBERTa counts no position for it
        ids[ids == pad] = (pad + 1) % vocabulary
    ids = ids.to(model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    return lambda: model(**inputs)


def prepared(model: PreTrainedModel, device: str) -> PreTrainedModel:
    """Return a model on a device, ready to compute as a classifier does: without dropout, keeping no keys and values.

    Changes it in place.
    """
    model.config.use_cache = False
    moved: PreTrainedModel = model.eval().to(device)
    return moved

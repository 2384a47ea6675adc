"""What is asked of every family: tickets, their loud tiny model, inputs; see `helpers.models.OTHERS`."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from helpers.models import (
    FFN,
    HEADS,
    LAYERS,
    TWO_STACKS,
    make_loud,
    pads_with_1,
    tiny_config,
)
from supertickets.anatomy import FAMILIES, Family
from supertickets.tickets import Ticket
from test_surgery import TICKET

FULL = Ticket.full(LAYERS, HEADS)
NO_HEADS = Ticket.from_pruned(LAYERS, HEADS, [(1, head) for head in range(HEADS)], [2])
NEURONS = TICKET & Ticket.of_neurons(TICKET.heads, np.arange(LAYERS * FFN).reshape(LAYERS, FFN) % 3 > 0)
WRONG_NEURON = TICKET & Ticket.of_neurons(TICKET.heads, np.arange(LAYERS * FFN).reshape(LAYERS, FFN) % 3 != 1)
OTHER = Ticket.from_pruned(LAYERS, HEADS, [(0, 0), (1, 1), (1, 0)], [0])
FIRST_WITHOUT_HEADS = Ticket.from_pruned(LAYERS, HEADS, [*((0, head) for head in range(HEADS)), (1, 0), (2, 3)], [1])


def fitted(ticket: Ticket, family: str) -> Ticket:
    """Return a ticket for a family's tiny model: with a decoder, a row of heads for each attention module."""
    if family not in TWO_STACKS:
        return ticket
    heads = ticket.heads[[1, 0, 2, 2, 0]]
    return Ticket(heads, ticket.ffns) if ticket.neurons is None else Ticket.of_neurons(heads, ticket.neurons)


def kept_by(ticket: Ticket) -> tuple[np.ndarray, np.ndarray]:
    """Return which heads and neurons a ticket keeps."""
    return ticket.heads, ticket.neurons_of(FFN)


def loud(family: str, **more: Any) -> PreTrainedModel:
    config = tiny_config(family, num_labels=2, **more)
    return make_loud(AutoModelForSequenceClassification.from_config(config).double()).eval()


def texts_of(family: str) -> dict[str, torch.Tensor]:
    """Five inputs of 4 to 12 tokens, padded."""
    ids = torch.randint(5, 120, (5, 12), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(12) < torch.tensor([12, 4, 7, 9, 5])[:, None]).long()
    if family in TWO_STACKS:  # which read a text at its end
        ids[range(5), mask.sum(dim=1) - 1] = 2
    return {"input_ids": torch.where(mask.bool(), ids, int(pads_with_1(family))), "attention_mask": mask}


def changed(family: str, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Let a family's data say something else of attention."""
    of: Family = FAMILIES[family]
    monkeypatch.setitem(FAMILIES._registered, family, replace(of, attention=replace(of.attention, **changes)))

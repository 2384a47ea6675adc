from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supertickets.models import quiet_transformers
from supertickets.tasks import Split
from supertickets.training.recipe import Precision


def predict(
    model: Path,
    text: list[str],
    pair: list[str] | None,
    max_length: int,
    precision: Precision = "float32",
    device: str = "auto",
) -> NDArray[np.float32]:
    """Return a saved model's outputs `[texts, outputs]`, computed as a training's evaluation does.

    `model` is a folder as `ship` writes it, small models included. Raises TicketError for one that gives outputs for
    tokens: answers as spans, masked tokens.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    from supertickets.errors import TicketError

    kind = (AutoConfig.from_pretrained(model, local_files_only=True).architectures or ["none"])[0]
    if not kind.endswith("ForSequenceClassification"):
        raise TicketError(f"{model}: expected a model of whole texts, this one is a {kind}; load it with transformers.")

    with quiet_transformers():
        network = AutoModelForSequenceClassification.from_pretrained(model, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    return outputs_of(network, tokenizer, text, pair, max_length, precision, device)


def outputs_of(
    network: Any,
    tokenizer: Any,
    text: list[str],
    pair: list[str] | None,
    max_length: int,
    precision: Precision = "float32",
    device: str = "auto",
) -> NDArray[np.float32]:
    """Return a model's outputs `[texts, outputs]`, computed as a training's evaluation does."""
    import torch

    from supertickets.errors import TicketError
    from supertickets.training.batches import encode_split, in_length_order
    from supertickets.training.devices import arithmetic, find_device

    if isinstance(text, str) or isinstance(pair, str) or (pair is not None and len(pair) != len(text)):
        raise TicketError("texts to predict: expected a list of texts, and a second one as long for pairs.")
    if not text:
        return np.zeros((0, network.config.num_labels), np.float32)
    where: Any = find_device(device)
    network.to(where).eval()
    encoded = encode_split(Split(text, pair, np.zeros(len(text))), tokenizer, max_length)
    outputs = np.zeros((len(text), network.config.num_labels), np.float32)
    with torch.inference_mode(), arithmetic(precision, where):
        for rows in in_length_order(encoded.lengths, 64):
            inputs, _ = encoded.collate(rows, where)
            outputs[rows] = network(**inputs).logits.float().cpu().numpy()
    return outputs

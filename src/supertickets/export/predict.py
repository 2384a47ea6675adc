from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supertickets.models import STOCK_CLASSES, form_of_class, load_tokenizer, quiet_transformers
from supertickets.tasks import Split
from supertickets.training.recipe import Precision


def predict(
    model: Path,
    text: list[str],
    pair: list[str] | None,
    max_length: int,
    precision: Precision = "float32",
    device: str = "auto",
    batch_size: int = 64,
) -> NDArray[np.float32]:
    """Return a saved model's outputs `[texts, outputs]`, computed as a training's evaluation does.

    `model` is a folder as `ship` writes it, small models included. Raises TicketError for one that gives outputs for
    tokens: answers as spans, masked tokens, tags of words.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from supertickets.errors import TicketError
    from supertickets.training.devices import undisturbed

    kind = (AutoConfig.from_pretrained(model, local_files_only=True).architectures or ["none"])[0]
    if not kind.endswith("ForSequenceClassification"):
        form = form_of_class(kind)
        way = "transformers" if form is None else f"transformers' {STOCK_CLASSES[form]}"
        way += " or its pipeline('token-classification')" if form == "tokens" else ""
        raise TicketError(f"{model}: expected a sequence classification model, got a {kind}; load it with {way}.")

    with quiet_transformers(), undisturbed():
        network = AutoModelForSequenceClassification.from_pretrained(model, local_files_only=True)
    tokenizer = load_tokenizer(str(model), model).tokenizer
    return outputs_of(network, tokenizer, text, pair, max_length, precision, device, batch_size)


def outputs_of(
    network: Any,
    tokenizer: Any,
    text: list[str],
    pair: list[str] | None,
    max_length: int,
    precision: Precision = "float32",
    device: str = "auto",
    batch_size: int = 64,
) -> NDArray[np.float32]:
    """Return a model's outputs `[texts, outputs]`, computed as a training's evaluation does.

    With the batch size of an evaluation (twice the training's) and its precision they are the same bit for bit.
    """
    from supertickets.errors import TicketError
    from supertickets.training.batches import encode_split
    from supertickets.training.devices import find_device, undisturbed
    from supertickets.training.evaluation import judged_on
    from supertickets.training.objectives import Sequences

    if isinstance(text, str) or isinstance(pair, str) or (pair is not None and len(pair) != len(text)):
        raise TicketError("expected a list of texts and, for pairs, a second list of the same length.")
    objective = Sequences(network.config.problem_type == "regression", network.config.num_labels)
    if not text:
        return np.zeros((0, network.config.num_labels), np.float32)
    with undisturbed():
        where: Any = find_device(device)
        encoded = encode_split(Split(text, pair, np.zeros(len(text))), tokenizer, max_length)
        rows = network.get_input_embeddings().num_embeddings
        if beyond := [row for row, ids in enumerate(encoded.ids) if ids.max() >= rows]:
            token = tokenizer.convert_ids_to_tokens(int(encoded.ids[beyond[0]].max()))
            raise TicketError(
                f"text {beyond[0] + 1} has {token!r}, a special token for which the model has no embedding row; remove "
                "it from the text."
            )
        return judged_on(encoded, network.to(where), objective, batch_size, precision, where)

"""A forward pass: dense and cut encoder, in torch, in onnxruntime, and there with weights of 8 bits.

The default encoder, one thread, 128 tokens without padding, numbers of 32 bits where they do not have 8. The ticket is
random, at 50 % of heads and FFNs (time depends on how much it keeps, not on which). All of them take turns.
"""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from figures import ENCODER, Figure, of_pairs, random_ticket
from numpy.typing import NDArray

from supertickets.export.source import Exported, open_model
from supertickets.export.to_onnx import INT8, MODEL, session_of, write_onnx
from supertickets.lab.forward import Forward, forward_of, prepared
from supertickets.lab.latency import take_turns
from supertickets.lab.measured import Batch
from supertickets.models import find_model
from supertickets.surgery.cut import cut
from supertickets.training.devices import undisturbed


def inputs_of(exported: Exported, batch: Batch) -> dict[str, torch.Tensor]:
    """What the file reads: random tokens of one text each."""
    shape = (batch.batch_size, batch.length)
    ids = torch.randint(0, exported.model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "token_type_ids" in exported.tokenizer.model_input_names:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    return inputs


def of_batch(batch: Batch, repeats: int) -> dict[tuple[str, str], NDArray[np.float64]]:
    """The seconds of each runtime's pass of the dense and the cut encoder."""
    ticket = random_ticket(find_model(ENCODER).shape, 0.5)
    passes: dict[tuple[str, str], Forward] = {}
    with undisturbed(1), torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        for name in ("dense", "cut"):
            exported, place = open_model(ENCODER), Path(folder) / name
            if name == "cut":
                cut(exported.model, ticket)
            place.mkdir()
            write_onnx(exported, place, int8=True)
            passes["torch", name] = forward_of(prepared(exported.model, "cpu"), batch)
            for runtime, file in (("ONNX", MODEL), ("ONNX, 8 bits", INT8)):
                passes[runtime, name] = partial(session_of(place / file), inputs_of(exported, batch))
        return take_turns(passes, repeats)


def figures(smallest: bool) -> Iterator[Figure]:
    for size in (1,) if smallest else (1, 32):
        batch = Batch(batch_size=size, length=8 if smallest else 128)
        times = of_batch(batch, 1 if smallest else 30 // (1 + size // 4))
        first = times["torch", "dense"]
        for (runtime, name), seconds in times.items():
            yield of_pairs(f"{runtime}, {name}, batch of {size}", 1000 * seconds, "ms")
        for (runtime, name), seconds in times.items():
            if (runtime, name) != ("torch", "dense"):
                yield of_pairs(f"{runtime}, {name}, beside dense in torch, batch of {size}", seconds / first, "x")

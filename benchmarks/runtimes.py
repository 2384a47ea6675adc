"""Milliseconds of a forward pass: dense and cut encoder, in torch, in onnxruntime, and there with weights of 8 bits.

    python benchmarks/runtimes.py --level 0.5 --batch-size 1 --length 128

All of them take turns in one run. The ticket is random (time depends on how much it keeps, not on which), texts have
random tokens and no padding, there is no output layer, and numbers have 32 bits where they do not have 8. The machine
should do nothing else; only the ratios carry over to other machines.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from supertickets.anatomy.cost import units
from supertickets.export.source import Exported, open_model
from supertickets.export.to_onnx import INT8, MODEL, session_of, write_onnx
from supertickets.lab.forward import Forward, forward_of, prepared
from supertickets.lab.latency import take_turns
from supertickets.lab.measured import Batch
from supertickets.models import find_model
from supertickets.surgery.cut import cut
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import Drawing, draw_random
from supertickets.tickets.levels import counts_at
from supertickets.training.devices import undisturbed


def inputs_of(exported: Exported, batch: Batch) -> dict[str, torch.Tensor]:
    """What the file reads: random tokens of one text each."""
    shape = (batch.batch_size, batch.length)
    ids = torch.randint(0, exported.model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "token_type_ids" in exported.tokenizer.model_input_names:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    return inputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--structures", default="heads,ffns")
    parser.add_argument("--level", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smallest", action="store_true", help="one pass each of a short text")
    options = parser.parse_args()
    if options.smallest:
        options.repeats, options.length = 1, 8
    base, kinds = find_model(options.model), tuple(options.structures.split(","))
    of, full = units(base.shape, kinds), Ticket.full(*base.shape.of_tickets)
    ticket = draw_random(full.shape, of, counts_at(options.level, of), options.level, 0, Drawing(structures=kinds))
    batch = Batch(batch_size=options.batch_size, length=options.length)
    passes: dict[tuple[str, str], Forward] = {}
    with undisturbed(options.threads), torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        for name in ("dense", "cut"):
            exported, place = open_model(options.model), Path(folder) / name
            if name == "cut":
                cut(exported.model, ticket)
            place.mkdir()
            write_onnx(exported, place, int8=True)
            passes["torch", name] = forward_of(prepared(exported.model, "cpu"), batch)
            for file in (MODEL, INT8):
                passes[file, name] = partial(session_of(place / file), inputs_of(exported, batch))
        times = take_turns(passes, options.repeats)
    first = times["torch", "dense"]
    print(f"{'':16} {'dense':>10} {'cut':>10} {'cut/dense':>10} {'dense/torch':>12}")
    for runtime in dict.fromkeys(runtime for runtime, _ in times):
        dense, small = (times[runtime, name] for name in ("dense", "cut"))
        print(
            f"{runtime:16} {1000 * np.median(dense):7.2f} ms {1000 * np.median(small):7.2f} ms "
            f"{np.median(small / dense):10.2f} {np.median(dense / first):12.2f}"
        )


if __name__ == "__main__":
    main()

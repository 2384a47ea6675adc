"""How near tickets come to random targets, and what importance they keep beside tickets of the same share.

For models of three shapes (the default encoder's, BERT-base's and BERT-large's) random targets of parameters and of
bytes are drawn, and tickets for them, from random scores of skewed importance. Printed are the worst of what was left
unused, the worst of what was exceeded, and the share of importance kept by the draw and by the paper's way (the same
share of every kind of structure). For the default encoder the model is cut and saved, and its file is measured.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from figures import random_scores

from supertickets.anatomy.cost import units
from supertickets.anatomy.family import Shape, family_of
from supertickets.evidence.reached import importance_kept
from supertickets.models import dense_size, find_model, quiet_transformers
from supertickets.studies.targets import TargetInputs, caps_of
from supertickets.surgery.cut import cut
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import draw_ranked, normalise
from supertickets.tickets.kinds import Structure
from supertickets.tickets.knapsack import draw_under, lightest_level
from supertickets.tickets.targets import Targets

BERT = {"model_type": "bert", "initializer_range": 0.02, "max_position_embeddings": 512}
BASE = BERT | {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 768, "intermediate_size": 3072}
LARGE = BERT | {"num_hidden_layers": 24, "num_attention_heads": 16, "hidden_size": 1024, "intermediate_size": 4096}
KINDS: tuple[tuple[Structure, ...], ...] = (("heads", "ffns"), ("heads", "neurons"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=5, help="random targets of each shape, quantity and kinds")
    parser.add_argument("--smallest", action="store_true", help="one target each of the smallest shape")
    options = parser.parse_args()
    base = find_model("default")
    sizes = dict(zip(("parameters", "size"), dense_size(base, "sequence", 2), strict=True))
    shapes = {"default": (base.shape, sizes)}
    for name, config, parameters in (("base", BASE, 109_483_778), ("large", LARGE, 335_143_938)):
        shape = family_of("bert").shape(config)
        shapes[name] = shape, {"parameters": parameters, "size": 4 * parameters + 128 * 400}
    if options.smallest:
        options.targets, shapes = 1, {"default": shapes["default"]}
    rng = np.random.default_rng(0)
    print("shape    kinds          quantity    targets  unused at most  exceeded  importance  same share  seconds")
    for name, (shape, dense) in shapes.items():
        for kinds in KINDS:
            for quantity in ("parameters", "size"):
                row = _tried(shape, dense, kinds, quantity, options.targets, rng)
                print(f"{name:8} {','.join(kinds):14} {quantity:10} {row}", flush=True)
    _saved(base, rng, options.targets)


def _tried(
    shape: Shape,
    dense: dict[str, int],
    kinds: tuple[Structure, ...],
    quantity: str,
    count: int,
    rng: np.random.Generator,
) -> str:
    found = []
    for _ in range(count):
        scores, share = random_scores(shape, rng), float(rng.uniform(0.55, 0.95))
        targets = _Asked(target=(f"{quantity}={share:.4f}",), structures=kinds)
        (cap,) = caps_of(targets, shape, TargetInputs(**dense))
        of, shaped = units(shape, kinds), shape.of_tickets
        started = time.perf_counter()
        ticket = draw_under(scores, [cap], shaped, of).ticket
        seconds = time.perf_counter() - started
        _, same = lightest_level(lambda _, counts, s=scores: draw_ranked(normalise(s), counts, "winning"), [cap], of)
        kept = [importance_kept(scores, one, kinds) for one in (ticket, same)]
        found.append((cap.of(ticket) / cap.most - 1, *kept, seconds))
    table = np.array(found)
    return (
        f"{count:8} {-100 * table[:, 0].min():13.3f} % {max(0.0, 100 * table[:, 0].max()):7.3f} % "
        f"{100 * table[:, 1].mean():9.1f} % {100 * table[:, 2].mean():9.1f} % {table[:, 3].max():8.2f}"
    )


class _Asked(Targets):
    structures: tuple[Structure, ...]


def _saved(base, rng: np.random.Generator, count: int) -> None:  # type: ignore[no-untyped-def]
    """Cut the default encoder to tickets for sizes, save it, and compare the file with the target."""
    from transformers import AutoModelForSequenceClassification

    shape, inputs = base.shape, dict(zip(("parameters", "size"), dense_size(base, "sequence", 2), strict=True))
    for kinds in KINDS:
        misses = []
        for _ in range(count):
            least = 4 * (inputs["parameters"] - 10_635_264) / 1e6 + 6
            megabytes = float(rng.uniform(least, inputs["size"] / 1e6 - 0.5))
            targets = _Asked(target=(f"size={megabytes:.3f}MB",), structures=kinds)
            caps = caps_of(targets, shape, TargetInputs(**inputs))
            ticket: Ticket = draw_under(random_scores(shape, rng), caps, shape.of_tickets, units(shape, kinds)).ticket
            with quiet_transformers():
                model = AutoModelForSequenceClassification.from_pretrained(base.folder, num_labels=2)
            with quiet_transformers(), tempfile.TemporaryDirectory() as folder:
                cut(model, ticket).save_pretrained(folder)
                misses.append((Path(folder) / "model.safetensors").stat().st_size / (1e6 * megabytes) - 1)
        print(
            f"default, {','.join(kinds)}: {count} saved files take {100 * min(misses):+.2f} to "
            f"{100 * max(misses):+.2f} % more than their targets"
        )


if __name__ == "__main__":
    main()

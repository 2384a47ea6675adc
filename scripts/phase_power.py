"""How often the phase test detects a rise, in simulated studies without a gain and with one; prints a table.

    python scripts/phase_power.py > phase_power.md

Each study has a dense model and tickets at 8 levels, S seeds and n dev examples. Winning tickets gain D points over the
dense model times (0.6, 1, 0.6, 0) at the light levels, then they are 1, 3, 6 and 10 points below it. Runs are as
`supertickets design` assumes: scores vary over seeds by 1 point with 277 examples, of which 0.35 points are a run's own
skill. `share` is the part of an example's variance that is the ticket's effect on it. In `noisy` all of this is 1.2
times as large, and there is no skill of a run's own. In `right or wrong` outputs are right or wrong on each example. In
`collapse` a tenth of all trainings lose 15 points.
"""

import argparse
from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from supertickets.evidence.statistics import dunnett_limit, pooled_free

CURVE = np.array([0.6, 1.0, 0.6, 0.0])
"""What the tickets of each light level gain, of the largest gain."""
LIGHT = len(CURVE)
SEED, RUN, EXAMPLES = 0.35, 1.0, 277
MODELS = ("normal", "noisy", "right or wrong", "collapse")
Floats = NDArray[np.float32]


def light_gains(rng: np.random.Generator, model: str, count: int, seeds: int, examples: int, share: float) -> Floats:
    """Return light tickets' differences from the dense model, `[studies, levels, seeds, examples]`, in points."""
    if model == "right or wrong":
        return _right_or_wrong(rng, count, seeds, examples, share)
    skill = 0.0 if model == "noisy" else SEED
    by_example = (RUN**2 - skill**2) * EXAMPLES * (1.44 if model == "noisy" else 1.0)
    runs = rng.standard_normal((count, 1 + LIGHT, seeds, examples), np.float32) * np.float32(np.sqrt(by_example))
    of_ticket = rng.standard_normal((count, 1 + LIGHT, 1, examples), np.float32)
    runs += of_ticket * np.float32(np.sqrt(by_example * share / (1 - share)))
    of_run = skill * rng.standard_normal((count, 1 + LIGHT, seeds, 1), np.float32)
    if model == "collapse":
        of_run -= 15 * (rng.random(of_run.shape) < 0.1)
    runs += of_run
    return runs[:, 1:] - runs[:, :1]


def _right_or_wrong(rng: np.random.Generator, count: int, seeds: int, examples: int, share: float) -> Floats:
    """Return differences of correctness: as in scripts/coverage.py, but of four tickets, and the dense model too has an
    effect of its own on each example, as it has in the other models here."""
    easy = rng.beta(2.0, 0.8, (count, 1, 1, examples))
    changed = rng.random((count, 1 + LIGHT, 1, examples)) < share
    chances = np.where(changed, rng.beta(2.0, 0.8, changed.shape), easy)
    chances = np.clip(chances + rng.normal(0, 0.02, (count, 1 + LIGHT, seeds, 1)), 0, 1)
    right = (rng.random(chances.shape) < chances).astype(np.float32)
    return np.asarray(100 * (right[:, 1:] - right[:, :1]), np.float32)


def rises(differences: Floats, gains: list[float]) -> NDArray[np.bool_]:
    """Return for each gain, added by the curve, in which studies Dunnett's test sees a rise, `[gains, studies]`.

    It is `statistics.dunnett` for all studies at once.
    """
    _, _, seeds, examples = differences.shape
    mean = differences.mean(axis=(2, 3), dtype=np.float64)
    by_seed = examples * differences.mean(axis=3, dtype=np.float64).var(axis=2, ddof=1).mean(axis=1)
    of_examples = differences.mean(axis=2, dtype=np.float64) - mean[..., None]
    by_example = seeds * (of_examples**2).sum(axis=2).mean(axis=1) / (examples - 1)
    squares = np.einsum("clse,clse->c", differences, differences, dtype=np.float64) / LIGHT
    squares -= seeds * examples * (mean**2).mean(axis=1) + (seeds - 1) * by_seed + (examples - 1) * by_example
    rest = squares / ((seeds - 1) * (examples - 1))
    free = pooled_free(seeds - 1.0, LIGHT)
    total = (runs := np.maximum(by_seed, rest)) + np.maximum(by_example - rest, 0)
    free = np.where(by_seed >= rest, free, free * (examples - 1)) * (total / runs) ** 2
    limits = _limits(free) * np.sqrt(total / (seeds * examples))
    return np.stack([((mean + gain * CURVE).max(axis=1) > limits) for gain in gains])


@cache
def _known() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    free = np.concatenate([np.linspace(0.5, 10, 39), np.geomspace(10.5, 1e6, 40)])
    return free, np.array([dunnett_limit(LIGHT, one) for one in free])


def _limits(free: NDArray[np.float64]) -> NDArray[np.float64]:
    known, limits = _known()
    return np.interp(1 / np.clip(free, known[0], known[-1]), 1 / known[::-1], limits[::-1])


def seen(model: str, seeds: int, examples: int, share: float, count: int, gains: list[float]) -> list[float]:
    """Return in which share of studies a rise is seen, for each gain."""
    rng, found, left = np.random.default_rng([seeds, examples, round(1000 * share)]), [], count
    step = max(1, 4_000_000 // ((1 + LIGHT) * seeds * examples))
    while left > 0:
        found.append(rises(light_gains(rng, model, min(step, left), seeds, examples, share), gains))
        left -= step
    return [float(share) for share in np.concatenate(found, axis=1).mean(axis=1)]


def cells(smallest: bool) -> Iterator[tuple[str, int, float]]:
    """Yield what has a row: model, examples, share."""
    for model in MODELS:
        for examples in (60,) if smallest else (277, 1043):
            for share in (0.2,) if smallest else (0.07, 0.2):
                yield model, examples, share


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000, help="studies per cell (default: 2000)")
    parser.add_argument("--smallest", action="store_true", help="a few small cells, to see that the script works")
    asked = parser.parse_args()
    count, numbers = (100, (3,)) if asked.smallest else (asked.studies, (2, 3, 5, 10, 20))
    print(f"Share of {count:,} studies with a rise: without a gain, and with one of +1 and +2 points.\n")
    print("| model | n | share | " + " | ".join(f"S={number}" for number in numbers) + " |")
    print("|---" * (3 + len(numbers)) + "|")
    for model, examples, share in cells(asked.smallest):
        found = [seen(model, number, examples, share, count, [0.0, 1.0, 2.0]) for number in numbers]
        said = " | ".join("{:.3f} / {:.2f} / {:.2f}".format(*cell) for cell in found)
        print(f"| {model} | {examples} | {share} | {said} |", flush=True)


if __name__ == "__main__":
    main()

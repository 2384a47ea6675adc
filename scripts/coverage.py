"""How often the 95 % interval of a gain covers the truth, in simulated studies; prints a table.

    python scripts/coverage.py > coverage.md

Each study has S seeds and n dev examples, and no true gain. `normal` is the model that the test assumes: an effect of
each seed, of each example, and of both together; `share` is the example's part of what varies within a seed. `right or
wrong` has runs that are right or wrong on each example, most examples easy, some hard. In `collapse` a tenth of the
seeds lose 15 points at once, with and without the ticket alike in chance.
"""

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from supertickets.evidence.statistics import paired_t_test, two_way_test

Studies = Callable[[np.random.Generator, int, int, float], NDArray[np.float64]]


def normal(rng: np.random.Generator, seeds: int, examples: int, share: float) -> NDArray[np.float64]:
    """Return a study's differences by example `[seeds, examples]`, in points."""
    of_example = rng.normal(0, np.sqrt(share * examples), examples)
    rest = rng.normal(0, np.sqrt((1 - share) * examples), (seeds, examples))
    return rng.normal(0, 0.5, (seeds, 1)) + of_example + rest


def right_or_wrong(rng: np.random.Generator, seeds: int, examples: int, share: float) -> NDArray[np.float64]:
    """Return differences of correctness: examples have a skewed chance of being right, the ticket changes it."""
    easy = rng.beta(2.0, 0.8, examples)
    other = np.where(rng.random(examples) < share, rng.beta(2.0, 0.8, examples), easy)  # of equal mean over examples
    moved = rng.normal(0, 0.02, (2, seeds, 1))  # each training's own skill
    chances = (np.clip(chance + by, 0, 1) for chance, by in zip((easy, other), moved, strict=True))
    dense, ticket = (rng.random((seeds, examples)) < chance for chance in chances)
    return 100.0 * (ticket.astype(float) - dense)


def collapse(rng: np.random.Generator, seeds: int, examples: int, share: float) -> NDArray[np.float64]:
    """Return differences of the model `normal` in which a tenth of the trainings collapse."""
    lost = rng.random((2, seeds, 1)) < 0.1
    return normal(rng, seeds, examples, share) + 15.0 * (lost[0].astype(float) - lost[1])


MODELS: dict[str, Studies] = {"normal": normal, "right or wrong": right_or_wrong, "collapse": collapse}


def covered(studies: Studies, seeds: int, examples: int, share: float, count: int) -> tuple[float, float]:
    """Return which shares of studies' intervals have the true gain, 0, in them: two-way, and over seeds alone."""
    rng, two_way, alone = np.random.default_rng([seeds, examples, round(1000 * share)]), 0, 0
    for _ in range(count):
        one = studies(rng, seeds, examples, share)
        mean, by_seed = float(one.mean()), one.mean(axis=1).tolist()
        test, over_seeds = two_way_test(one, mean), paired_t_test(by_seed, [0.0] * seeds)
        two_way += test.low <= 0 <= test.high
        alone += over_seeds.low <= 0 <= over_seeds.high
    return two_way / count, alone / count


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000, help="studies per cell (default: 2000)")
    parser.add_argument("--smallest", action="store_true", help="a few small cells, to see that the script works")
    asked = parser.parse_args()
    count = 50 if asked.smallest else asked.studies
    seeds = (2, 5) if asked.smallest else (2, 3, 5, 10, 20)
    sizes, shares = ((60,), (0.2,)) if asked.smallest else ((277, 1043), (0.07, 0.1, 0.2, 0.29, 0.44))
    print(f"Coverage of 95 % intervals, {count:,} studies per cell: for new seeds and examples (over seeds alone).\n")
    print("| model | n | share | " + " | ".join(f"S={number}" for number in seeds) + " |")
    print("|---" * (3 + len(seeds)) + "|")
    for name, studies in MODELS.items():
        for examples in sizes:
            for share in shares:
                cells = [covered(studies, number, examples, share, count) for number in seeds]
                said = " | ".join(f"{both:.3f} ({alone:.3f})" for both, alone in cells)
                print(f"| {name} | {examples} | {share} | {said} |", flush=True)


if __name__ == "__main__":
    main()

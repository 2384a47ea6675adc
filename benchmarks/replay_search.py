"""Replay search methods on recorded grids of `find`: what each costs, and how far it is from the level of the grid.

    python benchmarks/replay_search.py benchmarks/grids/*.safetensors

Each method is tuned on the grids of other tasks than those it is judged on. Regret is in points: what the level that
the whole grid chooses scores more than the level that the method names. Below, seeds and dev examples are drawn anew:
the regret of the whole grid there is the noise of its own choice, which a search cannot be expected to undercut.
The same options always give the same table. With --made-up N, N invented studies are added.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from supertickets.errors import TicketError
from supertickets.evidence.recorded import RecordedGrid
from supertickets.evidence.search.grid import MadeUp, grid_of
from supertickets.evidence.search.replay import FAMILIES, Trials, compare


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grids", nargs="*", type=Path, metavar="GRID", help="files of scripts/record_grid.py")
    parser.add_argument("--made-up", type=int, default=0, metavar="N", help="invented studies to add")
    parser.add_argument("--budget", type=float, default=0.25, help="share of the grid's cost to spend (default: 0.25)")
    parser.add_argument("--resamples", type=int, default=50, help="resamples of each grid (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="seed of resamples and invented studies (default: 0)")
    parser.add_argument("--smallest", action="store_true", help="two invented studies, few resamples and variants")
    options = parser.parse_args()
    families = dict(FAMILIES)
    if options.smallest:
        options.made_up, options.resamples = 2, 5
        families = {name: variants[:2] for name, variants in families.items()}
    try:
        grids = [grid_of(RecordedGrid.load(path), path.stem) for path in options.grids]
    except TicketError as error:
        print(error, file=sys.stderr)
        return 2
    rng = np.random.default_rng([options.seed, 29])
    grids += [MadeUp.random(rng).grid(i, f"made up {i}") for i in range(options.made_up)]
    if not grids:
        parser.error("expected a GRID or --made-up")
    for grid in grids:
        said = f"; without seeds {', '.join(map(str, grid.left_out))}" if grid.left_out else ""
        print(
            f"{grid.name}: {len(grid.levels)} levels, {len(grid.dense)} seeds, {grid.dense.shape[1]} epochs, "
            f"{grid.dense.shape[2]} examples; the grid chooses {grid.levels[grid.best]:g}{said}"
        )
    if len({grid.group for grid in grids}) < 2:
        print("All grids are of one task, so no method is tuned.")
    started = time.perf_counter()
    trials = Trials(grids, options.budget, options.resamples, options.seed)
    print(compare(trials, families).round(3).to_string(index=False))
    for name, variants in families.items():
        if len(variants) > 1:
            print(f"{name}, tuned on all: {trials.tuned(variants, range(len(grids)))}")
    print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

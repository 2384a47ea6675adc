"""How much of the training set importance needs, and how early in the dense training its tickets are there.

    python benchmarks/settled.py benchmarks/grids/*.safetensors

Of recorded grids with importance (`scripts/record_grid.py`). A row is a level: the overlap (Jaccard index of the
structures that stay, mean over seeds) of the winning ticket with the ones drawn from the examples that
`--score-examples settled` takes, from each share of the examples that it may end with, and from all examples after each
epoch before the last; beside them that of two seeds' tickets, and that of random tickets of the same sizes. `used` is
the share of the examples that were taken.
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from supertickets.errors import TicketError
from supertickets.evidence.recorded import RecordedGrid, RecordedRun
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import draw_ranked
from supertickets.tickets.kinds import Structure

GRIDS = Path(__file__).parent / "grids"


def tickets_of(grid: RecordedGrid, level: float) -> dict[tuple[int, int, float], Ticket]:
    """Return the winning tickets of a level by seed, epoch and share of the examples."""
    runs = {run.seed: run for run in grid.where(kind="winning", level=level)}
    found = {}
    for one in grid.importance:
        if one.seed in runs:
            counts = _counts(grid, runs[one.seed], {kind: scores.size for kind, scores in one.scores.items()})
            found[one.seed, one.epoch, one.share] = draw_ranked(one.normalised, counts, "winning")
    return found


def _counts(grid: RecordedGrid, run: RecordedRun, there: dict[Structure, int]) -> dict[Structure, int]:
    kept = {"heads": run.heads, "ffns": run.ffns, "neurons": run.neurons}
    return {kind: there[kind] - (kept[kind] or 0) for kind in grid.about["structures"]}


def by_chance(ticket: Ticket, draws: int = 200) -> float:
    """Return the mean overlap of a ticket with random ones that keep as many heads, and FFNs or neurons."""
    rng = np.random.default_rng(0)

    def drawn() -> Ticket:
        of_ffns = ticket.ffns if ticket.neurons is None else ticket.neurons
        heads, kept = (rng.permutation(one.ravel()).reshape(one.shape) for one in (ticket.heads, of_ffns))
        return Ticket(heads, kept) if ticket.neurons is None else Ticket.of_neurons(heads, kept)

    return float(np.mean([ticket.overlap(drawn()) for _ in range(draws)]))


def rows_of(name: str, grid: RecordedGrid) -> Iterator[dict[str, object]]:
    """Yield a row for each level."""
    scored = {run.seed: run for run in grid.where(kind="dense") if run.seed in grid.settled}
    epochs = max((one.epoch for one in grid.importance), default=0)
    for level in grid.levels:
        tickets = tickets_of(grid, level)
        # Without seeds whose ticket diverged.
        dense = {seed: run for seed, run in scored.items() if (seed, run.best_epoch, 1.0) in tickets}
        own = {seed: tickets[seed, run.best_epoch, 1.0] for seed, run in dense.items()}

        def mean(overlaps: list[float]) -> float:
            return float(np.mean(overlaps)) if overlaps else np.nan

        shares = sorted({round(one.share, 2) for one in grid.importance if one.share < 1})
        fewer = {
            f"of_{share:g}": mean(
                [
                    own[seed].overlap(ticket)
                    for (seed, epoch, of), ticket in tickets.items()
                    if seed in dense and epoch == dense[seed].best_epoch and round(of, 2) == share
                ]
            )
            for share in shares
        }
        early = {
            f"epoch_{epoch}": mean(
                [own[seed].overlap(tickets[seed, epoch, 1.0]) for seed in own if (seed, epoch, 1.0) in tickets]
            )
            for epoch in range(1, epochs)
        }
        settled = [own[seed].overlap(tickets[seed, dense[seed].best_epoch, grid.settled[seed]]) for seed in own]
        yield {
            "grid": name,
            "level": level,
            "seeds": len(own),
            "used": mean([grid.settled[seed] for seed in own]),
            "settled": mean(settled),
            **fewer,
            **early,
            "two_seeds": mean([one.overlap(other) for one, other in combinations(own.values(), 2)]),
            "random": mean([by_chance(ticket) for ticket in own.values()]),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grids", nargs="*", type=Path, metavar="GRID", help="files of scripts/record_grid.py")
    parser.add_argument("--smallest", action="store_true", help="the smallest grid of benchmarks/grids that has shares")
    options = parser.parse_args()
    if options.smallest:
        found = sorted(GRIDS.glob("*.safetensors"), key=lambda path: path.stat().st_size)
        options.grids = [next(path for path in found if RecordedGrid.load(path).settled)]
    if not options.grids:
        parser.error("expected a GRID")
    rows = list[dict[str, object]]()
    for path in options.grids:
        try:
            grid = RecordedGrid.load(path)
        except TicketError as error:
            print(error, file=sys.stderr)
            return 2
        if not grid.settled:
            print(f"{path.stem}: without importance, or recorded before the share of examples was; left out.")
            continue
        rows += rows_of(path.stem, grid)
    if rows:
        print(pd.DataFrame(rows).round(3).to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())

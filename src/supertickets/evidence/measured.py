"""Tables of measured costs, for the terminal and for pages."""

from __future__ import annotations

import pandas as pd

from supertickets.lab.measured import Batch, Measured, Quartiles, Which
from supertickets.lab.progress import size


def time_table(made: Measured) -> pd.DataFrame:
    """Return the times of forward passes, a row for each batch size and length; medians with quartiles."""
    rows = []
    for passes in made.passes:
        row = {"batch": _batch(passes.batch)}
        row |= {f"{which} ms": _quartiles(timed.seconds, 1000) for which, timed in passes.models.items()}
        if passes.ratio is not None:
            row["ticket / dense"] = _quartiles(passes.ratio)
        row |= {f"{which} GFLOPs": f"{timed.flops / 1e9:.3g}" for which, timed in passes.models.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def throughput_table(made: Measured) -> pd.DataFrame:
    """Return how many texts and tokens a second the medians of `time_table` are."""
    rows = []
    for passes in made.passes:
        row = {"batch": _batch(passes.batch)}
        row |= {f"{which} texts/s": f"{timed.examples_per_second:,.1f}" for which, timed in passes.models.items()}
        row |= {f"{which} tokens/s": f"{timed.tokens_per_second:,.0f}" for which, timed in passes.models.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def size_table(made: Measured) -> pd.DataFrame:
    """Return the sizes of the models, which are its columns."""
    peak = f"memory at {_batch(made.peak_of)}"
    rows: dict[Which, dict[str, str]] = {
        which: {
            "parameters": f"{sizes.parameters:,}",
            "parameters of heads and FFNs": f"{sizes.structures:,}",
            "safetensors file": size(sizes.file),
            peak: "-" if sizes.peak is None else size(sizes.peak),
        }
        for which, sizes in made.sizes.items()
    }
    return pd.DataFrame(rows).rename_axis("").reset_index()


def _batch(batch: Batch) -> str:
    return f"{batch.batch_size} x {batch.length} tokens"


def _quartiles(of: Quartiles, unit: float = 1.0) -> str:
    return f"{unit * of.median:.3g} ({unit * of.low:.3g} to {unit * of.high:.3g})"

"""Numbers as shades: tables whose cells are coloured by their numbers, blue above zero and orange below.

The two stay apart for colour-blind readers, signs and marks tell them apart without any colour, and shades are pale
enough for the page's colour of text on light and dark pages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

_DEEPEST, _PALEST = 0.6, 0.05


@dataclass(frozen=True)
class Shade:
    """A cell: what it shows, what it says, how it is coloured (`strength` from 0 to 1), and marks (style classes)."""

    text: str
    title: str = ""
    strength: float = 0.0
    below: bool = False
    marks: tuple[str, ...] = ()

    @property
    def classes(self) -> str:
        """Its style classes."""
        colour = ("below" if self.below else "above",) if self.strength else ()
        return " ".join((*colour, *self.marks))

    @property
    def opacity(self) -> str:
        """How opaque its colour is."""
        return f"{_PALEST + (_DEEPEST - _PALEST) * self.strength:.3f}"


@dataclass(frozen=True)
class Shades:
    """A table of shades: the columns' names, and each row's name with its cells."""

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Shade]]]

    @classmethod
    def of(
        cls, table: pd.DataFrame, form: str, most: float | None = None, shown: Mapping[str, str] | None = None
    ) -> "Shades":
        """Return numbers as shades, the deepest for `most` (or the largest there is); missing ones stay empty.

        `shown` are columns' names where they are to be shown under others.
        """
        largest = most_of(table) if most is None else most
        rows = []
        for name, values in zip(table.index, table.itertuples(index=False, name=None), strict=True):
            cells = [
                Shade(form.format(value), f"{name}, {column}", strength_of(value, largest), value < 0)
                if pd.notna(value)
                else Shade("")
                for column, value in zip(table.columns, values, strict=True)
            ]
            rows.append((str(name), cells))
        return cls([(shown or {}).get(str(name), str(name)) for name in table.columns], rows)


def most_of(table: pd.DataFrame) -> float:
    """Return how far a table's numbers go from zero; 0 if there are none."""
    return float(np.nanmax(np.abs(table.to_numpy(float)), initial=0.0))


def strength_of(value: float, most: float, power: float = 1.0) -> float:
    """Return how strongly a number is coloured, if `most` is coloured fully."""
    return float(min(abs(value) / most, 1.0) ** power) if most else 0.0


def matrix_names(table: pd.DataFrame) -> dict[str, str]:
    """Return shorter names of a table's columns, which are a layer's matrices: `query` for `attention.self.query`."""
    return {name: name.replace("attention.self.", "").removesuffix(".dense") for name in map(str, table.columns)}

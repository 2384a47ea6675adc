"""What pages are made of: sections of words, tables, figures and drawings, which one template shows.

A block is whatever has `__html__`, as all below have from a macro of their name in `templates/blocks.html.jinja`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pandas.io.formats.style import Styler

from supertickets.reports.maps import StructureMap
from supertickets.tickets.kinds import NAMES

WORDS = tomllib.loads(resources.files("supertickets.reports").joinpath("words.toml").read_text(encoding="utf-8"))
"""What pages say beside figures and tables, by study."""
_FORMATS = {
    **dict.fromkeys(("level", "learning_rate"), "{:g}"),
    **dict.fromkeys(("parameters", "tokens", "examples"), "{:,.0f}"),
    **dict.fromkeys(("seed", "seeds", "of_seed", "runs", "batch_size", "epochs", "best_epoch", "● of them"), "{:.0f}"),
    **dict.fromkeys(("heads", "ffns", "neurons"), "{:.5g}"),
    **dict.fromkeys((f"{part} kept" for part in (*NAMES.values(), "parameters", "FLOPs")), "{:.1%}"),
    **dict.fromkeys(("encoder", "remaining", "inference", "sparsity", "fraction of parameters"), "{:.1%}"),
    **dict.fromkeys(("overlap", "kept", "pruned", "jaccard", "by tensor", "chance"), "{:.1%}"),
    **dict.fromkeys(("difference", "gain", "over own", "other tasks", "low", "high"), "{:+.2f}"),
    "seconds": "{:.1f}",
    "flops": "{:.3g}",
}
"""How numbers are shown in tables, by column; others see `shown`."""


@cache
def environment() -> Environment:
    """Return where the templates of pages are."""
    templates = PackageLoader("supertickets.reports")
    return Environment(loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True)


class Block:
    """A part of a section."""

    def __html__(self) -> str:
        macros: Any = environment().get_template("blocks.html.jinja").module
        return str(getattr(macros, type(self).__name__.lower())(self))


@dataclass(frozen=True)
class Words(Block):
    """A paragraph. `kind` is empty, `quiet` (what a table's columns mean), `key` (how to read it), or `warning`."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Heading(Block):
    """A heading below that of the section."""

    text: str
    level: int = 3


@dataclass(frozen=True)
class Listed(Block):
    """A list of sentences; the list of what came out (`kind`: verdict) stands out."""

    items: Sequence[str]
    kind: str = ""


@dataclass(frozen=True)
class Facts(Block):
    """Names with their values."""

    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Figure(Block):
    """A plotly figure, what it shows in words, and its caption."""

    plot: Any
    alt: str
    caption: str

    @property
    def html(self) -> Markup:
        """The figure; plotly writes it as JSON into a script, where it escapes </script> and the like itself."""
        config = {"displayModeBar": False, "responsive": True}
        return Markup(self.plot.to_html(full_html=False, include_plotlyjs=False, default_width="100%", config=config))


@dataclass(frozen=True)
class Maps(Block):
    """Tickets as small drawings, side by side."""

    maps: Sequence[StructureMap]


@dataclass(frozen=True)
class SharedMap(Block):
    """One large drawing of how many tasks keep each structure, with the numbers on it."""

    map: StructureMap


@dataclass(frozen=True)
class Table(Block):
    """A table that can be sorted, with its name for people who cannot see it; an index of names comes first.

    `form` is how numbers are shown in columns that have no form of their own. `wrap` lets the first have long texts.
    """

    table: pd.DataFrame
    name: str
    form: str = ""
    wrap: bool = False

    kind: ClassVar[str] = "sortable"

    @property
    def html(self) -> Markup:
        """The table, without what lies around it."""
        table = self.table
        if not isinstance(table.index, pd.RangeIndex):
            table = table.reset_index(names=table.index.name or "")
        return self._html(_Styled(table, cell_ids=False).hide())

    def _html(self, style: Styler, says: pd.DataFrame | None = None) -> Markup:
        forms: dict[Any, Any] = {name: partial(shown, form=_FORMATS.get(name, self.form)) for name in style.columns}
        style = style.format(forms, na_rep="-")
        kind = f"{self.kind} wrap" if self.wrap else self.kind
        said = [] if says is None else says.to_numpy().tolist()
        return Markup(style.to_html(name=self.name, kind=kind, says=said))


@dataclass(frozen=True)
class HeatMap(Table):
    """A table whose cells are coloured by numbers (`shades`, from -1 to 1): blue above zero and orange below.

    Colour-blind readers see the two as different, signs and marks say the same without any colour, and shades are pale
    enough for the colour of text on light and dark pages. `marks` are style classes; cells say `says`, or else
    where they are.
    """

    shades: pd.DataFrame = field(default_factory=pd.DataFrame)
    marks: pd.DataFrame | None = None
    says: pd.DataFrame | None = None

    kind: ClassVar[str] = "shades"

    @property
    def html(self) -> Markup:
        """The table, without what lies around it."""
        style = _Styled(self.table, cell_ids=False)
        style = style.apply(lambda _: self.shades.reindex_like(self.table).map(_ground), axis=None)
        return self._html(style if self.marks is None else style.set_td_classes(self.marks), self.says)


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading; without a title it comes before what the study shows. None is no block.

    Tables and lists that are empty are left out.
    """

    title: str
    blocks: Sequence[Any]
    id: str = ""
    level: int = 2


def titled(title: str, table: Table, *words: str) -> list[Block]:
    """Return a table under a heading, and words about it; nothing if it has no rows."""
    return [] if table.table.empty else [Heading(title), table, *(Words(one, "quiet") for one in words)]


def tables_section(tables: Mapping[str, pd.DataFrame], title: str = "Tables", words: str = "", id: str = "") -> Section:
    """Return a section that shows all tables that have rows."""
    blocks = [block for name, table in tables.items() for block in titled(name.capitalize(), Table(table, name))]
    return Section(title, [Words(words, "quiet") if words else None, *blocks], id)


def beside(table: pd.DataFrame) -> str:
    """Say that a table has the paper's own figures too, if it has."""
    there = any("published" in str(name) for name in (*table.index, *table.columns))
    return str(WORDS["all"]["beside"]) if there else ""


def of_seeds(plot: Any, alt: str, caption: str = "") -> Block:
    """Return a figure of means and single seeds' scores, or that there is none yet (None)."""
    if plot is None:
        return Words(WORDS["all"]["none"])
    return Figure(plot, *(words.format(alt, caption).strip() for words in WORDS["all"]["seeds"]))


def tested(what: str, rows: str) -> str:
    """Return what the columns of a table of paired differences mean; `rows` are those that p is corrected for."""
    return str(WORDS["all"]["tested"]).format(what, rows)


def shown(value: Any, form: str = "") -> str:
    """Return a cell as text: two decimals, more digits for small numbers, `-` for what there is not."""
    if pd.isna(value):
        return "-"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if form and not isinstance(value, str):
        digits = ".0f" if abs(value) >= 1e4 else ".5g"  # counts and means of counts, of any size without an exponent
        return form.replace(".5g", digits).format(value)
    if isinstance(value, float):
        return f"{value:.2g}" if abs(value) < 0.01 and value else f"{value:.2f}"
    return str(value)


def strength(numbers: pd.DataFrame, most: float | None = None, power: float = 1.0) -> pd.DataFrame:
    """Return how strongly numbers are coloured, from -1 to 1, if `most` (or what is farthest from 0) is fully."""
    largest = float(np.nanmax(np.abs(numbers.to_numpy(float)), initial=0.0)) if most is None else most
    scaled = (numbers.astype(float) / (largest or 1.0)).clip(-1, 1)
    return scaled.apply(np.sign) * scaled.abs() ** power


def _ground(shade: float) -> str:
    """Return the colour of a cell in CSS."""
    if pd.isna(shade) or not shade:
        return ""
    return f"background-color: rgba({'0,114,178' if shade > 0 else '213,94,0'},{0.05 + 0.55 * abs(shade):.3f})"


_Styled = Styler.from_custom_template(str(Path(__file__).parent / "templates"), html_table="table.html.jinja")

"""Findings: what a study shows, as values; a text template makes the sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from supertickets.evidence.looks import Look, of_looks
from supertickets.evidence.statistics import Paired
from supertickets.tasks.tables import counted
from supertickets.tickets.prices import amount


@dataclass(frozen=True)
class Findings:
    """What a study shows. A study adds fields of its own: values with names, and tables.

    `runs` is the table of all runs. `text` is a template (jinja2) or the name of one in this package (`*.jinja`): it
    sees the findings as `f`, and each of its lines that is not empty is a sentence. `shown` names the tables that the
    command prints.

    >>> class Best(Findings):
    ...     text = "The best score is {{ f.runs.score.max() | number }}."
    >>> Best(pd.DataFrame({"score": [70.25, 71.5]})).verdict
    'The best score is 71.50.'
    """

    runs: pd.DataFrame
    looks: tuple[Look, ...] = field(default=(), kw_only=True)
    """The looks at fewer runs before this one."""

    text: ClassVar[str] = ""
    shown: ClassVar[Mapping[str, str]] = {}
    """The tables to print where there are any, by name, with their titles."""

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """What the study shows, in sentences."""
        templates = _environment()
        in_package = self.text.endswith(".jinja")
        template = templates.get_template(self.text) if in_package else templates.from_string(self.text)
        lines = template.render(f=self).splitlines()
        said = [" ".join(line.split()) for line in lines if line.strip()]
        now = Look.at(self.tested) if self.looks else None
        return (*said, *([] if now is None else [of_looks(self.looks, now, self.main_test)]))

    @property
    def main_test(self) -> Paired | None:
        """The test whose p is corrected for looks, if there is one that the others follow."""
        return None

    @property
    def tested(self) -> pd.DataFrame:
        """The finished runs that tests are on: with other ones, an analysis is another look at the study."""
        return self.runs[self.runs["status"] == "finished"] if "status" in self.runs else self.runs.iloc[:0]

    @property
    def verdict(self) -> str:
        """All sentences."""
        return " ".join(self.sentences)

    def printed(self) -> dict[str, pd.DataFrame]:
        """Return the tables that the command prints, by title."""
        tables = self.tables()
        return {title: tables[name] for name, title in self.shown.items() if name in tables}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the tables to write into `tables/`, by name."""
        return {}


@cache
def _environment() -> Environment:
    found = Environment(loader=PackageLoader("supertickets.evidence"), undefined=StrictUndefined, autoescape=False)
    found.filters |= {
        "number": "{:.2f}".format,
        "signed": "{:+.2f}".format,
        "percent": "{:.0%}".format,
        "permille": "{:.1%}".format,
        "level": level,
        "counted": counted,
        "p": "{:.2g}".format,
        "barrier": lambda value: f"{value:.2g}" if known(value) else "not known",
        "interval": interval,
        "g": "{:g}".format,
        "amount": amount,
        "known": known,
    }
    found.tests |= {"known": known}
    return found


def known(value: Any) -> bool:
    """Return whether there is a number: neither None nor NaN nor infinite."""
    return value is not None and bool(np.isfinite(value))


def level(value: float) -> str:
    """Return a level in percent, with as many decimals as it has."""
    return f"{100 * value:.6g}%"


def interval(gain: Any) -> str:
    """Return the interval and the p of a row of `paired_gains` in words; nothing if there was no test."""
    return (
        f" (95 % interval: {gain['low']:+.2f} to {gain['high']:+.2f}, p = {gain['p']:.2g})" if known(gain["p"]) else ""
    )

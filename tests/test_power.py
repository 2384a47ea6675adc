"""What a study can detect: against simulated studies that the tests themselves judge."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from supertickets.errors import TicketError
from supertickets.evidence.examples import BY_EXAMPLE
from supertickets.evidence.phases import find_phases
from supertickets.evidence.power import (
    GainVariance,
    assumed_variance,
    gain_seen,
    pilot_variance,
    power,
    seeds_needed,
    smallest_gain,
)
from supertickets.evidence.statistics import dunnett, two_way_test

ASSUMED = assumed_variance()
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def gains(variance: GainVariance, seeds: int, examples: int, rng: np.random.Generator) -> np.ndarray:
    """A study's gains by example `[seeds, examples]`, without a true gain."""
    sizes = {(seeds, 1): variance.seed, (1, examples): variance.example, (seeds, examples): variance.rest}
    return np.sum([np.broadcast_to(rng.normal(0, v**0.5, s), (seeds, examples)) for s, v in sizes.items()], axis=0)


@pytest.mark.parametrize(("seeds", "examples"), [(2, 277), (3, 277), (10, 277), (5, 1043)])
def test_four_of_five_simulated_studies_see_the_gain(seeds: int, examples: int) -> None:
    """Control: a tenth of that gain is seen in far fewer (with two seeds, half of it nearly as often)."""
    rng, count, gain = np.random.default_rng(seeds), 400, gain_seen(ASSUMED, seeds, examples)
    seen = dict.fromkeys((gain, gain / 10), 0)
    for _ in range(count):
        nothing = gains(ASSUMED, seeds, examples, rng)
        for of in seen:
            test = two_way_test(nothing + of, float(nothing.mean()) + of)
            seen[of] += test.p < 0.05 and test.mean > 0
    low, high = stats.binom.ppf([0.001, 0.999], count, 0.8)
    assert low <= seen[gain] <= high
    assert seen[gain / 10] < low / 2
    assert power(gain / 10, ASSUMED, seeds, examples) == pytest.approx(seen[gain / 10] / count, abs=0.09)


def test_more_seeds_help_until_the_dev_set_is_what_hides_a_gain() -> None:
    seen = [gain_seen(ASSUMED, seeds, 277) for seeds in (2, 3, 5, 20, 100, 10_000)]
    assert seen == sorted(seen, reverse=True)
    least = smallest_gain(ASSUMED, 277)
    naive = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * (ASSUMED.example / 277) ** 0.5
    assert least == pytest.approx(naive)
    assert seen[-1] == pytest.approx(least, rel=0.01)
    assert smallest_gain(ASSUMED, 4 * 277) == pytest.approx(least / 2)
    assert gain_seen(ASSUMED, 1, 277) == np.inf
    assert gain_seen(ASSUMED, 5, 277, levels=4) > gain_seen(ASSUMED, 5, 277, levels=1)


def test_how_many_seeds_a_gain_needs() -> None:
    for gain in (1.5, 2.0, 3.0):
        needed = seeds_needed(gain, ASSUMED, 277)
        assert needed is not None
        assert gain_seen(ASSUMED, needed, 277) <= gain < gain_seen(ASSUMED, needed - 1, 277)
    least = smallest_gain(ASSUMED, 277)
    assert seeds_needed(least, ASSUMED, 277) is None
    assert seeds_needed(1.0001 * least, ASSUMED, 277) is None  # more than 10,000
    assert seeds_needed(least, ASSUMED, 2 * 277) is not None


def table(differences: dict[float, np.ndarray]) -> pd.DataFrame:
    """A study's table: a dense run a seed that scores 70 on every example, and winning tickets that differ from it."""
    rows = []
    for seed in range(len(next(iter(differences.values())))):
        for level, of in {0.0: 0 * next(iter(differences.values())), **differences}.items():
            values = 70 + of[seed].astype(float)
            by = SimpleNamespace(values=values, sizes=(len(values),))
            kind = "winning" if level else "dense"
            rows.append({"kind": kind, "level": level, "seed": seed, "score": values.mean(), BY_EXAMPLE: by})
    return pd.DataFrame(rows)


def test_a_pilot_says_how_gains_vary() -> None:
    """Its two light levels alone: the others vary four times as much."""
    rng, true = np.random.default_rng(0), GainVariance(2.0, 400, 90, "")
    light = {level: gains(true, 40, 500, rng) for level in (0.1, 0.2)}
    found = pilot_variance(table(light | {level: 2 * gains(true, 40, 500, rng) for level in (0.5, 0.8)}), "runs/x")
    assert found.seed == pytest.approx(true.seed, rel=0.5)
    assert found.rest == pytest.approx(true.rest, rel=0.05)
    assert found.example == pytest.approx(true.example, rel=0.2)
    assert found.source == (
        "The variance is that of winning tickets' gains in runs/x (40 seeds, 500 dev examples, 2 light levels)."
    )
    with pytest.raises(TicketError, match="--pilot runs/x: expected a study with two seeds or more"):
        pilot_variance(table({0.1: light[0.1][:1]}), "runs/x")
    with pytest.raises(TicketError, match="--pilot runs/x: expected a study with two seeds or more"):
        pilot_variance(table(light).iloc[:0], "runs/x")
    with pytest.raises(TicketError, match="differ by the same on every example; expected a study whose gains vary"):
        pilot_variance(table({0.1: np.ones((3, 20))}), "runs/x")


# --- the script that simulates the phase test -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "scripts" / "phase_power.py"
    spec = spec_from_file_location("phase_power", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seeds", [2, 5])
def test_the_script_judges_studies_as_the_library_does(script: ModuleType, seeds: int) -> None:
    """Also by `find_phases`, with heavy levels that fall."""
    rng, gain = np.random.default_rng(seeds), 1.5
    light = script.light_gains(rng, "normal", 12, seeds, 277, 0.2)
    (found,) = script.rises(light, [gain])
    assert 0 < found.sum() < 12
    for study, seen in zip(light, found, strict=True):
        curved = [np.asarray(level + gain * by, float) for level, by in zip(study, script.CURVE, strict=True)]
        assert (min(dunnett(curved)) < 0.05) == seen
        falling = [curved[0] - by for by in (1, 3, 6, 40)]
        phases = find_phases(table(dict(zip(LEVELS, [*curved, *falling], strict=True))))
        assert bool(phases.rises_at) == seen
        assert seeds == 2 or phases.seen == seen


@pytest.mark.parametrize(
    ("model", "seeds", "examples", "large"),
    [
        ("normal", 2, 277, 5.0),
        ("normal", 3, 1043, 5.0),
        ("noisy", 10, 277, 5.0),
        ("right or wrong", 5, 277, 10.0),
        ("collapse", 3, 277, 20.0),
    ],
)
def test_the_phase_test_errs_in_at_most_one_study_in_twenty(
    script: ModuleType, model: str, seeds: int, examples: int, large: float
) -> None:
    """The control: gains are seen, small ones more often than none, and a large one in most studies."""
    count = 300
    nothing, one, two, most = script.seen(model, seeds, examples, 0.2, count, [0.0, 1.0, 2.0, large])
    assert nothing * count <= stats.binom.ppf(0.999, count, 0.05)
    assert nothing <= one <= two
    assert two > 2 * nothing
    assert most > 0.75


def test_of_each_level_the_larger_mean_square_is_too_small(script: ModuleType) -> None:
    """Control of pooling first: with two seeds and many examples, the mean of each level's larger one errs more."""
    rng, count = np.random.default_rng(1), 400
    wrong, apart = 0, 0
    limits = script._limits
    for _ in range(count // 50):
        light = script.light_gains(rng, "normal", 50, 2, 10_000, 0.07)
        wrong += int(script.rises(light, [0.0]).sum())
        means = light.mean(axis=(2, 3), dtype=float)
        by_seed = 10_000 * light.mean(axis=3, dtype=float).var(axis=2, ddof=1)
        by_example = 2 * light.mean(axis=2, dtype=float).var(axis=2, ddof=1)
        rest = (light[:, :, 0] - light[:, :, 1]).astype(float).var(axis=2, ddof=1) / 2
        runs = np.maximum(by_seed, rest).mean(axis=1)
        total = runs + np.maximum(by_example - rest, 0).mean(axis=1)
        free = np.where(by_seed >= rest, 1.0, 9999.0).sum(axis=1) / 1.75 * (total / runs) ** 2
        apart += int((means.max(axis=1) > limits(free) * np.sqrt(total / 20_000)).sum())
    assert wrong <= stats.binom.ppf(0.999, count, 0.06)
    assert apart > stats.binom.ppf(0.95, count, 0.06)

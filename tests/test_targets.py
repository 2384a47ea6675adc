"""Targets: what is read, that the draw is the best there is, that studies and draws reach them."""

import itertools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification

import supertickets
from helpers.drawing import sizes as units_of
from helpers.models import HEADS, LAYERS, tiny_config
from supertickets.anatomy import Shape
from supertickets.anatomy.blocks import shape_of
from supertickets.anatomy.cost import (
    flops_prices,
    forward_flops,
    parameter_prices,
    removed_parameters,
    units,
)
from supertickets.cli import main
from supertickets.errors import TicketError
from supertickets.evidence.reached import importance_kept
from supertickets.lab.outcome import load_outcome
from supertickets.models import dense_size, find_model
from supertickets.studies.draw import draw_ticket
from supertickets.studies.draws import ForTarget
from supertickets.studies.find_settings import FindSettings
from supertickets.studies.targets import TargetInputs, caps_of
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import draw_ranked, normalise
from supertickets.tickets.kinds import Structure, Units
from supertickets.tickets.knapsack import Cap, draw_under, lightest_level, worth_of
from supertickets.tickets.levels import counts_at
from supertickets.tickets.prices import Prices
from supertickets.tickets.scoring import Scores
from supertickets.tickets.targets import Target, Targets


@pytest.mark.parametrize(
    ("text", "kept", "value", "is_share"),
    [
        ("parameters=0.8", "parameters=0.8", 0.8, True),
        ("parameters = 80%", "parameters=0.8", 0.8, True),
        ("parameters=17M", "parameters=17M", 17e6, False),
        ("encoder-parameters=5000000", "encoder-parameters=5000000", 5e6, False),
        ("size=70MB", "size=70MB", 70e6, False),
        ("size=1.5 MiB", "size=1.5MiB", 1.5 * 2**20, False),
        ("latency=12ms", "latency=12ms", 0.012, False),
        ("flops=0.6", "flops=0.6", 0.6, True),
        ("flops=0.99999999", "flops=0.99999999", 0.99999999, True),
    ],
)
def test_targets_are_read(text: str, kept: str, value: float, is_share: bool) -> None:
    found = Target.read(text)
    assert (found.text, found.value, found.is_share) == (kept, pytest.approx(value), is_share)
    assert Target.read(found.text) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0.8", "expected parameters, encoder-parameters, size, flops, latency"),
        ("weight=0.8", "expected parameters"),
        ("parameters=", "expected a share in (0, 1) or a number with a unit (k, M, B)"),
        ("parameters=1", "a share in (0, 1)"),
        ("parameters=0", "a share in (0, 1)"),
        ("parameters=-3", "a share in (0, 1)"),
        ("size=70mb", "write MB"),
        ("size=70", "B, kB, MB"),
        ("latency=3min", "s, ms, us"),
        ("flops=3G", "expected a share in (0, 1), got"),
        ("size=1.2.3MB", "got '1.2.3MB'"),
        ("parameters=120%", "a share in (0, 1)"),
        ("parameters=100%", "a share in (0, 1)"),
    ],
)
def test_what_is_no_target_is_said(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        Target.read(text)
    assert said in str(error.value)


def test_a_quantity_is_named_once() -> None:
    with pytest.raises(ValueError, match="each quantity once, got size 2 times"):
        Targets.model_validate({"target": ("size=1MB", "size=2MB")})


def _prices(sizes: dict[Structure, Units], each: dict[Structure, list[float]], fixed: float = 3.0) -> Prices:
    by = {kind: np.array([[0, *np.cumsum([each[kind][layer]] * one.each)] for layer in range(one.layers)], float)
          for kind, one in sizes.items()}  # fmt: skip
    return Prices("units", fixed, by)


def _naive(scores: Scores, caps: list[Cap], sizes: dict[Structure, Units], shape: tuple[int, ...]) -> float:
    """The most importance of all tickets, from the most on until one is allowed; -1 where none is."""
    every = np.array(list(itertools.product([False, True], repeat=sum(one.total for one in sizes.values()))))
    worths = every @ np.concatenate([scores[kind].ravel() for kind in sizes])
    for place in np.argsort(-worths, kind="stable"):
        kept: dict[Structure, Any] = {}
        at = 0
        for kind, one in sizes.items():
            kept[kind] = every[place, at : at + one.total].reshape(one.layers, one.each)
            at += one.total
        if any(one.one_stays and not kept[kind].any(axis=1).all() for kind, one in sizes.items()):
            continue
        ticket = Ticket.of_kinds({k: v.ravel() if k == "ffns" else v for k, v in kept.items()}, shape)
        if all(cap.prices.of(ticket) <= cap.most * (1 + 1e-9) for cap in caps):
            return float(worths[place])
    return -1.0


def _drawn_from(
    seed: int, share: float, of_neurons: bool, two: bool = False
) -> tuple[Scores, list[Cap], dict[Structure, Units], Ticket]:
    """Scores of a small model, what its tickets may cost, how many structures it has, and the whole model."""
    rng = np.random.default_rng(seed)
    layers, heads = 2, 3
    sizes: dict[Structure, Units] = {"heads": Units(layers, heads)}
    sizes |= {"neurons": Units(layers, 3)} if of_neurons else {"ffns": Units(layers, 1, one_stays=False)}
    scores: Scores = {"heads": rng.gamma(0.5, size=(layers, heads)), "ffns": rng.random(layers)}
    scores |= {"neurons": rng.random((layers, 3))} if of_neurons else {}
    full, caps = Ticket.full(layers, heads), []
    for name in ("first", "second")[: 1 + two]:
        prices = _prices(sizes, {kind: list(rng.integers(1, 5, layers)) for kind in sizes})
        caps.append(Cap(name, prices, share * prices.of(full)))
    return scores, caps, sizes, full


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.35, 0.95), st.booleans(), st.booleans())
def test_the_draw_keeps_the_most_importance(seed: int, share: float, of_neurons: bool, two: bool) -> None:
    scores, caps, sizes, full = _drawn_from(seed, share, of_neurons, two)
    best = _naive(scores, caps, sizes, full.shape)
    if best < 0:
        with pytest.raises(TicketError, match="--target"):
            draw_under(scores, caps, full.shape, sizes)
        return
    drawn = draw_under(scores, caps, full.shape, sizes)
    assert all(cap.holds(drawn.ticket) for cap in caps)
    every = sum(float(scores[kind].sum()) for kind in sizes)
    assert drawn.kept == pytest.approx(best / every, abs=1e-9)
    assert drawn.gap == 0.0


@pytest.mark.parametrize("of_neurons", [False, True])
def test_a_draw_of_the_least_important_would_be_seen(of_neurons: bool) -> None:
    """The control: it may cost as much, and keeps less."""
    for seed in range(10):
        scores, caps, sizes, full = _drawn_from(seed, 0.7, of_neurons)
        right = draw_under(scores, caps, full.shape, sizes)
        wrong = draw_under({kind: values.max() - values for kind, values in scores.items()}, caps, full.shape, sizes)
        assert all(cap.holds(wrong.ticket) for cap in caps)
        of_wrong = sum(float(scores[kind][_kept(wrong.ticket, kind, 3)].sum()) for kind in sizes)
        assert of_wrong < 0.9 * right.kept * sum(float(scores[kind].sum()) for kind in sizes)


def _kept(ticket: Ticket, kind: Structure, width: int) -> Any:
    return {"heads": ticket.heads, "ffns": ticket.ffns, "neurons": ticket.neurons_of(width)}[kind]


def test_thousands_of_neurons_come_near_the_bound_and_more_is_kept_than_with_one_share() -> None:
    rng, (layers, heads, ffn) = np.random.default_rng(0), (6, 12, 1536)
    scores: Scores = {"heads": rng.gamma(0.5, size=(layers, heads)), "ffns": np.ones(layers),
                      "neurons": rng.gamma(0.5, size=(layers, ffn)) / 20}  # fmt: skip
    sizes: dict[Structure, Units] = {"heads": Units(layers, heads, 384.0), "neurons": Units(layers, ffn, 2.0)}
    prices = _prices(sizes, {"heads": [384.0] * layers, "neurons": [2.0] * layers}, 0.0)
    full = Ticket.full(layers, heads)
    cap = Cap("parameters=0.6", prices, 0.6 * prices.of(full))
    drawn = draw_under(scores, [cap], full.shape, sizes)
    assert 0.9999 * cap.most < cap.of(drawn.ticket) <= cap.most * (1 + 1e-9)
    assert drawn.gap < 1e-4
    level, same = lightest_level(lambda _, counts: draw_ranked(normalise(scores), counts, "winning"), [cap], sizes)
    assert cap.holds(same)
    assert 0.35 < level < 0.45
    kept = sum(float((scores[kind] * _kept(same, kind, ffn)).sum()) for kind in sizes)
    assert drawn.kept > kept / sum(float(scores[kind].sum()) for kind in sizes) + 0.01


def test_the_solver_prints_nothing(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """HiGHS does in some draws, whatever its options say; commands print JSON. Here it does in each."""
    milp, calls = scipy.optimize.milp, []

    def printing(*args: Any, **options: Any) -> Any:
        os.write(1, b"x")
        calls.append((args, options))
        return milp(*args, **options)

    monkeypatch.setattr(scipy.optimize, "milp", printing)
    scores, caps, sizes, full = _drawn_from(3, 0.7, of_neurons=False)
    assert caps[0].holds(draw_under(scores, caps, full.shape, sizes).ticket)
    assert capfd.readouterr().out == ""
    args, options = calls[0]
    printing(*args, **options)
    assert capfd.readouterr().out == "x"  # control


@pytest.mark.parametrize("below", [0.0, 10.0, 1000.0])
def test_negative_scores_count_from_the_lowest_of_their_kind(below: float) -> None:
    rng = np.random.default_rng(3)
    scores: Scores = {"heads": rng.random((2, 4)), "ffns": rng.random(2)}
    moved: Scores = {kind: values - values.min() - below for kind, values in scores.items()}
    sizes: dict[Structure, Units] = {"heads": Units(2, 4, 10.0), "ffns": Units(2, 1, 40.0, one_stays=False)}
    by: dict[Structure, Any] = {"heads": np.tile(10.0 * np.arange(5), (2, 1)), "ffns": np.tile([0.0, 40.0], (2, 1))}
    caps = [Cap("parameters=0.8", Prices("parameters", 0.0, by), 105.0)]
    found, same = (draw_under(of, caps, (2, 4), sizes) for of in (moved, worth_of(moved)))
    assert (found.ticket, found.kept, found.gap) == (same.ticket, pytest.approx(same.kept), 0.0)
    assert caps[0].of(found.ticket) == 100  # no less is kept than may be
    assert importance_kept(moved, found.ticket, ("heads", "ffns")) == pytest.approx(found.kept)
    assert 0.5 < found.kept < 1


def test_a_search_that_was_stopped_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    solve = scipy.optimize.milp

    def stopped(*asked: Any, **more: Any) -> Any:
        found = solve(*asked, **more)
        found.status = 1
        return found

    scores: Scores = {"heads": np.arange(1.0, 9).reshape(2, 4), "ffns": np.array([3.0, 5.0])}
    sizes: dict[Structure, Units] = {"heads": Units(2, 4, 10.0), "ffns": Units(2, 1, 40.0, one_stays=False)}
    by: dict[Structure, Any] = {"heads": np.tile(10.0 * np.arange(5), (2, 1)), "ffns": np.tile([0.0, 40.0], (2, 1))}
    caps = [Cap("parameters=0.7", Prices("parameters", 0.0, by), 115.0)]
    assert draw_under(scores, caps, (2, 4), sizes).gap == 0
    monkeypatch.setattr(scipy.optimize, "milp", stopped)
    assert draw_under(scores, caps, (2, 4), sizes).gap > 0


def test_a_target_near_the_whole_model_is_no_dense_run() -> None:
    shape = Shape(layers=12, heads=12, hidden=768, ffn=3072)
    settings = FindSettings(target=("encoder-parameters=0.99999",), structures=("heads", "neurons"))
    caps = caps_of(settings, shape, TargetInputs(parameters=110_000_000, size=440_000_000))
    ((level, ticket),) = ForTarget(settings, shape, caps).about.items()
    assert level > 0
    assert not ticket.is_full


@pytest.mark.parametrize("more", [{"structures": ("ffns",)}, {"random": "with-replacement"}, {}])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_what_the_draw_reaches_all_kinds_of_tickets_reach(more: dict[str, Any], share: float) -> None:
    """Of all that can go, only `share` may stay, whatever is pruned and however levels draw random tickets."""
    shape = Shape(layers=6, heads=12, hidden=384, ffn=1536)
    settings = FindSettings(task="cola", model="m", target=("encoder-parameters=0.9",), **more)
    (cap,) = caps_of(settings, shape, TargetInputs(parameters=10**9, size=10**9))
    heads = np.arange(12) < (1 if "heads" in settings.structures else 12)
    least = cap.prices.of(Ticket(np.tile(heads, (6, 1)), np.zeros(6, bool)))
    most = least + share * (cap.prices.of(Ticket.full(6, 12)) - least)
    draws = ForTarget(settings, shape, [replace(cap, most=most)])
    rng = np.random.default_rng(0)
    scores: Scores = {"heads": rng.random((6, 12)), "ffns": rng.random(6)}
    tickets = [draws.under(scores).ticket, draws.same_share("losing", scores)]
    tickets += [draws.random(draws.level, seed) for seed in range(6)]
    assert all(cap.of(ticket) <= most * (1 + 1e-9) for ticket in tickets)
    with pytest.raises(TicketError, match="the smallest ticket takes"):
        ForTarget(settings, shape, [replace(cap, most=0.99 * least)])


@pytest.mark.parametrize("target", ["encoder-parameters", "flops"])
def test_where_key_value_heads_are_shared_the_draw_is_the_best_too(target: str) -> None:
    """The best heads of a layer may need one key/value head more than others that keep more together."""
    shape = Shape(layers=2, heads=4, hidden=8, ffn=16, kv_heads=2, head_weights=16, kv_weights=64)
    every = {"heads": np.array([[10.0, 1, 9, 8.9], [1.0, 2, 3, 4]]), "ffns": np.ones(2)}
    tickets = [
        Ticket(np.array(heads).reshape(2, 4), np.ones(2, bool))
        for heads in itertools.product([False, True], repeat=8)
        if any(heads[:4]) and any(heads[4:])
    ]
    reached, not_the_highest = 0, 0
    for share in np.linspace(0.3, 0.97, 20):
        settings = FindSettings(target=(f"{target}={share:.3f}",), structures=("heads",))
        caps = caps_of(settings, shape, TargetInputs(parameters=10**6, size=10**7))
        hold = [one for one in tickets if caps[0].holds(one)]
        if not hold:
            with pytest.raises(TicketError, match="the smallest ticket takes"):
                draw_under(every, caps, (2, 4), settings.units(shape))
            continue
        drawn = draw_under(every, caps, (2, 4), settings.units(shape))
        assert caps[0].holds(drawn.ticket)
        best = max(importance_kept(every, one, ("heads",)) for one in hold)
        assert importance_kept(every, drawn.ticket, ("heads",)) == pytest.approx(best)
        assert (drawn.kept, drawn.gap) == (pytest.approx(best), 0.0)
        reached += 1
        not_the_highest += not drawn.ticket.heads[0, 0]
    assert reached > 5
    assert not_the_highest  # control: where it is not simply the best heads of a layer


def test_times_that_do_not_rise_hide_no_ticket() -> None:
    """The smallest layer is not the fastest here: one head takes longer than two."""
    prices = Prices("seconds", 0.0, {"heads": np.array([[0.0, 5.0, 1.0, 6.0]] * 3)})
    ticket = draw_under({"heads": np.ones((3, 3)), "ffns": np.ones(3)}, [Cap("latency", prices, 4.0)], (3, 3),
                        {"heads": Units(3, 3)}).ticket  # fmt: skip
    assert ticket.heads.sum(axis=1).tolist() == [2, 2, 2]


def test_a_price_with_steps_is_used_up_to_the_step() -> None:
    scores: Scores = {"heads": np.array([[4.0, 3, 2, 1]]), "ffns": np.array([1.0])}
    steps = Prices("seconds", 0.0, {"heads": np.array([[0.0, 2, 2, 4, 4]])})  # two heads cost what one does
    sizes: dict[Structure, Units] = {"heads": Units(1, 4)}
    assert draw_under(scores, [Cap("latency=3s", steps, 3.0)], (1, 4), sizes).ticket.heads.tolist() == [
        [True, True, False, False]
    ]


def test_blocks_of_neurons_stay_together() -> None:
    rng = np.random.default_rng(1)
    scores: Scores = {"heads": np.ones((2, 2)), "ffns": np.ones(2), "neurons": rng.random((2, 8))}
    sizes: dict[Structure, Units] = {"neurons": Units(2, 8, least=4)}
    prices = _prices(sizes, {"neurons": [1.0, 1.0]}, 0.0)
    ticket = draw_under(scores, [Cap("parameters=12", prices, 12.0)], (2, 2), sizes).ticket
    blocks = ticket.neurons_of(8).reshape(2, 2, 4)
    assert (blocks.all(axis=2) | ~blocks.any(axis=2)).all()
    assert ticket.kept_neurons == 12


@pytest.mark.parametrize("name", ["bert", "llama", "albert", "deberta-v2"])
def test_prices_are_what_is_counted(name: str) -> None:
    model = AutoModelForSequenceClassification.from_config(tiny_config(name, num_labels=2))
    shape = shape_of(model)
    rng = np.random.default_rng(0)
    whole = float(sum(p.numel() for p in model.parameters()))
    for structures in (("heads", "ffns"), ("heads", "neurons"), ("ffns",)):
        found, flops = parameter_prices(shape, structures, whole), flops_prices(shape, structures, 32)
        every = {kind: rng.random((one.layers, one.each)) < 0.6 for kind, one in units(shape, structures).items()}
        for kept in every.values():
            kept[:, 0] = True
        grouped = shape.kv_heads != shape.heads
        if grouped and "heads" in every:  # whole groups, of which prices are exact
            every["heads"] = every["heads"].reshape(shape.attentions, shape.kv_heads, -1)[..., :1].repeat(
                shape.heads // shape.kv_heads, axis=2).reshape(shape.attentions, -1)  # fmt: skip
        ticket = Ticket.of_kinds({k: v.ravel() if k == "ffns" else v for k, v in every.items()}, shape.of_tickets)
        assert found.of(ticket) == pytest.approx(whole - removed_parameters(shape, ticket))
        assert flops.of(ticket) == pytest.approx(forward_flops(shape, ticket, 1, 32), rel=1e-3)
        assert found.of(ticket) < whole or ticket.is_full


def test_the_dense_size_is_the_models(tiny_model: Path) -> None:
    base = find_model(str(tiny_model))
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3)
    model.save_pretrained(tiny_model.parent / "saved")
    count, size = dense_size(base, "sequence", 3)
    written = (tiny_model.parent / "saved" / "model.safetensors").stat().st_size
    assert count == model.num_parameters()
    assert 4 * count <= written <= size < written + 128 * len(model.state_dict())
    fewer, _ = dense_size(find_model(str(tiny_model), 1), "sequence", 3)
    assert fewer < count


def _settings(tiny_model: Path, words: dict[str, Path], **more: Any) -> dict[str, Any]:
    return {"model": str(tiny_model), **words, "epochs": 1, "seeds": 2, "workers": 1, "precision": "float32",
            "kinds": ("winning", "random", "losing"), **more}  # fmt: skip


@pytest.fixture(scope="module")
def studied(tiny_model: Path, words: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("targets") / "study"
    asked = _settings(tiny_model, words, target=("encoder-parameters=0.6",), structures=("heads", "neurons"), out=out)
    return supertickets.run_study("find", **asked), asked


def test_a_study_reaches_its_target(studied: Any) -> None:
    result, asked = studied
    table = result.table
    shares = table[table["kind"] != "dense"]["encoder"]
    assert shares.max() <= 0.6
    assert shares.min() > 0.5
    target = result.findings.target
    assert len(target.kept) == 2
    assert all(one >= other - 1e-9 for one, other in zip(target.kept, target.kept_same_share, strict=True))
    assert "The target is encoder-parameters=0.6" in result.verdict
    assert "Against tickets of the same share, the gain is" in result.verdict
    assert "most importance over same share" in result.report.read_text(encoding="utf-8")
    assert list(table["stage"].dropna().unique()) == ["same share"]
    # There is one ticket and no level: no phases, and the ticket folder says what it keeps to.
    assert "phase transition" not in result.verdict
    assert "best winning level" not in result.verdict
    shared = supertickets.load_ticket(result.folder / "super-ticket")
    assert shared.origin["target"] == ["encoder-parameters=0.6"]
    assert shared.origin["scores"]["normalised"] == "no"
    assert "counts" not in shared.origin["scores"]
    card = (result.folder / "super-ticket" / "README.md").read_text(encoding="utf-8")
    assert "the ticket that keeps the most importance within `encoder-parameters=0.6`, seed" in card
    # It goes on: nothing is trained or drawn anew.
    again = supertickets.run_study("find", **asked)
    assert again.table["trial"].tolist() == table["trial"].tolist()


def test_tickets_are_drawn_from_stored_scores(studied: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, _ = studied
    folder = str(result.folder)
    assert main(["draw", folder, "--target", "encoder-parameters=0.6", "--seed", "0", "--out", str(tmp_path / "t"),
                 "--json"]) == 0  # fmt: skip
    said = json.loads(capsys.readouterr().out)
    table = result.table
    (row,) = table[(table["kind"] == "winning") & (table["seed"] == 0) & table["stage"].isna()].to_dict("records")
    drawn = supertickets.load_ticket(tmp_path / "t").ticket
    assert (drawn.kept_heads, drawn.kept_neurons) == (row["heads"], row["neurons"])
    assert drawn == load_outcome(result.folder / "trials" / row["trial"]).trial.ticket
    assert said["targets"][0]["cost"] <= said["targets"][0]["at_most"]
    assert said["gap"] == pytest.approx(0, abs=0.01)
    assert (said["seeds"], said["without"]) == ([0], [])
    assert main(["draw", folder, "--target", "encoder-parameters=0.6", "--out", str(tmp_path / "v")]) == 0
    assert "No ticket within this keeps more" in capsys.readouterr().out
    assert main(["draw", folder, "--level", "0.5", "--out", str(tmp_path / "u")]) == 0
    card = (tmp_path / "u" / "README.md").read_text(encoding="utf-8")
    assert "has not been trained" in card
    assert "the dense runs of seeds 0, 1 of a study measured" in card
    dense = table[table["kind"] == "dense"]["trial"]
    both = [load_outcome(result.folder / "trials" / trial).scores() for trial in dense]
    assert len(both) == 2
    mean = normalise({kind: np.mean([one[kind] for one in both], axis=0) for kind in both[0]})
    counts = counts_at(0.5, units_of(LAYERS, HEADS, mean["neurons"].shape[1]))
    assert supertickets.load_ticket(tmp_path / "u").ticket == draw_ranked(mean, counts, "winning")
    assert draw_ranked(normalise(both[0]), counts, "winning") != draw_ranked(mean, counts, "winning")  # control


def test_costs_are_of_the_model_that_the_study_had(
    studied: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(*names: Any) -> Any:
        return replace(find_model(*names), weight_hash="0" * 64)

    monkeypatch.setattr("supertickets.studies.draw.find_model", changed)
    with pytest.raises(TicketError, match=r"has weights 000000000000\.\.\., but the study's had"):
        draw_ticket(studied[0].folder, tmp_path / "t", target="encoder-parameters=0.6")
    draw_ticket(studied[0].folder, tmp_path / "t", level=0.5)  # of no cost
    copy = shutil.copytree(studied[0].folder, tmp_path / "copy")
    settings = yaml.safe_load((copy / "settings.yaml").read_text())
    (copy / "settings.yaml").write_text(yaml.safe_dump(settings | {"counts": "ladder"}))
    drawn = draw_ticket(copy, tmp_path / "u", level="heads=0.5")["ticket"]  # which the released code's table has not
    assert 2 * drawn.kept_heads == drawn.heads.size


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--target", "parameters=0.0001"], "the smallest ticket takes"),
        (["--target", "size=100GB"], "holds it already"),
        (["--target", "sise=3MB"], "--target: expected parameters"),
        (["--target", "size=3MB", "--level", "0.1"], "either --target or --level"),
        (["--target", "encoder-parameters=0.6", "--structures", "heads,ffns", "--seed", "9"], "choose 1"),
        (["--level", "0.1", "--structures", "ffn"], "--structures"),
        (["--level", "1.5"], "--level: expected fractions in [0, 1)"),
        (["--level", "neurons=0.1", "--structures", "heads,ffns"], "--level neurons=0.1: its neurons are not pruned"),
        (["--level", "0.1", "--latency-of", "8x8"], "there is no --target latency"),
        (["--target", "latency=0.5", "--latency-of", "8"], "--latency-of"),
    ],
)
def test_draws_that_cannot_be_are_refused(
    studied: Any, tmp_path: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["draw", str(studied[0].folder), *more, "--out", str(tmp_path / "t")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"target": ("parameters=0.01",)}, "the smallest ticket takes"),
        ({"target": ("parameters=0.9",), "levels": (0.1,)}, "--levels"),
        ({"target": ("parameters=0.9",), "kinds": ()}, "no tickets are drawn"),
        ({"target": ("parameters=0.9",), "control": "equal-budget"}, "pay for no dense training"),
        ({"latency_of": "8x8", "levels": (0.1,)}, "there is no --target latency"),
        (
            {"target": ("parameters=0.9",), "control": "best-of-k"},
            "--control: it would change nothing, since there are no levels to choose among",
        ),
        ({"target": ("parameters=0.9",), "latency_of": "8"}, "BATCHxTOKENS"),
    ],
)
def test_studies_that_cannot_be_are_refused(
    tiny_model: Path, words: dict[str, Path], tmp_path: Path, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(TicketError, match=said):
        supertickets.run_study("find", **_settings(tiny_model, words, out=tmp_path / "s") | more)
    assert not (tmp_path / "s").exists()


def test_measured_times_are_kept_and_read_again(
    tiny_model: Path, words: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from supertickets.lab import cost_table

    asked = _settings(tiny_model, words, target=("latency=0.8",), seeds=1, kinds=("winning",), out=tmp_path / "s")
    times = [1.0]

    def measured(base: Any, structures: Any, *more: Any) -> Prices:
        by: dict[Structure, Any] = {"heads": np.tile(np.arange(HEADS + 1.0), (LAYERS, 1)),
                                    "ffns": np.tile([0.0, 4.0], (LAYERS, 1))}  # fmt: skip
        return Prices("seconds", times[0], by)

    monkeypatch.setattr(cost_table, "latency_prices", measured)
    first = supertickets.run_study("find", **asked)
    times[0] = 100.0  # the machine is busy now: with these times nothing could be reached
    again = supertickets.run_study("find", **asked)
    assert again.table["trial"].tolist() == first.table["trial"].tolist()
    # Another study's times are none of its own, and nothing is measured for a folder that is refused.
    with pytest.raises(TicketError, match=r"--target was latency=0\.8 and is now parameters=0\.8"):
        supertickets.run_study("find", **asked | {"target": ("parameters=0.8",)})
    of_size = asked | {"target": ("parameters=0.8",), "out": tmp_path / "size"}
    supertickets.run_study("find", **of_size)
    with pytest.raises(TicketError, match=r"--target was parameters=0\.8 and is now latency=0\.8"):
        supertickets.run_study("find", **of_size | {"target": ("latency=0.8",)})
    with pytest.raises(TicketError, match="smallest ticket"):  # the control: another folder is measured anew
        supertickets.run_study("find", **asked | {"out": tmp_path / "t"})


def test_times_are_those_of_the_precision_that_is_trained_with(
    tiny_model: Path, words: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from supertickets.lab import cost_table
    from supertickets.studies.find import Find
    from supertickets.training import devices

    asked: dict[str, Any] = {"model": str(tiny_model), **words, "target": ("latency=0.8",), "latency_of": "1x8"}
    seen = []

    def measured(base: Any, structures: Any, batch: Any, conditions: Any, repeats: int) -> Any:
        seen.append(conditions.precision)
        raise TicketError("enough")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cost_table, "measure_table", measured)
    for precision in ("bfloat16", "float32"):
        monkeypatch.setattr(devices, "choose_precision", lambda *_, chosen=precision: chosen)
        with pytest.raises(TicketError, match="enough"):
            Find.prepare(asked | {"out": tmp_path / precision})
    assert seen == ["bfloat16", "float32"]
    with pytest.raises(TicketError, match=r"--latency-of 128: .* the nearest is 40"):
        Find.prepare(asked | {"latency_of": "1x128", "out": tmp_path / "long"})

"""Studies of tickets of weights: rounds, ways of rewinding, controls, what stays on disk; stopped and run again."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from helpers.models import LAYERS, save_tiny_model
from helpers.study_files import contents
from supertickets.errors import TicketError
from supertickets.evidence.imp import IMP, ROUND, START
from supertickets.evidence.runs import DENSE, Runs, load_tasks
from supertickets.export.evidence_file import hashes_of, load_evidence
from supertickets.lab import Outcome, Trial, workbench
from supertickets.lab.jobs import Job
from supertickets.lab.outcome import CHECKPOINT, MASK, WEIGHTS, load_outcome
from supertickets.lab.steps import Execution, Run
from supertickets.lab.trial import Prune
from supertickets.lab.workbench import Workbench
from supertickets.models import ModelSource, find_model
from supertickets.studies.config import merge_overrides, parse, settings_in
from supertickets.studies.folder import clean
from supertickets.studies.imp import Imp, ImpSettings
from supertickets.studies.inputs import open_study
from supertickets.studies.plan import plan_study
from supertickets.studies.rounds import CONTROLS, RewindPoint
from supertickets.studies.run import Result, run_study
from supertickets.studies.study import Request
from supertickets.tasks import Split
from supertickets.tickets.folder import load_weight_ticket
from supertickets.tickets.weights import Pruning, WeightTicket, prune_by_magnitude, pruned_count
from supertickets.training.loop import Trainer
from supertickets.training.recipe import Span

PLAIN = Pruning.model_validate({})


@dataclass(frozen=True)
class Watched:
    """A study that has been run here: its outcomes, and the weights that each of its trainings started from."""

    result: Result
    runs: Runs
    starts: Mapping[str, Mapping[str, Tensor]]

    def run(self, kind: str, level: float = 0.0, rewind: str = "") -> Run:
        labels = {"kind": kind, "sparsity": level, "rewind": rewind, "seed": self.result.settings.first_seed}
        (run,) = self.runs.every(**labels)
        return run

    def trial(self, kind: str, level: float = 0.0, rewind: str = "") -> Trial:
        trial = self.run(kind, level, rewind).trial
        assert trial is not None
        return trial

    def outcome(self, kind: str, level: float = 0.0, rewind: str = "") -> Outcome:
        outcome = self.run(kind, level, rewind).outcome
        assert outcome is not None
        return outcome

    def start(self, kind: str, level: float = 0.0, rewind: str = "") -> Mapping[str, Tensor]:
        """The weights that a training started from."""
        return self.starts[self.trial(kind, level, rewind).key]

    def end(self, kind: str, level: float = 0.0, rewind: str = "") -> Mapping[str, Tensor]:
        """The weights that it ended with, where they were kept."""
        return load_file(self.outcome(kind, level, rewind).folder / WEIGHTS)

    def ticket(self, level: float, rewind: str = "", kind: str = IMP) -> WeightTicket:
        mask = self.trial(kind, level, rewind).mask
        assert mask is not None
        assert mask.path is not None
        return WeightTicket.from_bytes(mask.path.read_bytes(), "here")


def watch(asked: Mapping[str, Any], **options: Any) -> Watched:
    """Run a study; whatever its options, every step ends and nothing else is run."""
    starts: dict[str, dict[str, Tensor]] = {}
    start = workbench._Begun.start

    def looking(self: workbench._Begun) -> Any:
        models = start(self)
        starts[self.job.trial.key] = {name: value.clone() for name, value in models[0].state_dict().items()}
        return models

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workbench._Begun, "start", looking)
        result = run_study("imp", {**asked, **options})
    runs = open_study(result.folder).replay()
    assert {run.status for run in runs.runs} == {"finished"}
    assert {path.name for path in (result.folder / "trials").iterdir()} == keys(runs)
    assert not list(result.folder.rglob(CHECKPOINT))
    return Watched(result, runs, starts)


def keys(runs: Runs) -> set[str]:
    return {run.trial.key for run in runs.runs if run.trial is not None}


def kinds(runs: Runs) -> list[str]:
    """The kinds of runs, one a run, sorted."""
    return sorted(str(run.step.labels["kind"]) for run in runs.runs)


@pytest.fixture(scope="module")
def asked(tiny_model: Path, words: dict[str, Path]) -> dict[str, Any]:
    """Settings of a small study, all but its folder."""
    return {
        "model": str(tiny_model),
        "task": "words",
        **words,
        "sparsities": (0.3, 0.6),
        "seeds": 1,
        "epochs": 2,
        "batch_size": 16,
        "learning_rate": 1e-2,
        "max_length": 16,
        "workers": 1,
        "precision": "float32",
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("imp")


@pytest.fixture(scope="module")
def done(asked: dict[str, Any], folder: Path) -> Watched:
    """A study with every option at its default."""
    return watch(asked, out=folder / "done")


@pytest.fixture(scope="module")
def controlled(asked: dict[str, Any], folder: Path) -> Watched:
    """A study with all controls, at one sparsity, whose weights stay."""
    return watch(asked, controls=CONTROLS, control_sparsities=0.6, keep="all", out=folder / "controlled")


@pytest.fixture(scope="module")
def rewound(asked: dict[str, Any], folder: Path) -> Watched:
    """A study of three ways to rewind, whose weights stay."""
    ways = ("0", "25%", "none")
    return watch(asked, rewind=ways, controls="none", keep="all", weight_decay=0.1, out=folder / "rewound")


@pytest.fixture(scope="module")
def both_ways(asked: dict[str, Any], folder: Path) -> Result:
    """A study whose rounds go on from where they ended and from a quarter of the dense training, without controls."""
    return run_study("imp", {**asked, "rewind": ("none", "25%"), "controls": "none", "out": folder / "both-ways"})


@pytest.fixture(scope="module")
def before(tiny_model: Path) -> dict[str, Tensor]:
    """The pre-trained weights, under the names they have in a model with an output layer."""
    source = ModelSource(find_model(str(tiny_model)))
    return {name: value for name, value in source.build(2, 0.0, 0).state_dict().items() if name.startswith("bert.")}


def masked(weights: Mapping[str, Tensor], ticket: WeightTicket) -> dict[str, Tensor]:
    """Return an encoder's weights with zeros where a ticket has nothing."""
    found = {name: value for name, value in weights.items() if name.startswith("bert.")}
    for name, mask in ticket.masks.items():
        found[f"bert.{name}"] = torch.where(torch.tensor(mask), found[f"bert.{name}"], 0.0)
    return found


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor], part: str = "bert.") -> set[str]:
    """Return which tensors of a part of a model are equal bit for bit (0 and -0 are)."""
    names = {name for name in one if name.startswith(part)}
    assert names
    assert names == {name for name in other if name.startswith(part)}
    return {name for name in names if torch.equal(one[name], other[name])}


# --- settings ---------------------------------------------------------------------------------------------------------


def sparsities(**settings: Any) -> list[float]:
    return list(parse(ImpSettings, settings).sparsities)


def test_sparsities_are_written_out() -> None:
    tenths = [k / 10 for k in range(1, 10)]
    assert sparsities() == tenths
    assert sparsities(sparsities="0.1..0.9") == tenths
    assert sparsities(sparsities=("0.2..0.6", 0.9, "0.1"), rate=0.2) == [0.1, 0.2, 0.4, 0.6, 0.9]
    assert sparsities(sparsities=0.7) == [0.7]
    assert sparsities(sparsities=(0.5, 0.0, 0.3, 0.5)) == [0.3, 0.5]


def test_a_share_of_the_remaining_weights_leaves_powers() -> None:
    found = sparsities(rate_of="remaining")
    assert found == pytest.approx([1 - 0.9**k for k in range(1, len(found) + 1)], abs=1e-6)
    said = ["10.0", "19.0", "27.1", "34.4", "41.0", "46.9", "52.2", "57.0", "61.3", "65.1", "68.6", "71.8"]
    assert [f"{100 * s:.1f}" for s in found[:12]] == said
    assert 0.9 >= found[-1] > 1 - 0.1 / 0.9
    fifth = sparsities(rate_of="remaining", rate=0.2, sparsities="0.4..0.6")
    assert fifth == pytest.approx([1 - 0.8**k for k in (3, 4)], abs=1e-6)


def test_ways_to_rewind() -> None:
    points = parse(ImpSettings, {"rewind": ("5%", "0", "none", "0.5", "5.25%")}).rewind_points
    assert points == [
        RewindPoint("", 0.05), RewindPoint("rewound", 0.0), RewindPoint("not rewound", None),
        RewindPoint("rewound to 50%", 0.5), RewindPoint("rewound to 5.25%", 0.0525),
    ]  # fmt: skip
    content = yaml.safe_load("rewind: [0, 0.05, none]")
    found = [parse(ImpSettings, {"rewind": rewind}).rewind_points for rewind in (tuple(content["rewind"]), 0)]
    assert [[point.share for point in points] for points in found] == [[0.0, 0.05, None], [0.0]]


# --- which trainings there are ----------------------------------------------------------------------------------------


def test_a_rounds_training_is_its_tickets_evaluation(done: Watched) -> None:
    """One training a sparsity and the dense one, and those of the controls: nothing is trained for its mask alone."""
    assert kinds(done.runs) == [DENSE, IMP, IMP, "one-shot", "one-shot", "random", "random"]
    assert len(list((done.result.folder / "trials").iterdir())) == 7
    assert done.trial(DENSE).prune == Prune(sparsity=0.3, pruning=PLAIN)
    assert done.trial(IMP, 0.3).prune == Prune(sparsity=0.6, pruning=PLAIN)
    assert done.trial(IMP, 0.6).prune is None
    assert {trial.start for trial in (done.trial(DENSE), done.trial(IMP, 0.3), done.trial(IMP, 0.6))} == {None}
    assert set(done.result.table["status"]) == {"finished"}
    assert done.result.findings.highest.keys() == {""}


def test_masks_are_drawn_from_trained_weights(rewound: Watched, before: Mapping[str, Tensor]) -> None:
    """Exact counts, nested; each the ranking of what the round before it ended with."""
    for rewind in ("", "rewound to 25%", "not rewound"):
        first, second = rewound.ticket(0.3, rewind), rewound.ticket(0.6, rewind)
        for ticket, level in ((first, 0.3), (second, 0.6)):
            assert len(ticket.masks) == 6 * LAYERS + 1
            assert ticket.total - ticket.kept == pruned_count(ticket.total, level)
        assert second <= first
        ends = rewound.end(DENSE), rewound.end(IMP, 0.3, rewind)
        arrays = [{name: end[f"bert.{name}"].numpy() for name in first.masks} for end in ends]
        assert prune_by_magnitude(arrays[0], 0.3) == first
        assert prune_by_magnitude(arrays[1], 0.6, first) == second
        assert prune_by_magnitude({n: before[f"bert.{n}"].numpy() for n in first.masks}, 0.6) != second  # control
    assert rewound.ticket(0.6) != rewound.ticket(0.6, "not rewound")


def test_every_trained_model_has_its_zeros(rewound: Watched) -> None:
    for rewind in ("", "rewound to 25%", "not rewound"):
        for level in (0.3, 0.6):
            end, ticket = rewound.end(IMP, level, rewind), rewound.ticket(level, rewind)
            for name, mask in ticket.masks.items():
                assert np.array_equal(end[f"bert.{name}"].numpy() != 0, mask), name


def test_what_the_released_code_does(asked: dict[str, Any], folder: Path) -> None:
    """Pruned before any training, the output layer carried over, the learning rate falling over all rounds."""
    released = watch(
        asked, preset="released", prune_at_init=True, controls="matched", out=folder / "released",
    )  # fmt: skip
    assert [str(run.step) for run in released.runs.runs] == [
        "dense seed 57", "imp 0.3 seed 57", "round 0.3 seed 57", "imp 0.6 seed 57",
        "matched 0.3 seed 57", "matched 0.6 seed 57",
    ]  # fmt: skip
    assert released.trial(DENSE).prune is None
    first = released.trial(ROUND, 0.3)
    assert first.mask is not None
    assert first.mask.how == "magnitude"
    assert first.span == Span(skip=0.0, stop=1.0, lr_horizon=10)  # for two sparsities too
    assert released.trial(IMP, 0.6).span == Span.model_validate({})  # judged by an ordinary training
    for level in (0.3, 0.6):  # control: the matched ones are others
        kept = [
            [int((released.start(kind, level)[f"bert.{n}"] != 0).sum()) for n in released.ticket(0.6).masks]
            for kind in (IMP, "matched")
        ]
        assert kept[0] == kept[1]
        assert same(released.start(IMP, level), released.start("matched", level)).isdisjoint(
            f"bert.{n}" for n in released.ticket(0.6).masks
        )


def test_the_learning_rate_of_ten_rounds(done: Watched) -> None:
    """Whatever sparsities there are, each round has a tenth of the fall (see test_weights for the rates)."""
    tasks = load_tasks(done.result.folder)

    def steps(**changes: Any) -> Execution:
        values = settings_in(done.result.folder).model_dump() | {"sparsities": ("0.1..0.9",)} | changes
        execution = Execution(Imp().steps(ImpSettings(**values), tasks))
        execution.begin()
        return execution

    def begun(execution: Execution, kind: str) -> Trial:
        return next(run.trial for run in execution.runs if run.step.labels["kind"] == kind and run.trial is not None)

    of_all = steps(lr_schedule_over="all")
    assert begun(of_all, ROUND).span.lr_horizon == 10
    for few in ((0.7,), (0.3, 0.6), [k / 20 for k in range(1, 20)]):
        assert begun(steps(lr_schedule_over="all", sparsities=few), ROUND).span.lr_horizon == 10
        assert begun(steps(lr_schedule_over="round", sparsities=few), DENSE).span.lr_horizon == 1  # control
    assert begun(of_all, DENSE).span.lr_horizon == 1
    assert begun(of_all, DENSE).prune is None
    assert begun(steps(), DENSE).span == Span.model_validate({})
    assert len(of_all.runs) == 2 + 8 + 9 + 18
    assert len(steps().runs) == 1 + 9 + 18
    assert len(steps(rewind=("0", "5%", "none")).runs) == 1 + 1 + 3 * 9 + 18
    assert len(steps(controls=CONTROLS, control_sparsities=(0.7,)).runs) == 1 + 9 + 6


# --- rewinding --------------------------------------------------------------------------------------------------------


def test_rewound_is_pre_trained_bit_for_bit(rewound: Watched, before: Mapping[str, Tensor]) -> None:
    dense = rewound.start(DENSE)
    assert same(dense, before) == before.keys()
    for level in (0.3, 0.6):
        start, ticket = rewound.start(IMP, level), rewound.ticket(level)
        assert same(start, masked(before, ticket)) == before.keys()
        assert len(same(start, dense, "classifier.")) == 2
        # Control: where nothing is rewound, nothing is as it was.
        other = rewound.start(IMP, level, "not rewound")
        changed = before.keys() - same(other, masked(before, rewound.ticket(level, "not rewound")))
        assert {name for name in changed if name.endswith("weight")} >= {f"bert.{name}" for name in ticket.masks}
        assert any("embeddings" in name for name in changed)
        assert any("LayerNorm" in name for name in changed)
        assert any(name.endswith("bias") for name in changed)


def test_what_is_not_rewound_goes_on(rewound: Watched) -> None:
    ends = [rewound.end(DENSE), rewound.end(IMP, 0.3, "not rewound")]
    for level, end in zip((0.3, 0.6), ends, strict=True):
        start = rewound.start(IMP, level, "not rewound")
        assert same(start, masked(end, rewound.ticket(level, "not rewound"))) == {n for n in end if "bert." in n}
        assert len(same(start, end, "classifier.")) == 2
        assert not same(start, rewound.start(DENSE), "classifier.weight")


def test_rewound_into_a_training(rewound: Watched, before: Mapping[str, Tensor]) -> None:
    """25 % of 8 steps are 2: the dense training's own first ones, with its learning rates."""
    begun = rewound.end(START, 0.0, "rewound to 25%")
    assert rewound.trial(START, 0.0, "rewound to 25%").span == Span(skip=0.0, stop=0.25, lr_horizon=1)
    changed = before.keys() - same(begun, before)
    assert len(changed) > 0.9 * len(before)
    for level in (0.3, 0.6):
        start, ticket = rewound.start(IMP, level, "rewound to 25%"), rewound.ticket(level, "rewound to 25%")
        assert same(start, masked(begun, ticket)) == before.keys()
        assert len(same(start, begun, "classifier.")) == 2
        assert same(start, masked(before, ticket)).isdisjoint(f"bert.{name}" for name in ticket.masks)  # control
        trial = rewound.trial(IMP, level, "rewound to 25%")
        assert trial.span == Span(skip=0.25, stop=1.0, lr_horizon=1)
        assert len({trial.key, *(rewound.trial(IMP, level, v).key for v in ("", "not rewound"))}) == 3


def test_only_the_matrices_are_rewound_and_the_output_layer_carried(
    asked: dict[str, Any], folder: Path, before: Mapping[str, Tensor]
) -> None:
    carried = watch(
        asked, rewind_scope="prunable", output_layer="carry", controls="none", keep="all", out=folder / "carried",
    )  # fmt: skip
    assert kinds(carried.runs) == [DENSE, IMP, IMP, ROUND]
    end, start, ticket = carried.end(DENSE), carried.start(ROUND, 0.3), carried.ticket(0.3, kind=ROUND)
    matrices = {f"bert.{name}" for name in ticket.masks}
    assert same(start, masked(before, ticket)) == matrices
    assert same(start, masked(end, ticket)) == before.keys() - matrices  # embeddings, norms and biases are trained
    assert len(same(start, end, "classifier.")) == 2
    assert not same(start, carried.start(DENSE), "classifier.")
    # What tickets are judged by is rewound altogether, as ever.
    for level in (0.3, 0.6):
        judged = carried.start(IMP, level)
        assert same(judged, masked(before, carried.ticket(level))) == before.keys()
        assert len(same(judged, carried.start(DENSE), "classifier.")) == 2


@pytest.mark.parametrize("output_layer", ["carry", "fresh"])
def test_the_output_layer_of_a_round(
    asked: dict[str, Any], tmp_path: Path, before: Mapping[str, Tensor], output_layer: str
) -> None:
    found = watch(asked, output_layer=output_layer, controls="none", keep="all", out=tmp_path / "out")
    start = found.start(ROUND, 0.3)
    assert same(start, masked(before, found.ticket(0.3, kind=ROUND))) == before.keys()
    carried = same(start, found.end(DENSE), "classifier.")
    assert carried == ({"classifier.weight", "classifier.bias"} if output_layer == "carry" else set())
    assert "classifier.weight" not in same(start, found.start(DENSE), "classifier.")


def test_a_ticket_rewound_into_a_training_is_judged_from_there(asked: dict[str, Any], folder: Path) -> None:
    """Also where the search's learning rate falls over all rounds; the weights to start from go when all is done."""
    found = watch(asked, rewind="50%", lr_schedule_over="all", controls="none", out=folder / "half-way")
    assert kinds(found.runs) == [DENSE, IMP, IMP, ROUND, ROUND, START]
    begun = found.trial(START)
    for kind, level, horizon in ((ROUND, 0.3, 10), (IMP, 0.3, 1), (IMP, 0.6, 1)):
        trial = found.trial(kind, level)
        assert trial.start is not None
        assert trial.start.trial == begun.key
        assert trial.span == Span(skip=0.5, stop=1.0, lr_horizon=horizon)
    assert not list(found.result.folder.rglob(WEIGHTS))


# --- controls ---------------------------------------------------------------------------------------------------------


def test_controls_are_what_they_are_called(controlled: Watched, before: Mapping[str, Tensor]) -> None:
    ticket = controlled.ticket(0.6)
    matrices = {f"bert.{name}" for name in ticket.masks}
    starts = {kind: controlled.start(kind, 0.6) for kind in CONTROLS}
    masks = {
        kind: WeightTicket({name: (start[f"bert.{name}"] != 0).numpy() for name in ticket.masks})
        for kind, start in starts.items()
    }
    own = controlled.start(IMP, 0.6)
    for kind, mask in masks.items():
        assert mask.total - mask.kept == pruned_count(mask.total, 0.6), kind
        others = same(starts[kind], own) - matrices
        if kind == "random-weights":  # biases are zero and norms one there, as they are in this model
            assert not [name for name in others if before[name].ndim > 1]
        else:
            assert others == before.keys() - matrices, kind
    arrays = {name: before[f"bert.{name}"].numpy() for name in ticket.masks}
    assert masks["one-shot"] == prune_by_magnitude(arrays, 0.6)
    for kind in ("random-weights", "shuffled-elements", "shuffled-layers"):
        assert masks[kind] == ticket, kind
        assert not same(starts[kind], own, "bert.encoder.layer.0.attention.self.query.weight")
    for kind in ("one-shot", "random", "matched"):
        assert masks[kind] != ticket, kind
        assert same(starts[kind], masked(before, masks[kind])) == before.keys(), kind

    def densities(mask: WeightTicket) -> list[int]:
        return [int(one.sum()) for one in mask.masks.values()]

    assert densities(masks["matched"]) == densities(ticket)
    assert densities(masks["random"]) != densities(ticket)
    # Chance overlap; the one-shot ticket's is far from it.
    for kind in ("random", "matched"):
        assert masks[kind].overlap(ticket) == pytest.approx(masks[kind].chance(ticket), abs=0.03), kind
    assert masks["one-shot"].overlap(ticket) > ticket.chance(ticket) + 0.2


# --- what stays on disk -----------------------------------------------------------------------------------------------


def trial_files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "trials").glob("*/*")}


def mask_sizes(folder: Path) -> set[int]:
    return {path.stat().st_size for path in folder.glob(f"trials/*/{MASK}")}


def test_masks_alone_stay_of_rounds(done: Watched, controlled: Watched) -> None:
    """No trained weights, and masks of one size; of other ways to go on, see where studies grow."""
    assert trial_files(done.result.folder) == {"outcome.json", "predictions.safetensors", MASK}
    assert WEIGHTS in trial_files(controlled.result.folder)  # control
    (size,) = mask_sizes(done.result.folder)
    assert size == pytest.approx(done.ticket(0.3).total / 8, abs=4000)  # a bit each, and names


def test_a_shipped_model_is_a_plain_one(controlled: Watched) -> None:
    folder = controlled.result.shipped["ticket"]
    shared = load_weight_ticket(folder)
    assert shared.ticket == controlled.ticket(shared.origin["sparsity"])
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    state = model.state_dict()
    assert state.keys() == controlled.start(DENSE).keys()  # ordinary names
    zeros = sum(int((state[f"bert.{name}"] == 0).sum()) for name in shared.ticket.masks)
    assert zeros == pruned_count(shared.ticket.total, shared.origin["sparsity"])
    for name, mask in shared.ticket.masks.items():
        assert np.array_equal(state[f"bert.{name}"].numpy() != 0, mask), name
    end = controlled.end(IMP, shared.origin["sparsity"])
    assert all(torch.equal(state[name], end[name]) for name in end)


def test_without_weights_the_ticket_is_shipped_alone(done: Watched, asked: dict[str, Any]) -> None:
    shared = load_weight_ticket(done.result.shipped["ticket"])
    assert shared.ticket == done.ticket(shared.origin["sparsity"])
    assert shared.base["weight_hash"] == find_model(asked["model"]).weight_hash
    assert not (done.result.shipped["ticket"] / "model").exists()


def test_there_is_nothing_to_clean(done: Watched) -> None:
    assert clean(done.result.folder)["files"] == []


# --- again ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the trials that run meanwhile."""
    keys: list[str] = []
    run = Workbench.run

    def counting(self: Workbench, job: Job, report: Any) -> Any:
        keys.append(job.trial.key)
        return run(self, job, report)

    monkeypatch.setattr(Workbench, "run", counting)
    return keys


def again(study: Watched, asked: dict[str, Any]) -> Result:
    names = ("out", "rewind", "controls", "keep", "weight_decay")
    return run_study("imp", {**asked, **{name: getattr(study.result.settings, name) for name in names}})


def test_run_again_trains_nothing(rewound: Watched, asked: dict[str, Any], ran: list[str]) -> None:
    found = contents(rewound.result.folder)
    again(rewound, asked)
    assert contents(rewound.result.folder) == found
    assert ran == []


def test_the_command_again_trains_nothing(done: Watched, rewound: Watched, ran: list[str], capsys: Any) -> None:
    from supertickets.cli import main
    from supertickets.studies.folder import status

    for study in (done, rewound):
        seen, trials = status(study.result.folder), len(keys(study.runs))
        assert (seen["state"], seen["done"], seen["total"], seen["failed"]) == ("finished", trials, trials, 0)
    found = contents(done.result.folder)
    assert main(["imp", "--config", str(done.result.folder / "settings.yaml"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["results"]) == 7
    assert said["verdict"] == done.result.verdict
    assert contents(done.result.folder) == found
    assert ran == []


def test_tickets_for_other_studies(done: Watched, rewound: Watched, tmp_path: Path) -> None:
    """Those of the first seed, one for each rewind point, wherever the folder is now."""
    moved = open_study(shutil.copytree(rewound.result.folder, tmp_path / "moved"))
    assert moved.sparsities() == [0.3, 0.6]
    ways = ["", "rewound to 25%", "not rewound"]
    for sparsity in (0.3, 0.6, None):
        found = moved.tickets(sparsity)
        assert [one.name for one in found] == ["words", "words (rewound to 25%)", "words (not rewound)"]
        assert [one.ticket for one in found] == [rewound.ticket(sparsity or 0.6, way) for way in ways]
        assert {(one.task, one.where, one.recipe) for one in found} == {
            ("words", tmp_path / "moved", rewound.result.settings.recipe)
        }
    with pytest.raises(TicketError, match=r"moved: there is no ticket of sparsity 0.5; expected one of 0.3, 0.6"):
        moved.tickets(0.5)
    (rewound_into,) = [run.trial for run in moved.replay().where(kind=IMP, sparsity=0.3, rewind="rewound to 25%")]
    assert rewound_into is not None
    (tmp_path / "moved" / "trials" / rewound_into.key / MASK).unlink()  # of 0.6
    assert moved.sparsities() == [0.3]
    for path in (tmp_path / "moved").glob(f"trials/*/{MASK}"):
        path.unlink()
    with pytest.raises(TicketError, match="there is no ticket in it yet"):
        moved.tickets()
    assert open_study(done.result.folder).tickets(0.3)[0].ticket == done.ticket(0.3)


def test_a_study_may_grow_by_a_control(done: Watched, asked: dict[str, Any], tmp_path: Path, ran: list[str]) -> None:
    """Its folder is its own, but trials are what they are: those of another study with the same name are the same."""
    copy = tmp_path / "copy"
    shutil.copytree(done.result.folder / "trials", copy / "trials")
    for name in ("study.safetensors", "settings.yaml"):
        shutil.copy(done.result.folder / name, copy)
    result = run_study("imp", {**asked, "controls": ("one-shot", "random", "matched"), "out": copy})
    assert len(ran) == 2
    assert sorted(result.table["kind"].unique()) == ["dense", "imp", "matched", "one-shot", "random"]


@pytest.mark.parametrize(
    ("options", "again"),
    [({}, set()), ({"preset": "released"}, {ROUND}), ({"rewind": ("none", "25%")}, {DENSE, START})],
)
def test_a_study_may_grow_by_a_sparsity(
    options: dict[str, Any],
    again: set[str],
    asked: dict[str, Any],
    folder: Path,
    done: Watched,
    both_ways: Result,
    ran: list[str],
) -> None:
    """Only what the new round starts from is trained again, where nobody wanted its weights before.

    However rounds go on, masks of one size are all that stays of them.
    """
    common = {**asked, **options, "controls": "none"}
    name = "-".join(options) or "default"
    first = run_study("imp", {**common, "sparsities": 0.3, "out": folder / f"grown-{name}"})
    begun = len(ran)
    grown = run_study("imp", {**common, "out": folder / f"grown-{name}"})
    known = first.table.set_index("trial")["kind"]
    assert {known[key] for key in ran[begun:] if key in known} == again
    if name == "preset":
        whole = run_study("imp", {**common, "out": folder / f"whole-{name}"}).table
    else:
        whole = (both_ways if name == "rewind" else done.result).table
        whole = whole[~whole["kind"].isin(["one-shot", "random"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(grown.table.drop(columns="seconds"), whole.drop(columns="seconds"))
    assert set(grown.table["status"]) == {"finished"}
    assert trial_files(grown.folder) == {"outcome.json", "predictions.safetensors", MASK}
    assert mask_sizes(grown.folder) == mask_sizes(done.result.folder)


def test_a_study_that_grows_says_anew_why_its_ticket_was_chosen(asked: dict[str, Any], tmp_path: Path) -> None:
    out, few = tmp_path / "out", {**asked, "controls": "none", "epochs": 1, "sparsities": 0.3, "keep": "matching"}
    plan = plan_study("imp", few, out=out)
    assert (plan.trainings, plan.repeated) == (2, 1)  # no ticket's weights are kept until one is chosen
    assert "This counts 1 training to repeat, for weights that are not kept." in plan.sentence()
    folder = run_study("imp", few, out=out).shipped["ticket"]
    assert plan_study("imp", few, out=out).repeated == 0
    before = load_weight_ticket(folder), load_evidence(folder), (folder / "README.md").read_text()
    assert before[0].origin["why"].endswith("(strict).")
    assert before[1] is not None
    (folder / "model" / "mine.txt").write_text("kept")
    assert run_study("imp", few, seeds=2, out=out).shipped["ticket"] == folder
    after, evidence = load_weight_ticket(folder), load_evidence(folder)
    assert after.origin == {**before[0].origin, "why": after.origin["why"]}
    assert after.origin["why"].endswith("(sub_std).")
    assert after.origin["why"] in (folder / "README.md").read_text()
    assert (folder / "model" / "mine.txt").read_text() == "kept"
    assert evidence is not None
    assert evidence.model == before[1].model
    assert len(evidence.trainings) == 2
    (folder / "model" / "mine.txt").unlink()
    assert evidence.files == hashes_of(folder)  # control: they were others
    assert evidence.files != before[1].files


def test_weights_after_a_share_are_those_whatever_scores_best(asked: dict[str, Any], tmp_path: Path) -> None:
    more = {"rewind": "75%", "keep_epoch": "best", "patience": 1, "epochs": 2, "sparsities": 0.3, "controls": "none"}
    result = run_study("imp", {**asked, **more, "out": tmp_path / "out"})
    trials = {one.trial.span.stop: one for one in map(load_outcome, (tmp_path / "out" / "trials").iterdir()) if one}
    start, others = trials.pop(0.75), trials.values()
    assert (start.trial.recipe.keep_epoch, start.trial.recipe.patience, start.best_epoch) == ("last", None, 2)
    assert {(one.trial.recipe.keep_epoch, one.trial.recipe.patience) for one in others} == {("best", 1)}
    assert set(result.table["status"]) == {"finished"}


@pytest.mark.parametrize("rewind", ["none", "25%"])
def test_weights_are_had_again_with_those_that_they_start_from(
    rewind: str, asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A round that starts from another, whose weights are gone too: to be shipped, and for the next round."""
    model = Path(shutil.copytree(asked["model"], tmp_path / "model"))
    common = {**asked, "rewind": rewind, "controls": "none", "keep": "matching", "rule": "sub_std", "epochs": 1}
    common["model"], folder = str(model), tmp_path / "grown"
    first = run_study("imp", {**common, "sparsities": (0.1, 0.2), "out": folder}, quiet=False)
    assert "its trained weights were deleted, so it is trained again" in " ".join(capsys.readouterr().err.split())
    shared = load_weight_ticket(first.shipped["ticket"])
    assert shared.origin["sparsity"] == 0.2  # it starts from another training in both ways
    how = "(not rewound)" if rewind == "none" else "Rewound to its weights after 25% of the dense training"
    assert how in (first.shipped["ticket"] / "README.md").read_text()
    state = AutoModelForSequenceClassification.from_pretrained(first.shipped["ticket"] / "model").state_dict()
    kept = [path.parent.name for path in folder.rglob(WEIGHTS)]
    assert kept == [first.table.query("kind == 'imp' and sparsity == 0.2").trial.item()]  # not those it starts from
    trained = load_file(folder / "trials" / kept[0] / WEIGHTS)
    assert all(torch.equal(state[name], value) for name, value in trained.items())
    clean(folder)
    assert not list(folder.rglob(WEIGHTS))
    folder, common["model"] = folder.rename(tmp_path / "moved"), str(model.rename(tmp_path / "other-model"))
    grown = run_study("imp", {**common, "sparsities": (0.1, 0.2, 0.3), "keep": "none", "out": folder})
    whole = run_study("imp", {**common, "sparsities": (0.1, 0.2, 0.3), "keep": "none", "out": tmp_path / "whole"})
    pd.testing.assert_frame_equal(grown.table.drop(columns="seconds"), whole.table.drop(columns="seconds"))
    assert not (folder / "retrained").exists()
    known = [load_outcome(folder / "trials" / key) for key in first.table["trial"]]
    assert common["model"] in {one.trial.model for one in known if one is not None}  # of one that was trained again


def test_weights_that_cannot_be_drawn_anew_are_told_of_first(asked: dict[str, Any], tmp_path: Path) -> None:
    model = str(save_tiny_model(tmp_path / "model", "llama"))
    with pytest.raises(TicketError, match=r"--controls random-weights: .* belongs to a LlamaRMSNorm"):
        run_study("imp", {**asked, "model": model, "controls": "random-weights", "out": tmp_path / "out"})
    assert not (tmp_path / "out").exists()


class Stop(KeyboardInterrupt):
    pass


def test_weights_that_a_stopped_study_goes_on_from_are_not_cleaned(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: list[str]
) -> None:
    options = {**asked, "rewind": "none", "controls": "none", "epochs": 1, "out": tmp_path / "out"}
    run = Workbench.run

    def stopping(self: Workbench, job: Job, report: Any) -> Any:
        if len(ran) == 2:
            raise Stop
        return run(self, job, report)

    with monkeypatch.context() as patch:
        patch.setattr(Workbench, "run", stopping)
        with pytest.raises(Stop):
            run_study("imp", options)
    (needed,) = (tmp_path / "out").rglob(WEIGHTS)
    assert clean(tmp_path / "out")["files"] == []
    assert needed.is_file()
    run_study("imp", options)
    assert len(ran) == 3  # the first round's weights were there
    assert not list((tmp_path / "out").rglob(WEIGHTS))


def test_a_study_that_is_stopped_ends_with_the_same_masks(
    asked: dict[str, Any], folder: Path, both_ways: Result, monkeypatch: pytest.MonkeyPatch, ran: list[str]
) -> None:
    """Stopped in the middle of the dense training, of rounds, with each step checkpointed; compared file by file."""
    options = {**asked, "rewind": ("none", "25%"), "controls": "none"}
    unbroken = len(list((both_ways.folder / "trials").iterdir()))
    save = Trainer._save_if_due
    steps, went_on = [0], []

    def stopping(self: Trainer) -> None:
        if steps[0] == 0:
            went_on.append(self.state.step)
        save(self)
        steps[0] += 1
        if steps[0] == 7:  # of 8 in a training, 2 in the one rewound to, 6 in what follows
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_if_due", stopping)
        for _ in range(40):
            steps[0] = 0
            try:
                run_study("imp", {**options, "out": folder / "broken", "checkpoint_every": 0})
            except Stop:
                continue
            break
        else:
            pytest.fail("the study never ended")
    assert len(ran) > unbroken + 4
    assert sum(step > 1 for step in went_on) > 3  # trainings went on from the middle
    found, expected = contents(folder / "broken"), contents(both_ways.folder)
    assert [name for name in expected if name.endswith(MASK)]
    assert found == expected


@pytest.mark.slow
def test_masks_follow_the_seed_and_not_the_workers(done: Watched, asked: dict[str, Any], tmp_path: Path) -> None:
    options = {**asked, "controls": "none", "seeds": 2, "workers": 2, "out": tmp_path / "two"}
    result = run_study("imp", options)
    runs = open_study(result.folder).replay()
    for kind, level in ((DENSE, 0.0), (IMP, 0.3)):
        one, other = (run.outcome for run in runs.where(kind=kind, sparsity=level))
        assert one is not None
        assert other is not None
        assert one.files[MASK] == done.outcome(kind, level).files[MASK]
        assert other.files[MASK] != one.files[MASK]
    assert result.findings.similarity["pairs"].tolist() == [1, 1]
    assert (result.findings.similarity["jaccard"] > result.findings.similarity["chance"]).all()


def otherwise(trial: Trial, **changes: Any) -> Trial:
    return Trial.model_validate({**trial.model_dump(mode="json"), **changes})


def test_a_further_evaluation_set_does_not_change_a_mask(done: Watched, tmp_path: Path) -> None:
    """Not even one with words that no training example has."""
    trial = done.trial(DENSE)
    bench = Workbench("cpu")
    plain = bench.run(Job(trial, tmp_path / trial.key, False, "x"), lambda event: None)
    task = bench._tasks[trial.tasks[0].data_hash]
    extra = Split([f"w{i} w3 w90" for i in range(60, 75)], None, np.arange(15) % 2)
    task = replace(task, extra={"other": extra})
    bench._tasks[task.fingerprint()] = task
    of_task = trial.tasks[0].model_copy(update={"data_hash": task.fingerprint()})
    changed = otherwise(trial, tasks=(of_task.model_dump(mode="json"),))
    assert changed.key != trial.key
    found = bench.run(Job(changed, tmp_path / changed.key, False, "x"), lambda event: None)
    assert found.epochs[0]["metrics"]["words"].keys() == {"dev", "other"}
    assert plain.files[MASK] == done.outcome(DENSE).files[MASK]
    assert found.files[MASK] == plain.files[MASK]
    other = otherwise(trial, seed=5)  # control
    assert bench.run(Job(other, tmp_path / other.key, False, "x"), lambda event: None).files[MASK] != plain.files[MASK]


def test_masks_that_are_gone_or_others_are_told(done: Watched, tmp_path: Path) -> None:
    trial = done.trial(IMP, 0.3)
    assert trial.mask is not None
    for path in (tmp_path / "gone" / MASK, tmp_path / MASK):
        if path.parent == tmp_path:
            path.write_bytes(b"others")
        other = otherwise(trial, mask=trial.mask.model_copy(update={"path": path}).model_dump(mode="json"))
        assert other.key == trial.key  # places are not in it
        word = "have changed" if path.is_file() else "were deleted"
        with pytest.raises(TicketError, match=f"the masks that this training keeps {word}"):
            Workbench("cpu").run(Job(other, tmp_path / "trial", False, "x"), lambda event: None)


# --- a base model without an output layer for masked tokens -----------------------------------------------------------


@pytest.fixture
def masked_asked(asked: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A small study of masked language modelling, on a checkpoint that is an encoder alone."""
    text = "".join(f"w{i % 24} w{(i + 1) % 24} w{(i + 2) % 24} w{i % 7}\n" for i in range(120))
    files = {name: tmp_path / f"{name}.txt" for name in ("train_file", "dev_file")}
    for path in files.values():
        path.write_text(text)
    model = save_tiny_model(tmp_path / "encoder", mask=True)
    less = {"model": str(model), "task": "mlm", "epochs": 1, "sparsities": (0.5,), "controls": "none"}
    return {**asked, **less, **files, "out": tmp_path / "mlm"}


def prepared(asked: dict[str, Any], **changes: Any) -> Request:
    return Imp.prepare(merge_overrides(ImpSettings, asked, changes), dry=True)


def test_the_base_model_is_trained_first(masked_asked: dict[str, Any], tmp_path: Path, ran: list[str]) -> None:
    there = sorted(tmp_path.iterdir())
    assert prepared(masked_asked).base.name == masked_asked["model"]
    said = plan_study("imp", masked_asked).sentence()
    assert "Not counted: the dense model is trained first, as" in said
    assert sorted(tmp_path.iterdir()) == there  # a dry run writes nothing
    result = run_study("imp", masked_asked)
    base = tmp_path / "mlm-base"
    assert result.settings.model == str(base / "model")
    assert ModelSource(find_model(str(base / "model"))).has_head("masked")
    first = settings_in(base)
    assert first.study == "find"
    assert first.recipe == result.settings.recipe
    assert (first.seeds, first.first_seed) == (1, result.settings.first_seed)
    assert len(ran) == 3  # the base model, the dense run, the ticket
    found = contents(tmp_path)
    again = run_study("imp", masked_asked)
    assert len(ran) == 3
    assert again.settings == result.settings
    assert prepared(masked_asked).base.name == str(base / "model")
    assert "Not counted" not in plan_study("imp", masked_asked).sentence()
    with pytest.raises(TicketError, match="created with different settings"):
        prepared(masked_asked, epochs=2)
    assert contents(tmp_path) == found


def test_everything_else_is_checked_before_that_training(
    masked_asked: dict[str, Any], tmp_path: Path, ran: list[str]
) -> None:
    for changes, message in (
        ({"pretrain": False}, "--no-pretrain: model .* has no language modelling head"),
        ({"device": "nowhere"}, "device"),
        ({"track": "nothing"}, "track"),
        ({"max_length": 1000}, "positions"),
    ):
        with pytest.raises(TicketError, match=message):
            run_study("imp", masked_asked, **changes)
    (tmp_path / "mlm").mkdir()
    (tmp_path / "mlm" / "mine.txt").touch()
    with pytest.raises(TicketError, match="the folder is not empty"):
        run_study("imp", masked_asked)
    (tmp_path / "mlm" / "mine.txt").unlink()
    (tmp_path / "mlm-base").mkdir()
    (tmp_path / "mlm-base" / "mine.txt").touch()
    with pytest.raises(TicketError, match="mlm-base: the folder is not empty"):
        run_study("imp", masked_asked)
    assert not list((tmp_path / "mlm").iterdir())
    assert ran == []


# --- misuse -----------------------------------------------------------------------------------------------------------


MISUSE: list[tuple[dict[str, Any], str]] = [
    ({"sparsities": "1"}, "--sparsities: expected fractions in [0, 1), got 1"),
    ({"sparsities": "0.9999999"}, "--sparsities: expected fractions in [0, 1), got 1"),
    ({"sparsities": "-0.1"}, "--sparsities: expected fractions in [0, 1), got -0.1"),
    ({"sparsities": "nan"}, "--sparsities"),
    ({"sparsities": "0"}, "--sparsities: expected at least one sparsity above 0"),
    ({"sparsities": "0.5..1.2"}, "--sparsities: expected a range of fractions in [0, 1)"),
    ({"sparsities": "0.7..0.3"}, "--sparsities: expected a range of fractions in [0, 1)"),
    ({"sparsities": "a..b"}, "--sparsities: expected a range such as 0.1..0.7, got 'a..b'"),
    ({"sparsities": "x"}, "--sparsities"),
    ({"rate": "0", "sparsities": "0.1..0.5"}, "--rate: expected more than 0, got 0."),
    ({"rate": "1"}, "--rate: expected less than 1, got 1."),
    ({"rate": "often"}, "--rate"),
    ({"rewind": "120%"}, "--rewind: expected 0, none, or a fraction in [0, 1) such as 5%, got '120%'"),
    ({"rewind": "-1"}, "--rewind: expected 0, none, or a fraction in [0, 1) such as 5%, got '-1'"),
    ({"rewind": "soon"}, "--rewind: expected 0, none, or a fraction"),
    ({"rewind": "0,0%"}, "--rewind: a rewind point is given twice"),
    ({"rewind": "0.1%", "epochs": 3, "batch_size": 10}, "--rewind 0.1%: that is no step of the dense training, "
     "which has 21 steps; expected 0, or at least 4.77%."),
    ({"rewind": "5%", "output_layer": "carry"}, "--rewind: rewinding to a point later than 0 resets the whole"),
    ({"rewind": "0,5%", "rewind_scope": "prunable"}, "leave out --output-layer and --rewind-scope"),
    ({"sparsities": "0.1..0.3", "control_sparsities": "0.4"}, "--control-sparsities: 0.4 is not one of --sparsities; "
     "expected some of 0.1, 0.2, 0.3"),
    ({"controls": "randm"}, "did you mean 'random'"),
    ({"output_layer": "new"}, "--output-layer: unknown value 'new'"),
    ({"rule": "lax"}, "--rule: unknown value 'lax'"),
    ({"pretrain": False}, "--no-pretrain: it would change nothing, since only --task mlm"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), MISUSE)
def test_misuse_of_imp(settings: dict[str, Any], message: str, asked: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(TicketError) as error:
        run_study("imp", {**asked, **settings}, out=tmp_path / "out")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_another_study_in_the_folder_is_refused(done: Watched, asked: dict[str, Any]) -> None:
    found, folder = contents(done.result.folder), done.result.folder
    with pytest.raises(TicketError, match="created with different settings"):
        run_study("imp", asked, sparsities=0.5, out=folder)
    with pytest.raises(TicketError, match="holds a study of `imp`"):
        run_study("find", model=asked["model"], task="words", train_file=asked["train_file"], out=folder)
    assert contents(folder) == found

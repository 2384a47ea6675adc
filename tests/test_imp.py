"""Studies of tickets of weights: rounds, ways of rewinding, controls, what stays on disk; stopped and run again."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from helpers.models import LAYERS
from helpers.study_files import contents
from supertickets.cli import main
from supertickets.errors import TicketError
from supertickets.evidence.magnitude import IMP, ROUND, START
from supertickets.evidence.record import Record, load_subjects
from supertickets.evidence.table import DENSE, Role
from supertickets.lab import Outcome, Trial
from supertickets.lab.jobs import Job
from supertickets.lab.outcome import CHECKPOINT, MASK, WEIGHTS
from supertickets.lab.trial import Prune
from supertickets.lab.workbench import Workbench
from supertickets.models import ModelSource, find_model
from supertickets.studies.config import parse, settings_of
from supertickets.studies.folder import clean, open_study, status
from supertickets.studies.imp import ImpResult, ImpStudy, imp
from supertickets.studies.settings_weights import CONTROLS, Arm, ImpSettings
from supertickets.studies.study import recall
from supertickets.tasks import Split
from supertickets.tickets.folder import load_weight_ticket
from supertickets.tickets.weights import Pruning, WeightTicket, prune_by_magnitude, pruned_count
from supertickets.training.loop import Trainer
from supertickets.training.recipe import Span

PLAIN = Pruning.model_validate({})


@dataclass(frozen=True)
class Watched:
    """A study that has been run here: its outcomes, and the weights that each of its trainings started from."""

    result: ImpResult
    record: Record
    starts: Mapping[str, Mapping[str, Tensor]]

    def trial(self, kind: str, level: float = 0.0, variant: str = "") -> Trial:
        trial = self.record.roles[Role(kind, level, self.result.settings.first_seed, variant)].trial
        assert trial is not None
        return trial

    def outcome(self, kind: str, level: float = 0.0, variant: str = "") -> Outcome:
        outcome = self.record.roles[Role(kind, level, self.result.settings.first_seed, variant)].outcome
        assert outcome is not None
        return outcome

    def start(self, kind: str, level: float = 0.0, variant: str = "") -> Mapping[str, Tensor]:
        """The weights that a training started from."""
        return self.starts[self.trial(kind, level, variant).key]

    def end(self, kind: str, level: float = 0.0, variant: str = "") -> Mapping[str, Tensor]:
        """The weights that it ended with, where they were kept."""
        return load_file(self.outcome(kind, level, variant).folder / WEIGHTS)

    def ticket(self, level: float, variant: str = "", kind: str = IMP) -> WeightTicket:
        mask = self.trial(kind, level, variant).mask
        assert mask is not None
        assert mask.path is not None
        return WeightTicket.from_bytes(mask.path.read_bytes(), "here")


def watch(asked: Mapping[str, Any], **options: Any) -> Watched:
    """Run a study; whatever its options, every role is played and nothing else is run."""
    starts: dict[str, dict[str, Tensor]] = {}
    start = Workbench._start

    def looking(self: Workbench, job: Job, *rest: Any) -> Any:
        models = start(self, job, *rest)
        starts[job.trial.key] = {name: value.clone() for name, value in models[0].state_dict().items()}
        return models

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workbench, "_start", looking)
        result = imp({**asked, **options})
    record = recall(ImpStudy(result.settings, load_subjects(result.folder)))
    assert {row.status for row in record.rows} == {"finished"}
    played = {row.trial.key for row in record.rows if row.trial is not None}
    assert {path.name for path in (result.folder / "trials").iterdir()} == played
    assert not list(result.folder.rglob(CHECKPOINT))
    return Watched(result, record, starts)


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
    return watch(asked, controls=CONTROLS, control_at=0.6, keep="all", out=folder / "controlled")


@pytest.fixture(scope="module")
def rewound(asked: dict[str, Any], folder: Path) -> Watched:
    """A study of three ways to rewind, whose weights stay."""
    ways = ("0", "25%", "none")
    return watch(asked, rewind=ways, controls="none", keep="all", weight_decay=0.1, out=folder / "rewound")


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
    found = sparsities(amount_of="remaining")
    assert found == pytest.approx([1 - 0.9**k for k in range(1, len(found) + 1)], abs=1e-6)
    said = ["10.0", "19.0", "27.1", "34.4", "41.0", "46.9", "52.2", "57.0", "61.3", "65.1", "68.6", "71.8"]
    assert [f"{100 * s:.1f}" for s in found[:12]] == said
    assert 0.9 >= found[-1] > 1 - 0.1 / 0.9
    fifth = sparsities(amount_of="remaining", rate=0.2, sparsities="0.4..0.6")
    assert fifth == pytest.approx([1 - 0.8**k for k in (3, 4)], abs=1e-6)


def test_ways_to_rewind() -> None:
    arms = parse(ImpSettings, {"rewind": ("5%", "0", "none", "0.5", "5.25%")}).arms
    assert arms == [
        Arm("", 0.05), Arm("rewound", 0.0), Arm("not rewound", None), Arm("rewound to 50%", 0.5),
        Arm("rewound to 5.25%", 0.0525),
    ]  # fmt: skip
    content = yaml.safe_load("rewind: [0, 0.05, none]")
    assert [arm.rewind for arm in parse(ImpSettings, {"rewind": tuple(content["rewind"])}).arms] == [0.0, 0.05, None]
    assert [arm.rewind for arm in parse(ImpSettings, {"rewind": 0}).arms] == [0.0]


# --- which trainings there are ----------------------------------------------------------------------------------------


def test_a_rounds_training_is_its_tickets_evaluation(done: Watched) -> None:
    """One training a sparsity and the dense one, and those of the controls: nothing is trained for its mask alone."""
    kinds = [row.role.kind for row in done.record.rows]
    assert sorted(kinds) == [DENSE, IMP, IMP, "one-shot", "one-shot", "random", "random"]
    assert len(list((done.result.folder / "trials").iterdir())) == 7
    assert done.trial(DENSE).prune == Prune(sparsity=0.3, pruning=PLAIN)
    assert done.trial(IMP, 0.3).prune == Prune(sparsity=0.6, pruning=PLAIN)
    assert done.trial(IMP, 0.6).prune is None
    assert {trial.start for trial in (done.trial(DENSE), done.trial(IMP, 0.3), done.trial(IMP, 0.6))} == {None}
    assert set(done.result.table["status"]) == {"finished"}
    assert done.result.seen.highest.keys() == {""}


def test_masks_are_drawn_from_trained_weights(rewound: Watched, before: Mapping[str, Tensor]) -> None:
    """Exact counts, nested; each the ranking of what the round before it ended with."""
    for variant in ("", "rewound to 25%", "not rewound"):
        first, second = rewound.ticket(0.3, variant), rewound.ticket(0.6, variant)
        for ticket, level in ((first, 0.3), (second, 0.6)):
            assert len(ticket.masks) == 6 * LAYERS + 1
            assert ticket.total - ticket.kept == pruned_count(ticket.total, level)
        assert second <= first
        ends = rewound.end(DENSE), rewound.end(IMP, 0.3, variant)
        arrays = [{name: end[f"bert.{name}"].numpy() for name in first.masks} for end in ends]
        assert prune_by_magnitude(arrays[0], 0.3) == first
        assert prune_by_magnitude(arrays[1], 0.6, first) == second
        assert prune_by_magnitude({n: before[f"bert.{n}"].numpy() for n in first.masks}, 0.6) != second  # control
    assert rewound.ticket(0.6) != rewound.ticket(0.6, "not rewound")


def test_every_trained_model_has_its_zeros(rewound: Watched) -> None:
    for variant in ("", "rewound to 25%", "not rewound"):
        for level in (0.3, 0.6):
            end, ticket = rewound.end(IMP, level, variant), rewound.ticket(level, variant)
            for name, mask in ticket.masks.items():
                assert np.array_equal(end[f"bert.{name}"].numpy() != 0, mask), name


def test_what_the_released_code_does(asked: dict[str, Any], folder: Path) -> None:
    """Pruned before any training, the output layer carried over, the learning rate falling over all rounds."""
    released = watch(
        asked, preset="released", first_prune="before", controls="matched", out=folder / "released",
    )  # fmt: skip
    assert [str(row.role) for row in released.record.rows] == [
        "dense seed 57", "round 0.3 seed 57", "imp 0.3 seed 57", "imp 0.6 seed 57",
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
    subjects = load_subjects(done.result.folder)

    def rounds(**changes: Any) -> ImpStudy:
        values = settings_of(done.result.folder).model_dump() | {"sparsities": ("0.1..0.9",)} | changes
        study = ImpStudy(ImpSettings(**values), subjects)
        study.opening()
        return study

    of_all = rounds(lr_horizon="all")
    assert of_all.roles[Role(ROUND, 0.0, 0)].span.lr_horizon == 10
    for few in ((0.7,), (0.3, 0.6), [k / 20 for k in range(1, 20)]):
        assert rounds(lr_horizon="all", sparsities=few).roles[Role(ROUND, 0.0, 0)].span.lr_horizon == 10
        assert rounds(lr_horizon="round", sparsities=few).roles[Role(DENSE, 0.0, 0)].span.lr_horizon == 1  # control
    assert of_all.roles[Role(DENSE, 0.0, 0)].span.lr_horizon == 1
    assert of_all.roles[Role(DENSE, 0.0, 0)].prune is None
    assert rounds().roles[Role(DENSE, 0.0, 0)].span == Span.model_validate({})
    assert len(of_all.expected()) == 2 + 8 + 9 + 18
    assert len(rounds().expected()) == 1 + 9 + 18
    assert len(rounds(rewind=("0", "5%", "none")).expected()) == 1 + 1 + 3 * 9 + 18
    assert len(rounds(controls=CONTROLS, control_at=(0.7,)).expected()) == 1 + 9 + 6


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
    begun = rewound.end(START, 0.25)
    assert rewound.trial(START, 0.25).span == Span(skip=0.0, stop=0.25, lr_horizon=1)
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
        asked, rewind_scope="prunable", head="carry", controls="none", keep="all", out=folder / "carried",
    )  # fmt: skip
    assert [row.role.kind for row in carried.record.rows] == [DENSE, ROUND, IMP, IMP]
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


@pytest.mark.parametrize("head", ["carry", "fresh"])
def test_the_output_layer_of_a_round(
    asked: dict[str, Any], tmp_path: Path, before: Mapping[str, Tensor], head: str
) -> None:
    found = watch(asked, head=head, controls="none", keep="all", out=tmp_path / "out")
    start = found.start(ROUND, 0.3)
    assert same(start, masked(before, found.ticket(0.3, kind=ROUND))) == before.keys()
    carried = same(start, found.end(DENSE), "classifier.")
    assert carried == ({"classifier.weight", "classifier.bias"} if head == "carry" else set())
    assert "classifier.weight" not in same(start, found.start(DENSE), "classifier.")


def test_a_ticket_rewound_into_a_training_is_judged_from_there(asked: dict[str, Any], folder: Path) -> None:
    """Also where the search's learning rate falls over all rounds; the weights to start from go when all is done."""
    found = watch(asked, rewind="50%", lr_horizon="all", controls="none", out=folder / "half-way")
    assert [row.role.kind for row in found.record.rows] == [DENSE, ROUND, START, ROUND, IMP, IMP]
    begun = found.trial(START, 0.5)
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


def test_masks_alone_stay_of_rounds(done: Watched, controlled: Watched, asked: dict[str, Any], folder: Path) -> None:
    """However rounds go on: no trained weights, and masks of one size."""
    carried = watch(asked, rewind=("0", "none"), head="carry", controls="none", out=folder / "carry")
    once = watch(asked, sparsities=0.5, controls="none", out=folder / "once")
    for study in (done, carried, once):
        assert trial_files(study.result.folder) == {"outcome.json", "predictions.safetensors", MASK}
        assert len(mask_sizes(study.result.folder)) == 1
    assert mask_sizes(done.result.folder) == mask_sizes(carried.result.folder)
    assert WEIGHTS in trial_files(controlled.result.folder)  # control
    total = carried.ticket(0.3).total
    assert mask_sizes(done.result.folder).pop() == pytest.approx(total / 8, abs=4000)  # a bit each, and names


def test_a_shipped_model_is_a_plain_one(controlled: Watched) -> None:
    folder = controlled.result.ticket_folder
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
    shared = load_weight_ticket(done.result.ticket_folder)
    assert shared.ticket == done.ticket(shared.origin["sparsity"])
    assert shared.base["weight_hash"] == find_model(asked["model"]).weight_hash
    assert not (done.result.ticket_folder / "model").exists()
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


def test_run_again_trains_nothing(
    done: Watched, rewound: Watched, asked: dict[str, Any], ran: list[str], capsys: Any
) -> None:
    for study in (done, rewound):
        found = contents(study.result.folder)
        settings = study.result.settings
        names = ("out", "rewind", "controls", "keep", "weight_decay")
        imp({**asked, **{name: getattr(settings, name) for name in names}})
        assert contents(study.result.folder) == found
        seen = status(study.result.folder)
        assert (seen["state"], seen["done"], seen["total"], seen["failed"]) == ("finished", len(seen_trials(study)),
                                                                               len(seen_trials(study)), 0)  # fmt: skip
    assert ran == []
    assert main(["imp", "--config", str(done.result.folder / "settings.yaml"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["results"]) == 7
    assert said["highest"].keys() == {""}
    assert ran == []


def seen_trials(study: Watched) -> set[str]:
    return {row.trial.key for row in study.record.rows if row.trial is not None}


def test_a_study_may_grow_by_a_control(done: Watched, asked: dict[str, Any], tmp_path: Path, ran: list[str]) -> None:
    """Its folder is its own, but trials are what they are: those of another study with the same name are the same."""
    copy = tmp_path / "copy"
    shutil.copytree(done.result.folder / "trials", copy / "trials")
    shutil.copy(done.result.folder / "subject.safetensors", copy)
    (copy / "settings.yaml").write_text(
        (done.result.folder / "settings.yaml").read_text().replace("- random\n", "- random\n- matched\n")
    )
    result = imp({**asked, "controls": ("one-shot", "random", "matched"), "out": copy})
    assert len(ran) == 2
    assert sorted(result.table["kind"].unique()) == ["dense", "imp", "matched", "one-shot", "random"]


class Stop(KeyboardInterrupt):
    pass


def test_a_study_that_is_stopped_ends_with_the_same_masks(
    asked: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch, ran: list[str]
) -> None:
    """Stopped in the middle of the dense training, of rounds, with each step checkpointed; compared file by file."""
    options = {**asked, "rewind": ("none", "25%"), "controls": "none"}
    whole = imp({**options, "out": folder / "whole"})
    unbroken = len(ran)
    save = Trainer._save_checkpoint_if_due
    steps, went_on = [0], []

    def stopping(self: Trainer) -> None:
        if steps[0] == 0:
            went_on.append(self.steps_done)
        save(self)
        steps[0] += 1
        if steps[0] == 7:  # of 8 in a training, 2 in the one rewound to, 6 in what follows
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_checkpoint_if_due", stopping)
        for _ in range(40):
            steps[0] = 0
            try:
                imp({**options, "out": folder / "broken", "checkpoint_minutes": 0})
            except Stop:
                continue
            break
        else:
            pytest.fail("the study never ended")
    assert len(ran) > unbroken + 4
    assert sum(step > 1 for step in went_on) > 3  # trainings went on from the middle
    found, expected = contents(folder / "broken"), contents(whole.folder)
    assert [name for name in expected if name.endswith(MASK)]
    assert found == expected


def test_masks_follow_the_seed_and_not_the_workers(done: Watched, asked: dict[str, Any], tmp_path: Path) -> None:
    options = {**asked, "controls": "none", "seeds": 2, "workers": 2, "out": tmp_path / "two"}
    result = imp(options)
    record = recall(ImpStudy(result.settings, load_subjects(result.folder)))
    for kind, level in ((DENSE, 0.0), (IMP, 0.3)):
        one, other = (record.roles[Role(kind, level, seed)].outcome for seed in (0, 1))
        assert one is not None
        assert other is not None
        assert one.files[MASK] == done.outcome(kind, level).files[MASK]
        assert other.files[MASK] != one.files[MASK]
    assert result.seen.similarity["pairs"].tolist() == [1, 1]
    assert (result.seen.similarity["jaccard"] > result.seen.similarity["chance"]).all()


def otherwise(trial: Trial, **changes: Any) -> Trial:
    return Trial.model_validate({**trial.model_dump(mode="json"), **changes})


def test_a_further_evaluation_set_does_not_change_a_mask(done: Watched, tmp_path: Path) -> None:
    """Not even one with words that no training example has."""
    study = open_study(done.result.folder)
    assert study is not None
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
        word = "others" if path.is_file() else "gone"
        with pytest.raises(TicketError, match=f"the masks that this training keeps are {word}"):
            Workbench("cpu").run(Job(other, tmp_path / "trial", False, "x"), lambda event: None)


# --- misuse -----------------------------------------------------------------------------------------------------------


def test_misuse_of_imp(done: Watched, asked: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    train = ["--model", asked["model"], "--task", "words"]
    train += ["--train-file", str(asked["train_file"]), "--dev-file", str(asked["dev_file"])]
    cases = {
        ("--sparsities", "1"): "--sparsities: a sparsity is a share in [0, 1), got 1",
        ("--sparsities", "0.9999999"): "--sparsities: a sparsity is a share in [0, 1), got 1",
        ("--sparsities=-0.1",): "--sparsities: a sparsity is a share in [0, 1), got -0.1",
        ("--sparsities", "nan"): "--sparsities",
        ("--sparsities", "0"): "--sparsities: expected at least one sparsity above 0",
        ("--sparsities", "0.5..1.2"): "--sparsities: expected a range of shares in [0, 1)",
        ("--sparsities", "0.7..0.3"): "--sparsities: expected a range of shares in [0, 1)",
        ("--sparsities", "a..b"): "--sparsities: expected a range such as 0.1..0.7, got 'a..b'",
        ("--sparsities", "x"): "--sparsities",
        ("--rate", "0"): "--rate: expected a share between 0 and 1, got 0",
        ("--rate", "1"): "--rate: expected a share between 0 and 1, got 1",
        ("--rewind", "120%"): "--rewind: expected 0, none, or a share in [0, 1) such as 5%, got '120%'",
        ("--rewind", "-1"): "--rewind: expected 0, none, or a share in [0, 1) such as 5%, got '-1'",
        ("--rewind", "soon"): "--rewind: expected 0, none, or a share",
        ("--rewind", "0,0%"): "--rewind: a way to rewind is named twice",
        ("--rewind", "5%", "--head", "carry"): "--rewind: rewinding into a training puts back the whole encoder",
        ("--rewind", "0,5%", "--rewind-scope", "prunable"): "leave out --head and --rewind-scope",
        ("--sparsities", "0.1..0.3", "--control-at", "0.4"): "--control-at: no ticket is found at 0.4; expected some "
        "of 0.1, 0.2, 0.3",
        ("--controls", "randm"): "did you mean 'random'",
        ("--head", "new"): "unknown head 'new'",
        ("--rule", "lax"): "unknown rule 'lax'",
        ("--config", str(tmp_path / "odd.yaml")): "--rate: expected a share between 0 and 1, got often",
    }  # fmt: skip
    (tmp_path / "odd.yaml").write_text("rate: often\n")
    out = tmp_path / "out"
    capsys.readouterr()
    for arguments, message in cases.items():
        assert main(["imp", *arguments, *train, "--out", str(out)]) == 2, arguments
        said = capsys.readouterr().err
        assert message in said, said
        assert said.count("\n") == 1, said
        assert not out.exists()
    found = contents(done.result.folder)
    assert main(["imp", *train, "--sparsities", "0.5", "--out", str(done.result.folder)]) == 2
    assert "belongs to other settings" in capsys.readouterr().err
    assert main(["find", *train, "--out", str(done.result.folder)]) == 2
    assert "belongs to a study of `imp`" in capsys.readouterr().err
    assert contents(done.result.folder) == found

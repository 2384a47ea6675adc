"""Every setting of every study changes what is run or what is left, or is refused: none is ignored."""

import csv
import functools
import hashlib
import itertools
import json
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import supertickets
from helpers.models import save_tiny_model
from supertickets.cli import main
from supertickets.errors import TicketError
from supertickets.evidence.runs import TaskInfo
from supertickets.lab import Outcome, Trial
from supertickets.lab.machine import Machine
from supertickets.lab.outcome import LOGITS, MASK, WEIGHTS
from supertickets.lab.partial import part_of
from supertickets.lab.steps import Execution
from supertickets.models import load_tokenizer
from supertickets.studies import STUDIES
from supertickets.studies.config import flag
from supertickets.studies.plan import plan_study
from supertickets.studies.settings import Running, StudySettings
from supertickets.studies.study import Study
from supertickets.studies.transfer import TransferSettings
from supertickets.tickets.scoring import Scores
from test_settings import KINDS, other

REFUSED_ALONE = {
    **dict.fromkeys((("find", "selection"), ("find", "selection_share")), r"dev examples (is|are) \d; at least 10"),
    ("find", "latency_of"): "there is no --target latency",
    ("find", "search"): "it does not pay for a first look",
    ("find", "budget"): "used with --search only",
    ("share", "random"): "--tickets names the tickets",
    ("imp", "pretrain"): "only --task mlm and clm need a language modelling head",
    ("transfer", "embeddings"): "the ticket has no mask of embeddings",
    **{(study, name): "was drawn from" for study in ("share", "transfer") for name in ("layers", "model")},
    **{("adapt", name): "its base model is not" for name in ("layers", "model")},
}
"""Settings that have one value alone beside the others of these tests, and what is said of another."""
READ_AT_THE_END = {("imp", "rule"): "conclusions are drawn by it"}
"""Settings that change what is said about trials, and no trial; they have tests of their own."""


class _Planned(BaseException):
    """The study that was going to run."""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two models, tables of examples, folders of GLUE's files, and finished studies of every kind to start from."""
    folder = tmp_path_factory.mktemp("effects")
    found: dict[str, Any] = {
        "model": str(save_tiny_model(folder / "model")),
        "other": str(save_tiny_model(folder / "other", seed=1)),
    }
    for i, name in enumerate(("train", "dev", "train2", "dev2")):
        rng = np.random.default_rng(i)
        rows = [
            {
                "text": " ".join(f"w{w}" for w in rng.integers(0, 24, 5)),
                "other": f"w{j} w{rng.integers(9)}",
                "pair": f"w{j % 7}",
                "label": j % 2,
                "kind": "abc"[j % 3],
                "tags": ("a", "a,b", "b;c", "b")[j % 4],
            }
            for j in range(24)
        ]
        found[name] = _table(folder / f"{name}.csv", rows, ",")
    for i, name in enumerate(("glue", "glue2")):
        for part in ("train", "dev"):
            rows = [
                {
                    "index": j,
                    "sentence1": f"w{j} w{i}",
                    "sentence2": "w1",
                    "label": ("entailment", "not_entailment")[j % 2],
                }
                for j in range(8)
            ]
            _table(folder / name / "RTE" / f"{part}.tsv", rows, "\t")
        found[name] = folder / name
    quick = {"epochs": 1, "batch_size": 8, "max_length": 16, "seeds": 1, "workers": 1, "precision": "float32"}
    for task, part in (("words", ""), ("more", "2")):
        files = {"train_file": found["train" + part], "dev_file": found["dev" + part], "model": found["model"]}
        supertickets.find(
            quick | files, task=task, levels=0.4, kinds="winning", keep="all", out=folder / f"find-{task}"
        )
        supertickets.imp(quick | files, task=task, sparsities="0.3,0.5", controls="none", out=folder / f"imp-{task}")
        found |= {f"{kind}-{task}": folder / f"{kind}-{task}" for kind in ("find", "imp")}
    finds = (found["find-words"], found["find-more"])
    supertickets.find(
        quick, task="rte", data=found["glue"], model=found["model"], levels=0.4, kinds="winning", out=folder / "rte"
    )
    found["find-rte"] = folder / "rte"
    found["without head"] = str(save_tiny_model(folder / "without-head", mask=True))
    found["lines"] = folder / "lines.txt"
    found["lines"].write_text("".join(f"w{i % 9} w{i % 7} w{i % 5}\n" for i in range(200)))
    found["share"] = supertickets.share(
        quick, model=found["model"], tickets=finds, fine_tune=False, out=folder / "share"
    ).folder
    return found


def _table(path: Path, rows: list[dict[str, Any]], separator: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    return path


def usual(study: str, places: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is asked of a study, before one setting is put otherwise."""
    own = {"task": "words", "train_file": places["train"], "dev_file": places["dev"]}
    asked = {
        "find": {**own, "levels": (0.3, 0.6)},
        "compare": {**own, "levels": (0.3, 0.6)},
        "share": {"tickets": (places["find-words"], places["find-more"])},
        "adapt": {**own, "task": "new", "sources": (places["find-words"],), "fractions": (0.5, 1.0)},
        "imp": {**own, "sparsities": (0.3, 0.5)},
        "transfer": {
            "tickets": (places["imp-words"], places["imp-more"]),
            "baselines": ("one-shot", "random"),
            "sparsity": 0.5,
        },
    }[study]
    return {"model": places["model"], "precision": "float32", "max_length": 16, **asked}


def otherwise(study: str, name: str, places: Mapping[str, Any]) -> Any:
    """Return a value of a setting that is not the usual one."""
    value = {
        "adapt": {"sources": (places["find-more"],)},
        "imp": {"sparsities": (0.3, 0.4, 0.5)},
        "share": {"tickets": (places["find-more"], places["find-words"]), "tasks": ("more", "words")},
        "transfer": {
            "tickets": (places["imp-more"], places["imp-words"]),
            "sparsity": 0.3,
            "tasks": ("words",),
            "max_length": 12,
        },
    }.get(study, {})
    value |= {
        "model": places["other"],
        "layers": 2,
        "precision": "bfloat16",
        "keep": "all",
        "label": "kind",
        "text": "other",
    }
    value |= {
        "text_pair": "pair",
        "train_file": places["train2"],
        "dev_file": places["dev2"],
        "track": ("tensorboard",),
    }
    value |= {"metrics": ("accuracy", "matthews"), "device": "cpu", "data": places["glue"], "max_length": 12}
    value |= {"labels": ("1", "0"), "positive": "0", "score_epoch": 2, "label_separator": ";"}
    value |= {"track": ("tensorboard",), "dev_share": 0.25, "ticket_of": "words", "control_sparsities": (0.3,)}
    value |= {"target": ("encoder-parameters=0.6",)}
    value |= dict.fromkeys(("optimizer", "lr_schedule", "order"), "released") | {"dropout_masks": "sequential"}
    value |= {"soup": 2}
    value |= {"keep_epoch": "best"} if study == "imp" else {}
    return value[name] if name in value else other(KINDS[study], name)


def beside(study: str, name: str, places: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a setting is read beside, where it is refused alone."""
    glue = {"task": "rte", "train_file": None, "dev_file": None}
    ray = {key: {"backend": "ray"} for key in ("address", "cpus", "gpus")}
    ray |= {key: {"backend": "slurm"} for key in ("partition", "time_limit", "memory", "slurm")}
    search = ("levels", "importance", "absolute", "accumulation", "counts", "schedule", "score_epoch", "find_epochs")
    search += ("structures", "score_examples", "score_attention")
    two = {"tickets": (), "tasks": ("paraphrase", "similarity"), "max_train_examples": 12}
    searched = dict.fromkeys(search, two)
    found: dict[str, dict[str, Any]] = {**ray, "fraction_seed": {"fraction": 0.5}, "dev_share": {"dev_file": None}}
    found["design"] = found["target"] = {"levels": None}  # narrow has one level, a target none
    found["neuron_block"] = {"structures": ("heads", "neurons")}
    found["positive"] = {"metrics": ("f1",)}
    found["label_separator"] = {"multi_label": True, "label": "tags"}
    found |= {key: {"teacher": "dense"} for key in ("teacher_weight", "teacher_temperature")}
    found["rate_seeds"] = {"learning_rates": (1e-3, 1e-2)}
    found["data"] = {**glue, "data": places["glue2"]}
    found |= {
        "share": {
            **searched,
            "neuron_block": {**two, "structures": ("heads", "neurons")},
            "fraction_seed": {"max_train_examples": 12},
            "data": {"tickets": (), "tasks": ("rte", "entailment"), "data": places["glue2"]},
        },
        "compare": {
            "random": {"choices": ("random",)},
            "structures": {"choices": ("random",)},
            "neuron_block": {"choices": ("random",), "structures": ("heads", "neurons")},
        },
        "adapt": {"ticket_of": {"sources": (places["share"],)}, "fraction_seed": {}},
        "imp": {"rate": {"sparsities": "0.1..0.5"}, "rate_of": {"sparsities": "0.1..0.5"}},
        "transfer": {"data": {"tasks": ("words", "rte"), "data": places["glue2"]}},
    }.get(study, {})
    return found.get(name, {})


class _Done(Outcome):
    """An outcome without training: all that later trials depend on follows from the trial's key."""

    @classmethod
    def of(cls, trial: Trial, folder: Path) -> "_Done":
        digest = hashlib.sha256(trial.key.encode()).hexdigest()
        score = int(digest[:4], 16) / 1000
        return cls(
            trial.key, trial, folder / trial.key, "finished", None, [{"epoch": 1, "score": score}], 1,
            {"parameters": 1.0}, {}, {MASK: digest, WEIGHTS: digest, LOGITS: digest},
        )  # fmt: skip

    def scores(self) -> Scores:
        rng, (layers, heads) = np.random.default_rng(int(self.key[:8], 16)), self.trial.ticket.shape
        return {"heads": rng.random((layers, heads)), "ffns": rng.random(layers), "neurons": rng.random((layers, 32))}


def effects(
    study: Study[Any], settings: StudySettings, infos: list[TaskInfo], machine: Machine, folder: Path
) -> dict[str, Any]:
    """Return all that a study does: its trials, whose weights stay, what they stand for, where and how they run."""
    execution = Execution(study.steps(settings, infos))
    waiting, trials = deque(execution.begin()), list[str]()
    while waiting:
        order = waiting.popleft()
        trials.append(f"{json.dumps(order.trial.content(), sort_keys=True, default=str)} until {order.until}")
        outcome = _Done.of(order.trial, folder)
        waiting += execution.end(order.id, **_came(outcome, order.until))
    assert execution.complete
    return {
        "trials": trials,
        "steps": [(str(run.step), run.step.keep, run.status) for run in execution.runs],
        "tasks": [(one.task, one.train, one.metrics) for one in infos],
        "folder": settings.folder.relative_to(folder),
        "machine": {f.name: getattr(machine, f.name) for f in fields(Machine) if f.name not in ("models", "tasks")},
    }


def _came(outcome: Outcome, until: float | None) -> dict[str, Any]:
    return {"outcome": outcome} if until is None else {"partial": part_of(outcome, until)}


tokenizer_of = functools.cache(load_tokenizer)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """What a study would do, asked for in Python; nothing is trained."""
    number = itertools.count()

    def plan(study: str, asked: dict[str, Any]) -> dict[str, Any]:
        folder = tmp_path / str(next(number))
        asked = {name: value for name, value in asked.items() if value is not None}
        with pytest.raises(_Planned) as caught:
            getattr(supertickets, study)({**asked, "out": folder / asked.get("out", "out")})
        return effects(*caught.value.args, folder)

    # What is planned depends on neither: the tokenizer is read once, and the model is not tried.
    monkeypatch.setattr("supertickets.models.source.load_tokenizer", tokenizer_of)
    monkeypatch.setattr("supertickets.models.ModelSource.check", lambda self, *asked, **more: None)
    monkeypatch.setattr("supertickets.studies.run._run", _stop)
    monkeypatch.setattr("supertickets.studies.checks.check_trackers", lambda names: None)
    monkeypatch.setattr("supertickets.lab.on_ray.RayRunner.check", lambda address: None)
    monkeypatch.setattr("supertickets.lab.on_slurm.SlurmRunner.check", lambda address: None)
    return plan


def _stop(
    study: Study[Any], settings: StudySettings, infos: list[TaskInfo], machine: Machine, quiet: bool, note: str
) -> None:
    raise _Planned(study, settings, infos, machine)


# Where trainings run is read in one place for all studies: find has each of these settings, the others one.
ASKED = [
    (study, name)
    for study, kind in KINDS.items()
    for name in kind.model_fields
    if study == "find" or name == "workers" or name not in Running.model_fields
]


@pytest.mark.parametrize(("study", "name"), ASKED)
def test_every_setting_changes_something_or_is_refused(
    study: str, name: str, places: dict[str, Any], planned: Callable[[str, dict[str, Any]], dict[str, Any]]
) -> None:
    asked, value = usual(study, places), otherwise(study, name, places)
    before = places.setdefault("planned", {})
    if study not in before:
        before[study] = planned(study, asked)
    refused = ""
    try:
        changed = planned(study, asked | {name: value}) != before[study]
    except TicketError as error:
        refused = str(error)
    if (study, name) in READ_AT_THE_END:
        assert not refused
        return
    if (study, name) in REFUSED_ALONE:
        assert refused
        assert re.search(REFUSED_ALONE[study, name], refused)
        return
    if refused:
        assert flag(name) in refused
        others = beside(study, name, places)
        asked |= others
        if (key := f"{study} {others}") not in before:
            before[key] = planned(study, asked)
        changed = planned(study, asked | {name: value}) != before[key]
    assert changed, f"{flag(name)} {value} changes nothing"


def test_a_setting_that_is_ignored_would_be_seen(
    places: dict[str, Any],
    planned: Callable[[str, dict[str, Any]], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = usual("transfer", places)
    with_it = planned("transfer", asked | {"warmup": 0.3})
    monkeypatch.setattr(TransferSettings, "asked_recipe", lambda self: {"max_length": self.max_length})
    assert planned("transfer", asked | {"warmup": 0.3}) == planned("transfer", asked) != with_it


# --- what is told -----------------------------------------------------------------------------------------------------


IDLE: dict[str, list[tuple[dict[str, Any], str]]] = {
    "find": [
        ({"cpus": 2}, "--cpus: it would change nothing, since it is used with --backend ray or slurm only"),
        ({"memory": 2}, "--memory: it would change nothing, since it is used with --backend slurm only"),
        ({"backend": "ray", "partition": "gpu"}, "--partition: .* used with --backend slurm only"),
        ({"backend": "slurm", "address": "here:1"}, "--address: .* used with --backend ray only"),
        ({"backend": "slurm", "gpus": 0.5}, "--gpus 0.5: Slurm gives whole numbers to a job; only Ray shares one"),
        ({"slurm": "acount=me"}, "--slurm: did you mean 'account'"),
        ({"address": "here:1"}, "--address"),
        ({"gpus": 1}, "--gpus"),
        ({"backend": "ray", "workers": 2}, "--workers: it would change nothing, since on a cluster, --cpus"),
        ({"fraction_seed": 3}, "--fraction-seed: it would change nothing, since the whole training set is used"),
        ({"data": "glue"}, "--data: it would change nothing, since the examples are in --train-file"),
        ({"data": "x", "task": "entailment", "train_file": None, "dev_file": None}, "'entailment' is built in"),
        ({"dev_share": 0.2}, "--dev-share: it would change nothing, since only a --train-file without --dev-file"),
        ({"importance": "magnitude", "absolute": "token"}, "--absolute: .* importance .magnitude. does not use it"),
        ({"importance": "fisher", "accumulation": "decaying"}, "--accumulation"),
        ({"importance": "taylor", "score_examples": "settled"}, "--score-examples: .* importance .taylor. does not"),
        ({"kinds": "winning", "random": "with-replacement"}, "--random: .* no random tickets are drawn"),
        ({"levels": 0.5, "schedule": "iterative"}, "--schedule: .* fewer than two levels"),
        ({"kinds": "random", "schedule": "iterative"}, "--schedule"),
        (
            {"levels": ("heads=0.5", "heads=0.25+ffns=0.9"), "schedule": "iterative"},
            "--schedule iterative: level heads=0.25.ffns=0.9 prunes 3 heads, fewer than the 6 of heads=0.5 before it",
        ),
        ({"teacher_weight": 0.3}, "--teacher-weight: it would change nothing, since it is used with --teacher"),
        ({"teacher_temperature": 4}, "--teacher-temperature: .* with --teacher dense only"),
        ({"teacher": "dense", "kinds": "none", "levels": None}, "--teacher: .* no tickets are drawn .--kinds none."),
        ({"neuron_block": 4}, "--neuron-block: it would change nothing, since no neurons are pruned"),
        ({"task": "mlm", "train_file": None, "dev_file": None, "dropout": 0.2}, "--dropout"),
        ({"task": "mlm", "train_file": None, "dev_file": None, "fraction": 0.5, "fraction_seed": 1}, "first lines"),
    ],
    "compare": [
        ({"importance": "magnitude", "choices": "absolute,counts"}, "--choices: .* since absolute is .*not used"),
        ({"choices": "counts,importance=sensitivity"}, "since importance=sensitivity is the study's own value"),
        ({"choices": "absolute,schedule", "levels": 0.3}, "since schedule is .* or needs two levels"),
        ({"choices": "counts,accumulation", "score_examples": "settled"}, "does not go with --score-examples settled"),
        ({"random": "with-replacement", "choices": "order"}, "--random"),
    ],
    "share": [
        *(({name: value}, f"--{name}: .* --tickets names the tickets") for name, value in
          {"levels": 0.5, "counts": "ladder", "importance": "fisher", "random": "with-replacement"}.items()),
        ({"fine_tune": False, "fine_tune_epochs": 3}, "--fine-tune-epochs: .* nothing is fine-tuned"),
        ({"fine_tune": False, "fine_tune_learning_rate": 1e-3}, "--fine-tune-learning-rate"),
        ({"fraction_seed": 3}, "--fraction-seed: .* --max-train-examples is not set"),
        ({"data": "somewhere"}, "--data: it would change nothing: no task takes its examples from there"),
    ],
    "adapt": [
        ({"fractions": 1, "fraction_seed": 2}, "--fraction-seed"),
        ({"ticket_of": "words"}, "--ticket-of words: none of the --sources is a study of `share`"),
    ],
    "imp": [
        ({"rate": 0.2}, "--rate: it would change nothing, since --sparsities is not a range"),
        ({"rate_of": "remaining"}, "--rate-of"),
        ({"controls": "none", "control_sparsities": 0.3}, "--control-sparsities: .* --controls is none"),
        ({"rewind": "none", "output_layer": "carry"}, "--output-layer: .* --rewind none rewinds nothing"),
        ({"rewind": "none", "rewind_scope": "prunable"}, "--rewind-scope"),
        ({"sparsities": 0.5, "output_layer": "fresh"}, "--output-layer: .* with one sparsity there is only one round"),
    ],
    "transfer": [
        ({"baselines": "none", "scope": "tensor"}, "--scope: .* --baselines is none"),
        ({"data": "somewhere"}, "--data: it would change nothing: every target is built in or has a study"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("study", "change", "message"), [(study, *case) for study, cases in IDLE.items() for case in cases], ids=str
)
def test_what_would_change_nothing_is_refused(
    study: str,
    change: dict[str, Any],
    message: str,
    places: dict[str, Any],
    planned: Callable[[str, dict[str, Any]], dict[str, Any]],
    tmp_path: Path,
) -> None:
    before = set(tmp_path.rglob("*"))
    with pytest.raises(TicketError, match=message):
        planned(study, usual(study, places) | change)
    assert set(tmp_path.rglob("*")) == before


def test_what_comes_along_is_told(
    places: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A study's settings file has everything: what of it changes nothing is said, but not what a preset brings."""
    monkeypatch.setattr("supertickets.studies.run._run", _stop)
    asked = usual("find", places) | {"preset": "released", "importance": "magnitude", "max_length": 16}
    for way, told in (({**asked, "out": tmp_path / "out"}, False), (tmp_path / "out" / "settings.yaml", True)):
        with pytest.raises(_Planned):
            supertickets.find(way, quiet=False)
        said = capsys.readouterr().err
        absolute = "--absolute changes nothing, since the measure of importance (magnitude) does not use it."
        assert (absolute in said, "--accumulation changes nothing" in said) == (told, told)
    with pytest.raises(_Planned):
        supertickets.find(asked | {"importance": "sensitivity"}, out=tmp_path / "other", quiet=False)
    assert "changes nothing" not in capsys.readouterr().err
    config = tmp_path / "mine.yaml"  # a file of one's own is asked for
    config.write_text("importance: magnitude\nabsolute: token\n")
    with pytest.raises(TicketError, match="--absolute: it would change nothing"):
        supertickets.find(config)


# --- nothing is written before a misuse is told -----------------------------------------------------------------------


def snapshot(*folders: Path) -> dict[Path, tuple[int, int]]:
    """Return every path below some folders; of files their size and when they were written."""
    paths = [path for folder in folders for path in folder.rglob("*") if path.name != ".lock"]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else (0, 0) for path in paths}


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a training or a prediction begins."""

    def run(*asked: Any, **named: Any) -> None:
        pytest.fail("a training began")

    monkeypatch.setattr("supertickets.lab.workbench.Workbench.run", run)
    monkeypatch.setattr("supertickets.export.predict.predict", run)


def full_folder(out: Path, places: dict[str, Any]) -> dict[str, Any]:
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    return {"out": out}


def a_file(out: Path, places: dict[str, Any]) -> dict[str, Any]:
    out.write_text("precious")
    return {"out": out}


MISUSE: dict[str, tuple[Callable[[Path, dict[str, Any]], dict[str, Any]], str]] = {
    "folder of other files": (full_folder, "the folder is not empty"),
    "file": (a_file, "that is a file; expected a folder"),
    "below a file": (lambda out, places: {"out": a_file(out, places)["out"] / "a" / "b"}, "is not a writable folder"),
    "other study": (
        lambda out, places: {"out": places["find-rte"]},
        "this folder (was created with different|holds a study of)",
    ),
    "tracker": (lambda out, places: {"track": "tensorbord", "out": out}, "unknown tracker 'tensorbord': did you mean"),
    "device": (lambda out, places: {"device": "bogus", "out": out}, "--device bogus: this machine has no such device"),
    "cluster": (
        lambda out, places: {"backend": "ray", "address": "ray://nobody:1", "out": out},
        r"--address ray://nobody:1: no Ray cluster .* \(nobody there\)",
    ),
    "no Slurm": (lambda out, places: {"backend": "slurm", "out": out}, "--backend slurm: `sbatch` is not in PATH"),
    "length": (lambda out, places: {"max_length": 500, "out": out}, "--max-length: 500 is beyond the 40 positions"),
}
STARTS = [*STUDIES, "imp of a model without an output layer", "share without tickets"]
# One function checks these for all studies, but for the length: two of them are asked everything.
OF_EACH = ("folder of other files", "other study", "length")
MISUSES = [(start, case) for start in STARTS for case in MISUSE if start in ("find", STARTS[-2]) or case in OF_EACH]


def started(start: str, places: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a study and what is asked of it."""
    study = start.split()[0]
    asked = usual(study, places)
    if start.startswith("imp of"):
        asked |= {"model": places["without head"], "task": "mlm", "train_file": places["lines"], "dev_file": None}
    if start.startswith("share without"):
        asked |= {"tickets": (), "tasks": ("entailment", "paraphrase")}
    return study, asked


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(("start", "case"), MISUSES)
def test_a_misuse_of_a_study_leaves_everything_as_it_was(
    start: str, case: str, places: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case == "no Slurm":
        monkeypatch.setattr("supertickets.lab.on_slurm.require_submitit", lambda: None)
        monkeypatch.setenv("PATH", str(tmp_path))
    if case == "cluster":

        def nobody(**asked: Any) -> None:
            raise ConnectionError("nobody there")

        ray = SimpleNamespace(is_initialized=lambda: False, init=nobody)
        monkeypatch.setattr("supertickets.lab.on_ray.require_ray", lambda: ray)
    study, asked = started(start, places)
    make, message = MISUSE[case]
    asked = {name: value for name, value in (asked | make(tmp_path / "out", places)).items() if value is not None}
    folders = (tmp_path, Path(places["model"]).parent)
    before = snapshot(*folders)
    with pytest.raises(TicketError, match=message):
        getattr(supertickets, study)(asked)
    assert snapshot(*folders) == before


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("start", STARTS)
def test_a_dry_run_of_every_study_writes_nothing(start: str, places: dict[str, Any], tmp_path: Path) -> None:
    study, asked = started(start, places)
    asked = {name: value for name, value in asked.items() if value is not None}
    folders = (tmp_path, Path(places["model"]).parent)
    before = snapshot(*folders)
    plan = plan_study(study, asked, out=tmp_path / "out")
    assert snapshot(*folders) == before
    assert plan.steps["trainings"].sum() == plan.trainings > plan.done == plan.steps["done"].sum()
    assert min(plan.flops, plan.seconds, plan.disk, plan.side_by_side) > 0


OTHER_COMMANDS: list[tuple[list[str], str]] = [
    (["apply", "{find-words}/super-ticket", "--out", "{full}"], "the folder is not empty"),
    (["apply", "{find-words}/super-ticket", "--out", "{file}"], "that is a file"),
    (["apply", "{find-words}/super-ticket", "--model", "{other}", "--out", "{new}"], "--any-base"),
    (["apply", "{full}", "--out", "{new}"], "not a ticket folder"),
    (["import-masks", "{file}", "--task", "mlm", "--model", "{model}", "--out", "{new}"], "thesis.txt"),
    (["import-masks", "{new}", "--task", "mlm", "--model", "{model}", "--out", "{new}"], "no such file"),
    (["submit", "{find-rte}", "--fill", "--data", "{glue}", "--out", "{full}"], "that is a folder"),
    (["submit", "{find-rte}", "--fill", "--data", "{glue}", "--out", "{file}"], "is not a submission"),
    (["submit", "{find-rte}", "--fill", "--data", "{glue}", "--out", "{file}/a.zip"], "is not a writable folder"),
    (["submit", "{find-rte}", "--fill", "--data", "{glue}", "--device", "bogus", "--out", "{new}"], "no such device"),
    (["submit", "{find-rte}", "--data", "{glue}", "--out", "{new}"], "a submission needs all 11 files; missing: CoLA"),
    (
        ["report", "{find-words}", "{find-more}", "--out", "{full}"],
        "files that are not a report's (thesis.txt)",
    ),
    (["report", "{find-words}", "{find-more}", "--out", "{file}"], "that is a file; expected a folder"),
    (["report", "{find-words}", "{find-more}", "--out", "{file}/a"], "is not a writable folder"),
    (["report", "{imp-words}", "{find-words}", "--out", "{new}"], "report studies of `imp` one at a time"),
    (["measure", "{find-words}", "--lengths", "9999"], "--lengths 9999: model "),
    (["measure", "{find-words}", "--device", "bogus"], "no such device"),
    (["measure", "{find-words}", "--out", "{full}"], "that is a folder"),
    (["measure", "{find-words}", "--out", "{file}"], "the file exists and is not of `measure`"),
    (["measure", "{imp-words}", "--out", "{new}"], "a ticket of single weights"),
    (["status", "{full}"], "there is no study in it"),
    (["status", "{new}"], "new: no such folder."),
    (["clean", "{full}"], "there is no study in it"),
]


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(("typed", "message"), OTHER_COMMANDS, ids=str)
def test_a_misuse_of_another_command_leaves_everything_as_it_was(
    typed: list[str], message: str, places: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full_folder(tmp_path / "full", places)
    named = {**places, "full": tmp_path / "full", "file": tmp_path / "full" / "thesis.txt", "new": tmp_path / "new"}
    words = [re.sub(r"\{(.*?)\}", lambda match: str(named[match[1]]), word) for word in typed]
    folders = (tmp_path, Path(places["model"]).parent)
    before = snapshot(*folders)
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert snapshot(*folders) == before

"""Settings: a flag, a YAML key and a Python keyword are one thing."""

import itertools
import re
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from supertickets.cli import main
from supertickets.cli.study import study_command
from supertickets.errors import TicketError
from supertickets.models import find_model
from supertickets.studies import STUDIES
from supertickets.studies.config import (
    check_same,
    differences,
    fill,
    flag,
    merge_overrides,
    parse,
    resolve_settings,
    says,
)
from supertickets.studies.presets import DEFAULT_SHAPE
from supertickets.studies.settings import StudySettings
from supertickets.tasks.builtin import BUILTIN

KINDS = {name: STUDIES[name].settings for name in STUDIES}
FIELDS = [(study, name) for study, kind in KINDS.items() for name in kind.model_fields]

OTHER: dict[str, Any] = {
    "backend": "ray",
    "address": "ray://somewhere",
    "slurm": ("qos=high", "account=me"),
    "baselines": ("random",),
    "choices": ("order", "importance=fisher"),
    "control_sparsities": (0.3, 0.5),
    "controls": ("matched", "shuffled-layers"),
    "fractions": (0.25, 12.0),
    "importance": "fisher",
    "kinds": ("winning", "losing"),
    "learning_rates": (1e-4, 3e-4),
    "levels": (0.25, 0.5),
    "metrics": ("accuracy", "f1"),
    "rewind": ("50%", "none"),
    "sources": (Path("runs/a"), Path("runs/b")),
    "sparsities": (0.25, 0.5),
    "structures": ("heads", "neurons"),
    "tasks": ("cola", "rte"),
    "ticket_of": "cola",
    "tickets": (Path("runs/a"), Path("runs/b")),
    "track": ("tensorboard", "mlflow"),
    "workers": 3,
    "target": ("parameters=0.8", "flops=0.7"),
    "latency_of": "8x16",
    "budget": "0.5",
    "labels": ("b", "a"),
}
"""A value that is not the default, where none can be made from the field's type."""
WITH = {"control_sparsities": {"sparsities": (0.3, 0.5)}}
"""What a field needs beside it."""


def other(kind: type[StudySettings], name: str) -> Any:
    """Return a value of a setting that is not its default."""
    if name in OTHER:
        return OTHER[name]
    field = kind.model_fields[name]
    parts = [part for part in (field.annotation, *typing.get_args(field.annotation)) if part is not type(None)]
    for part in parts:
        if typing.get_origin(part) is Literal:
            return next(value for value in typing.get_args(part) if value != field.default)
    if bool in parts:
        return not field.default
    if int in parts:
        return (field.default or 4) + 1
    if float in parts:
        return (field.default or 0.5) / 2
    return Path(f"some/{name}") if "Path" in str(parts) else f"some {name}"


def as_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


class _Asked(BaseException):
    """What a command was going to run."""


def as_flag(study: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    def asked(name: str, overrides: dict[str, Any], **more: Any) -> None:
        assert name == study
        raise _Asked(overrides)

    monkeypatch.setattr("supertickets.studies.run.run_study", asked)
    with pytest.raises(_Asked) as caught:
        main([study, *arguments])
    return dict(caught.value.args[0])


@pytest.mark.parametrize(("study", "name"), FIELDS, ids=str)
def test_flag_yaml_and_python_are_read_alike(
    study: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = KINDS[study]
    value, beside = other(kind, name), WITH.get(name, {})
    expected = kind(**{name: value, **beside})
    assert getattr(expected, name) == value != kind.model_fields[name].default
    typed = [] if isinstance(value, bool) else [flag(name), as_text(value)]
    if isinstance(value, bool):
        typed = ["--" + ("" if value else "no-") + flag(name).removeprefix("--")]
    typed += [part for other_name, v in beside.items() for part in (flag(other_name), as_text(v))]
    found = {"flag": parse(kind, as_flag(study, typed, monkeypatch))}
    plain = [*map(str, value)] if isinstance(value, tuple) and isinstance(value[0], Path) else value
    plain = str(plain) if isinstance(plain, Path) else [*plain] if isinstance(plain, tuple) else plain
    for way, written in (("yaml", plain), ("yaml text", as_text(value))):
        file = tmp_path / f"{way}.yaml"
        more = {flag(n).removeprefix("--"): [*v] for n, v in beside.items()}
        file.write_text(yaml.safe_dump({flag(name).removeprefix("--"): written, **more}))
        if not isinstance(value, bool):
            found[way] = parse(kind, merge_overrides(kind, file, {}))
    for way, given in (("python", value), ("python text", as_text(value))):
        found[way] = parse(kind, merge_overrides(kind, None, {name: given, **beside}))
    assert {way: settings for way, settings in found.items() if settings != expected} == {}


@pytest.mark.parametrize("way", ["flag", "yaml", "python"])
@pytest.mark.parametrize(
    ("study", "name", "written", "value"),
    [
        ("find", "patience", 0, None),
        ("find", "patience", "0", None),
        ("imp", "patience", 0, None),
        ("find", "levels", "10%, 0.1%", (0.001, 0.1)),
        ("find", "levels", "30 %", (0.3,)),
        ("find", "levels", 0.25, (0.25,)),
        ("find", "weight_decay", "1%", 0.01),
        ("find", "fraction", "12.5%", 0.125),
        ("adapt", "fractions", "0.1%,10%,100%", (0.001, 0.1, 1.0)),
        ("imp", "sparsities", "10%..30%", (0.1, 0.2, 0.3)),
        ("imp", "sparsities", "50%,70%", (0.5, 0.7)),
        ("imp", "controls", "none", ()),
        ("imp", "rewind", "none", ("none",)),
        ("imp", "rewind", 0, ("0",)),
        ("transfer", "baselines", "none", ()),
        ("find", "track", "none", ()),
        ("find", "metrics", "none", None),
        ("find", "workers", "auto", "auto"),
        ("find", "workers", "2", 2),
        ("find", "learning_rate", "5e-5", 5e-5),
        ("find", "label", 1, "1"),
        ("find", "task", 2024, "2024"),
        ("find", "out", 7, Path("7")),
        ("share", "tickets", "a, b", (Path("a"), Path("b"))),
    ],
)
def test_how_values_may_be_written(
    study: str, name: str, written: Any, value: Any, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, config = KINDS[study], tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({name.replace("_", "-"): written}))
    asked = {
        "flag": lambda: as_flag(study, [flag(name), str(written)], monkeypatch),
        "yaml": lambda: merge_overrides(kind, config, {}),
        "python": lambda: merge_overrides(kind, None, {name: written}),
    }[way]()
    assert getattr(parse(kind, asked), name) == value


def test_never_is_one_value_in_keys_and_files() -> None:
    never = [parse(KINDS["find"], {"patience": value}) for value in (0, "0", None)]
    assert never[0] == never[1] == never[2] != parse(KINDS["find"], {})
    assert never[0].patience is None
    assert never[0].model_dump(mode="json")["patience"] == 0  # as it is typed
    with pytest.raises(TicketError, match="--patience"):
        parse(KINDS["find"], {"patience": -1})


@pytest.mark.parametrize("name", ["epochs", "levels", "task", "device"])
def test_a_truth_value_is_no_number_and_no_name(name: str) -> None:
    """YAML reads yes, no, on and off as truth values, and Python takes True for 1."""
    with pytest.raises(TicketError, match=f"--{name}: got the boolean True; YAML reads"):
        parse(KINDS["find"], {name: True})


def test_lists_that_are_put_in_order_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for study, name in (("find", "levels"), ("share", "levels"), ("imp", "sparsities"), ("adapt", "fractions")):
        as_flag(study, [flag(name), "0.5,20%,0.5"], monkeypatch)
        assert f"--{name} was sorted, without duplicates: 0.2, 0.5." in capsys.readouterr().err
        as_flag(study, [flag(name), "20%,0.5"], monkeypatch)
        assert "sorted" not in capsys.readouterr().err
    as_flag("adapt", ["--fractions", "12,0.5"], monkeypatch)
    assert "was sorted, without duplicates: 0.5, 12." in capsys.readouterr().err
    for text, said in (("parameters:0.9,parameters:0.7", False), ("heads=0.1,heads=0.10", True)):
        as_flag("find", ["--levels", text, "--structures", "heads"], monkeypatch)
        assert ("without duplicates: heads=0.1." in capsys.readouterr().err) == said


# --- a folder's settings ----------------------------------------------------------------------------------------------

GROWN: dict[str, tuple[Any, Any]] = {
    "seeds": (3, 2),
    "levels": ((0.2, 0.3, 0.6), (0.3, 0.6)),
    "kinds": (("winning", "random"), ("winning",)),
    "sparsities": ((0.1, 0.3, 0.5), (0.3, 0.5)),
    "controls": (("random", "matched"), ("random",)),
    "choices": (("order", "counts"), ("counts",)),
}
"""Values of settings that say which runs there are, the larger one first."""


def test_a_setting_says_one_thing_beside_itself() -> None:
    for kind in KINDS.values():
        assert not says(kind, "grows") & says(kind, "no effect")
        assert "seeds" in says(kind, "grows")
        assert {"workers", "device", "out", "track"} <= says(kind, "no effect")
        assert not {"epochs", "model", "first_seed"} & (says(kind, "grows") | says(kind, "no effect"))


@pytest.mark.parametrize(("study", "name"), [(s, n) for s, kind in KINDS.items() for n in sorted(says(kind, "grows"))])
def test_a_folder_may_go_on_with_more_runs_and_not_with_fewer(study: str, name: str) -> None:
    more, fewer = (parse(KINDS[study], {name: value}) for value in GROWN[name])
    for now, before in ((more, fewer), (more, more)):
        check_same(now, before, hashed=True)
    with pytest.raises(
        TicketError, match=f"created with different settings: {flag(name)} was .* and is now .*Use a new --out"
    ):
        check_same(fewer, more, hashed=True)
    other = more.model_copy(update={"first_seed": 8})
    with pytest.raises(TicketError, match="--first-seed was 0 and is now 8"):  # growing excuses nothing else
        check_same(other, fewer, hashed=True)


def test_a_folder_of_another_study_is_named() -> None:
    find, compare = (parse(KINDS[study], {}) for study in ("find", "compare"))
    with pytest.raises(TicketError, match="this folder holds a study of `compare`; choose another folder"):
        check_same(find, compare, hashed=True)


# --- help -------------------------------------------------------------------------------------------------------------


def helped(study: str) -> dict[str, str]:
    """Return what each flag of a command says of its default; nothing where it says nothing."""
    found = {one.name: re.search(r"\[default: ([^\]]*)\]", one.help or "") for one in study_command(study).params}
    return {name: match[1] if match else "" for name, match in found.items()}


@pytest.mark.parametrize("study", STUDIES)
def test_help_names_the_defaults_that_are_used(study: str) -> None:
    kind, said = KINDS[study], helped(study)
    base = find_model("default")
    assert base.shape == DEFAULT_SHAPE
    used = resolve_settings(kind, {}, base).model_dump(mode="json") | {"out": None}
    for name in kind.model_fields:
        shown = re.sub(r"by preset; (.*) for the default model( and task)?$", r"\1", said[name])
        if used[name] is None or used[name] is False or used[name] == []:
            assert shown == "", name
        elif isinstance(used[name], bool):
            assert shown == flag(name), name
        elif "default: " in (kind.model_fields[name].description or ""):
            assert shown == "", name  # told in words, once
        else:
            assert parse(kind, {name: shown}).model_dump(mode="json")[name] == used[name], name
    # What a preset, another model or another task changes is said to depend on them.
    models = [replace(base, config={**base.config, "hidden_size": hidden}) for hidden in (384, 768, 1024)]
    tasks = ["mnli", "squad", "mlm"] if "task" in kind.model_fields and study != "adapt" else [None]
    for model, preset, task in itertools.product(models, ("paper", "released"), tasks):
        asked = {name: value for name, value in (("preset", preset), ("task", task)) if value is not None}
        other_ones = resolve_settings(kind, asked, model).model_dump(mode="json")
        changed = {name for name in other_ones if other_ones[name] != used[name]} - {*asked, "out"}
        assert {name for name in changed if said[name] and not said[name].startswith("by preset; ")} == set()


def test_help_of_recipes_names_the_presets_values() -> None:
    found, imp = helped("find"), helped("imp")
    on = " for the default model and task"
    assert (found["epochs"], found["batch_size"], found["learning_rate"]) == tuple(
        f"by preset; {value}{on}" for value in ("4", "16", "0.0003")
    )
    names = ("epochs", "optimizer", "learning_rate", "warmup", "weight_decay", "patience", "keep_epoch")
    values = ("3", "adamw", "0.0002", "0", "0", "0", "last")
    assert tuple(imp[name] for name in names) == tuple(f"by preset; {value}{on}" for value in values)
    assert found["workers"] == "auto"
    assert imp["pooler"] == "--pooler"  # a flag, not True


def test_help_shows_the_values_that_a_setting_may_have_also_where_it_may_be_left_out() -> None:
    said = {one.name: one.help or "" for one in study_command("transfer").params}  # type: ignore[attr-defined]
    assert said["keep_epoch"].endswith("(best | last)")
    assert said["optimizer"].endswith("(adamax | adamw | released)")
    assert "(paper" not in said["preset"]  # control: its help names them


def test_help_says_what_a_study_does_with_a_setting() -> None:
    said = {study: {one.name: one.help or "" for one in study_command(study).params} for study in STUDIES}
    assert said["adapt"]["model"].endswith("; default: the base model of --sources")
    assert said["share"]["seeds"].startswith("number of seeds of the shared training; all train the same tickets")
    assert "super ticket" not in said["share"]["learning_rates"]
    assert "share" not in said["find"]["learning_rates"]
    assert said["share"]["dropout"].count("default: ") == 1
    assert "accuracy, f1, macro_f1, matthews; with --regression pearson" in said["find"]["metrics"]
    assert all(task in said["find"]["task"] for task in BUILTIN)


def test_what_differs_is_told_as_it_is_typed() -> None:
    before, now = (
        parse(KINDS["imp"], {"learning_rate": 3e-4, "prune_at_init": True, "controls": "none"}),
        parse(KINDS["imp"], {"learning_rate": 1e-3}),
    )
    assert differences(now, before, {"learning_rate", "prune_at_init", "controls"}) == (
        "--learning-rate was 0.0003 and is now 0.001, "
        "--prune-at-init was --prune-at-init and is now --no-prune-at-init, "
        "--controls was none and is now one-shot,random"
    )


# --- presets and names of a user's own files --------------------------------------------------------------------------


TABLE = "text,label\na,b\n"


@pytest.mark.parametrize("name", ["train-v1.1.json", "train.jsonl"])
def test_questions_in_ones_own_files_have_their_tasks_recipe(name: str, tmp_path: Path) -> None:
    """As with --data; the control is a table of texts and labels that has the task's name."""
    (tmp_path / name).write_text('{"question": "", "context": "", "answers": []}')
    kind: Any = STUDIES["imp"].settings

    def recipe(**asked: Any) -> tuple[Any, ...]:
        found = fill(kind, asked, DEFAULT_SHAPE)
        return found.max_length, found.batch_size, found.epochs, found.learning_rate

    assert recipe(task="squad", data=tmp_path) == (384, 16, 2, 10 * 3e-5)
    assert recipe(task="squad", train_file=tmp_path / name) == (384, 16, 2, 10 * 3e-5)
    (tmp_path / "table.csv").write_text(TABLE)
    assert recipe(task="squad", train_file=tmp_path / "table.csv") == recipe(train_file=tmp_path / "table.csv")
    assert recipe(train_file=tmp_path / "table.csv")[0] == 128


@pytest.mark.parametrize(
    ("name", "content", "task"),
    [
        ("ner.conll", "a O\n", "ner"),
        ("ner.tsv", "a\tO\n", "ner"),
        ("ner.jsonl", '{"text": ["a"], "label": ["O"]}', "ner"),
        ("squad.json", "{}", "squad"),
        ("squad.csv", TABLE, "squad"),
        ("mlm.txt", TABLE, "mlm"),
        ("mlm.csv", "Once upon a time, there was a line.\nAnd another.\n", "mlm"),
        ("cola.csv", TABLE, "cola"),
        ("mlm.csv", TABLE, None),
        ("CLM.tsv", TABLE.replace(",", "\t"), None),
        ("ner.csv", TABLE, None),
        ("ner.jsonl", '{"text": "a", "label": "O"}', None),
    ],
)
def test_a_table_does_not_become_another_kind_of_task_by_its_name(
    name: str, content: str, task: str | None, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_text(content)
    kind: Any = STUDIES["find"].settings
    if task is not None:
        assert fill(kind, {"train_file": file}, DEFAULT_SHAPE).task == task
        return
    named = file.stem.lower()
    with pytest.raises(TicketError, match=f"{name}: the file is named like task '{named}', but .* --task my-{named}."):
        fill(kind, {"train_file": file}, DEFAULT_SHAPE)
    assert fill(kind, {"train_file": file, "task": "mine"}, DEFAULT_SHAPE).task == "mine"

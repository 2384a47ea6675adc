"""Tickets on a hub: pushed and taken by the real client, with a server of our own."""

import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard

import supertickets
from helpers.hub import TOKEN, Hub, Repository, files_in, served, use_hub
from helpers.models import save_tiny_model
from helpers.trials import write_words
from supertickets import Result, Ticket, TicketError
from supertickets.cli import main
from supertickets.errors import StudyError
from supertickets.export.card import Published, ticket_card
from supertickets.export.publish import _check_private, for_others
from supertickets.lab.outcome import load_outcome
from supertickets.studies.config import merge_overrides
from supertickets.studies.inputs import open_tickets
from supertickets.studies.plan import plan_study
from supertickets.studies.transfer import Transfer, TransferPlan, TransferSettings
from supertickets.studies.verify import verify
from supertickets.tickets.folder import (
    UNNAMED_BASE,
    SharedTicket,
    base_entry,
    load_any_ticket,
    load_ticket,
    load_weight_ticket,
)
from supertickets.tickets.hub import HubName, hub_name, ticket_folder
from supertickets.tickets.weights import WeightTicket

NAME = "me/tiny"
SECRET = "zebracode77"
"""In every text that is trained on."""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base model and files of examples, whose folders and names are nobody's business."""
    data = tmp_path_factory.mktemp("home-of-alice")
    files = {
        name: write_words(data / f"secret-{name}.jsonl", size, size) for name, size in (("train", 32), ("dev", 24))
    }
    for path in files.values():
        path.write_text(path.read_text().replace('"text": "', f'"text": "{SECRET} '))
    model = save_tiny_model(tmp_path_factory.mktemp("home-of-bob") / "tiny-bert")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"_name_or_path": str(model)}))
    return {"model": model, "train_file": files["train"], "dev_file": files["dev"]}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, places: dict[str, Path]) -> Result:
    settings: dict[str, Any] = {
        "task": "words", "levels": (0.4,), "kinds": ("winning",), "seeds": 2, "workers": 1, "epochs": 1,
        "batch_size": 8, "max_length": 12, "device": "cpu", "precision": "float32",
    }  # fmt: skip
    given = {name: str(path) for name, path in places.items()}
    done = supertickets.find(settings, out=tmp_path_factory.mktemp("runs-of-carol") / "out", **given)
    for name, key in (("config.json", "_name_or_path"), ("tokenizer_config.json", "name_or_path")):
        path = done.shipped["ticket"] / "model" / name  # as some versions of transformers write it
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: given["model"]}))
    return done


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with served(Hub()) as found:
        use_hub(monkeypatch, found.address, tmp_path / "cache")
        monkeypatch.chdir(tmp_path)
        yield found


@pytest.fixture
def ticket(hub: Hub, tmp_path: Path) -> SharedTicket[Ticket]:
    """A ticket in the repository `me/tiny`."""
    kept = Ticket(np.array([[True, False], [True, True]]), np.array([True, False]))
    shared = SharedTicket(kept, base_entry("org/base", "ab" * 32, "bert"), {"task": "words"}, {})
    shared.save(tmp_path / "made", "card")
    hub.repositories[NAME] = Repository()
    hub.repositories[NAME].commit("main", files_in(tmp_path / "made"))
    return shared


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/name", HubName("org/name")),
        ("org/na.me_1@refs/pr/1", HubName("org/na.me_1", "refs/pr/1")),
        *[(name, None) for name in ("name", "a/b/c", "./a/b", "../name", "~/name", "org/name@", "org/..", "/org/name")],
    ],
)
def test_names_of_repositories(name: str, expected: HubName | None) -> None:
    assert hub_name(name) == expected == hub_name(Path(name) if not name.startswith("./") else name)


def test_a_folder_comes_before_a_repository(ticket: SharedTicket[Ticket], hub: Hub, tmp_path: Path) -> None:
    assert load_ticket(NAME) == ticket
    assert hub.fetched  # control
    hub.fetched.clear()
    shutil.copytree(tmp_path / "made", tmp_path / NAME)
    assert ticket_folder(NAME) == Path(NAME)
    (tmp_path / NAME).rename(tmp_path / "me" / "other")
    for name in (NAME, "tiny", str(tmp_path / "none"), "a/b/c"):
        with pytest.raises(TicketError, match=f"{re.escape(name)}: no such folder; expected a folder"):
            ticket_folder(name)
    with pytest.raises(TicketError, match=f"for a repository on the hub write {NAME}@main"):
        ticket_folder(NAME)
    assert not hub.fetched
    assert load_ticket(f"{NAME}@main") == ticket


# --- what can go wrong ------------------------------------------------------------------------------------------------


def _private(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    hub.repositories[NAME].private = True
    patch.delenv("HF_TOKEN")


def _offline(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def _without(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    hub.repositories[NAME].commit("main", {"README.md": b"x", "config.json": b"{}"})


def _tampered(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    files = hub.repositories[NAME].files()
    arrays = bytearray(files["ticket.safetensors"])
    arrays[-1] ^= 1  # another head or FFN
    hub.repositories[NAME].commit("main", files | {"ticket.safetensors": bytes(arrays)})


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("me/none", None, "me/none: there is neither a folder of this name here nor a repository on the hub"),
        (NAME, _private, f"{NAME}: there is neither a folder .* log in with `hf auth login`"),
        (f"{NAME}@v9", None, f"{NAME}@v9: the repository on the hub has no revision 'v9'"),
        (NAME, _offline, f"{NAME}: there is no folder of this name here, and no repository .* could be downloaded"),
        (NAME, _without, f"{NAME}: the repository on the hub has no ticket"),
        (NAME, _tampered, "the checksum of ticket.safetensors does not match ticket.json"),
    ],
)
def test_what_is_no_ticket_on_the_hub_is_told(
    ticket: SharedTicket[Ticket],
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    change: Callable[[Hub, pytest.MonkeyPatch], None] | None,
    said: str,
) -> None:
    if change is not None:
        change(hub, monkeypatch)
    with pytest.raises(TicketError, match=said):
        load_ticket(name)
    for typed in (["apply", name], ["verify", name], ["transfer", "--tickets", name], ["measure", name, "--any-base"]):
        if change is _tampered and typed[0] == "verify":
            continue  # has a line for it
        assert main(typed) == 2, typed
        assert re.search(said, capsys.readouterr().err), typed


def test_adapt_goes_on_from_a_published_model(
    study: Result, hub: Hub, places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It comes to what it comes to from the study itself, and needs no hub when it is run again."""
    assert main(["push", str(study.folder), NAME]) == 0
    asked: dict[str, Any] = {
        "task": "again", "train_file": str(places["dev_file"]), "dev_file": str(places["train_file"]), "seeds": 2,
        "epochs": 1, "batch_size": 8, "max_length": 12, "fractions": (1.0,), "workers": 1, "precision": "float32",
    }  # fmt: skip
    name, model = f"{NAME}@main", str(places["model"])
    both = supertickets.adapt(asked, sources=(study.folder,), out=tmp_path / "study").table
    done = supertickets.adapt(asked, sources=(name,), model=model, out=tmp_path / "hub")
    assert set(done.table["kind"]) == {name}
    scores = {kind: list(of["score"]) for kind, of in both.groupby("kind")}
    losses = [
        [load_outcome(folder / "trials" / key).epochs[0]["loss"] for key in of["trial"]]  # type: ignore[union-attr]
        for folder, of in ((tmp_path / "study", both[both["kind"] == "WORDS-SuperT"]), (tmp_path / "hub", done.table))
    ]
    assert losses[0] == losses[1]
    assert list(done.table["score"]) == scores["WORDS-SuperT"]
    assert "No model is compared with another" in done.verdict
    assert done.table["heads"].iloc[0] == load_ticket(study.shipped["ticket"]).ticket.kept_heads
    with pytest.raises(TicketError, match="does not name its base model; name it with --model"):
        supertickets.adapt(asked, sources=(name,), out=tmp_path / "none")
    hub.repositories.clear()
    few = {"sources": (study.shipped["ticket"],), "model": model, "out": tmp_path / "folder"}
    assert plan_study("adapt", asked | few).seconds > 0  # its weights are copied when the study begins
    assert not (tmp_path / "folder").exists()
    again = supertickets.adapt(asked, sources=(study.shipped["ticket"],), model=model, out=tmp_path / "folder")
    assert list(again.table["score"]) == list(done.table["score"])
    moved = Path(shutil.copytree(study.shipped["ticket"], tmp_path / "elsewhere" / "ticket"))
    after = supertickets.adapt(asked, sources=(moved,), model=model, out=tmp_path / "folder")
    assert after.table.equals(again.table)  # nothing is trained anew, and the model is called as before
    assert main(["report", str(done.folder)]) == 0
    assert main(["status", str(done.folder)]) == 0


def test_what_adapt_cannot_go_on_from_is_told(
    study: Result, places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = Path(shutil.copytree(study.shipped["ticket"], tmp_path / "bare", ignore=shutil.ignore_patterns("model")))
    trained, model = str(study.shipped["ticket"]), str(places["model"])
    copy = str(shutil.copytree(trained, tmp_path / "copy"))
    other = str(save_tiny_model(tmp_path / "other", seed=5))
    for typed, said in (
        ([str(bare), "--model", model], "the ticket has no trained model beside it"),
        ([trained, "--model", model, "--output-layer", "trained"], "--output-layer trained: "),
        ([trained, "--model", other], "the ticket's base model is not"),
        ([f"{trained},{trained}", "--model", model], "two of them have a model called"),
        ([f"{trained},{copy}", "--model", model], f"--sources: {copy} and {trained} have the same trained model"),
    ):
        assert main(["adapt", "--task", "sentiment", "--out", str(tmp_path / "out"), "--sources", *typed]) == 2, typed
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- push -------------------------------------------------------------------------------------------------------------


def test_a_study_is_pushed(study: Result, hub: Hub, places: dict[str, Path], tmp_path: Path) -> None:
    """Card, metadata and files are those of the study; the ticket is found by its name; nothing private is sent."""
    assert main(["push", str(study.folder), NAME, "--message", "first"]) == 0
    repository, shipped = hub.repositories[NAME], study.shipped["ticket"]
    assert not repository.private
    assert repository.messages[-1] == "first"
    files = repository.files()
    assert {"README.md", "ticket.json", "ticket.safetensors", "evidence.json", "model/config.json"} <= files.keys()
    assert files["model/model.safetensors"] == (shipped / "model" / "model.safetensors").read_bytes()
    _check_card(files["README.md"].decode(), study)
    assert b"home-of-bob" in (shipped / "ticket.json").read_bytes()  # control: these are cleaned
    assert b"home-of-bob" in (shipped / "model" / "tokenizer_config.json").read_bytes()
    assert b"secret-train" in (shipped / "ticket.json").read_bytes()
    _check_nothing_private(hub, files, places)
    found = load_ticket(f"{NAME}@main")
    assert found.ticket == load_any_ticket(shipped).ticket
    assert found.base["name"] == "(a local folder)"
    assert open_tickets(Path(NAME))[0].where == Path(NAME)
    checked = verify(NAME, model=str(places["model"]))
    assert not checked.wrong, checked.checks
    made = supertickets.apply_ticket(NAME, str(places["model"]), tmp_path / "small")
    assert made["parameters"] < made["dense_parameters"]
    with pytest.raises(TicketError, match=r"no name on the hub.*--model"):
        supertickets.apply_ticket(NAME, None, tmp_path / "other")


def _check_card(text: str, study: Result) -> None:
    data, table = ModelCard(text).data, study.table
    assert (data.library_name, data.pipeline_tag, data.metrics) == ("supertickets", "text-classification", ["accuracy"])
    (result,) = data.eval_results
    origin = load_any_ticket(study.shipped["ticket"]).origin
    assert (result.dataset_type, result.metric_type) == ("words", "accuracy")
    assert result.metric_value == round(origin["score"], 4)
    for _, row in table.iterrows():
        assert f"{row['seed']}: {row['score']:.2f}" in text
    words = re.sub(r"\\(.)", r"\1", text)  # as a page shows it
    assert all(sentence in words for sentence in study.findings.sentences)
    assert "| learning_rate | " in text.replace("\\_", "_")
    assert f'from_pretrained("{NAME}", subfolder="model")' in text
    assert f"supertickets apply {NAME} --model FOLDER" in text


def _check_nothing_private(hub: Hub, files: dict[str, bytes], places: dict[str, Path]) -> None:
    sent = b"\n".join([*hub.received, *hub.objects.values(), *files.values()])
    assert b'"learning_rate"' in sent  # control: what is sent is looked at
    private = {SECRET, "home-of-", "runs-of-carol", "secret-train", "secret-dev", socket.gethostname(), "_name_or_path"}
    private |= {str(Path.home()), f"/{getpass.getuser()}/", *(str(path) for path in places.values())}
    assert not [text for text in private if text.encode() in sent]


def test_a_ticket_of_weights_is_pushed_and_transferred(hub: Hub, places: dict[str, Path], tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "model": str(places["model"]), "seeds": 1, "epochs": 1, "workers": 1, "device": "cpu", "precision": "float32",
    }  # fmt: skip
    files = {name: str(places[name]) for name in ("train_file", "dev_file")}
    done = supertickets.imp(
        asked, task="words", **files, sparsities=(0.5,), controls="none", max_length=12, out=tmp_path / "imp"
    )
    assert main(["push", str(done.folder), NAME]) == 0
    sent = hub.repositories[NAME].files()
    assert {"README.md", "ticket.json", "ticket.safetensors", "evidence.json"} <= sent.keys()
    assert f"{done.table['score'].iloc[0]:.2f}" in sent["README.md"].decode()
    _check_nothing_private(hub, sent, places)
    found, here = load_weight_ticket(f"{NAME}@main"), load_weight_ticket(done.shipped["ticket"])
    assert found.ticket == here.ticket
    moved = supertickets.transfer(
        asked, tickets=(f"{NAME}@main",), tasks=("entailment",), baselines=(), out=tmp_path / "moved"
    )
    assert list(moved.table["source"]) == ["dense", "words"]
    here_again = {"tickets": (done.shipped["ticket"],), "tasks": ("entailment",), "baselines": ()}
    plan = Transfer.prepare(merge_overrides(TransferSettings, asked, here_again)).inputs
    assert plan.difference(TransferPlan.load(moved.folder)) == ""  # the same sources, tickets and recipes
    assert [source.name for source in plan.sources] == ["words"]


def test_the_next_push_replaces_what_there_was(study: Result, hub: Hub) -> None:
    """Parts, branches, names of base models; other files of a repository stay."""
    assert main(["push", str(study.folder), NAME, "--private"]) == 0
    repository = hub.repositories[NAME]
    assert repository.private
    repository.commit("main", repository.files() | {"picture.png": b"png"})
    before = repository.files()
    assert main(["push", str(study.shipped["ticket"]), NAME, "--what", "model", "--revision", "v2"]) == 0
    assert repository.files() == before
    assert {"config.json", "model.safetensors", "README.md", "picture.png"} <= repository.files("v2").keys()
    assert not [name for name in repository.files("v2") if name.startswith(("model/", "ticket", "evidence"))]
    assert f'from_pretrained("{NAME}", revision="v2")' in repository.files("v2")["README.md"].decode()
    assert main(["push", str(study.folder), NAME, "--what", "ticket", "--base", "org/base"]) == 0
    assert repository.files().keys() == {
        "README.md", "ticket.json", "ticket.safetensors", "evidence.json", "picture.png", ".gitattributes",
    }  # fmt: skip
    assert load_ticket(NAME).base["name"] == "org/base"
    assert ModelCard(repository.files()["README.md"].decode()).data.base_model == "org/base"


def test_what_cannot_be_pushed_is_told(
    study: Result, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bare = Path(shutil.copytree(study.shipped["ticket"], tmp_path / "bare", ignore=shutil.ignore_patterns("model")))
    run = str(study.folder)
    cases = {
        "others/tiny: the hub does not let you write to it (403)": [run, "others/tiny"],
        "tiny: expected org/name": [run, "tiny"],
        "the branch is named with --revision": [run, f"{NAME}@v2"],
        "--what model: ": [str(bare), NAME, "--what", "model"],
        "--what: unknown value 'modle'; did you mean 'model'?": [run, NAME, "--what", "modle"],
        "--revision v 2: expected": [run, NAME, "--revision", "v 2"],
        "--base here: expected": [run, NAME, "--base", "here"],
        "not a ticket folder": [str(tmp_path), NAME],
    }
    for said, typed in cases.items():
        assert main(["push", *typed]) == 2, said
        assert said in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN")
    assert main(["push", run, NAME]) == 2
    assert "log in with `hf auth login`" in capsys.readouterr().err
    assert not hub.repositories
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(["push", str(bare), NAME]) == 0  # control
    assert "the ticket alone is published" in capsys.readouterr().err


def test_a_public_repository_is_not_taken_for_a_private_one(
    study: Result, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repositories[NAME] = Repository()
    hub.repositories[NAME].commit("main", {"README.md": b"mine"})
    assert main(["push", str(study.folder), NAME, "--private"]) == 2
    assert f"{NAME}: --private: there is a public repository of this name" in capsys.readouterr().err
    assert hub.repositories[NAME].files() == {"README.md": b"mine"}
    hub.repositories[NAME].private = True
    assert main(["push", str(study.folder), NAME, "--private"]) == 0  # control


def test_a_study_that_has_not_ended_is_not_published(
    study: Result, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(study.folder, tmp_path / "copy")
    other = next(row.trial for row in study.table.itertuples() if row.kind == "winning")
    (copy / "trials" / other / "outcome.json").unlink()
    assert main(["push", str(copy), NAME]) == 2
    assert "not all of the study's trainings have ended" in capsys.readouterr().err
    assert not hub.repositories
    assert main(["push", str(copy / "super-ticket"), NAME]) == 0


def test_a_folder_of_the_machine_that_made_a_ticket_is_no_name_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`models/mine` is a folder where the study ran, and could be anybody's repository where it is pushed."""
    (tmp_path / "models" / "mine").mkdir(parents=True)
    kept = Ticket(np.array([[True, False], [True, True]]), np.array([True, False]))
    names = {}
    for place in (tmp_path, tmp_path / "models"):
        monkeypatch.chdir(place)
        base = base_entry("models/mine", "ab" * 32, "bert")
        monkeypatch.chdir(tmp_path / "models")
        names[place] = for_others(SharedTicket(kept, base, {"task": "words"}, {})).base
    assert names[tmp_path] == {"name": UNNAMED_BASE, "weight_hash": "ab" * 32, "model_type": "bert"}
    assert names[tmp_path / "models"]["name"] == "models/mine"  # control
    origin = {"task": "words", "level": 0.2, "target": ["parameters=0.8"], "out": "/home/me"}
    assert for_others(SharedTicket(kept, base, origin, {})).origin.keys() == origin.keys() - {"out"}


KEPT = Ticket(np.array([[True, False], [True, True]]), np.array([True, False]))
WEIGHTS = WeightTicket({"w": np.array([[True, False]])})


def card(ticket: Any, origin: dict[str, Any], **base: Any) -> str:
    """The card of a published ticket."""
    shared = SharedTicket(ticket, {"name": "m", "weight_hash": "ab" * 32, **base}, origin, {BAD: BAD})
    return ticket_card(for_others(shared), False, published=Published("me/tiny", "me/tiny", "ticket"))


BAD = "<b>x</b>`\n\n# y *z*"
SAID: dict[str, Any] = {"task": BAD, "metrics": [BAD], "score": 1.0, "seed": 0, "recipe": {"precision": BAD, BAD: BAD}}


@pytest.mark.parametrize(
    ("ticket", "origin"),
    [
        (KEPT, {"kind": BAD, "level": BAD, "reloaded": {"float32": {"score": 1.0}}}),
        (KEPT, {"kind": BAD, "drawn": {"seeds": [0], "target": [BAD]}}),
        (WEIGHTS, {"rewind": BAD, "why": BAD}),
    ],
)
def test_nothing_in_a_ticket_is_markdown_of_its_card(ticket: Any, origin: dict[str, Any]) -> None:
    text = card(ticket, SAID | origin, name=BAD, weight_hash=BAD)
    outside = re.sub(r"(?<!\\)`[^`\n]+`", "", text.split("\n---\n")[1])
    assert "x" in outside
    assert not re.search(r"(?<!\\)<|\n# y|(?<!\\)\*z", outside)


def test_the_card_of_a_drawn_ticket_does_not_say_that_it_was_trained() -> None:
    origin = SAID | {"kind": "winning", "drawn": {"seeds": [0], "trained": False}}
    assert "\nTrained with" not in card(KEPT, origin)
    assert "\n## Recipe of the study\n" in card(KEPT, origin)
    trained = card(KEPT, {name: value for name, value in origin.items() if name != "drawn"} | {"level": 0.2})
    assert "\n## Recipe\n" in trained  # control
    assert "\nTrained with" in trained


def test_an_imported_ticket_is_published_with_the_hash_of_its_file() -> None:
    origin = {"task": "rte", "kind": "imported", "file": "mask.pt", "sha256": "12" * 32, "notes": ["Read `a*` <b>."]}
    text = card(WEIGHTS, origin)
    assert f"It was imported from a file of masks (SHA-256 `{'12' * 32}`)." in text
    assert "- Read `a*` \\<b\\>." in text
    assert "mask.pt" not in text


def test_what_a_card_needs_and_a_ticket_lacks_is_said() -> None:
    with pytest.raises(TicketError, match=r"the ticket's ticket\.json lacks 'kind', which its card needs"):
        card(KEPT, {})


def test_a_path_in_a_file_stops_it(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"a": '/home/"x"/data'}))
    _check_private(tmp_path, ["/home/y"])
    with pytest.raises(StudyError, match=r"a\.json has a path of this machine in it"):
        _check_private(tmp_path, ['/home/"x"'])


COMMANDS = """
import json, sys
from supertickets.cli import main
from supertickets.lab import latency
# One more process for each of the two models: tests/test_measured.py has it, and it asks no hub.
latency.peak_memory = lambda folder, batch, conditions: 1000
for command in json.loads(sys.argv[1]):
    assert main(command) == 0, command
"""


@pytest.mark.slow
def test_other_processes_take_it_by_name(study: Result, places: dict[str, Path], tmp_path: Path) -> None:
    """In fresh processes, with the hub in the environment alone, as a user has it: the commands, and stock classes."""
    load = (
        "import supertickets, transformers as t; "
        f"m = t.AutoModelForSequenceClassification.from_pretrained('{NAME}', subfolder='model'); "
        "print(m.num_parameters())"
    )
    model = ["--model", str(places["model"])]
    commands = [
        ["push", str(study.folder), NAME],
        ["apply", NAME, *model, "--out", "small"],
        ["measure", NAME, *model, "--lengths", "8", "--repeats", "2"],
        ["verify", f"{NAME}@main", *model],
    ]
    with served(Hub()) as found:
        environment = {
            **os.environ, "HF_ENDPOINT": found.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
        }  # fmt: skip
        for script in ([COMMANDS, json.dumps(commands)], [load]):
            done = subprocess.run(
                [sys.executable, "-c", *script], capture_output=True, text=True, env=environment, cwd=tmp_path
            )
            assert done.returncode == 0, done.stderr

"""`supertickets verify`: what is untouched agrees, and whatever was changed is told."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import supertickets
from helpers.models import save_tiny_model
from helpers.trials import write_words
from supertickets import Result
from supertickets.cli import main
from supertickets.errors import TicketError
from supertickets.evidence.statistics import prediction_interval
from supertickets.export.evidence_file import EVIDENCE, Evidence, Outputs, hashes_of, load_evidence, rehash
from supertickets.lab.environment import versions
from supertickets.lab.outcome import load_outcome
from supertickets.lab.trial import Mean, Start, Teacher
from supertickets.studies.verify import Verification, verify

SMALL: dict[str, Any] = {
    "task": "words", "levels": (0.4,), "kinds": ("winning",), "seeds": 2, "workers": 1, "epochs": 2, "batch_size": 8,
    "learning_rate": 1e-2, "max_length": 12, "device": "cpu", "precision": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("of-user-alice")
    return {
        "train_file": write_words(folder / "train.jsonl", 48, 0),
        "dev_file": write_words(folder / "dev.jsonl", 24, 1),
    }


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, words: dict[str, Path]) -> Result:
    """A finished study of `find`, which nobody changes."""
    base = tmp_path_factory.mktemp("of-user-bob")
    return supertickets.find(SMALL, model=str(save_tiny_model(base / "model")), out=base / "out", **words)


@pytest.fixture
def ticket(study: Result, tmp_path: Path) -> Path:
    """A copy of its ticket folder."""
    return Path(shutil.copytree(study.shipped["ticket"], tmp_path / "ticket"))


def evidence_of(folder: Path) -> Evidence:
    found = load_evidence(folder)
    assert found is not None
    return found


def told(found: Verification, verdict: str = "wrong") -> list[str]:
    """What was found to be wrong."""
    return [check.what for check in found.checks if check.verdict == verdict]


def forge(folder: Path, **changes: Any) -> Evidence:
    """Write other evidence, as somebody would who knows how it is hashed; files are hashed as they are now."""
    made = evidence_of(folder).but(**{"files": hashes_of(folder), **changes})
    made.save(folder)
    return made


def with_score(evidence: Evidence, place: int, score: float) -> Any:
    """Return trainings of which one has another score, all through."""
    one = evidence.trainings[place]
    outputs = one.outputs.model_copy(update={"score": score})
    metrics = {**one.metrics, "score": score, "accuracy": score}
    changed = one.model_copy(update={"outputs": outputs, "metrics": metrics})
    return (*evidence.trainings[:place], changed, *evidence.trainings[place + 1 :])


def rescore(ticket: Path, *scores: float) -> None:
    """Give the recorded trainings these scores."""
    evidence = evidence_of(ticket)
    forge(ticket, trainings=tuple(with_score(evidence, place, one)[place] for place, one in enumerate(scores)))
    edit(ticket / "ticket.json", lambda content: content["origin"].update(score=scores[content["origin"]["seed"]]))
    forge(ticket)


def elsewhere(evidence: Evidence) -> Any:
    """Return trainings as another version of torch made them, with other outputs."""

    def changed(outputs: Outputs) -> Outputs:
        return outputs.model_copy(
            update={"environment": {**outputs.environment, "torch": "1.0"}, "predictions": "0" * 64}
        )

    return tuple(one.model_copy(update={"outputs": changed(one.outputs)}) for one in evidence.trainings)


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_an_untouched_study_and_its_ticket_are_in_order(
    study: Result, ticket: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in (study.folder, ticket):
        found = verify(place)
        assert [check.verdict for check in found.checks] == ["ok"] * len(found.checks)
        assert not found.wrong
    assert main(["verify", str(study.folder)]) == 0
    out = capsys.readouterr().out
    assert "files: ok (" in out
    assert "recorded trainings: ok (2 seeds)" in out
    assert "trainings of the study: ok (4 outcomes read)" in out
    assert verify(study.folder).folder == study.shipped["ticket"]


def test_a_training_again_gives_the_same_bits(
    ticket: Path, words: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = hashes_of(ticket)
    files = [f"--{name.replace('_', '-')}={path}" for name, path in words.items()]
    for training in evidence_of(ticket).trainings:
        assert main(["verify", str(ticket), "--retrain", "--seed", str(training.seed), *files, "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert not said["wrong"]
        assert {check["verdict"] for check in said["checks"]} == {"ok"}
        again = said["retrained"]
        assert (again["verdict"], again["compared"], again["differences"]) == ("agree", "outputs", {})
        assert again["score"] == again["recorded"] == training.score
    assert main(["verify", str(ticket), "--retrain", *files]) == 0
    out = capsys.readouterr().out
    assert "outputs of the model: ok (the recorded outputs bit for bit" in out
    assert "agree: trained again, seed" in out
    assert hashes_of(ticket) == before


def test_evidence_says_nothing_private(study: Result, ticket: Path) -> None:
    text = (ticket / EVIDENCE).read_text()
    for word in ("alice", "bob", ".jsonl", str(study.folder), *(f'"w{i} ' for i in range(24))):
        assert word not in text
    assert evidence_of(ticket).trainings[0].named == ("train_file", "dev_file")
    settings = (study.folder / "settings.yaml").read_text()
    assert "alice" in settings  # control
    assert "bob" in settings


def test_a_changed_byte_in_any_file_is_told_by_name(ticket: Path) -> None:
    names = list(hashes_of(ticket))
    assert {"README.md", "ticket.json", "ticket.safetensors", "model/model.safetensors"} <= set(names)
    for name in [*names, EVIDENCE]:
        whole = (ticket / name).read_bytes()
        place = whole.rfind(b"e") if name.endswith("json") else len(whole) // 2
        (ticket / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        found = verify(ticket)
        assert name in told(found), name
        assert found.wrong
        (ticket / name).unlink()
        if name not in ("ticket.json", EVIDENCE):
            assert name in told(verify(ticket)), name
        (ticket / name).write_bytes(whole)
    assert not verify(ticket).wrong


def test_files_that_nobody_recorded_are_told(ticket: Path) -> None:
    (ticket / "notes.txt").write_text("x")
    (ticket / ".gitattributes").write_text("x")
    found = verify(ticket)
    assert told(found, "cannot be checked") == ["notes.txt"]
    assert not found.wrong
    (ticket / "model" / "adapter_config.json").write_text("{}")
    assert told(verify(ticket))[0] == "model/adapter_config.json"


def test_a_changed_weight_with_new_hashes_disagrees(ticket: Path, words: dict[str, Path]) -> None:
    """All hashes are right again, so only the outputs on the dev set tell."""
    from safetensors.numpy import load_file, save_file

    path = ticket / "model" / "model.safetensors"
    arrays = load_file(path)
    name = "classifier.weight"
    arrays[name] = arrays[name] * np.float32(1.01)
    save_file(arrays, path, metadata={"format": "pt"})
    forge(ticket)
    assert not verify(ticket).wrong
    found = verify(ticket, retrain=True, **words)
    assert told(found) == ["outputs of the model"]
    assert found.retrained is None
    assert told(found, "cannot be checked") == ["training again"]


def test_a_model_of_another_shape_is_told(ticket: Path) -> None:
    edit(ticket / "model" / "config.json", lambda config: config.pop("transformers_weights"))
    edit(ticket / "model" / "config.json", lambda config: config["quantization_config"]["ticket"]["ffns"].clear())
    forge(ticket)
    assert told(verify(ticket)) == ["model"]


def test_a_changed_score_disagrees(ticket: Path, words: dict[str, Path]) -> None:
    """The score is another one in all files, and all hashes are right."""
    trainings = evidence_of(ticket).trainings
    origin = supertickets.load_ticket(ticket).origin
    place = [training.key for training in trainings].index(origin["trial"])
    better = origin["score"] + 2.0
    forge(ticket, trainings=with_score(evidence_of(ticket), place, better))
    assert told(verify(ticket)) == ["recorded trainings"]
    edit(ticket / "ticket.json", lambda content: content["origin"].update(score=better))
    forge(ticket)
    assert not verify(ticket).wrong
    found = verify(ticket, retrain=True, **words)
    assert found.retrained is not None
    assert (found.retrained.verdict, found.retrained.compared) == ("disagree", "outputs")
    assert f"{origin['score']:.2f}, recorded {better:.2f}" in found.retrained.said
    assert found.wrong


def test_other_outputs_on_the_same_machine_disagree(
    ticket: Path, words: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = evidence_of(ticket).trainings
    other = [
        one.model_copy(update={"outputs": one.outputs.model_copy(update={"predictions": "0" * 64})})
        for one in trainings
    ]
    forge(ticket, trainings=tuple(other))
    found = verify(ticket, retrain=True, **words)
    assert found.retrained is not None
    assert (found.retrained.verdict, found.retrained.differences) == ("disagree", {})

    # On a GPU the same training may give other bits, so the score is compared.
    monkeypatch.setattr("supertickets.studies.retrain.repeats_bits", lambda environment: False)
    own = evidence_of(ticket).scores[0]
    rescore(ticket, own, own - 1)
    found = verify(ticket, retrain=True, **words)
    assert found.retrained is not None
    assert (found.retrained.verdict, found.retrained.compared) == ("agree", "score")
    assert "Bits are not compared, since on a GPU they may differ" in found.retrained.said


def test_elsewhere_the_score_is_compared_with_the_spread(ticket: Path, words: dict[str, Path]) -> None:
    forge(ticket, trainings=elsewhere(evidence_of(ticket)))
    own = evidence_of(ticket).scores[0]
    rescore(ticket, own, own - 1)
    found = verify(ticket, retrain=True, **words).retrained
    assert found is not None
    assert found.differences == {"torch": ("1.0", versions()["torch"])}
    assert (found.compared, found.seeds) == ("score", 2)
    assert (found.low, found.high) == prediction_interval([own, own - 1])
    assert found.low is not None
    assert found.high is not None
    assert found.score is not None
    assert found.verdict == "agree"
    assert "since torch is" in found.said
    assert f"between {found.low:.2f} and {found.high:.2f}" in found.said

    far = ("disagree", *prediction_interval([1.0, 1.1]))
    for scores, expected in (((1.0, 1.1), far), ((1.0, 1.0), ("cannot be compared", None, None))):
        rescore(ticket, *scores)
        found = verify(ticket, retrain=True, **words).retrained
        assert found is not None
        assert (found.verdict, found.low, found.high) == expected
    assert "the 2 recorded seeds all score the same" in found.said

    one = [training for training in evidence_of(ticket).trainings if training.seed == found.seed]
    forge(ticket, trainings=tuple(one))
    alone = verify(ticket, retrain=True, **words)
    assert alone.retrained is not None
    assert alone.retrained.verdict == "cannot be compared"
    assert not alone.wrong


def test_the_interval_is_the_one_of_students_t() -> None:
    scores = [61.0, 60.2, 63.4, 59.9]
    t = stats.t(df=3, loc=np.mean(scores), scale=np.std(scores, ddof=1) * np.sqrt(1 + 1 / 4))
    np.testing.assert_allclose(prediction_interval(scores), t.interval(0.95))
    for none in ([60.0], [60.0, 60.0]):
        assert np.isnan(prediction_interval(none)).all()


def test_contradicting_evidence_is_told(ticket: Path) -> None:
    evidence = evidence_of(ticket)
    first, second = evidence.trainings
    cases = {
        "not the one that its key is of": (first.model_copy(update={"key": second.key}), second),
        "a seed is recorded twice": (first, first, second),
        "two different scores": (first.model_copy(update={"metrics": {**first.metrics, "score": 0.0}}), second),
        "none is the training": tuple(
            one for one in (first, second) if one.key != supertickets.load_ticket(ticket).origin["trial"]
        ),
    }
    for said, trainings in cases.items():
        forge(ticket, trainings=trainings)
        (wrong,) = [check for check in verify(ticket).checks if check.verdict == "wrong"]
        assert wrong.what == "recorded trainings"
        assert said in wrong.said


def test_other_data_is_a_sentence_and_exit_code_2(
    ticket: Path, words: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_words(tmp_path / "other.jsonl", 48, 7)
    asked = ["verify", str(ticket), "--retrain"]
    cases = {
        "these are not the examples": ["--train-file", str(other), "--dev-file", str(words["dev_file"])],
        "name them with --train-file and --dev-file": [],
        "name them with --dev-file": ["--train-file", str(other)],
        "--seed 7: expected a seed that the folder records (0, 1), such as 1": ["--seed", "7"],
    }
    for said, typed in cases.items():
        assert main([*asked, *typed]) == 2
        assert said in capsys.readouterr().err
    assert main(["verify", str(ticket), "--seed", "1"]) == 2
    assert "--seed 1 is used only with --retrain" in capsys.readouterr().err
    assert main(["verify", str(ticket), "--device", "cuda:9"]) == 2
    assert "--device cuda:9 is used only with --retrain" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "nothing")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_a_copy_to_publish_is_hashed_again(ticket: Path) -> None:
    (ticket / "README.md").write_text("# A card for a hub\n")
    shutil.rmtree(ticket / "model")
    assert set(told(verify(ticket))) > {"README.md", "model/config.json"}
    rehash(ticket)
    found = verify(ticket)
    assert not found.wrong
    assert told(found, "cannot be checked") == ["model"]
    assert evidence_of(ticket).model is None
    (ticket / EVIDENCE).unlink()
    rehash(ticket)
    assert not (ticket / EVIDENCE).exists()


def test_another_base_model_is_told(study: Result, ticket: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", scale=0.3)
    assert told(verify(ticket, model=str(other))) == ["base model"]
    with pytest.raises(TicketError, match="no such folder"):
        verify(ticket, model=str(tmp_path / "none"))
    edit(ticket / "ticket.json", lambda content: content["base"].update(name=str(tmp_path / "gone")))
    forge(ticket)
    assert told(verify(ticket), "cannot be checked") == ["base model"]
    assert not verify(ticket).wrong
    assert not told(verify(ticket, model=str(study.settings.model)), "cannot be checked")


def test_a_studys_own_trainings_are_checked(study: Result, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(study.folder, tmp_path / "study"))
    found = verify(folder, retrain=True)  # the study knows where its examples are
    assert found.retrained is not None
    assert found.retrained.verdict == "agree"
    trials = sorted(path.parent for path in folder.glob("trials/*/outcome.json"))
    edit(trials[0] / "outcome.json", lambda content: content["epochs"][0].update(score=99.0))
    assert told(verify(folder))[0] == f"trials/{trials[0].name}"
    shutil.rmtree(folder / "super-ticket")
    with pytest.raises(TicketError, match="has shipped no ticket"):
        verify(folder)


def test_a_study_that_grows_or_is_of_an_earlier_version_gets_its_evidence(
    study: Result, words: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(study.folder, tmp_path / "study"))
    ticket = folder / "super-ticket"
    before = evidence_of(ticket)
    asked = {**SMALL, "model": str(study.settings.model), "out": folder, **words}
    (ticket / EVIDENCE).unlink()
    assert "files" in told(verify(folder), "cannot be checked")
    with pytest.raises(TicketError, match="says how the ticket was trained"):
        verify(folder, retrain=True)
    supertickets.find(asked)
    assert evidence_of(ticket) == before.but(model=None)  # what the model gave is not known any more
    supertickets.find(asked, seeds=3)
    assert [training.seed for training in evidence_of(ticket).trainings] == [0, 1, 2]
    assert not verify(folder).wrong


def test_a_ticket_of_weights(words: dict[str, Path], tmp_path: Path) -> None:
    """The ticket's own seed can be trained again; the masks of other seeds are not in the folder."""
    from safetensors.numpy import load_file, save_file

    small = {name: value for name, value in SMALL.items() if name not in ("levels", "kinds")} | {"epochs": 1}
    model = str(save_tiny_model(tmp_path / "model"))
    made = supertickets.imp(
        small, model=model, sparsities=(0.5,), controls=(), keep="matching", out=tmp_path / "out", **words
    )
    ticket = made.shipped["ticket"]
    assert [training.seed for training in evidence_of(ticket).trainings] == [0, 1]
    found = verify(ticket, retrain=True, **words)
    assert not told(found, "cannot be checked")
    assert found.retrained is not None
    assert (found.retrained.verdict, found.retrained.seed) == ("agree", 0)
    with pytest.raises(TicketError, match="the folder has the ticket of another seed"):
        verify(ticket, retrain=True, seed=1, **words)
    path = ticket / "model" / "model.safetensors"
    arrays = load_file(path)
    name = next(name for name in arrays if name.endswith("layer.0.output.dense.weight"))
    save_file(arrays | {name: arrays[name] + np.float32(1)}, path, metadata={"format": "pt"})
    forge(ticket)
    (wrong,) = [check for check in verify(ticket).checks if check.verdict == "wrong"]
    assert (wrong.what, wrong.said) == (
        "model",
        f"{name.removeprefix('bert.')} is not zero where the ticket has nothing",
    )


def test_a_trial_without_places_is_the_same_trial(study: Result) -> None:
    (outcome, *_) = [found for path in study.folder.glob("trials/*") if (found := load_outcome(path)) is not None]
    place = Path("/home/alice")
    start = Start(trial="a", folder=place, weights="b", ticket=outcome.trial.ticket)
    teacher = Teacher(trial="a", folder=place, logits="b", weight=0.5, temperature=1.0)
    trial = outcome.trial.but(model="/home/alice/model", start=start, teacher=teacher)
    mean = outcome.trial.but(scoring=None, mean=Mean(starts=(start, start), shares=(0.5, 0.5)))
    for one in (trial, mean):
        shown = one.without_places()
        assert "alice" in one.model_dump_json()
        assert "alice" not in shown.model_dump_json()
        assert shown.key == one.key
        assert type(one).model_validate_json(shown.model_dump_json()) == shown

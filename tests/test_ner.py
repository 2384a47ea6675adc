"""Named entity recognition: from files of tagged words to exported models, against seqeval and stock classes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval import metrics as seqeval
from seqeval.metrics.sequence_labeling import get_entities
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
)

import supertickets
from helpers.models import FAMILIES, make_loud, save_tiny_model, tiny_config
from helpers.study_files import super_ticket
from supertickets.errors import TicketError
from supertickets.evidence.resampling import bootstrap_weights, half_weights
from supertickets.export.predict import predict
from supertickets.export.reloaded import outputs_again
from supertickets.lab.outcome import load_outcome
from supertickets.models import ModelSource, find_model
from supertickets.studies.run import Result
from supertickets.tasks import Task, TaskSource, load_task
from supertickets.tasks.description import describe
from supertickets.tasks.metrics import entities, evaluate, judge_tags, resampled
from supertickets.training.evaluation import judged_on
from supertickets.training.objectives import describe_tokens, encode
from supertickets.training.tokens import IGNORED, Sentences, Tokens, for_words

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Let tiny tensors be computed by one thread, as in studies; more only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- examples ---------------------------------------------------------------------------------------------------------


def tagged(count: int, seed: int) -> list[list[tuple[str, str]]]:
    """Sentences in which w100 and w101 begin entities of type X, w102 and w103 of Y, and w99 after them goes on."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        words = [(f"w{word}", "O") for word in rng.integers(0, 60, rng.integers(4, 9))]
        for _ in range(rng.integers(1, 3)):
            kind = int(rng.integers(0, 4))
            one = [(f"w{100 + kind}", f"B-{'XXYY'[kind]}"), ("w99", f"I-{'XXYY'[kind]}")][: int(rng.integers(1, 3))]
            at = int(rng.integers(0, len(words)))
            words = [*words[:at], *one, *words[at:]] if words[at][1][0] != "I" else [*words, *one]
        found.append(words)
    return found


def conll(path: Path, sentences: list[list[tuple[str, str]]]) -> Path:
    path.write_text("\n\n".join("\n".join(f"{word} x {tag}" for word, tag in one) for one in sentences) + "\n")
    return path


def files(folder: Path, train: int = 60, dev: int = 24) -> dict[str, Path]:
    return {
        "train_file": conll(folder / "train.conll", tagged(train, 0)),
        "dev_file": conll(folder / "dev.conll", tagged(dev, 1)),
    }


def load(path: Path, dev: Path | None = None, **options: Any) -> Task:
    return load_task(TaskSource(task="ner", train_file=path, dev_file=dev or path, **options))


def written(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


# --- files ------------------------------------------------------------------------------------------------------------

SMALL = "EU NNP B-ORG\nrejects V O\n\nPeter N B-PER\nPan N I-PER\n. . O\n"


@pytest.mark.parametrize("ending", ["conll", "txt", "bio", "iob", "iob2", "tsv"])
@pytest.mark.parametrize("separator", [" ", "\t", "  "])
def test_columns(ending: str, separator: str, tmp_path: Path) -> None:
    content = f"-DOCSTART- -X- O\n\n# sent = Vitamin O\n{SMALL}\n \n# a O\n".replace(" x", "x")
    lines = [line if line.startswith("# s") else separator.join(line.split()) for line in content.split("\n")]
    task = load(written(tmp_path / f"a.{ending}", "\n".join(lines)))
    assert (task.name, task.form, task.labels) == ("ner", "tokens", ("O", "B-ORG", "I-ORG", "B-PER", "I-PER"))
    assert (task.classes, task.is_regression, task.outputs) == ((), False, 5)
    assert task.train.text == ["EU rejects", "Peter Pan .", "#"]  # the last line is a word, for it has a tag
    assert task.train.words == [[("EU", 1), ("rejects", 0)], [("Peter", 3), ("Pan", 4), (".", 0)], [("#", 0)]]
    read = f"a.{ending}: 3 sentences of 6 words read; 1 -DOCSTART- line skipped; 1 comment line skipped."
    assert task.notices == (read, read)
    assert describe(task)[:2] == (
        "3 training and 3 dev sentences.",
        "2 types of entities (training + dev entities): 'ORG' (1 + 1), 'PER' (1 + 1).",
    )


def test_iob1_has_the_same_entities(tmp_path: Path) -> None:
    plain = load(written(tmp_path / "a.conll", "a O\nb B-X\nc I-X\nd B-X\ne B-Y\nf O\n"))
    task = load(written(tmp_path / "b.conll", "a O\nb I-X\nc I-X\nd B-X\ne I-Y\nf O\n"))
    assert task.fingerprint() == plain.fingerprint()
    assert task.notices[1] == "b.conll: 2 I- tags read as B-, since they begin entities (as in IOB1)."
    assert not any("IOB1" in notice for notice in plain.notices)


ROWS = [{"tokens": ["a", "b", "c"], "tags": ["B-X", "I-X", "O"]}, {"tokens": ["d"], "tags": ["B-Y"]}]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("names", [("tokens", "tags"), ("tokens", "ner_tags"), ("words", "label_"), ("text", "label")])
def test_tables_of_lists(ending: str, names: tuple[str, str], tmp_path: Path) -> None:
    rows = [dict(zip(names, row.values(), strict=True)) for row in ROWS]
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"text": "words", "label": "label_"} if names[0] == "words" else {}
    task = load(path, **columns)
    plain = load(written(tmp_path / "a.conll", "a B-X\nb I-X\nc O\n\nd B-Y\n"))
    assert task.fingerprint() == plain.fingerprint()
    assert task.notices[0] == f"a.{ending}: 2 rows read."


def test_words_and_tags_are_in_the_fingerprint(tmp_path: Path) -> None:
    contents = [SMALL, SMALL.replace("EU", "UE"), SMALL.replace("I-PER", "B-PER"), SMALL.replace("EU NNP", "NNP NNP")]
    found = {load(written(tmp_path / f"{i}.conll", one)).fingerprint() for i, one in enumerate(contents)}
    joined = [[["a b"], ["B-X"]], [["a", "b"], ["B-X", "I-X"]]]  # one text, other words
    for i, (words, tags) in enumerate(joined):
        row = json.dumps({"tokens": words, "tags": tags}) + "\n"
        found.add(load(written(tmp_path / f"{i}.jsonl", row)).fingerprint())
    assert len(found) == 6


def test_a_dev_set_is_a_share_of_the_sentences(tmp_path: Path) -> None:
    path = files(tmp_path)["train_file"]
    task = load_task(TaskSource(task="ner", train_file=path, dev_share=0.25))
    assert (len(task.train), len(task.dev)) == (45, 15)
    assert task.fingerprint() == load_task(TaskSource(task="ner", train_file=path, dev_share=0.25)).fingerprint()
    whole = load(path).train.words
    assert sorted([*task.train.words, *task.dev.words]) == sorted(whole)  # type: ignore[misc, type-var]
    half = load_task(TaskSource(task="ner", train_file=path, dev_share=0.25, fraction=0.4))
    assert len(half.train) == 18
    assert all(words in task.train.words for words in half.train.words)  # type: ignore[union-attr, operator]
    with pytest.raises(TicketError, match="too few for a dev set of --dev-share"):
        load_task(TaskSource(task="ner", train_file=path, dev_share=0.01))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a x\n", r"line 1: tag 'x', expected O, B-TYPE or I-TYPE"),
        ("a O\nb B-\n", r"line 2: tag 'B-', expected O"),
        ("a O\nb S-PER\n", r"line 2: tag 'S-PER', .*IOBES and BILOU have to be converted"),
        ("a O\nb\n", r"line 2: 1 column separated by tabs or white space, expected 2 as in the first"),
        ("a x B-X\nb O\n", r"line 2: 2 columns .*, expected 3 as in the first"),
        ("a\nb\n", r"line 1: 1 column .*, expected a word and its tag"),
        ("a\tO\n\tO\n", r"line 2: there is no word in the first column"),
        ("-DOCSTART- O\n\n# a\n", r"there are no words in it"),
        ("a O\nb O\n", r"every tag is O; expected entities"),
        ("", r"is empty"),
    ],
)
def test_columns_that_are_refused(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TicketError, match=message) as told:
        load(written(tmp_path / "a.conll", content))
    assert "a.conll" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": [], "tags": []}, "example 2 has no words in column 'tokens'"),
        ({"tokens": ["a"], "tags": []}, "example 2 has 1 word and 0 tags; expected as many"),
        ({"tokens": "a b", "tags": ["O"]}, "example 2 has 'a b' in column 'tokens', expected a list of words"),
        ({"tokens": ["a"], "tags": None}, "example 2 has None in column 'tags', expected a list of tags"),
        ({"tokens": ["a"], "tags": [3]}, r"example 2 has 3 among its tags \('tags'\), expected text, such as B-PER"),
        ({"tokens": ["a", " "], "tags": ["O", "O"]}, "example 2 has a word that is blank"),
        ({"tokens": [1], "tags": ["O"]}, r"example 2 has 1 among its words"),
        ({"tokens": ["a"], "tags": ["U-X"]}, "example 2: tag 'U-X', expected O"),
    ],
)
def test_tables_that_are_refused(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in (ROWS[0], row)))
    with pytest.raises(TicketError, match=message):
        load(path)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    train = written(tmp_path / "a.conll", SMALL)
    with pytest.raises(TicketError, match=r"other.conll, line 1 .*'ORH': did you mean 'ORG'\? known are ORG, PER"):
        load(train, written(tmp_path / "other.conll", "a B-ORH\n"))
    with pytest.raises(TicketError, match="no dev sentence has an entity, so that entity_f1 is 0 whatever"):
        load(train, written(tmp_path / "other.conll", "a O\n"))
    assert load(train, written(tmp_path / "other.conll", "a I-ORG\n")).dev.words == [[("a", 1)]]
    with pytest.raises(TicketError, match=r"unknown file format of .*a\.csv: '\.csv'"):
        load(tmp_path / "a.csv")
    with pytest.raises(TicketError, match=r"--text describes columns of a table, but .*a\.conll has a word a line"):
        load(train, text="words")
    for name, value in (("labels", ("O", "B-X")), ("metrics", ("f1",)), ("regression", True)):
        with pytest.raises(TicketError, match=f"--{name} describes columns of a table, but the files of task 'ner'"):
            load(train, **{name: value})
    for more in ({}, {"data": tmp_path}):
        with pytest.raises(TicketError, match="task 'ner' has no files of its own: name a training file with --train-"):
            load_task(TaskSource(task="ner", **more))
    one = written(tmp_path / "rare.conll", "a B-X\n\n" + "b O\n\n" * 30)
    with pytest.raises(TicketError, match="no training sentence has an entity, so that nothing can be learnt"):
        load(one, fraction=0.1)
    told = describe(load(train, written(tmp_path / "other.conll", "a B-ORG\n")))
    assert "1 type of entities has no dev entity: 'PER'." in told


# --- entities ---------------------------------------------------------------------------------------------------------

TAGS = st.lists(st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y", "B-X-Y", "I-X-Y"]), min_size=1, max_size=12)


@settings(max_examples=500, deadline=None)
@given(TAGS)
def test_entities_are_seqevals(tags: list[str]) -> None:
    assert entities(tags) == {(kind, first, last + 1) for kind, first, last in get_entities(tags)}


def test_entities_by_hand() -> None:
    assert entities(["I-X", "I-X", "I-Y", "B-Y", "O", "I-Y"]) == {
        ("X", 0, 2), ("Y", 2, 3), ("Y", 3, 4), ("Y", 5, 6)
    }  # fmt: skip
    assert judge_tags(["B-X", None, "O"], ["B-X", "I-X", "O"]) == (3, 2, 1, 1, 0)
    assert judge_tags([None], ["O"]) == (1, 0, 0, 0, 0)  # not seen, so not right


def scores(gold: list[list[str]], said: list[list[str]]) -> dict[str, float]:
    """Return what seqeval gives, in percent."""
    asked = {"y_true": gold, "y_pred": said}
    found = {
        "entity_f1": seqeval.f1_score(**asked, zero_division=0),
        "entity_precision": seqeval.precision_score(**asked, zero_division=0),
        "entity_recall": seqeval.recall_score(**asked, zero_division=0),
        "tag_accuracy": seqeval.accuracy_score(**asked),
    }
    return {name: 100 * float(value) for name, value in found.items()}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.tuples(*[st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y"])] * 2), min_size=1), min_size=1))
def test_metrics_are_seqevals(pairs: list[list[tuple[str, str]]]) -> None:
    gold, said = ([[pair[side] for pair in one] for one in pairs] for side in (0, 1))
    judged = np.array([judge_tags(b, a) for a, b in zip(gold, said, strict=True)], np.float32)
    names = ("entity_f1", "entity_precision", "entity_recall", "tag_accuracy")
    found = evaluate(names, np.zeros(len(gold)), judged)
    assert found == pytest.approx(scores(gold, said) | {"score": found["entity_f1"]})


def test_resampled_metrics_are_seqevals() -> None:
    rng = np.random.default_rng(0)
    tags = np.array(["O", "B-X", "I-X", "B-Y", "I-Y"])
    gold = [tags[rng.integers(0, 5, rng.integers(1, 9))].tolist() for _ in range(40)]
    said = [[tag if rng.random() < 0.7 else str(tags[rng.integers(5)]) for tag in one] for one in gold]
    judged = np.array([judge_tags(b, a) for a, b in zip(gold, said, strict=True)], np.float32)
    weights = np.vstack([bootstrap_weights(40, 1, 20), half_weights(40, 5)])
    names = ("entity_f1", "entity_precision", "entity_recall", "tag_accuracy")
    found = resampled(names, np.zeros(40), judged, weights)
    for row, drawn in enumerate(weights.astype(int)):
        repeated = [[one for one, n in zip(side, drawn, strict=True) for _ in range(n)] for side in (gold, said)]
        assert {name: float(found[name][row]) for name in names} == pytest.approx(scores(*repeated))
    assert np.std(found["entity_f1"]) > 1  # control: weights matter


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pieces() -> Any:
    """The default model's tokenizer, which cuts words into pieces."""
    return ModelSource(find_model("default")).tokenizer


def one_sentence(tmp_path: Path, words: str, tags: str) -> Task:
    lines = [f"{word} {tag}" for word, tag in zip(words.split(), tags.split(), strict=True)]
    return load(written(tmp_path / "one.conll", "\n".join(lines) + "\n\nParis B-LOC\n"))


def test_a_words_tag_is_on_its_first_token(pieces: Any, tmp_path: Path) -> None:
    task = one_sentence(tmp_path, "Zwickau hosts electroencephalography", "B-LOC O B-X")
    data = Tokens(task.labels).encode(task.dev, pieces, 32)
    tokens = pieces.convert_ids_to_tokens(data.ids[0])
    starts = [place for place, token in enumerate(tokens) if token[0] not in "#["]
    assert data.first[0].tolist() == starts
    assert len(tokens) > len(starts) + 2
    inputs, targets = data.collate([0, 1], CPU)
    expected = np.full((2, len(tokens)), IGNORED)
    expected[0, starts] = [1, 0, 3]
    expected[1, 1] = 1
    assert targets.tolist() == expected.tolist()
    assert inputs["attention_mask"].sum(dim=1).tolist() == [len(ids) for ids in data.ids]


def test_words_beyond_the_last_token_are_not_found(pieces: Any, tmp_path: Path) -> None:
    """Gold entities stay gold: of three, one is seen, one is cut in two, one is cut off."""
    task = one_sentence(tmp_path, "Paris a New York b Rome", "B-LOC O B-LOC I-LOC O B-LOC")
    for longest, seen in ((32, 6), (5, 3)):
        data = Tokens(task.labels).encode(task.dev, pieces, longest)
        assert (data.first[0] >= 0).sum() == seen
        found = np.zeros((2, longest), np.float32)
        for row in (0, 1):
            places = data.first[row] >= 0
            found[row, data.first[row][places]] = data.tags[row][places]  # right, as far as it sees
        judged = Tokens(task.labels).finish(found, data)
        assert judged.tolist() == [[6, seen, 3, 3 if seen == 6 else 2, 3 if seen == 6 else 1], [1, 1, 1, 1, 1]]
    assert describe_tokens(task, pieces, 32)[0] == "No word is cut off at 32 tokens (--max-length)."
    told = describe_tokens(task, pieces, 5)
    assert told[:2] == (
        "3 of 7 training words cut off beyond 5 tokens (--max-length), or without a token: not learnt from.",
        "3 of 7 dev words cut off beyond 5 tokens (--max-length), or without a token: counted as not found.",
    )
    invisible = load(written(tmp_path / "b.conll", "a B-X\n\u200d O\n"))  # the tokenizer drops the second word
    assert Tokens(invisible.labels).encode(invisible.dev, pieces, 9).first[0].tolist() == [1, -1]
    with pytest.raises(TicketError, match="--max-length 2 leaves no space for a word; expected at least 3"):
        encode(task, pieces, 2)


def byte_level(folder: Path, plain: bool) -> Any:
    """A tokenizer of bytes, as RoBERTa's, in its own class or in none."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([" the cat sat in london and in paris"] * 20, trainer)
    tiny_config("roberta").save_pretrained(folder)
    if plain:
        asked = {"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>"}
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **asked).save_pretrained(folder)
    else:
        made = json.loads(tokenizer.to_str())["model"]
        RobertaTokenizer(vocab=made["vocab"], merges=[tuple(one) for one in made["merges"]]).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("plain", [False, True])
def test_a_space_before_words_where_the_tokenizer_needs_one(plain: bool, tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path / "a", plain)

    def said(one: Any) -> list[str]:
        ids = one(["the", "cat", "in", "london"], is_split_into_words=True, add_special_tokens=False)["input_ids"]
        return one.convert_ids_to_tokens(ids)

    good = ["\u0120the", "\u0120cat", "\u0120in", "\u0120london"]
    assert said(tokenizer) != good  # the control: this is why
    found = for_words(tokenizer)
    assert said(found) == good
    assert said(tokenizer) != good  # it is a copy
    assert for_words(found) is found
    found.save_pretrained(tmp_path / "b")
    assert said(AutoTokenizer.from_pretrained(tmp_path / "b")) == good
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(".", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    with pytest.raises(TicketError, match=r"reads words apart in another way than within a text, and has no add_pref"):
        for_words(tokenizer)


def test_words_need_a_fast_tokenizer(pieces: Any) -> None:
    assert for_words(pieces) is pieces
    with pytest.raises(TicketError, match="tags of words need a fast tokenizer"):
        for_words(object())


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_stock_one(family: str, tmp_path: Path) -> None:
    source = ModelSource(find_model(str(save_tiny_model(tmp_path / family, family))))
    task = load(*files(tmp_path).values())
    data = encode(task, source.tokenizer, 20).train
    assert isinstance(data, Sentences)
    config = tiny_config(family, num_labels=task.outputs)
    model = make_loud(AutoModelForTokenClassification.from_config(config)).double().eval()
    inputs, targets = data.collate(range(12), CPU)
    objective = Tokens(task.labels)
    mine = objective.losses(objective.forward(model, inputs, targets), targets)
    alone = [data.collate([row], CPU) for row in range(12)]
    expected = torch.stack([model(**one, labels=labels).loss for one, labels in alone])
    torch.testing.assert_close(mine, expected)
    other = objective.losses(objective.forward(model, inputs, targets), targets.roll(1, 0))  # control
    assert (other - expected).abs().max() > 0.1
    with torch.inference_mode():
        judged = objective.judge(objective.forward(model, inputs, targets), targets)
    best = model(**inputs).logits.argmax(dim=-1)
    assert np.array_equal(judged, torch.where(targets == IGNORED, 0, best).numpy())
    nothing = objective.losses(torch.randn(1, 4, 5), torch.full((1, 4), IGNORED))
    assert nothing.tolist() == [0.0]


def test_logits_that_are_not_finite_are_seen() -> None:
    logits = torch.zeros(2, 3, 5)
    logits[0, 1, 2], logits[1, 2, 0] = torch.nan, torch.inf
    targets = torch.tensor([[IGNORED, 1, 2], [0, 1, IGNORED]])
    judged = Tokens(("O",) * 5).judge(logits, targets)
    assert np.isnan(judged).tolist() == [[False, True, False], [False] * 3]


ASKED: dict[str, Any] = {
    "task": "ner", "seeds": 1, "workers": 1, "epochs": 6, "batch_size": 8, "learning_rate": 1e-2, "max_length": 20,
    "precision": "float32", "patience": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def found(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("find")
    own = {"levels": (0.4,), "kinds": ("winning",), "model": str(model_folder), "out": folder / "out"}
    return supertickets.find(ASKED, **own, **files(folder, 120, 40))


def test_finds_and_ships_a_ticket_of_a_tagger(found: Result) -> None:
    assert not found.failures
    table = found.table
    assert np.array_equal(table["score"], table["entity_f1"])
    assert {"entity_precision", "entity_recall", "tag_accuracy"} <= {*table.columns}
    assert table[table["kind"] == "dense"]["score"].iloc[0] > 60  # whom an untrained model gives next to nothing
    task, folder = load_task(found.settings.source), found.shipped["ticket"] / "model"
    winning = table[table["kind"] == "winning"].iloc[0]
    outcome = load_outcome(found.folder / "trials" / winning["trial"])
    assert outcome is not None
    assert outcome.best_epoch is not None
    measured = outcome.predictions()["dev"][outcome.best_epoch - 1]
    assert measured.shape == (40, 5)
    assert np.array_equal(outputs_again(folder, task, 20, 8, "float32", 1), measured)
    model, tokenizer = AutoModelForTokenClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert [model.config.id2label[i] for i in range(5)] == ["O", "B-X", "I-X", "B-Y", "I-Y"]
    assert model.config.label2id["I-Y"] == 4
    gold, said = stock(model, tokenizer, task)
    assert scores(gold, said) == pytest.approx({name: winning[name] for name in scores(gold, said)})
    card = (found.shipped["ticket"] / "README.md").read_text()
    assert "AutoModelForTokenClassification.from_pretrained" in card
    assert "(entity_f1; level" in card
    assert "2 types of entities" in found.report.read_text()
    with pytest.raises(TicketError, match=r"got a BertForTokenClassification; load it .*pipeline\('token-class"):
        predict(folder, ["w1"], None, 20)
    assert super_ticket(found).kept_heads < 12


def stock(model: Any, tokenizer: Any, task: Task) -> tuple[list[list[str]], list[list[str]]]:
    """Return gold and predicted tags as anybody would compute them, a sentence at a time."""
    gold, said = [], []
    for sentence in task.dev.words or []:
        inputs = tokenizer([word for word, _ in sentence], is_split_into_words=True, return_tensors="pt")
        best = model(**inputs).logits[0].argmax(dim=-1).tolist()
        ids = inputs.word_ids(0)
        said.append([model.config.id2label[best[ids.index(i)]] for i in range(len(sentence))])
        gold.append([task.labels[tag] for _, tag in sentence])
    return gold, said


def test_a_model_with_a_byte_level_tokenizer_is_shipped_with_a_space_before_words(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path / "model", plain=False)
    config = tiny_config("roberta")
    config.vocab_size = len(tokenizer)
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(tmp_path / "model")
    rng = np.random.default_rng(0)
    words = [("london", "B-P"), ("paris", "B-P"), ("the", "O"), ("cat", "O"), ("sat", "O")]
    sentences = [[words[i] for i in rng.integers(0, 5, 4)] for _ in range(60)]
    path = conll(tmp_path / "a.conll", [*sentences, [("london", "B-P"), ("paris", "I-P")]])
    own = {"levels": 0.4, "kinds": "winning", "model": str(tmp_path / "model"), "out": tmp_path / "out"}
    result = supertickets.find(ASKED, **own, train_file=path, dev_file=path, precision="bfloat16")
    folder, task = result.shipped["ticket"] / "model", load(path)
    shipped = AutoTokenizer.from_pretrained(folder)
    assert shipped.tokenize("london") == shipped.tokenize(" london") == ["\u0120london"]
    assert tokenizer.tokenize("london") != ["\u0120london"]  # the control
    winning = result.table[result.table["kind"] == "winning"].iloc[0]
    assert winning["entity_f1"] > 80
    found = scores(*stock(AutoModelForTokenClassification.from_pretrained(folder), shipped, task))
    assert found["entity_f1"] == pytest.approx(winning["entity_f1"], abs=5)  # in float32


def test_an_untrained_tagger_is_far_below(model_folder: Path, tmp_path: Path) -> None:
    """The control of the scores above."""
    source = ModelSource(find_model(str(model_folder)))
    task = load_task(TaskSource(task="ner", **files(tmp_path)))
    data = encode(task, source.tokenizer, 20).evaluations["dev"]
    assert isinstance(data, Sentences)
    objective = Tokens(task.labels)
    judged = judged_on(data, source.build(5, 0.0, 0, "tokens"), objective, 8, "float32", CPU)
    assert evaluate(task.metrics, data.targets, objective.finish(judged, data))["score"] < 30


@pytest.mark.slow
def test_the_other_studies_of_a_tagger(found: Result, model_folder: Path, tmp_path: Path) -> None:
    own = {**ASKED, "model": str(model_folder), "epochs": 2}
    rounds = supertickets.imp(own, sparsities="0.3,0.5", controls="none", out=tmp_path / "imp", **files(tmp_path))
    again = supertickets.imp(own, sparsities="0.3,0.5", controls="none", out=tmp_path / "imp", **files(tmp_path))
    assert rounds.table.equals(again.table)
    moved = supertickets.transfer(
        model=str(model_folder), tickets=(tmp_path / "imp",), seeds=1, epochs=1, max_length=20, workers=1,
        out=tmp_path / "moved",
    )  # fmt: skip
    own_length = supertickets.plan_study("transfer", model=str(model_folder), tickets=(tmp_path / "imp",), epochs=1)
    assert own_length.trainings == 9  # three seeds; each text has the length of the study that found the ticket
    adapted = supertickets.adapt(
        sources=(found.folder,), output_layer="trained", fractions=(0.5,), seeds=1, workers=1, epochs=1,
        max_length=20, out=tmp_path / "adapt", task="ner", **files(tmp_path),
    )  # fmt: skip
    for result in (rounds, moved, adapted):
        assert not result.failures
        assert np.array_equal(result.table["score"], result.table["entity_f1"])
    other = conll(tmp_path / "other.conll", [[("w1", "B-Z")], [("w2", "O")]] * 9)
    with pytest.raises(TicketError, match=r"has outputs for tokens .*, with the labels O, B-X, .* the labels O, B-Z"):
        supertickets.adapt(
            sources=(found.folder,), output_layer="trained", task="ner", train_file=other, dev_file=other,
            out=tmp_path / "no",
        )  # fmt: skip
    texts = written(tmp_path / "texts.csv", "text,label\n" + "".join(f"w{i} w1,{i % 2}\n" for i in range(20)))
    own |= {"task": "texts", "train_file": texts, "dev_file": texts, "levels": 0.4, "kinds": "winning", "epochs": 1}
    more = supertickets.find(own, out=tmp_path / "texts")
    with pytest.raises(TicketError, match="task 'ner' has outputs for each token, which `share` does not support yet"):
        supertickets.share(model=str(model_folder), tickets=(found.folder, more.folder), out=tmp_path / "no")
    assert not (tmp_path / "no").exists()

"""Masked language modelling and SQuAD: from files to exported models, against naive code and stock classes."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForMaskedLM, AutoModelForQuestionAnswering, PreTrainedModel

import supertickets
from helpers.models import FAMILIES, HEADS, LAYERS, VOCABULARY, make_loud, save_tiny_model, tiny_config
from helpers.places import SHARED
from helpers.study_files import super_ticket
from supertickets.errors import TicketError
from supertickets.evidence.resampling import weighted_scores
from supertickets.evidence.selection import halved_scores
from supertickets.export.predict import predict
from supertickets.lab.outcome import load_outcome
from supertickets.lab.workbench import _weights
from supertickets.models import ModelSource, find_model
from supertickets.studies.plan import plan_study
from supertickets.studies.run import Result
from supertickets.surgery.cut import cut
from supertickets.surgery.expand import expand
from supertickets.surgery.gate import gated
from supertickets.tasks import Split, Task, TaskSource, load_task
from supertickets.tasks.metrics import evaluate, judge_answer, normalise_answer
from supertickets.tickets import Ticket
from supertickets.tickets.scoring import ScoringSettings
from supertickets.training.learner import Learner
from supertickets.training.loop import Checkpoints, Plan, Trainer
from supertickets.training.masked import IGNORED, Blocks, Masked
from supertickets.training.objectives import check_task, encode, objective_of
from supertickets.training.recipe import Recipe
from supertickets.training.scoring import score
from supertickets.training.spans import Spans, Windows, decode

CPU = torch.device("cpu")
FULL = Ticket.full(LAYERS, HEADS)
PART = Ticket.from_pruned(LAYERS, HEADS, [(0, 0), (1, 2), (1, 3)], [1])
RECIPE = Recipe(epochs=2, batch_size=8, learning_rate=1e-2, max_length=20, patience=None, dropout=0.0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Let tiny tensors be computed by one thread, as in studies; more only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", mask=True)


@pytest.fixture(scope="module")
def source(model_folder: Path) -> ModelSource:
    return ModelSource(find_model(str(model_folder)))


# --- examples ---------------------------------------------------------------------------------------------------------


def corpus(lines: int, seed: int = 0) -> list[str]:
    """Lines of one word each: what is masked can be told from its neighbours."""
    return [" ".join([f"w{word}"] * 18) for word in np.random.default_rng(seed).integers(0, 8, lines)]


def text_task(folder: Path, lines: int = 120, dev: int = 40) -> Task:
    (folder / "train.txt").write_text("\n".join(corpus(lines)) + "\n")
    (folder / "dev.txt").write_text("\n".join(corpus(dev, 1)) + "\n")
    return load_task(TaskSource(task="mlm", train_file=folder / "train.txt", dev_file=folder / "dev.txt"))


def question(context: str, answers: list[str], name: str = "q", text: str = "w1 w2 ?") -> dict[str, Any]:
    found = [{"answer_start": context.index(answer), "text": answer} for answer in answers]
    return {"context": context, "qas": [{"id": name, "question": text, "answers": found}]}


def squad_file(path: Path, paragraphs: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    return path


def marked_answers(count: int, seed: int) -> list[dict[str, Any]]:
    """Questions that are answered by the one word of their context from w100 on, and one after it in half of them."""
    rng = np.random.default_rng(seed)
    paragraphs = []
    for i in range(count):
        words = [f"w{word}" for word in rng.integers(0, 60, rng.integers(6, 12))]
        at = int(rng.integers(0, len(words) - 1))
        words[at] = f"w{rng.integers(100, 104)}"
        if i % 2:
            words[at + 1] = "w99"
        paragraphs.append(question(" ".join(words), [" ".join(words[at : at + 1 + i % 2])], f"q{i}", "w1 ?"))
    return paragraphs


def squad_task(folder: Path, train: list[dict[str, Any]], dev: list[dict[str, Any]]) -> Task:
    squad_file(folder / "train-v1.1.json", train)
    squad_file(folder / "dev-v1.1.json", dev)
    return load_task(TaskSource(task="squad", data=folder))


def task_of(kind: str, folder: Path) -> Task:
    if kind == "mlm":
        return text_task(folder, 60, 20)
    return squad_task(folder, marked_answers(40, 0), marked_answers(12, 1))


def trainer_of(
    source: ModelSource, task: Task, recipe: Recipe = RECIPE, seed: int = 0, ticket: Ticket = FULL, **more: Any
) -> Trainer:
    model = cut(source.build(task.outputs, recipe.dropout, seed, task.form), ticket)
    learner = Learner(encode(task, source.tokenizer, recipe.max_length), model, ticket)
    return Trainer([learner], Plan(recipe, seed), CPU, **more)


# --- files ------------------------------------------------------------------------------------------------------------


def test_reads_a_corpus(tmp_path: Path) -> None:
    (tmp_path / "wikitext-2").mkdir()
    (tmp_path / "wikitext-2" / "wiki.train.tokens").write_text(" \n = A title = \n\n a line \n")
    (tmp_path / "wikitext-2" / "wiki.valid.raw").write_text("other\n")
    task = load_task(TaskSource(task="mlm", data=tmp_path))
    assert (task.form, task.labels, task.is_regression) == ("masked", (), False)
    assert task.train.text == ["= A title =", "a line"]
    assert task.dev.text == ["other"]
    (tmp_path / "own.txt").write_text("".join(f"line {i}\n\n" for i in range(10)))
    own = load_task(TaskSource(task="mlm", train_file=tmp_path / "own.txt", dev_share=0.3))
    assert own.train.text[-1] == "line 6"  # the last lines, so that both parts go on as they did
    assert own.dev.text == ["line 7", "line 8", "line 9"]
    half = load_task(TaskSource(task="mlm", train_file=tmp_path / "own.txt", dev_share=0.3, fraction=0.5))
    assert half.train.text == own.train.text[:3]  # of seven
    assert len({one.fingerprint() for one in (task, own, half)}) == 3


def test_a_corpus_needs_no_files() -> None:
    task = load_task(TaskSource(task="mlm"))
    assert len(task.train) > 3000
    assert len({*task.dev.text} - {*task.train.text}) > 1000


def test_reads_squad_files(tmp_path: Path) -> None:
    task = squad_task(tmp_path / "squad", [question("w1 w2 w3", ["w2"])] * 3, [question("w3 w4", ["w4", "w3 w4"])])
    assert load_task(TaskSource(task="SQuAD", data=tmp_path)).fingerprint() == task.fingerprint()
    assert (task.form, task.outputs, task.is_regression) == ("spans", 2, False)
    assert (task.train.text[0], task.train.pair[0], task.train.answers[0]) == ("w1 w2 ?", "w1 w2 w3", [(3, "w2")])
    assert task.dev.answers == [[(3, "w4"), (0, "w3 w4")]]
    files = {"train_file": tmp_path / "squad/train-v1.1.json", "dev_file": tmp_path / "squad/dev-v1.1.json"}
    assert load_task(TaskSource(task="squad", **files)).fingerprint() == task.fingerprint()
    other = replace(task, dev=replace(task.dev, answers=[[(3, "w4")]]))
    assert other.fingerprint() != task.fingerprint()
    part = load_task(TaskSource(task="squad", data=tmp_path, fraction=0.7))
    assert part.train.answers == task.train.answers[:2]


def test_squad_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    row = {"id": "q", "question": "w1 w2 ?", "context": "w1 w2", "answers": {"answer_start": [3], "text": ["w2"]}}
    monkeypatch.setattr(datasets, "load_dataset", lambda name: {"train": [row], "validation": [row]})
    task = load_task(TaskSource(task="squad"))
    assert task.dev.answers == [[(3, "w2")]]

    def offline(name: str) -> None:
        raise ConnectionError

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(TicketError, match=r"rajpurkar/squad could not be downloaded .*--data"):
        load_task(TaskSource(task="squad"))


def edited(path: str, value: Any) -> dict[str, Any]:
    """Return a paragraph with one thing in it changed; `path` names keys and places."""
    paragraph = question("w1 w2 w3 w2", ["w3"])
    *keys, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    inside: Any = paragraph
    for key in keys:
        inside = inside[key]
    if value is None:
        del inside[last]
    else:
        inside[last] = value
    return paragraph


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("qas.0.answers.0.answer_start", 1, "question 'q' has no answer 'w3' at character 1; it is at 6"),
        ("qas.0.answers.0.answer_start", -5, "no answer 'w3' at character -5; it is at 6"),
        ("qas.0.answers.0.text", "w9", "no answer 'w9' at character 6; the context does not have it"),
        ("qas.0.answers.0.text", "", "question 'q' has an empty answer"),
        ("qas.0.answers", [], "1 of 1 question without an answer, as in SQuAD v2"),
        ("qas.0.question", " ", "question 'q' has an empty question"),
        ("qas.0.is_impossible", True, "1 of 1 question without an answer, as in SQuAD v2"),
        ("qas.0.answers.0.text", 7, "not in the format of SQuAD v1.1, see question 'q'"),
        ("qas.0.answers.0.answer_start", None, "not in the format of SQuAD v1.1, see question 'q'.*answer_start"),
        ("context", None, "not in the format of SQuAD v1.1, see article 1"),
    ],
)
def test_bad_questions_are_told_in_one_sentence(path: str, value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(TicketError, match=message) as told:
        squad_task(tmp_path, [edited(path, value)], [question("w1", ["w1"])])
    assert "train-v1.1.json" in str(told.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "there are no questions"),
        ("{}", "not in the format"),
        (
            '["paragraphs", "w1"]',
            "not in the format of SQuAD v1.1, see article 1 .*it is 'paragraphs', expected an obj",
        ),
        ('{"data": []}', "there are no questions"),
        ("", "is empty"),
    ],
)
def test_bad_squad_files(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "train-v1.1.json").write_text(content)
    with pytest.raises(TicketError, match=message):
        load_task(TaskSource(task="squad", data=tmp_path))


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TicketError, match=r"no train-v1\.1\.json in it"):
        load_task(TaskSource(task="squad", data=tmp_path))
    with pytest.raises(TicketError, match=r"no wiki\.train\.raw or wiki\.train\.tokens in it"):
        load_task(TaskSource(task="mlm", data=tmp_path))
    (tmp_path / "wiki.train.raw").write_text("text")
    with pytest.raises(TicketError, match=r"wiki\.train\.raw and no wiki\.valid\.raw or"):
        load_task(TaskSource(task="mlm", data=tmp_path))
    with pytest.raises(TicketError, match="has 1 line, too few for a dev set"):
        load_task(TaskSource(task="mlm", train_file=tmp_path / "wiki.train.raw"))
    with pytest.raises(TicketError, match="--label describes columns of a table, but the files of task 'mlm'"):
        load_task(TaskSource(task="mlm", train_file=tmp_path / "wiki.train.raw", label="x"))
    with pytest.raises(TicketError, match="name a dev file of the same format with --dev-file"):
        load_task(TaskSource(task="squad", train_file=tmp_path / "a.json"))
    with pytest.raises(TicketError, match="did you mean 'squad'"):
        load_task(TaskSource(task="squat"))


# --- blocks and masks -------------------------------------------------------------------------------------------------


def test_blocks_by_hand(source: ModelSource) -> None:
    lines = ["w0 w1 w2", "w3", "w4 w5 w6 w7 w8"]
    blocks = Masked().encode(Split(lines, None, np.zeros(3)), source.tokenizer, 6)
    cls, sep = 1, 2
    of = source.tokenizer.convert_tokens_to_ids
    assert [ids.tolist() for ids in blocks.ids] == [
        [cls, *of(["w0", "w1", "w2", "w3"]), sep],
        [cls, *of(["w4", "w5", "w6", "w7"]), sep],
    ]  # w8 fills no block
    with pytest.raises(
        TicketError, match=r"the corpus has 9 tokens, expected at least one block of 10 .--max-length 12"
    ):
        Masked().encode(Split(lines, None, np.zeros(3)), source.tokenizer, 12)


@pytest.mark.parametrize(("template", "tokens"), [("$A", "0 special tokens;"), ("$A [SEP]", "1 special token;")])
def test_a_block_has_a_first_and_a_last_token(template: str, tokens: str, model_folder: Path) -> None:
    tokenizer = ModelSource(find_model(str(model_folder))).tokenizer
    task = Task("mlm", (), (), *[Split(["w0 w1 w2"] * 9, None, np.zeros(9))] * 2, {}, "masked")
    check_task(task, tokenizer, 6)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=[("[SEP]", 2)])
    with pytest.raises(TicketError, match=f"one that ends it, and the model's tokenizer adds {tokens}"):
        check_task(task, tokenizer, 6)


def test_what_is_masked(source: ModelSource) -> None:
    lines = ["w1 w2 w3 [SEP] w4 w5 [MASK] w6"] * 4000
    blocks = Masked().encode(Split(lines, None, np.zeros(len(lines))), source.tokenizer, 34)
    inputs, targets = blocks.collate(range(len(blocks.ids)), CPU)
    ids, shown, targets = np.stack(blocks.ids), inputs["input_ids"].numpy(), targets.numpy()
    chosen = targets != IGNORED
    special = np.isin(ids, [0, 1, 2, source.tokenizer.mask_token_id])
    assert not chosen[special].any()
    assert np.array_equal(targets[chosen], ids[chosen])
    assert np.array_equal(shown[~chosen], ids[~chosen])
    assert chosen[~special].mean() == pytest.approx(0.15, abs=0.008)  # five standard errors of 24,000 tokens
    found = shown[chosen]
    masked, same = found == source.tokenizer.mask_token_id, found == ids[chosen]
    assert masked.mean() == pytest.approx(0.8 + 0.1 / VOCABULARY, abs=0.03)
    assert same.mean() == pytest.approx(0.1 + 0.1 / VOCABULARY, abs=0.025)
    assert len(np.unique(found[~masked & ~same])) > VOCABULARY // 2  # random ones come from everywhere


def test_masks_depend_on_the_step_and_evaluations_keep_theirs(source: ModelSource, tmp_path: Path) -> None:
    data = encode(text_task(tmp_path), source.tokenizer, 20).train

    def shown(*drawn: int) -> list[int]:
        return data.collate(range(8), CPU, drawn)[0]["input_ids"].flatten().tolist()

    first, fixed = shown(0, 3), shown()
    torch.manual_seed(1)
    np.random.seed(5)
    assert first == shown(0, 3)
    assert len({tuple(one) for one in (first, shown(0, 4), shown(1, 3), fixed)}) == 4
    assert fixed == shown()
    # A row's mask does not depend on what is beside it in the batch.
    assert (
        data.collate([5], CPU, (0, 3))[0]["input_ids"][0].tolist()
        == data.collate(range(8), CPU, (0, 3))[0]["input_ids"][5].tolist()
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gathered_loss_is_the_stock_one(family: str, tmp_path: Path) -> None:
    source = ModelSource(find_model(str(save_tiny_model(tmp_path / family, family, mask=True))))
    data = encode(text_task(tmp_path), source.tokenizer, 20).train
    model = make_loud(AutoModelForMaskedLM.from_config(tiny_config(family))).double().eval()
    inputs, targets = data.collate(range(12), CPU)
    mine = Masked().losses(Masked().forward(model, inputs, targets), targets)
    alone = [model(**data.collate([row], CPU)[0], labels=data.collate([row], CPU)[1]).loss for row in range(12)]
    expected = torch.stack(alone)
    has = (targets != IGNORED).any(dim=1)
    assert has.sum() > 5
    torch.testing.assert_close(mine[has], expected[has])
    assert (mine[~has] == 0).all()
    other = Masked().losses(Masked().forward(model, inputs, targets.roll(1, 0)), targets.roll(1, 0))  # control
    assert (other[has] - expected[has]).abs().max() > 0.1
    every = model(**inputs).logits  # what is judged: each block's right ones and its summed loss, over all positions
    losses = torch.nn.functional.cross_entropy(every.transpose(1, 2), targets, reduction="none", ignore_index=IGNORED)
    with torch.inference_mode():
        judged = Masked().judge(Masked().forward(model, inputs, targets), targets)
    right = ((every.argmax(dim=-1) == targets) & (targets != IGNORED)).sum(dim=1)
    expected = torch.stack([(targets != IGNORED).sum(dim=1), right, losses.sum(dim=1)], dim=1)
    np.testing.assert_allclose(judged, expected.detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_checkpoints_own_head_stays(family: str, tmp_path: Path) -> None:
    bare = ModelSource(find_model(str(save_tiny_model(tmp_path / "bare", family, mask=True))))
    whole_folder = save_tiny_model(tmp_path / "whole", family, mask=True, auto=AutoModelForMaskedLM)
    whole = ModelSource(find_model(str(whole_folder)))
    assert (bare.has_head("masked"), whole.has_head("masked"), whole.has_head("spans")) == (False, True, False)
    stock = AutoModelForMaskedLM.from_pretrained(whole_folder)
    built = [whole.build(1, 0.1, seed, "masked").state_dict() for seed in (0, 1)]
    for name, value in stock.state_dict().items():
        assert torch.equal(built[0][name], value), name
        assert torch.equal(built[1][name], value), name
    new = [bare.build(1, 0.1, seed, "masked") for seed in (0, 0, 1)]
    for model in new:
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    first, again, other = (model.state_dict() for model in new)
    assert all(torch.equal(first[name], again[name]) for name in first)
    inside = f"{new[0].base_model_prefix}."
    differing = {name for name in first if not torch.equal(first[name], other[name])}
    assert differing
    assert not any(name.startswith(inside) for name in differing)  # control of the line above: some do differ
    spans = [bare.build(2, 0.1, seed, "spans").state_dict() for seed in (0, 1)]
    assert not torch.equal(spans[0]["qa_outputs.weight"], spans[1]["qa_outputs.weight"])


# --- windows and answers ----------------------------------------------------------------------------------------------


def naive_windows(source: ModelSource, text: str, context: str, max_length: int) -> list[tuple[list[int], int, int]]:
    """Ids of each window with the place of its first word and their number; words are tokens here."""
    words = context.split()
    asked = text.split()[: min(64, (max_length - 3) // 2)]
    room = max_length - 3 - len(asked)
    step = min(128, room // 2)
    of = source.tokenizer.convert_tokens_to_ids
    found, start = [], 0
    while True:
        part = words[start : start + room]
        found.append(([1, *of(asked), 2, *of(part), 2], start, len(part)))
        if start + room >= len(words):
            return found
        start += step


def long_questions(seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    texts, contexts, answers = [], [], []
    for _ in range(40):
        words = [f"w{word}" for word in rng.integers(0, 90, rng.integers(3, 60))]
        at = int(rng.integers(0, len(words)))
        answer = " ".join(words[at : at + int(rng.integers(1, 4))])
        texts.append(" ".join(f"w{word}" for word in rng.integers(0, 90, rng.integers(1, 30))))
        contexts.append(" ".join(words))
        answers.append([(len(" ".join(words[:at])) + (at > 0), answer)])
    return Split(texts, contexts, np.zeros(40), answers)


def test_windows_against_a_naive_reading(source: ModelSource) -> None:
    part = long_questions()
    data = Spans().encode(part, source.tokenizer, 30)
    expected = [
        (row, *window)
        for row, (text, context) in enumerate(zip(part.text, part.pair, strict=True))
        for window in naive_windows(source, text, context, 30)
    ]
    assert len(expected) > 80
    assert [(int(q), ids.tolist()) for q, ids in zip(data.question, data.ids, strict=True)] == [
        (row, ids) for row, ids, _, _ in expected
    ]
    inside_answers = 0
    for place, (row, ids, first, count) in enumerate(expected):
        context, (at, answer) = part.pair[row], part.answers[row][0]
        words = context.split()
        starts = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])
        offset = len(ids) - 1 - count  # where the context begins among the tokens
        characters = data.characters[place]
        assert (characters[:offset] == -1).all()
        assert characters[offset:-1, 0].tolist() == starts[first : first + count].tolist()
        # an answer counts where all of its words are in the window
        begin = int(np.flatnonzero(starts == at)[0])
        last = begin + len(answer.split()) - 1
        whole = first <= begin and last < first + count
        inside_answers += whole
        assert data.targets[place].tolist() == ([offset + begin - first, offset + last - first] if whole else [0, 0])
        # a first word counts in the window where it has the most context on its scarcer side
        others = [(f, n) for r, _, f, n in expected if r == row]
        for k in range(count):
            around = [
                min(first + k - f, f + n - 1 - first - k) + 0.01 * n if f <= first + k < f + n else -1.0
                for f, n in others
            ]
            assert data.begins[place][offset + k] == (others[int(np.argmax(around))] == (first, count))
    assert 40 < inside_answers < len(expected)  # both kinds are there
    with pytest.raises(TicketError, match=r"--max-length 8 leaves no space for the context.*at least 11"):
        Spans().encode(part, source.tokenizer, 8)


def naive_answer(logits: np.ndarray, data: Windows, row: int) -> tuple[int, int]:
    """The official decoding, window by window and pair by pair."""
    best, answer = -np.inf, (0, 0)
    for window in np.flatnonzero(data.question == row):
        n = len(data.ids[window])
        top = [sorted(range(n), key=lambda t, side=side: -logits[window, t, side])[:20] for side in (0, 1)]
        for start in top[0]:
            for end in top[1]:
                inside = data.begins[window][start] and data.characters[window][end, 0] >= 0
                if not inside or end < start or end - start + 1 > 30:
                    continue
                if (total := float(logits[window, start, 0]) + float(logits[window, end, 1])) > best:
                    best = total
                    answer = (int(data.characters[window][start, 0]), int(data.characters[window][end, 1]))
    return answer


def test_decoding_against_a_naive_one(source: ModelSource) -> None:
    part = long_questions(3)
    data = Spans().encode(part, source.tokenizer, 40)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(len(data.ids), 40, 2)).astype(np.float32)
    expected = [naive_answer(logits, data, row) for row in range(40)]
    assert decode(logits, data).tolist() == [list(one) for one in expected]
    assert decode(logits[:, :, ::-1], data).tolist() != [list(one) for one in expected]  # control
    outputs = Spans().finish(logits, data)
    for row, (begin, end) in enumerate(expected):
        said, gold = part.pair[row][begin:end], part.answers[row][0][1]
        assert outputs[row, 0] == (said == gold)
        shared = (Counter(said.split()) & Counter(gold.split())).total()
        assert outputs[row, 1] == pytest.approx(2 * shared / (len(said.split()) + len(gold.split())))
    # Logits that say where the answers are give full marks.
    logits[:] = -5
    for window, (first, last) in enumerate(data.targets):
        if first:
            logits[window, first, 0] = logits[window, last, 1] = 5
    assert evaluate(("answer_f1", "exact_match"), np.zeros(40), Spans().finish(logits, data))["score"] == 100


def test_normalised_answers() -> None:
    assert normalise_answer("  The  Beatles' (2nd) album, an A! ") == "beatles 2nd album"
    assert normalise_answer("theatre a-the") == "theatre athe"  # whole words only; punctuation goes first
    assert normalise_answer("the") == ""
    assert normalise_answer("Année") == "année"


def test_answers_are_judged_as_the_official_script_does() -> None:
    def judged(answer: str, *gold: str) -> tuple[float, float]:
        return judge_answer(normalise_answer(answer), [normalise_answer(one) for one in gold])

    assert judged("the Norman", "Normans", "norman") == (1.0, 1.0)
    assert judged("in north Paris", "Paris") == (0.0, pytest.approx(0.5))  # precision 1/3, recall 1
    assert judged("in Paris", "Paris", "the city, in Paris now") == (0.0, pytest.approx(2 * 2 / (2 + 4)))
    assert judged("", "Paris") == (0.0, 0.0)
    assert judged("Rome Rome", "Rome") == (0.0, pytest.approx(2 / 3))  # a word counts as often as it is in both


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_metrics_of_judged_outputs() -> None:
    blocks = np.array([[10, 5, 20.0], [0, 0, 0], [30, 5, 30.0]])
    assert evaluate(("token_accuracy", "perplexity"), np.zeros(7), blocks) == {
        "token_accuracy": 25.0,
        "perplexity": pytest.approx(np.exp(50 / 40)),
        "score": 25.0,  # perplexity is reported only
    }
    answers = np.array([[1, 1.0, 0, 4], [0, 0.5, 3, 9]])
    assert evaluate(("answer_f1", "exact_match"), np.zeros(2), answers) == {
        "answer_f1": 75.0,
        "exact_match": 50.0,
        "score": 75.0,
    }
    worst = evaluate(("token_accuracy", "perplexity"), np.zeros(1), np.array([[1, 0, 1e6]]))
    assert np.isfinite(worst["perplexity"])


@pytest.mark.parametrize("metrics", [("token_accuracy", "perplexity"), ("answer_f1", "exact_match")])
def test_resampled_scores_equal_repeated_examples(metrics: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    outputs = rng.random((2, 30, 4)).astype(np.float32)
    if metrics[0] == "token_accuracy":
        masked = rng.integers(0, 6, (2, 30))
        outputs = np.stack([masked, rng.binomial(masked, 0.4), 3.0 * masked], axis=-1).astype(np.float32)
    weights = rng.integers(0, 4, (20, 30)).astype(float)
    targets = np.zeros(77)  # as many as a corpus has lines
    scores = weighted_scores(metrics, targets, outputs[0], weights)
    for row, found in zip(weights, scores, strict=True):
        repeated = np.repeat(outputs[0], row.astype(int), axis=0)
        assert found == pytest.approx(evaluate(metrics, targets, repeated)["score"], rel=1e-9)
    assert len({round(score, 6) for score in scores}) > 15  # control: weights matter
    halved = halved_scores(outputs, metrics, targets, halvings=3)
    assert halved.shape == (2, 7)
    assert halved[:, 0] == pytest.approx([evaluate(metrics, targets, epoch)["score"] for epoch in outputs])


# --- training ---------------------------------------------------------------------------------------------------------


def learns(source: ModelSource, task: Task, recipe: Recipe) -> tuple[list[float], list[float]]:
    """Return the dev scores by epoch of a training, and of one that learns nothing."""
    untrained = recipe.model_copy(update={"learning_rate": 1e-12})
    runs = [trainer_of(source, task, one).train() for one in (recipe, untrained)]
    trained, control = ([epoch["score"] for epoch in run.epochs] for run in runs)
    return trained, control


@pytest.mark.slow
def test_a_tiny_model_learns_what_was_masked(source: ModelSource, tmp_path: Path) -> None:
    task = text_task(tmp_path, 150)
    trained, control = learns(source, task, RECIPE.model_copy(update={"epochs": 4}))
    assert max(trained) > max(control) + 20
    assert len(set(control)) == 1  # evaluations mask the same tokens every time, whatever training drew


@pytest.mark.slow
def test_a_tiny_model_learns_where_answers_are(source: ModelSource, tmp_path: Path) -> None:
    task = squad_task(tmp_path, marked_answers(120, 0), marked_answers(40, 1))
    trained, control = learns(source, task, RECIPE.model_copy(update={"epochs": 6}))
    assert max(trained) > max(control) + 20


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("kind", ["mlm", "squad"])
def test_a_stopped_training_ends_bit_identical(kind: str, source: ModelSource, tmp_path: Path) -> None:
    task = task_of(kind, tmp_path)
    recipe = RECIPE.model_copy(update={"dropout": 0.1})
    whole = trainer_of(source, task, recipe)
    expected = whole.train()

    def attempt(stop: int | None) -> Trainer:
        def report(event: dict[str, Any]) -> None:
            if event["step"] == stop:
                raise StoppedError

        trainer = trainer_of(source, task, recipe, checkpoints=Checkpoints(tmp_path / "checkpoint", every=0.0))
        torch.manual_seed(99)
        trainer.train(report)
        return trainer

    steps = whole.total // 2
    for stop in (steps // 2, steps + 2):
        with pytest.raises(StoppedError):
            attempt(stop)
    again = attempt(None)
    assert again.result.epochs == expected.epochs
    for have, want in zip(again._parameters, whole._parameters, strict=True):
        assert torch.equal(have, want)
    other = trainer_of(source, task, recipe, seed=1).train()  # control
    assert other.epochs != expected.epochs


@pytest.mark.parametrize("family", FAMILIES)
def test_ties_survive_training_saving_and_loading(family: str, tmp_path: Path) -> None:
    source = ModelSource(find_model(str(save_tiny_model(tmp_path / "model", family, mask=True))))
    task = text_task(tmp_path)
    trainer = trainer_of(source, task, RECIPE.model_copy(update={"epochs": 1}), ticket=PART)
    trainer.train()
    trainer.restore()
    (learner,) = trainer.learners
    model = learner.model
    embedding = model.get_input_embeddings()
    assert model.get_output_embeddings().weight is embedding.weight
    assert len(embedding.weight) == VOCABULARY
    pretrained = source.build(1, 0.0, 0, "masked")
    changed = (embedding.weight - pretrained.get_input_embeddings().weight).abs().amax(dim=1) > 0
    assert changed.all()  # also of words that no text has: the softmax is over all of them
    weights = _weights([model])
    assert sum(value.numel() for value in weights.values()) == sum(p.numel() for p in model.parameters()) + sum(
        b.numel() for name, b in model.named_buffers() if name in weights
    )
    dense = source.build(1, 0.0, 0, "masked")
    expand(dense, PART, weights)
    back = cut(dense, PART)
    assert back.get_output_embeddings().weight is back.get_input_embeddings().weight
    for name, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], value), name


def test_an_encoder_goes_on_under_another_output_layer(source: ModelSource, tmp_path: Path) -> None:
    squad = squad_task(tmp_path, marked_answers(8, 0), marked_answers(4, 1))
    trainer = trainer_of(source, squad, RECIPE.model_copy(update={"epochs": 1}))
    trainer.train()
    trainer.restore()
    weights = {name: value for name, value in _weights([trainer.learners[0].model]).items() if name.startswith("bert.")}
    before = source.build(3, 0.0, 0).state_dict()
    model = source.build(3, 0.0, 0)
    expand(model, FULL, weights)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights.get(name, before[name])), name  # the pooler is the pre-trained one
    assert not torch.equal(
        weights["bert.encoder.layer.0.output.dense.weight"], before["bert.encoder.layer.0.output.dense.weight"]
    )
    back = source.build(2, 0.0, 0, "spans")
    expand(back, FULL, {name: value for name, value in model.state_dict().items() if name.startswith("bert.")})
    broken = {name: value for name, value in weights.items() if "layer.1." not in name}
    with pytest.raises(RuntimeError, match="not those of this model"):
        expand(model, FULL, broken)


@pytest.mark.parametrize("kind", ["mlm", "squad"])
def test_importance_is_measured_on_fixed_examples(kind: str, source: ModelSource, tmp_path: Path) -> None:
    task = task_of(kind, tmp_path)
    trainer = trainer_of(source, task, RECIPE.model_copy(update={"epochs": 1}))
    trainer.train()
    settings = ScoringSettings.model_validate({})
    (heads, ffns), (again, _) = (score(trainer, settings, lambda: None).values() for _ in range(2))  # type: ignore[arg-type, return-value]
    assert heads.shape == (LAYERS, HEADS)
    assert (heads > 0).all()
    assert (ffns > 0).all()
    assert np.array_equal(heads, again)
    # One head's importance by finite differences of each example's loss.
    (learner,) = trainer.learners
    learner.model.double().eval()
    objective, data, step = objective_of(task), learner.data.train, 1e-4

    def losses(gate: float) -> torch.Tensor:
        inputs, targets = data.collate(range(len(data.ids)), CPU)
        at = torch.tensor([1.0, gate, 1.0, 1.0], dtype=torch.float64)[:, None]
        with (
            torch.inference_mode(),
            gated(learner.model, heads=lambda layer, context: at if layer == 1 else torch.ones(1)),
        ):
            return objective.losses(objective.forward(learner.model, inputs, targets), targets)

    expected = ((losses(1 + step) - losses(1 - step)) / (2 * step)).abs().mean()
    assert heads[1, 1] == pytest.approx(float(expected), rel=1e-3)
    assert heads[1, 2] != pytest.approx(float(expected), rel=1e-3)  # control


# --- studies ----------------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "levels": (0.4,),
    "seeds": 1,
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "max_length": 20,
    "precision": "float32",
    "workers": 1,
    "kinds": ("winning",),
}


def exported(
    done: Result, task: Task, stock: Callable[[Path], PreTrainedModel]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the outputs that a study remembers of its super ticket, and those of the exported model."""
    source = ModelSource(find_model(str(done.settings.model)))
    model = stock(done.shipped["ticket"] / "model")
    best = done.table[done.table["kind"] == "winning"].iloc[0]
    ticket = super_ticket(done)
    outcome = load_outcome(done.folder / "trials" / best["trial"])
    assert outcome is not None
    recipe = outcome.trial.recipe
    data = encode(task, source.tokenizer, recipe.max_length)
    remembered = outcome.predictions()["dev"][outcome.best_epoch - 1]
    trainer = Trainer([Learner(data, model, ticket)], Plan(recipe), CPU)
    dense = Trainer([Learner(data, source.build(task.outputs, 0.1, 0, task.form), FULL)], Plan(recipe), CPU)
    found, other = (one.predict(one.learners[0], one.learners[0].data.evaluations["dev"]) for one in (trainer, dense))
    return remembered, found, other


def test_finds_a_ticket_of_a_masked_language_model(model_folder: Path, tmp_path: Path) -> None:
    task = text_task(tmp_path)
    files = {"train_file": tmp_path / "train.txt", "dev_file": tmp_path / "dev.txt"}
    done = supertickets.find(SMALL, task="mlm", model=str(model_folder), out=tmp_path / "study", **files)
    assert not done.failures
    assert {"token_accuracy", "perplexity"} <= {*done.table.columns}
    assert np.allclose(done.table["score"], done.table["token_accuracy"])
    remembered, found, other = exported(done, task, AutoModelForMaskedLM.from_pretrained)
    assert np.array_equal(remembered, found)
    assert not np.allclose(remembered, other, rtol=1e-2)  # control: the untrained model
    model = AutoModelForMaskedLM.from_pretrained(done.shipped["ticket"] / "model")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert done.report.is_file()
    plan = plan_study("find", SMALL, task="mlm", model=str(model_folder), out=tmp_path / "study", **files)
    assert plan.done == plan.trainings == 2


def test_finds_a_ticket_of_a_reader(model_folder: Path, tmp_path: Path) -> None:
    task = squad_task(tmp_path / "squad", marked_answers(40, 0), marked_answers(20, 1))
    done = supertickets.find(SMALL, task="squad", data=tmp_path, model=str(model_folder), out=tmp_path / "study")
    assert not done.failures
    assert np.allclose(done.table["score"], done.table["answer_f1"])
    assert "exact_match" in done.table.columns
    card = (done.shipped["ticket"] / "README.md").read_text()
    assert "AutoModelForQuestionAnswering.from_pretrained" in card
    assert "(answer_f1; level" in card  # what the score is, without what is only reported
    with pytest.raises(TicketError, match="expected a sequence classification model, got a BertForQuestionAnswering"):
        predict(done.shipped["ticket"] / "model", ["w1"], ["w2"], 20)
    remembered, found, other = exported(done, task, AutoModelForQuestionAnswering.from_pretrained)
    assert np.array_equal(remembered, found)
    assert not np.array_equal(remembered, other)


def test_misuse_is_told_before_anything_is_written(model_folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("w1 w2 w3\n" * 20)
    files: dict[str, Any] = {"task": "mlm", "train_file": tmp_path / "short.txt", "out": tmp_path / "out"}
    with pytest.raises(
        TicketError, match=r"the dev set has 6 tokens, expected at least 2 blocks of 18 .--max-length 20"
    ):
        supertickets.find(SMALL, model=str(model_folder), **files)
    with pytest.raises(TicketError, match="needs a mask token"):
        supertickets.find(SMALL, model=str(tiny_model), **files)
    squad_task(tmp_path, marked_answers(8, 0), marked_answers(4, 1))
    with pytest.raises(TicketError, match="--max-length 6 leaves no space for the context"):
        supertickets.find(
            {**SMALL, "max_length": 6}, model=str(model_folder), task="squad", data=tmp_path, out=tmp_path / "out"
        )
    with pytest.raises(TicketError, match="task 'mlm' has outputs for each token"):
        supertickets.share(tasks=("mlm", "entailment"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- real files -------------------------------------------------------------------------------------------------------

REAL = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the real files are not beside this checkout")


@REAL
def test_reads_the_real_files() -> None:
    task = load_task(TaskSource(task="squad", data=SHARED / "data"))
    assert len(task.dev) == 10570
    assert max(len(answers) for answers in task.dev.answers) >= 3
    corpus = load_task(TaskSource(task="mlm", data=SHARED / "data"))
    assert len(corpus.train) > 5000


@REAL
def test_real_answers_are_where_their_tokens_are() -> None:
    """With the default model's word pieces, every answer's tokens give back its text, and full marks."""
    source = ModelSource(find_model("default"))
    dev = load_task(TaskSource(task="squad", data=SHARED / "data")).dev
    some = Split(dev.text[:400], dev.pair[:400], dev.targets[:400], dev.answers[:400])
    data = Spans().encode(some, source.tokenizer, 192)
    assert len(data.ids) > 400
    logits = np.full((len(data.ids), 192, 2), -5, np.float32)
    for window, (first, last) in enumerate(data.targets):
        if first:
            logits[window, first, 0] = logits[window, last, 1] = 5
    outputs = Spans().finish(logits, data)
    assert outputs[:, 1].mean() > 0.97  # a few gold answers are parts of words
    assert isinstance(encode(load_task(TaskSource(task="mlm")), source.tokenizer, 128).train, Blocks)

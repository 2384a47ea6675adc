"""Questions whose answers are spans of a context: windows of long contexts, and the best span over all of them.

As SQuAD's baselines do it (Devlin et al., BERT, section 4.2, and the released code): a question keeps its first 64
tokens; a context that does not fit is read in windows that begin every 128 tokens; where an answer is not whole in a
window, its target there is the first token. A predicted answer has at most 30 tokens; its first one counts only in the
window where it has the most context around it.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from supertickets.errors import TicketError
from supertickets.tasks import Split
from supertickets.tasks.metrics import judge_answer, normalise_answer
from supertickets.training.batches import Encoded

QUESTION_TOKENS, STEP = 64, 128
BEST, ANSWER_TOKENS = 20, 30
_NOWHERE = -1
_LEAST_ROOM = 4  # tokens of a context that must fit into a window
_CHUNK = 2000  # windows that are decoded together


@dataclass(frozen=True)
class Windows(Encoded):
    """Windows of contexts, each after its question; `targets` `[windows, 2]` are the answer's first and last token.

    `characters` `[tokens, 2]` of each window say where a token of the context begins and ends in it, -1 for others;
    `begins` `[tokens]` whether an answer may begin there. `question` is each window's question, by its row in `asked`.
    """

    characters: list[NDArray[np.int32]]
    begins: list[NDArray[np.bool_]]
    question: NDArray[np.int64]
    asked: Split
    gold: list[list[str]]


class Spans:
    """The form `spans`: an example to learn from is a window, its loss the mean of the start's and the end's."""

    def encode(self, part: Split, tokenizer: Any, max_length: int) -> Windows:
        """Tokenise questions with windows of their contexts.

        Raises TicketError if `max_length` leaves no space for a context, or if the tokenizer is not a fast one.
        """
        assert part.pair is not None
        assert part.answers is not None
        if not getattr(tokenizer, "is_fast", False):
            raise TicketError("answers as spans need a fast tokenizer (a tokenizer.json in the model's folder).")
        around = tokenizer.num_special_tokens_to_add(pair=True)
        longest = min(QUESTION_TOKENS, (max_length - around) // 2)
        if longest < 1 or max_length - around - longest < _LEAST_ROOM:
            raise TicketError(
                f"--max-length {max_length} leaves no space for the context next to its question; expected at least "
                f"{around + 2 * _LEAST_ROOM}."
            )
        questions, lengths = _shortened(part.text, tokenizer, longest)
        found: dict[int, list[_Window]] = {}
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            pairs = [questions[row] for row in rows], [part.pair[row] for row in rows]
            for one in _windows(*pairs, tokenizer, max_length, max_length - around - int(length)):
                found.setdefault(int(rows[one.question]), []).append(one)
        windows = [(row, one) for row in sorted(found) for one in _may_begin(found[row])]
        targets = [_target(one.characters, *part.answers[row][0]) for row, one in windows]
        segments = "token_type_ids" in tokenizer.model_input_names
        return Windows(
            [one.ids for _, one in windows],
            [one.segments for _, one in windows] if segments else None,
            np.array(targets, np.int64),
            tokenizer.pad_token_id,
            [one.characters for _, one in windows],
            [one.begins for _, one in windows],
            np.array([row for row, _ in windows]),
            part,
            [[normalise_answer(text) for _, text in answers] for answers in part.answers],
        )

    def forward(self, model: PreTrainedModel, inputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        """Return logits `[windows, tokens, 2]` of an answer's first and last token; padding can be neither."""
        found = model(**inputs)
        logits = torch.stack([found.start_logits, found.end_logits], dim=-1)
        return logits.masked_fill(inputs["attention_mask"][..., None] == 0, -torch.inf)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each window's loss `[windows]`."""
        return nn.functional.cross_entropy(outputs, targets, reduction="none").mean(dim=1)

    def judging(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Return a context that changes nothing."""
        return nullcontext()

    def blank(self, data: Encoded) -> NDArray[np.float32]:
        """Return an array for the logits of all windows, `[windows, tokens, 2]`."""
        return np.zeros((len(data.ids), int(data.lengths.max()), 2), np.float32)

    def judge(self, outputs: Tensor, targets: Tensor) -> NDArray[np.float32]:
        """Return the logits, 0 at padding."""
        return outputs.float().masked_fill(outputs.isneginf(), 0.0).cpu().numpy()

    def finish(self, found: NDArray[np.float32], data: Encoded) -> NDArray[np.float32]:
        """Return of each question exact match (0 or 1), F1 (0 to 1), and where its answer begins and ends.

        Those are characters of the context; an answer that has no token is 0 to 0.
        """
        assert isinstance(data, Windows)
        assert data.asked.pair is not None
        spans = decode(found, data)
        judged = np.zeros((len(data.asked), 4), np.float32)
        judged[:, 2:] = spans
        for row, (context, gold) in enumerate(zip(data.asked.pair, data.gold, strict=True)):
            judged[row, :2] = judge_answer(normalise_answer(context[spans[row, 0] : spans[row, 1]]), gold)
        return judged


def decode(logits: NDArray[np.float32], data: Windows) -> NDArray[np.int64]:
    """Return the characters `[questions, 2]` where each question's best answer begins and ends.

    Of a window's 20 best first and 20 best last tokens, the pair with the largest sum of logits that is an answer: in
    the context, in order, and not too long; then the best over the windows. The earlier window wins where two tie.
    """
    scores = np.full(len(logits), -np.inf)
    tokens = np.zeros((len(logits), 2), np.int64)
    for begin in range(0, len(logits), _CHUNK):
        some = slice(begin, begin + _CHUNK)
        scores[some], tokens[some] = _best_spans(logits[some], data, begin)
    spans = np.zeros((len(data.asked), 2), np.int64)
    order = np.lexsort((np.arange(len(scores)), -scores, data.question))
    rows, first = np.unique(data.question[order], return_index=True)
    for row, window in zip(rows, order[first], strict=True):
        if np.isfinite(scores[window]):
            start, end = tokens[window]
            spans[row] = data.characters[window][start, 0], data.characters[window][end, 1]
    return spans


def _best_spans(
    logits: NDArray[np.float32], data: Windows, begin: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return each window's best sum of logits (-inf if no span is an answer) and its tokens `[windows, 2]`."""
    windows, width, _ = logits.shape
    begins, inside = np.zeros((2, windows, width), bool)
    values = np.full((2, windows, width), -np.inf)
    for i in range(windows):
        n = len(data.ids[begin + i])
        begins[i, :n] = data.begins[begin + i]
        inside[i, :n] = data.characters[begin + i][:, 0] != _NOWHERE
        values[:, i, :n] = logits[i, :n].T
    best = np.argsort(-values, axis=2, kind="stable")[:, :, :BEST]
    starts, ends = best[0][:, :, None], best[1][:, None, :]
    row = np.arange(windows)[:, None, None]
    allowed = begins[row, starts] & inside[row, ends] & (ends >= starts) & (ends - starts < ANSWER_TOKENS)
    sums = np.where(allowed, values[0][row, starts] + values[1][row, ends], -np.inf).reshape(windows, -1)
    chosen = sums.argmax(axis=1)
    start, end = np.divmod(chosen, best.shape[2])
    every = np.arange(windows)
    return sums[every, chosen], np.stack([best[0][every, start], best[1][every, end]], axis=1)


@dataclass
class _Window:
    """A window of a question's context; `first` is the place in the whole context of its first token there."""

    question: int
    ids: NDArray[np.int32]
    segments: NDArray[np.int32]
    characters: NDArray[np.int32]
    first: int
    begins: NDArray[np.bool_]


def _shortened(questions: Sequence[str], tokenizer: Any, longest: int) -> tuple[list[str], NDArray[np.int64]]:
    """Return questions cut to `longest` tokens, and how many each has."""
    found = tokenizer(list(questions), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    kept = [
        text if len(offsets) <= longest else text[: offsets[longest - 1][1]]
        for text, offsets in zip(questions, found["offset_mapping"], strict=True)
    ]
    ids = tokenizer(kept, add_special_tokens=False, verbose=False)["input_ids"]
    return kept, np.array([len(one) for one in ids])


def _windows(questions: list[str], contexts: list[str], tokenizer: Any, max_length: int, room: int) -> list[_Window]:
    """Return windows of contexts with `room` tokens each; all questions have the same length."""
    step = max(1, min(STEP, room // 2))
    found = tokenizer(
        questions,
        contexts,
        truncation="only_second",
        max_length=max_length,
        stride=room - step,  # tokenizers call so what two windows have in common
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    windows: list[_Window] = []
    for i, question in enumerate(found["overflow_to_sample_mapping"]):
        inside = np.array([part == 1 for part in found.sequence_ids(i)])
        characters = np.where(inside[:, None], np.array(found["offset_mapping"][i]), _NOWHERE).astype(np.int32)
        again = bool(windows) and windows[-1].question == question
        windows.append(
            _Window(
                question,
                np.array(found["input_ids"][i], np.int32),
                np.array(found["token_type_ids"][i], np.int32),
                characters,
                windows[-1].first + step if again else 0,
                inside,
            )
        )
    return windows


def _may_begin(windows: list[_Window]) -> list[_Window]:
    """Let each token of a context begin an answer in that window only where it has the most context around it.

    What is on its two sides counts as the smaller of both, and a hundredth of the window's length breaks ties; then the
    earlier window does.
    """
    if len(windows) == 1:
        return windows
    last = windows[-1]
    most = np.full(last.first + int(last.begins.sum()), -np.inf)
    where = np.zeros(len(most), np.int64)
    for number, window in enumerate(windows):
        n = int(window.begins.sum())
        around = np.minimum(np.arange(n), n - 1 - np.arange(n)) + 0.01 * n
        there = slice(window.first, window.first + n)
        better = around > most[there]
        most[there] = np.where(better, around, most[there])
        where[there] = np.where(better, number, where[there])
    for number, window in enumerate(windows):
        inside = np.flatnonzero(window.begins)
        window.begins = window.begins.copy()
        window.begins[inside] = where[window.first : window.first + len(inside)] == number
    return windows


def _target(characters: NDArray[np.int32], start: int, answer: str) -> tuple[int, int]:
    """Return the first and the last token of an answer in a window; the first token of all where it is not whole."""
    inside = np.flatnonzero(characters[:, 0] != _NOWHERE)
    end = start + len(answer)
    if len(inside) == 0 or characters[inside[0], 0] > start or characters[inside[-1], 1] < end:
        return 0, 0
    first = inside[np.searchsorted(characters[inside, 1], start, side="right")]
    last = inside[np.searchsorted(characters[inside, 0], end, side="left") - 1]
    return (int(first), int(last)) if first <= last else (0, 0)

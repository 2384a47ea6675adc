"""Words with tags: a label on each word's first token, and entities judged a sentence at a time.

As BERT's authors do it (Devlin et al., NAACL 2019, section 5.3): a word is represented by its first token. Of a
sentence that is cut, the words that are left out stay among the gold ones, and are not found.
"""

import copy
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
from supertickets.tasks import Split, Task
from supertickets.tasks.metrics import judge_tags
from supertickets.tasks.tables import counted
from supertickets.training.batches import Encoded, tokenised
from supertickets.training.masked import IGNORED

_UNSEEN = -1
"""The place of a word that has no token: one beyond the last token of a sentence, or one that the tokenizer drops."""


@dataclass(frozen=True)
class Sentences(Encoded):
    """Sentences of words; `targets` are not read.

    `first` `[words]` of each sentence says which token is a word's first, -1 where none is there; `tags` `[words]` are
    the words' tags by index.
    """

    first: list[NDArray[np.int32]]
    tags: list[NDArray[np.int64]]

    def collate(
        self, rows: Sequence[int] | NDArray[np.int64], device: torch.device, drawn: Sequence[int] = ()
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return inputs and targets `[sentences, tokens]`: the tag of a word at its first token, IGNORED elsewhere."""
        inputs, _ = super().collate(rows, device)
        targets = np.full(tuple(inputs["input_ids"].shape), IGNORED, np.int64)
        for i, row in enumerate(rows):
            seen = self.first[row] != _UNSEEN
            targets[i, self.first[row][seen]] = self.tags[row][seen]
        return inputs, torch.from_numpy(targets).to(device)


class Tokens:
    """The form `tokens`: an example is a sentence, its loss the mean over its words (0 if none of them is seen)."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = labels

    def encode(self, part: Split, tokenizer: Any, max_length: int) -> Sentences:
        """Tokenise sentences word by word; those longer than `max_length` tokens are cut.

        Raises TicketError if the tokenizer is not a fast one or cannot take words, or if no word fits.
        """
        assert part.words is not None
        around = tokenizer.num_special_tokens_to_add()
        if max_length <= around:
            raise TicketError(f"--max-length {max_length} leaves no space for a word; expected at least {around + 1}.")
        found = _of_words(part, for_words(tokenizer), truncation=True, max_length=max_length)
        segments = found["token_type_ids"] if "token_type_ids" in tokenizer.model_input_names else None
        return Sentences(
            [np.array(ids, np.int32) for ids in found["input_ids"]],
            [np.array(ids, np.int32) for ids in segments] if segments is not None else None,
            part.targets,
            tokenizer.pad_token_id,
            [_first(found.word_ids(row), len(words)) for row, words in enumerate(part.words)],
            [np.array([tag for _, tag in words], np.int64) for words in part.words],
        )

    def forward(self, model: PreTrainedModel, inputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        """Return logits `[sentences, tokens, tags]`."""
        logits: Tensor = model(**inputs).logits
        return logits

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each sentence's loss `[sentences]`: the mean cross-entropy of its words' first tokens."""
        losses = nn.functional.cross_entropy(outputs.transpose(1, 2), targets, reduction="none", ignore_index=IGNORED)
        return losses.sum(dim=1) / (targets != IGNORED).sum(dim=1).clamp(min=1)

    def judging(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Return a context that changes nothing."""
        return nullcontext()

    def blank(self, data: Encoded) -> NDArray[np.float32]:
        """Return an array for the tags of all tokens, `[sentences, tokens]`."""
        return np.zeros((len(data.ids), int(data.lengths.max())), np.float32)

    def judge(self, outputs: Tensor, targets: Tensor) -> NDArray[np.float32]:
        """Return the likeliest tag of every word at its first token, NaN where logits are not finite; 0 elsewhere."""
        best = outputs.argmax(dim=-1).float().masked_fill(~outputs.isfinite().all(dim=-1), torch.nan)
        return best.masked_fill(targets == IGNORED, 0.0).cpu().numpy()

    def finish(self, found: NDArray[np.float32], data: Encoded) -> NDArray[np.float32]:
        """Return what is judged of each sentence (see `tasks.metrics`), `[sentences, 5]`."""
        assert isinstance(data, Sentences)
        judged = np.zeros((len(data.ids), 5), np.float32)
        for row, (first, gold) in enumerate(zip(data.first, data.tags, strict=True)):
            said = [None if at == _UNSEEN else self._labels[int(found[row, at])] for at in first]
            judged[row] = judge_tags(said, [self._labels[tag] for tag in gold])
        return judged


def for_words(tokenizer: Any) -> Any:
    """Return a tokenizer that reads words apart as it reads them in a text, with a space before the first one too.

    It is the same one, or a copy with `add_prefix_space`, as RoBERTa's and GPT-2's need it. Raises TicketError if it is
    not a fast one, or if it has no such setting.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise TicketError("tags of words need a fast tokenizer (a tokenizer.json in the model's folder).")
    if _reads_words(tokenizer):
        return tokenizer
    from tokenizers.pre_tokenizers import ByteLevel

    other = copy.deepcopy(tokenizer)
    if isinstance(splitter := other.backend_tokenizer.pre_tokenizer, ByteLevel):
        splitter.add_prefix_space = True
        other.add_prefix_space = other.init_kwargs["add_prefix_space"] = True
        if _reads_words(other):
            return other
    raise TicketError(
        f"the model's tokenizer ({type(tokenizer).__name__}) reads words apart in another way than within a text, and "
        "has no add_prefix_space; tags of words need a model such as bert-base-cased or roberta-base."
    )


def _reads_words(tokenizer: Any) -> bool:
    """Return whether words alone have the tokens that they have within a text."""
    how = {"add_special_tokens": False, "verbose": False}
    apart = tokenised(tokenizer, ["a", "a"], is_split_into_words=True, **how)["input_ids"]
    return bool(apart == tokenised(tokenizer, "a a", **how)["input_ids"])


def _of_words(part: Split, tokenizer: Any, **how: Any) -> Any:
    assert part.words is not None
    words = [[word for word, _ in sentence] for sentence in part.words]
    return tokenised(tokenizer, words, is_split_into_words=True, verbose=False, **how)


def _first(word_ids: Sequence[int | None], words: int) -> NDArray[np.int32]:
    """Return the first token of each word `[words]`, _UNSEEN where it has none."""
    first = np.full(words, _UNSEEN, np.int32)
    for token, word in enumerate(word_ids):
        if word is not None and first[word] == _UNSEEN:
            first[word] = token
    return first


def describe_words(task: Task, tokenizer: Any, max_length: int) -> list[str]:
    """Return how many words of each set the model does not see: those cut off, and those without any token."""
    objective, found = Tokens(task.labels), []
    for name, part in {"training": task.train, **task.evaluations}.items():
        places = objective.encode(part, tokenizer, max_length).first
        unseen, words = sum(int((first == _UNSEEN).sum()) for first in places), sum(map(len, places))
        if unseen:
            effect = "not learnt from" if name == "training" else "counted as not found"
            found.append(
                f"{unseen:,} of {counted(words, f'{name} word')} cut off beyond {max_length} tokens (--max-length), or "
                f"without a token: {effect}."
            )
    return found or [f"No word is cut off at {max_length} tokens (--max-length)."]

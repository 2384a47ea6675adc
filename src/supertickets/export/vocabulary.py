"""The part of a vocabulary that nobody uses, left behind: fewer embedding rows, a smaller tokenizer, the same outputs.

Half of a small encoder is its word embeddings, most of which a task never reads. On the texts that a vocabulary is cut
for, tokens and outputs are those of the whole one; `texts_that_differ` says what happens on others.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from supertickets.errors import StudyError, TicketError, unknown_value
from supertickets.export.fewer_tokens import check_fast, cut_tokenizer
from supertickets.models import new_modules, quiet_transformers
from supertickets.models.tokenizer import without_rows
from supertickets.storage import user_path
from supertickets.tasks import Task
from supertickets.tasks.tables import counted
from supertickets.tasks.text import read_lines
from supertickets.training.batches import tokenised
from supertickets.training.tokens import for_words

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

Text = str | tuple[str, str] | list[str]
"""A text, a pair of texts, or the words of a sentence, read apart as a task of tags reads them."""
CHOICES = ("used", "corpus", "all")
"""What `--vocabulary` may say."""
_AT_ONCE = 1000  # texts that are tokenised together
_LISTS = ("bad_words_ids", "begin_suppress_tokens", "force_words_ids", "suppress_tokens")
"""Fields of configs that list ids of tokens, in lists of lists too, beside those whose names end with `token_id`."""
_NOT_RENUMBERED = ("constraints", "forced_decoder_ids", "sequence_bias")
"""Fields that have other numbers beside ids."""


@dataclass(frozen=True)
class VocabularyCut:
    """A model and its tokenizer with fewer tokens. `kept` `[rows]` has each row's place in the whole vocabulary, of
    `whole` rows; `parameters` and `dense_parameters` are the model's, now and before.
    """

    model: "PreTrainedModel"
    tokenizer: Any
    kept: NDArray[np.int64]
    whole: int
    parameters: int
    dense_parameters: int

    @property
    def sentence(self) -> str:
        """What was left out, in a sentence."""
        return (
            f"The vocabulary keeps {len(self.kept):,} of {self.whole:,} rows: {self.parameters:,} of "
            f"{self.dense_parameters:,} parameters stay."
        )


@dataclass(frozen=True)
class Differences:
    """Of `texts` texts, how many `differ` in their tokens, in how many of them a token is `unknown` that was known, and
    how many `tokens` there are now for each of before.
    """

    texts: int
    differ: int
    unknown: int
    tokens: float

    @property
    def share(self) -> float:
        """The share of texts whose tokens differ."""
        return self.differ / self.texts if self.texts else 0.0

    @property
    def sentence(self) -> str:
        """What was counted, in a sentence."""
        return (
            f"{self.differ:,} of {counted(self.texts, 'text')} ({100 * self.share:.1f} %) have other tokens than with "
            f"the whole vocabulary, {self.unknown:,} of them with a token that is unknown now; there are "
            f"{self.tokens:.2f} times as many tokens."
        )


@dataclass(frozen=True)
class VocabularyTexts:
    """The texts that a vocabulary is cut for, None for all there could be, and sentences on how they were read."""

    texts: Sequence[Text] | None
    notices: tuple[str, ...] = ()


def vocabulary_texts(which: str, tasks: Sequence[Task] = (), corpus: Path | str | None = None) -> VocabularyTexts:
    """Return the texts that `--vocabulary` names: `used` by tasks, the lines of a `corpus`, or `all` there could be.

    Of tasks they are those of the training set and of every evaluation set, whole. Raises TicketError for another
    choice, `used` without tasks, or a corpus that is not there, is empty or not UTF-8.

    >>> vocabulary_texts("all").texts is None
    True
    """
    if which not in CHOICES:
        raise unknown_value("--vocabulary", which, CHOICES)
    if (which == "corpus") != (corpus is not None):
        what = "has no file with it" if corpus is None else f"takes no file, and {corpus} was given"
        raise TicketError(
            f"--vocabulary {which} {what}; expected --vocabulary corpus --corpus FILE, with one text in each line."
        )
    if corpus is not None:
        (lines,), notices = read_lines(user_path(corpus))
        return VocabularyTexts(lines, notices)
    if which == "all":
        return VocabularyTexts(None)
    if not tasks:
        raise TicketError(
            "--vocabulary used needs the texts of a task, and there is none beside a ticket folder or a model; export "
            "a study's folder, or use --vocabulary corpus --corpus FILE."
        )
    return VocabularyTexts([text for task in tasks for text in _texts(task)])


def _texts(task: Task) -> Iterator[Text]:
    """Yield what the model's tokenizer is asked of a task."""
    for part in (task.train, *task.evaluations.values()):
        if part.words is not None:
            yield from ([word for word, _ in sentence] for sentence in part.words)
        elif part.pair is not None:
            yield from zip(part.text, part.pair, strict=True)
        else:  # lines of a corpus have their ends where a decoder reads them
            yield from (f"{text}\n" if task.form == "causal" else text for text in part.text)


def cut_vocabulary(model: "PreTrainedModel", tokenizer: Any, texts: Iterable[Text]) -> VocabularyCut:
    """Cut a model's word embeddings, in place, and its tokenizer to the tokens that `texts` need.

    Special and added tokens are kept, and what any text falls back on: characters or bytes (see `fewer_tokens`). The
    tokenizer is a new one. On these texts its tokens are the same, with other ids, and so are the model's outputs; in
    language modelling there are fewer of them, so that probabilities are over fewer tokens. Raises TicketError for a
    tokenizer that is not a fast one, of an unknown kind or with tokens without a row, or one that cannot read a text,
    and for settings of generation whose ids are not renumbered.
    """
    check_fast(tokenizer)
    _check_fields(model)
    texts = list(texts)
    whole = len(_words(model))
    if beyond := without_rows(tokenizer.get_vocab(), whole):
        raise TicketError(
            f"the vocabulary cannot be cut, since the model has no embedding row for its tokenizer's {beyond[0]!r}; "
            "leave it whole with --vocabulary all."
        )
    read = _ids_read(model, whole)
    used = read.union(*(found for some in _chunks(texts) for found in encode_texts(tokenizer, some)))
    smaller = cut_tokenizer(tokenizer, used, model.config)
    kept = _kept(tokenizer, smaller, read)
    for some in _chunks(texts):
        for text, before, now in zip(some, *(encode_texts(one, some) for one in (tokenizer, smaller)), strict=True):
            if before != kept[now].tolist():
                raise StudyError(
                    f"the smaller tokenizer reads {str(text)[:60]!r} otherwise than the whole one, so the vocabulary "
                    "is not cut; please report this, and use --vocabulary all."
                )
    parameters = model.num_parameters()
    _keep_rows(model, kept, whole)
    return VocabularyCut(model, smaller, kept, whole, model.num_parameters(), parameters)


def texts_that_differ(old: Any, new: Any, texts: Iterable[Text]) -> Differences:
    """Return on how many texts two tokenizers give different tokens, by their names."""
    number, differ, unknown = 0, 0, 0
    lengths = np.zeros(2, np.int64)
    for some in _chunks(list(texts)):
        for found in zip(*(encode_texts(one, some) for one in (old, new)), strict=True):
            before, now = (one.convert_ids_to_tokens(ids) for one, ids in zip((old, new), found, strict=True))
            number += 1
            lengths += [len(before), len(now)]
            differ += before != now
            unknown += now.count(new.unk_token) > before.count(old.unk_token)
    return Differences(number, differ, unknown, float(lengths[1] / max(1, lengths[0])))


def differences_elsewhere(model: "PreTrainedModel", tokenizer: Any, texts: Sequence[Text]) -> Differences | None:
    """Return on how many of one half of the texts tokens would differ if the vocabulary were cut for the other half.

    That is what other texts of the same kind may expect, or less: a vocabulary for all of the texts has more tokens.
    The halves are random and always the same; None for fewer than two texts.
    """
    if len(texts) < 2:
        return None
    order = np.random.default_rng(0).permutation(len(texts))
    half, rest = ([texts[place] for place in places] for places in np.array_split(order, 2))
    used = _ids_read(model, len(_words(model)))
    used = used.union(*(found for some in _chunks(half) for found in encode_texts(tokenizer, some)))
    return texts_that_differ(tokenizer, cut_tokenizer(tokenizer, used, model.config), rest)


def encode_texts(tokenizer: Any, texts: Sequence[Text]) -> list[list[int]]:
    """Return the ids of each text, whole and with the special tokens around it; raises TicketError where it cannot."""
    found: list[list[int]] = [[] for _ in texts]
    for kind in (str, tuple, list):
        rows = [row for row, text in enumerate(texts) if isinstance(text, kind)]
        if rows:
            some: list[Any] = [texts[row] for row in rows]
            parts = [list(part) for part in zip(*some, strict=True)] if kind is tuple else [some]
            reader = for_words(tokenizer) if kind is list else tokenizer
            how = {"is_split_into_words": True} if kind is list else {}
            for row, ids in zip(rows, tokenised(reader, *parts, verbose=False, **how)["input_ids"], strict=True):
                found[row] = ids
    return found


def _chunks(texts: Sequence[Text]) -> Iterator[Sequence[Text]]:
    for start in range(0, len(texts), _AT_ONCE):
        yield texts[start : start + _AT_ONCE]


def _kept(old: Any, new: Any, read: set[int]) -> NDArray[np.int64]:
    """Return the old id of each new one: those of the tokenizer's entries, and behind them rows that the model reads.

    Raises TicketError if an id by which a model counts positions cannot stay what it is.
    """
    before, now = old.get_vocab(), new.get_vocab()
    kept = [before[token] for token in sorted(now, key=now.__getitem__)]
    assert sorted(now.values()) == list(range(len(kept)))
    return np.array([*kept, *sorted(read - set(kept))], np.int64)


def _configs(model: "PreTrainedModel") -> list[Any]:
    """Return the configs of a model and of models in it (T5's encoder and decoder have their own), each once."""
    from transformers import PreTrainedModel

    found = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    more = [one for module in model.modules() if (one := getattr(module, "generation_config", None)) is not None]
    return list({id(config): config for config in (*found, *more)}.values())


def _check_fields(model: "PreTrainedModel") -> None:
    """Raise TicketError for a field of a config with ids of tokens that are not renumbered."""
    values = {name: value for config in _configs(model) for name, value in config.to_dict().items() if value}
    if there := sorted(values.keys() & set(_NOT_RENUMBERED)):
        raise TicketError(
            f"the model's settings of generation have {there[0]}, whose ids of tokens cannot be renumbered; delete it "
            "in generation_config.json, or leave the vocabulary whole with --vocabulary all."
        )


def _token_fields(config: Any) -> dict[str, Any]:
    """Return a config's fields with ids of tokens: an id, or lists of ids, perhaps in lists."""
    values = {name: value for name, value in config.to_dict().items() if name.endswith("token_id") or name in _LISTS}
    listed = {name: _flat(value) for name, value in values.items()}
    return {name: values[name] for name, ids in listed.items() if ids and all(type(one) is int for one in ids)}


def _flat(value: Any) -> list[Any]:
    return [one for part in value for one in _flat(part)] if isinstance(value, list | tuple) else [value]


def _renumbered(value: Any, new: Mapping[int, int]) -> Any:
    """Return an id, or lists of ids, with other ids; one that is none of the model's is as it was."""
    if isinstance(value, list | tuple):
        return [_renumbered(part, new) for part in value]
    return new.get(value, value)


def _module_fields(model: "PreTrainedModel") -> Iterator[tuple[Any, str, int]]:
    """Yield the ids of tokens that modules have copied from their config: padding's, ESM's mask."""
    from torch import nn

    words = _words(model)
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.weight is not words:
            continue  # its padding is a position
        for name, value in vars(module).items():
            if (name == "padding_idx" or name.endswith("token_id")) and type(value) is int:
                yield module, name, value


def _ids_read(model: "PreTrainedModel", whole: int) -> set[int]:
    """Return the ids that a model reads by itself: those in its config, and those up to one it counts positions from.

    RoBERTa's positions begin behind the id of its padding, which must stay what it is.
    """
    from supertickets.anatomy import family_of

    found = {one for config in _configs(model) for ids in _token_fields(config).values() for one in _flat(ids)}
    fields = list(_module_fields(model))
    found.update(value for _, _, value in fields)
    if family_of(model.config.model_type).positions_after_padding:
        found.update(range(max((value for _, name, value in fields if name == "padding_idx"), default=-1) + 1))
    return {one for one in found if 0 <= one < whole}


def _keep_rows(model: "PreTrainedModel", kept: NDArray[np.int64], whole: int) -> None:
    """Give a model the rows `kept` of everything that has one for each token, and their ids to all that names them."""
    import torch

    new = {int(old): i for i, old in enumerate(kept)}
    rows = torch.from_numpy(kept)
    for module, name, value in list(_module_fields(model)):
        setattr(module, name, new.get(value, value))
    for config in _configs(model):
        for name, ids in _token_fields(config).items():
            setattr(config, name, _renumbered(ids, new))
        if getattr(config, "vocab_size", None) == whole:
            config.vocab_size = len(kept)
    of_words = _words(model)
    for parameter in _with_rows(model, whole):  # tied ones are the same object
        parameter.data = parameter.data[rows.to(parameter.device)].clone()
    for module in model.modules():
        if getattr(module, "weight", None) is of_words or module is model.get_output_embeddings():
            for name in ("num_embeddings", "out_features"):
                if getattr(module, name, None) == whole:
                    setattr(module, name, len(kept))
        if getattr(module, "vocab_size", None) == whole:
            vars(module)["vocab_size"] = len(kept)
        if getattr(module, "generation_config", None) is not None:
            module.generation_config = _as_read(module.generation_config)
        if (bias := dict(module.named_buffers(recurse=False)).get("final_logits_bias")) is not None:  # BART's
            module.final_logits_bias = bias[:, rows.to(bias.device)]


def _as_read(config: Any) -> Any:
    """Return settings of generation as transformers reads them from a file.

    It saves changed ones only where all of them are used, such as `top_p` with sampling; many published ones are not.
    """
    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        config.to_json_file(Path(folder) / "generation_config.json")
        return type(config).from_pretrained(folder, local_files_only=True)


def _words(model: "PreTrainedModel") -> "nn.Parameter":
    """Return a model's word embeddings `[rows, width]`."""
    weight: nn.Parameter = model.get_input_embeddings().weight  # type: ignore[assignment]
    return weight


def _with_rows(model: "PreTrainedModel", whole: int) -> "list[nn.Parameter]":
    """Return the parameters with a row for each token, each once: the words, and what predicts them.

    What a model calls its output embeddings may be a layer before the words (DeBERTa's with `legacy` false).
    """
    from torch import nn

    found: list[nn.Parameter] = [_words(model)]
    if (output := model.get_output_embeddings()) is not None:
        found += [
            one for one in (output.weight, getattr(output, "bias", None)) if one is not None and len(one) == whole
        ]
    for module in new_modules(model):  # biases of heads that predict tokens are beside the layer, too
        bias = dict(module.named_parameters(recurse=False)).get("bias")
        if bias is not None and not isinstance(module, nn.Linear | nn.LayerNorm) and tuple(bias.shape) == (whole,):
            found.append(bias)
    return list({id(one): one for one in found}.values())

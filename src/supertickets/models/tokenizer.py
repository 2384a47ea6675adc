"""A model's tokenizer, compared with the model before anything runs.

transformers makes an empty tokenizer of a folder without its files, and compares no tokenizer with a model: every word
becomes the unknown token, ids run past the embeddings, padding counts as text. What does not fit is refused here, what
stock code would get wrong is set, so that a saved tokenizer fits the saved model.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supertickets.anatomy import family_of
from supertickets.errors import TicketError
from supertickets.models.checkpoint import as_misuse, quiet_transformers, read_config
from supertickets.tasks import Task

_FEWEST = 0.5
"""A tokenizer with fewer entries than this share of the embedding rows is another model's. Rows that are a few more
than entries are common: matrices are padded to round sizes."""


@dataclass(frozen=True)
class FittedTokenizer:
    """A tokenizer that fits its model, and sentences about what was set or found unusual."""

    tokenizer: Any
    notices: tuple[str, ...]


def load_tokenizer(name: str, folder: Path) -> FittedTokenizer:
    """Load the tokenizer in a model's folder and compare it with the model's config.

    Raises TicketError if there is no tokenizer, if its entries and the embedding rows differ too much, or if it cannot
    pad.
    """
    from transformers import AutoTokenizer

    with quiet_transformers(), as_misuse(name, folder, "load the tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    config = read_config(name, folder).to_dict()  # what config.json leaves out, too
    notices: list[str] = []
    rows, entries = int(config["vocab_size"]), tokenizer.get_vocab()
    _check_entries(name, folder, tokenizer, entries, rows)
    notices += _of_rows(name, entries, rows)
    causal = family_of(config["model_type"]).causal
    if tokenizer.pad_token_id is None and causal and tokenizer.eos_token is not None:
        _set(tokenizer, "pad_token", tokenizer.eos_token)
        notices.append(
            f"The tokenizer of model {name} has no padding token; {tokenizer.eos_token!r}, its end-of-text token, is "
            "used."
        )
    if tokenizer.pad_token_id is None:
        raise TicketError(
            f"model {name!r}: its tokenizer has no padding token, which batches need; set one in {folder}'s "
            'tokenizer_config.json, such as "pad_token": "[PAD]".'
        )
    pad = config.get("pad_token_id")
    if pad is not None and pad != tokenizer.pad_token_id:
        notices.append(
            f"Model {name} has padding id {pad} in its config and {tokenizer.pad_token_id} in its tokenizer: the "
            "tokenizer's is used, as in transformers' pipelines."
        )
    if _fit_segments(name, folder, tokenizer, config):
        notices.append(f"Model {name} has no second segment: its tokenizer's segment ids (token_type_ids) are ignored.")
    notices += _turn_right(name, tokenizer)
    positions = family_of(config["model_type"]).max_length(config)
    longest: object = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, int | float) or not longest >= 1:
        raise TicketError(
            f"model {name!r}: tokenizer_config.json has model_max_length {longest!r}; expected a number of tokens, "
            f"such as {positions}."
        )
    _set(tokenizer, "model_max_length", int(min(longest, positions)))
    return FittedTokenizer(tokenizer, tuple(notices))


def check_ends(name: str, folder: Path, tokenizer: Any, task: Task) -> None:
    """Raise TicketError for a text with the token by which a decoder beside an encoder looks for the end of a text."""
    config = read_config(name, folder)
    if not config.is_encoder_decoder:
        return
    end = tokenizer.convert_ids_to_tokens(config.eos_token_id)
    if config.eos_token_id not in tokenizer("a")["input_ids"]:  # mBART's language comes after it
        raise TicketError(
            f"model {name!r}: its tokenizer does not end a text with {end!r}, by which a {config.model_type} model "
            "reads it; use the model's own tokenizer."
        )
    for what, part in {"training": task.train, **task.evaluations}.items():
        for texts in (part.text, part.pair or []):
            if (row := next((row for row, text in enumerate(texts) if end in text), None)) is not None:
                raise TicketError(
                    f"task {task.name!r}: {what} example {row + 1} has {end!r} in its text, which is how a "
                    f"{config.model_type} model marks where a text ends; remove it from the text."
                )


def check_rows(name: str, folder: Path, tokenizer: Any, task: Task) -> None:
    """Raise TicketError for a task that would read a token of the tokenizer for which the model has no embedding."""
    rows = int(read_config(name, folder).vocab_size)
    beyond = without_rows(tokenizer.get_vocab(), rows)
    if not beyond:
        return
    if task.form == "masked":  # the mask token, or a random one that is shown instead
        raise TicketError(
            f"task {task.name!r}: masked language modelling may show any of a tokenizer's tokens, and model {name!r} "
            f"has no embedding row for {beyond[0]!r}; resize its embeddings (`resize_token_embeddings`) and save both."
        )
    for what, part in {"training": task.train, **task.evaluations}.items():
        for texts in (part.text, part.pair or []):
            for row, text in enumerate(texts):
                if (token := next((one for one in beyond if one in text), None)) is not None:
                    raise TicketError(
                        f"task {task.name!r}: {what} example {row + 1} has {token!r} in its text, a special token for "
                        f"which model {name!r} has no embedding row; remove it from the text."
                    )


def without_rows(entries: Mapping[str, int], rows: int) -> list[str]:
    """Return the entries of a tokenizer that a model with so many embedding rows has none for."""
    return sorted((entry for entry, id in entries.items() if id >= rows), key=lambda entry: entries[entry])


def _check_entries(name: str, folder: Path, tokenizer: Any, entries: Mapping[str, int], rows: int) -> None:
    """Raise TicketError for ids that have no embedding, and for a tokenizer without a model's words.

    Special tokens may have none (BART's summarization models have none of the mask token, Gemma 3 of an image's), but
    for those that every batch or text has, and those that only transformers' class adds to what tokenizer.json has.
    """
    if beyond := without_rows(entries, rows):
        file = folder / "tokenizer.json"
        there = file.read_text(encoding="utf-8") if file.is_file() else None
        special = {*tokenizer.all_special_ids, *(i for i, one in tokenizer.added_tokens_decoder.items() if one.special)}
        with as_misuse(name, folder, "use the tokenizer"):
            special -= {*tokenizer("a", "a")["input_ids"]}
        special -= {tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}  # of eos padding is made
        saved = [entry for entry in beyond if there is None or json.dumps(entry, ensure_ascii=False) in there]
        if needed := [entry for entry in beyond if entry not in saved or entries[entry] not in special]:
            last = needed[-1]
            raise TicketError(
                f"model {name!r}: its tokenizer's entry {last!r} has id {entries[last]}, but the model has {rows} "
                "embedding rows; resize its embeddings (`resize_token_embeddings`) and save both, or use the model's "
                "own tokenizer."
            )
    words = set(entries) - set(tokenizer.all_special_tokens)
    if not words or len(entries) < _FEWEST * rows:
        files = sorted(path.name for path in folder.iterdir() if path.is_file())
        raise TicketError(
            f"model {name!r}: its tokenizer has {len(entries)} entries{'' if words else ', all of them special'}, but "
            f"the model has {rows} embedding rows: tokenizer files are missing or belong to another model (expected "
            f"tokenizer.json, vocab.txt, vocab.json with merges.txt, or a SentencePiece model; {folder} has "
            f"{', '.join(files[:8])})."
        )


def _of_rows(name: str, entries: Mapping[str, int], rows: int) -> Iterator[str]:
    """Yield sentences on entries without an embedding row, and on rows without an entry."""
    beyond = without_rows(entries, rows)
    if beyond:
        yield (
            f"The tokenizer of model {name} has special tokens without an embedding row ({', '.join(beyond[:3])}): a "
            "text must not have them."
        )
    if (unused := rows - len(entries) + len(beyond)) > 0:
        yield (
            f"Model {name} has {rows:,} embedding rows, its tokenizer {len(entries):,} entries: {unused:,} rows are "
            "never used."
        )


def _turn_right(name: str, tokenizer: Any) -> Iterator[str]:
    """Let a tokenizer pad and cut on the right, and yield sentences where it did not."""
    if tokenizer.padding_side != "right":
        _set(tokenizer, "padding_side", "right")  # positions are counted from the first token on
        yield f"The tokenizer of model {name} pads on the left; it is changed to pad on the right, as in training."
    if tokenizer.truncation_side != "right":
        _set(tokenizer, "truncation_side", "right")  # so are the windows of a context, and the words of a sentence
        yield f"The tokenizer of model {name} cuts long texts on the left; it is changed to cut them on the right."


def _fit_segments(name: str, folder: Path, tokenizer: Any, config: Mapping[str, Any]) -> bool:
    """Leave segment ids out where the model has no second segment; return whether that was needed."""
    names = list(tokenizer.model_input_names)
    if "token_type_ids" not in names:
        return False
    segments = config.get("type_vocab_size")
    with as_misuse(name, folder, "use the tokenizer"):
        highest = max(tokenizer("a", "a").get("token_type_ids") or [0])
    if segments is not None and highest < segments:
        return False
    if segments is not None and segments > 1:
        raise TicketError(
            f"model {name!r}: its tokenizer gives segment ids up to {highest}, but the model has {segments} segments; "
            "use the model's own tokenizer."
        )
    _set(tokenizer, "model_input_names", [one for one in names if one != "token_type_ids"])
    return True


def _set(tokenizer: Any, name: str, value: Any) -> None:
    """Set what a tokenizer does now and what it writes when it is saved."""
    setattr(tokenizer, name, value)
    tokenizer.init_kwargs[name] = value

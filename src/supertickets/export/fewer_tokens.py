"""A fast tokenizer with fewer entries, which gives the same tokens on the texts that it was cut for.

What is left out is never the first choice on these texts, so the choices on them stay what they were:

- WordPiece takes the longest entry that fits (Devlin et al., NAACL 2019): without longer ones that were not taken, the
  one that was taken is the longest still.
- BPE (Sennrich et al., ACL 2016) joins the pair of lowest rank first. The joins within a token are those that make this
  token of its characters alone; as long as all of them are kept, each is still the first of those left.
- Unigram (Kudo, ACL 2018) takes the likeliest path, which stays the likeliest among fewer. A character without an entry
  counts 10 less than the least likely entry, so that this one is kept.

Other texts get shorter tokens. Single characters are kept, and whole entries with a character that has no entry of its
own, so that a text without unknown tokens has none afterwards.
"""

import json
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from supertickets.errors import TicketError

_Entries = Mapping[str, int]  # a model's own entries, with their ids


def check_fast(tokenizer: Any) -> None:
    """Raise TicketError unless a tokenizer is a fast one, whose entries can be cut."""
    if not getattr(tokenizer, "is_fast", False):
        raise TicketError(
            f"only the vocabulary of a fast tokenizer can be cut (a tokenizer.json in the model's folder), and this "
            f"one is a {type(tokenizer).__name__}; leave the vocabulary whole with --vocabulary all."
        )


def cut_tokenizer(tokenizer: Any, used: Collection[int], config: Any) -> Any:
    """Return a tokenizer with the tokens `used` (ids), special and added ones, and what any text falls back on.

    It is as transformers loads it from its files beside a model's `config`. Entries keep their order. Raises
    TicketError if it is of another kind than WordPiece, BPE, Unigram and WordLevel.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    names = {place: token for token, place in tokenizer.get_vocab().items()}
    around: set[int] = set()

    def note(place: int) -> int:
        around.add(place)
        return place

    _renumber(content["post_processor"], note)
    keep_entries(content, {names[place] for place in {*used, *around, *tokenizer.all_special_ids} if place in names})
    return _loaded(tokenizer, content, config)


def keep_entries(content: dict[str, Any], needed: set[str]) -> None:
    """Leave out of a tokenizer.json, in place, what is neither `needed` nor fallen back on, and number the rest.

    Raises TicketError for a model of another kind than those in this module.
    """
    model = content["model"]
    if model["type"] not in _KINDS:
        raise TicketError(
            f"the tokenizer's model is {model['type']}; its vocabulary can be cut for {', '.join(_KINDS)}; leave it "
            "whole with --vocabulary all."
        )
    of_pieces = isinstance(model["vocab"], list)  # pairs of Unigram, whose place is their id
    entries = {piece[0]: i for i, piece in enumerate(model["vocab"])} if of_pieces else model["vocab"]
    ids = {**entries, **{token["content"]: token["id"] for token in content["added_tokens"]}}
    padding = content["padding"]
    needed |= {token["content"] for token in content["added_tokens"]} | {model.get("unk_token")}
    needed |= set() if padding is None else {padding["pad_token"]}
    kept = _KINDS[model["type"]](model, entries, needed & entries.keys())
    if of_pieces:
        unknown = None if model["unk_id"] is None else model["vocab"][model["unk_id"]]
        model["vocab"] = [piece for piece in model["vocab"] if piece[0] in kept]
        model["unk_id"] = None if unknown is None else model["vocab"].index(unknown)
    else:
        model["vocab"] = {token: i for i, token in enumerate(sorted(kept, key=entries.__getitem__))}
    # Tokens that were added to the model's entries have the ids behind them, in their order.
    order = sorted(kept, key=ids.__getitem__) + sorted((needed & ids.keys()) - kept, key=ids.__getitem__)
    new = {ids[token]: i for i, token in enumerate(order)}
    for token in content["added_tokens"]:
        token["id"] = new[token["id"]]
    content["added_tokens"].sort(key=lambda token: token["id"])
    _renumber(content["post_processor"], new.__getitem__)
    if padding is not None and padding["pad_token"] in ids:
        padding["pad_id"] = new[ids[padding["pad_token"]]]


def _wordpiece(model: Mapping[str, Any], entries: _Entries, needed: set[str]) -> set[str]:
    prefix = model["continuing_subword_prefix"]

    def characters(token: str) -> Iterable[str]:
        """Return the entries that the token is made of where nothing longer is known."""
        first, rest = ("", token.removeprefix(prefix)) if token.startswith(prefix) else (token[:1], token[1:])
        return [one for one in (first, *(prefix + other for other in rest)) if one]

    return needed | _fallback(entries, characters)


def _unigram(model: dict[str, Any], entries: _Entries, needed: set[str]) -> set[str]:
    least = min(model["vocab"], key=lambda piece: piece[1])[0]
    unknown = [] if model["unk_id"] is None else [model["vocab"][model["unk_id"]][0]]
    return {*needed, *_fallback(entries, lambda token: token), *_bytes(model, entries), *unknown, least}


def _bpe(model: dict[str, Any], entries: _Entries, needed: set[str]) -> set[str]:
    """Return the entries, and leave those joins in `model` that lead to needed tokens."""
    ranks = {(first, second): rank for rank, (first, second) in enumerate(model["merges"])}
    prefix, suffix = model["continuing_subword_prefix"] or "", model["end_of_word_suffix"] or ""

    def symbols(token: str) -> list[str]:
        """Return what the token is made of before anything is joined."""
        inside, core = bool(prefix) and token.startswith(prefix), token.removeprefix(prefix)
        found = [prefix + one if inside or i else one for i, one in enumerate(core.removesuffix(suffix))]
        if found and core.endswith(suffix):
            found[-1] += suffix
        return found

    kept = {token for token in entries if symbols(token) == [token]} | _bytes(model, entries) | needed
    joins: set[tuple[str, str]] = set()
    for token in needed:
        found, made = symbols(token), []
        while joined := [(ranks[pair], i) for i, pair in enumerate(pairwise(found)) if pair in ranks]:
            _, i = min(joined)
            made.append((found[i], found[i + 1]))
            found[i : i + 2] = [found[i] + found[i + 1].removeprefix(prefix)]
        if found == [token]:  # else it is one that no joins make, such as an added one
            joins.update(made)
            kept.update(first + second.removeprefix(prefix) for first, second in made)
    model["merges"] = [pair for pair in model["merges"] if tuple(pair) in joins]
    return kept


def _wordlevel(model: Mapping[str, Any], entries: _Entries, needed: set[str]) -> set[str]:
    """Return the words that are needed: there is nothing that others could fall back on but the unknown token."""
    return needed


_KINDS: dict[str, Callable[[dict[str, Any], _Entries, set[str]], set[str]]] = {
    "WordPiece": _wordpiece,
    "BPE": _bpe,
    "Unigram": _unigram,
    "WordLevel": _wordlevel,
}


def _fallback(entries: _Entries, characters: Callable[[str], Iterable[str]]) -> set[str]:
    """Return the entries that are one character, and those with a character that is no entry."""
    found = {token: list(characters(token)) for token in entries}
    return {token for token, made in found.items() if made == [token] or not entries.keys() >= set(made)}


def _bytes(model: Mapping[str, Any], entries: _Entries) -> set[str]:
    """Return the entries of bytes, which a character without an entry is made of where there are such."""
    return {f"<0x{byte:02X}>" for byte in range(256)} & entries.keys() if model.get("byte_fallback") else set()


def _renumber(processor: Any, new: Callable[[int], int]) -> None:
    """Give the special tokens that a tokenizer.json puts around texts other ids."""
    match processor:
        case {"type": "Sequence", "processors": inner}:
            for one in inner:
                _renumber(one, new)
        case {"type": "TemplateProcessing", "special_tokens": tokens}:
            for token in tokens.values():
                token["ids"] = [new(place) for place in token["ids"]]
        case {"type": "BertProcessing" | "RobertaProcessing"}:
            for name in ("sep", "cls"):
                token, place = processor[name]
                processor[name] = [token, new(place)]


def _loaded(tokenizer: Any, content: Mapping[str, Any], config: Any) -> Any:
    """Return a tokenizer with another tokenizer.json, loaded as others will: some classes build theirs anew of it."""
    from transformers import AutoTokenizer

    from supertickets.models import quiet_transformers

    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        tokenizer.save_pretrained(folder)
        text = json.dumps(content, ensure_ascii=False)
        (Path(folder) / "tokenizer.json").write_text(text, encoding="utf-8")
        found = AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True)
        found.name_or_path = tokenizer.name_or_path
    return found

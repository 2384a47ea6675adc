"""A file of masks, or of a pruned model's weights, made a ticket.

The file's tensors are named like the model's prunable matrices (`mask_content`). Their names say
which of them are masks, or else their values (`_choose`). docs/choices.md lists the layouts.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from supertickets.errors import TicketError
from supertickets.tickets.mask_content import Leaf, Weights, leaves_of
from supertickets.tickets.weights import Bools, WeightTicket

_SHOWN = 6
_NO_WEIGHTS = re.compile(r"(optim|optimi[sz]ers?|(lr_)?schedulers?|rng)(_.*)?", re.IGNORECASE)


@dataclass(frozen=True)
class MaskFile:
    """What a file gave: the ticket, and sentences on how it was read and what of it was not used."""

    ticket: WeightTicket
    notes: tuple[str, ...]


def read_masks(path: Path, weights: Weights, zeros: bool = False) -> MaskFile:
    """Return the ticket in a file of masks of a model with these prunable matrices, pre-trained `weights` by name.

    Masks are the tensors whose names say so (`weight_mask`, `masks.NAME`); if there are none, those named like the
    matrices, if they have only 0 and 1; or with `zeros` weights, whose zeros are pruned, but for matrices that have no
    zeros beside the model's own. Raises TicketError for a file that is not understood, or that prunes what a ticket
    cannot hold.
    """
    leaves = leaves_of(path, weights)
    try:
        return _ticket(leaves, weights, zeros)
    except TicketError as error:
        raise TicketError(f"{path}: {error}") from error


def _ticket(leaves: Sequence[Leaf], weights: Weights, zeros: bool) -> MaskFile:
    used, others, notes = _choose([leaf for leaf in leaves if hasattr(leaf.value, "shape")], weights, zeros)
    for leaf in others:
        _check_prunes_nothing(leaf, weights)
    first: dict[str, Leaf] = {}
    masks: dict[str, Bools] = {}
    for leaf in used:
        name, mask = str(leaf.matrix), leaf.numbers() != 0
        if not np.array_equal(masks.setdefault(name, mask), mask):
            raise TicketError(f"{first[name].key!r} and {leaf.key!r} are different masks of one matrix; expected one.")
        first.setdefault(name, leaf)
    whole = [name for name in weights if name not in masks]
    count = f"There is a mask for {len(masks)} of the model's {len(weights)} prunable matrices"
    notes.insert(1, f"{count}; the others stay whole: {_codes(whole)}." if whole else f"{count}.")
    if gone := [name for name, mask in masks.items() if not mask.any()]:
        notes.append(f"All weights are pruned in {_codes(gone)}.")
    if others:
        notes.append(f"Masks that prune nothing and are not part of a ticket: {_codes(x.key for x in others)}.")
    told = {id(leaf) for leaf in [*first.values(), *others]}
    if rest := [leaf for leaf in leaves if id(leaf) not in told]:
        notes.append(f"Not used: {_summary(rest, {leaf.keys[0] for leaf in used})}.")
    return MaskFile(WeightTicket({name: masks[name] for name in weights if name in masks}), tuple(notes))


def _choose(tensors: Sequence[Leaf], weights: Weights, zeros: bool) -> tuple[list[Leaf], list[Leaf], list[str]]:
    """Return the masks of matrices (or weights with zeros), the masks of anything else, and what there is to say.

    Raises TicketError unless the first have the model's shapes and all have a mask's values.
    """
    fitting = [leaf for leaf in tensors if leaf.matrix]
    if not fitting:
        raise TicketError(
            f"none of its tensors is named like a prunable matrix of the model: the first is {tensors[0].key!r}, "
            f"expected a name that ends like {next(iter(weights))!r}."
            if tensors
            else "there are no tensors in it."
        )
    masks = [leaf for leaf in fitting if leaf.says_mask]
    for leaf in masks or fitting:
        _check_shape(leaf, weights)
    if masks:
        others = [leaf for leaf in tensors if leaf.says_mask and not leaf.matrix]
        for leaf in [*masks, *others]:
            if odd := leaf.odd_value():
                raise TicketError(f"{odd}; a mask has only 0 and 1.")
        masked = {leaf.matrix for leaf in masks}
        unread = [leaf for leaf in fitting if leaf.matrix not in masked and _new_zeros(leaf, weights)]
        notes = [f"Read {_named(masks, 'mask')}."]
        notes += ["The file has masks, so --zeros has no effect."] if zeros else []
        return masks, others, notes + _told_of_zeros(unread)
    if zeros:
        for leaf in fitting:
            if not np.isfinite(leaf.numbers()).all():
                raise TicketError(f"weights of {leaf.key!r} are NaN or infinite; their training diverged.")
        names = {leaf.matrix for leaf in fitting if _new_zeros(leaf, weights)}
        pruned = [leaf for leaf in fitting if leaf.matrix in names]  # of two copies both, which must agree
        if not pruned:
            raise TicketError(
                "it has no zeros but those that the base model has too, so --zeros finds no pruned weights."
            )
        weighing = [leaf for leaf in tensors if _is_weight(leaf, "f") or (leaf.says_mask and _is_weight(leaf))]
        unread = [leaf for leaf in weighing if leaf not in pruned and leaf.zeros]
        # Biases may just have begun at zero. An output layer may be the word embeddings by another name.
        others = [x for x in unread if not x.matrix and len(x.shape) > 1 and not _is_tied(x, fitting)]
        return pruned, others, [f"Zeros are taken as pruned in {_named(pruned, 'tensor')}.", *_told_of_zeros(unread)]
    _check_only_masks(fitting, weights)
    others = [leaf for leaf in tensors if not leaf.matrix and _is_weight(leaf) and not leaf.odd_value()]
    return fitting, others, [f"Read as masks, since they have only 0 and 1, {_named(fitting, 'tensor')}."]


def _told_of_zeros(unread: Sequence[Leaf]) -> list[str]:
    return [f"Zeros without a mask were not taken as pruned: {_codes(x.key for x in unread)}."] if unread else []


def _named(leaves: Sequence[Leaf], what: str) -> str:
    return f"{len(leaves)} {what}{'' if len(leaves) == 1 else 's'} named like {_code(leaves[0].key)}"


def _check_shape(leaf: Leaf, weights: Weights) -> None:
    expected = list(weights[str(leaf.matrix)].shape)
    if leaf.shape != expected:
        turned = "; it is transposed" if leaf.shape == expected[::-1] else ""
        raise TicketError(f"{leaf.key!r} has shape {leaf.shape}, the model's matrix {expected}{turned}.")


def _new_zeros(leaf: Leaf, weights: Weights) -> int:
    """Return how many zeros a weight has, or 0 if the model has zeros in all those places, as where padding is."""
    there = weights[str(leaf.matrix)]
    return leaf.zeros if leaf.shape != list(there.shape) or ((leaf.numbers() == 0) & (there != 0)).any() else 0


def _check_only_masks(named: Sequence[Leaf], weights: Weights) -> None:
    """Raise TicketError if one of these tensors, whose names do not say mask, is none by its values."""
    odd = [said for leaf in named if (said := leaf.odd_value())]
    if odd:
        pruned, total = sum(_new_zeros(leaf, weights) for leaf in named), sum(math.prod(leaf.shape) for leaf in named)
        none = "there are no masks in it: " if len(odd) == len(named) else ""
        hint = f"--zeros takes the zeros ({pruned:,} of {total:,}) as pruned" if pruned else "none was pruned"
        raise TicketError(f"{none}{odd[0]}, a mask has only 0 and 1; if these are a pruned model's weights, {hint}.")


def _check_prunes_nothing(leaf: Leaf, weights: Weights) -> None:
    if leaf.zeros:
        near = get_close_matches(leaf.key, weights, n=1, cutoff=0)[0]
        raise TicketError(
            f"{leaf.key!r} prunes {leaf.zeros:,} of {math.prod(leaf.shape):,} weights, but no prunable matrix of the "
            f"model has that name (the nearest is {near!r}), and a ticket has no biases, LayerNorms or output layers; "
            "to import the rest, delete that entry from the file."
        )


def _is_weight(leaf: Leaf, kinds: str = "biuf") -> bool:
    """Return whether a tensor may be a parameter or its mask: of these kinds, neither a count nor an optimizer's."""
    if not leaf.shape or any(_NO_WEIGHTS.fullmatch(key) for key in leaf.keys):
        return False
    try:
        return leaf.numbers().dtype.kind in kinds
    except TicketError:
        return False


def _is_tied(leaf: Leaf, used: Sequence[Leaf]) -> bool:
    """Return whether a weight is another name of one that is read, as an output layer's of the word embeddings'."""
    same = [other for other in used if other.shape == leaf.shape]
    return bool(leaf.numbers().any()) and any(np.array_equal(leaf.numbers(), other.numbers()) for other in same)


def _summary(rest: Sequence[Leaf], tops: set[str]) -> str:
    """Name what was not used: whole entries of the file by their key, tensors beside those used by count."""
    others, beside = [], []
    for leaf in rest:
        inside = leaf.keys[0] in tops
        if getattr(leaf.value, "shape", ()) and (inside or len(leaf.keys) == 1):
            beside.append(leaf.key)
        else:
            others.append(leaf.key if inside else leaf.keys[0])
    if len(beside) > 1:
        beside = [f"{len(beside)} tensors such as {_code(beside[0])}"]
    else:
        beside = [_code(key) for key in beside]
    return ", ".join(([_codes(others)] if others else []) + beside)


def _code(name: str) -> str:
    """Return a name of the file as a code span, for terminals and Markdown alike: nothing in it does anything."""
    return f"`{repr(name)[1:-1].replace('`', '')}`"


def _codes(names: Iterable[str]) -> str:
    every = [_code(name) for name in dict.fromkeys(names)]
    return ", ".join(every[:_SHOWN]) + (f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else "")

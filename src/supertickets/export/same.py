"""Whether an exported model computes what the model does: both are asked about texts, in batches with padding."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from supertickets.errors import StudyError, TicketError
from supertickets.export.source import Exported
from supertickets.tasks import Form
from supertickets.tasks.builtin import sentences
from supertickets.training.devices import undisturbed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TEXTS, AT_ONCE = 100, 8
"""How many texts are asked about, and how many at once."""
_LONGEST = 512
"""Longer inputs than so many tokens take too long to compare."""
TOLERANCE = 1e-4
"""How far outputs in float32 may be apart, as a share of the largest one or of 1: sums are made in another order."""
_NAMES: dict[Form | None, tuple[str, ...]] = {None: ("last_hidden_state",), "spans": ("start_logits", "end_logits")}

Texts = tuple[list[str], list[str] | None]
Outputs = Mapping[str, NDArray[Any]]
Run = Callable[[Mapping[str, Tensor]], Outputs]
_Pair = tuple[NDArray[Any], NDArray[Any]]


def output_names(form: Form | None) -> tuple[str, ...]:
    """Return what a stock model of a form calls its outputs."""
    return _NAMES.get(form, ("logits",))


def texts_for(exported: Exported) -> Texts:
    """Return texts to ask about, and second ones: of the task's dev set where it can be read, else of built-in tasks.

    The built-in ones are of 1 to 12 sentences; the last is as long as the model reads.
    """
    if exported.examples is not None:
        try:
            dev = exported.examples().dev
        except TicketError:
            pass  # whoever needs the dev set itself says so
        else:
            rows = np.unique(np.linspace(0, len(dev) - 1, TEXTS).astype(int))
            some = dev.take(rows)
            return some.text, some.pair
    told = iter(sentences("dev"))
    texts = [" ".join(islice(told, 1 + row % 12)) for row in range(TEXTS - 1)]
    return [*texts, " ".join(texts)], None


def batches_of(exported: Exported, texts: Texts) -> Iterator[dict[str, Tensor]]:
    """Yield texts as inputs, padded to the longest of each batch; the last text is also a batch of its own."""
    first, second = texts
    longest = _longest(exported)
    for rows in [*(slice(at, at + AT_ONCE) for at in range(0, len(first), AT_ONCE)), slice(-1, None)]:
        pair = None if second is None else second[rows]
        yield dict(
            exported.tokenizer(
                first[rows], pair, padding=True, truncation=True, max_length=longest, return_tensors="pt", verbose=False
            )
        )


def _longest(exported: Exported) -> int:
    """Return how many tokens of a text are compared."""
    return min(int(exported.tokenizer.model_max_length), _LONGEST)


def run_of(model: "PreTrainedModel", form: Form | None) -> Run:
    """Return what a model computes, in its own precision; a decoder without an output layer reads the same text."""
    decodes = form is None and model.config.is_encoder_decoder

    def run(inputs: Mapping[str, Tensor]) -> Outputs:
        if decodes:
            inputs = {**inputs, "decoder_input_ids": inputs["input_ids"]}
        with torch.inference_mode(), undisturbed():
            found = model(**inputs)
        return {name: found[name].numpy() for name in output_names(form)}

    return run


def outputs_on(exported: Exported, ids: Sequence[Sequence[int]]) -> list[Outputs]:
    """Return what a model computes on each of some texts' tokens, one text at a time.

    Texts that are longer than the model reads, or take too long to compare, are left out.
    """
    run, longest = run_of(exported.model, exported.form), _longest(exported)
    rows = (torch.tensor([one]) for one in ids if len(one) <= longest)
    return [run({"input_ids": row, "attention_mask": torch.ones_like(row)}) for row in rows]


def check_same(exported: Exported, expected: Run, found: Run, written: str) -> float:
    """Return the largest difference between two runs' outputs on texts, as a share of the largest output or of 1.

    Outputs of tokens count where there is a token. `written` is what `found` runs. Raises StudyError if the difference
    is above `TOLERANCE`, or a number is not finite.
    """

    def pairs() -> Iterator[_Pair]:
        for inputs in batches_of(exported, texts_for(exported)):
            wanted, got = expected(inputs), found(inputs)
            there = inputs["attention_mask"].bool().numpy() if exported.form != "sequence" else ...
            yield from ((values[there], got[name][there]) for name, values in wanted.items())

    return check_close(pairs(), written)


def check_close(pairs: Iterable[_Pair], written: str) -> float:
    """Return the largest difference between pairs of outputs, as `check_same` does, which says what is raised."""
    largest, difference = 1.0, 0.0
    for wanted, got in pairs:
        largest = max(largest, float(np.abs(wanted).max()))
        difference = max(difference, float(np.nan_to_num(np.abs(wanted - got), nan=np.inf).max()))
    if not difference <= TOLERANCE * largest:
        raise StudyError(
            f"{written}: its outputs differ from the model's by up to {difference / largest:.2g} of the largest one "
            f"(allowed: {TOLERANCE:g}), so it is not written; please report this with the output of `supertickets env`."
        )
    return difference / largest

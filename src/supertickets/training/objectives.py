"""What a task's form means in training: how its examples are encoded, each one's loss, how outputs are judged."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from supertickets.surgery.output_layer import full_precision_logits, rescaled_outputs
from supertickets.tasks import Form, Split, Task
from supertickets.training.batches import Encoded, EncodedTask, check_texts, encode_split, tokenised
from supertickets.training.causal import Causal
from supertickets.training.masked import Masked
from supertickets.training.spans import Spans
from supertickets.training.tokens import Tokens, describe_words


class Objective(Protocol):
    """One form of tasks. An evaluation collects what `judge` says of each batch; `finish` makes its outputs of that."""

    def encode(self, part: Split, tokenizer: Any, max_length: int) -> Encoded:
        """Tokenise a split."""

    def forward(self, model: PreTrainedModel, inputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        """Return what a model gives for a batch."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's loss `[batch]`."""

    def judging(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Return the context in which a model's outputs are in the units that they are judged in."""

    def blank(self, data: Encoded) -> NDArray[np.float32]:
        """Return an array of zeros for what `judge` returns for a whole split."""

    def judge(self, outputs: Tensor, targets: Tensor) -> NDArray[np.float32]:
        """Return what an evaluation keeps of a batch, a row an example."""

    def finish(self, found: NDArray[np.float32], data: Encoded) -> NDArray[np.float32]:
        """Return the outputs of an evaluation, as `tasks.metrics.evaluate` takes them."""


class Sequences:
    """The form `sequence`: a text's logits, or its real number in regression; outputs are just these.

    Real targets may be standardised: the model learns (target - mean) / deviation, and is judged in the targets' own
    units, its last matrix rescaled.
    """

    def __init__(self, regression: bool, outputs: int, scale: tuple[float, float] = (0.0, 1.0)) -> None:
        self._regression, self._outputs = regression, outputs
        self._mean, self._deviation = scale

    def encode(self, part: Split, tokenizer: Any, max_length: int) -> Encoded:
        """Tokenise texts or pairs of them."""
        return encode_split(part, tokenizer, max_length)

    def forward(self, model: PreTrainedModel, inputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        """Return the logits `[batch, outputs]`; real numbers are computed in full precision in the last product."""
        if self._regression:
            return full_precision_logits(model, inputs)
        logits: Tensor = model(**inputs).logits
        return logits

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's loss `[batch]` (see `example_losses`)."""
        if self._regression:
            targets = (targets - self._mean) / self._deviation
        return example_losses(outputs, targets, self._regression)

    def judging(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Return the context in which real numbers are in the targets' units."""
        if (self._mean, self._deviation) == (0.0, 1.0):
            return nullcontext()
        return rescaled_outputs(model, self._mean, self._deviation)

    def blank(self, data: Encoded) -> NDArray[np.float32]:
        """Return an array for the outputs of all examples."""
        return np.zeros((len(data.ids), self._outputs), np.float32)

    def judge(self, outputs: Tensor, targets: Tensor) -> NDArray[np.float32]:
        """Return the outputs themselves."""
        return outputs.float().cpu().numpy()

    def finish(self, found: NDArray[np.float32], data: Encoded) -> NDArray[np.float32]:
        """Return the outputs `[examples, outputs]`."""
        return found


def example_losses(outputs: Tensor, targets: Tensor, regression: bool) -> Tensor:
    """Return each example's loss `[batch]`: cross-entropy, or squared error in regression.

    Where targets are `[batch, labels]`, it is the mean of the labels' binary cross-entropies.
    """
    if targets.ndim == 2:
        losses = nn.functional.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype), reduction="none")
        return losses.mean(dim=1)
    if regression:
        return (outputs.squeeze(-1) - targets.to(outputs.dtype)) ** 2
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


TEACHABLE: tuple[Form, ...] = ("sequence", "spans")
"""The forms that a teacher can teach: of the others, outputs of the whole training set would be too large a file."""


def distances(task: Task, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return how far a student's outputs are from a teacher's, as each example's loss `[batch]`.

    Of classes it is T^2 KL(teacher || student) of the softmax of outputs / T (Hinton et al., 2015, section 2: with T^2,
    gradients are of the size of those of targets); of several labels the mean over them, each with its sigmoid; of
    spans the mean over first and last token. In regression it is the squared error, with the teacher's outputs (which
    are in the targets' units) as targets.
    """
    if task.is_regression:
        return objective_of(task).losses(outputs, teacher.squeeze(-1))
    student, teacher = outputs / temperature, teacher / temperature
    if task.form == "spans":
        lowest = torch.finfo(outputs.dtype).min / 4  # padding has -inf, and 0 times that is no number
        padding = outputs.isneginf()
        student, teacher = (of.masked_fill(padding, lowest).transpose(1, 2) for of in (student, teacher))
    elif task.multi_label:  # the sigmoid of x is the softmax of x and 0
        student, teacher = (torch.stack([of, torch.zeros_like(of)], dim=-1) for of in (student, teacher))
    log_q, log_p = nn.functional.log_softmax(student, dim=-1), nn.functional.log_softmax(teacher, dim=-1)
    found = temperature**2 * nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)
    return found if found.ndim == 1 else found.mean(dim=1)


def objective_of(task: Task) -> Objective:
    """Return what a task's form means in training."""
    if task.form == "sequence":
        return Sequences(task.is_regression, task.outputs, task.scale)
    if task.form == "tokens":
        return Tokens(task.labels)
    others: dict[Form, Objective] = {"spans": Spans(), "masked": Masked(), "causal": Causal()}
    return others[task.form]


def check_task(task: Task, tokenizer: Any, max_length: int) -> None:
    """Raise TicketError where `encode` would, without reading all of the task."""
    form = objective_of(task)
    if isinstance(form, Masked | Causal):
        form.check(task, tokenizer, max_length)
    elif task.form in ("spans", "tokens"):
        form.encode(task.train.take(np.arange(1)), tokenizer, max_length)
    else:
        for part in (task.train, *task.evaluations.values()):
            check_texts(part, tokenizer)


_LOOKED_AT = 10_000
"""Of how many training texts, drawn at random, tokens are counted where there are more."""


def describe_tokens(task: Task, tokenizer: Any, max_length: int | None) -> tuple[str, ...]:
    """Return sentences on the share of training texts that are cut and of tokens that the tokenizer does not know.

    Of tagged words it is how many of each set are cut off.

    Nothing is cut of questions' contexts and of a corpus, which become several inputs, nor where `max_length` is None.
    """
    rows = np.random.default_rng(0).permutation(len(task.train))[:_LOOKED_AT]
    parts = [task.train.text, *([task.train.pair] if task.train.pair is not None else [])]
    how = {"add_special_tokens": False, "verbose": False}
    ids = [tokenised(tokenizer, [texts[row] for row in rows], **how)["input_ids"] for texts in parts]
    lengths = [sum(map(len, both)) for both in zip(*ids, strict=True)]
    of = "training texts" if len(rows) == len(task.train) else f"training texts ({len(rows):,} of them looked at)"
    found = []
    if task.form == "sequence" and max_length is not None:
        cut = sum(n + tokenizer.num_special_tokens_to_add(pair=len(parts) > 1) > max_length for n in lengths)
        share = f"{_percent(cut, len(rows))} of {of} are longer than {max_length} tokens and are cut (--max-length)."
        found.append(share if cut else f"None of {len(rows):,} training texts is longer than {max_length} tokens.")
    if task.form == "tokens" and max_length is not None:
        found += describe_words(task, tokenizer, max_length)
    unknown = 0
    if tokenizer.unk_token_id is not None:
        unknown = sum(text.count(tokenizer.unk_token_id) for texts in ids for text in texts)
    if unknown > 0.01 * sum(lengths):
        found.append(f"{_percent(unknown, sum(lengths))} of the tokens of {of} are unknown to the model's tokenizer.")
    return tuple(found)


def _percent(number: int, total: int) -> str:
    """Return a share in percent; what is not nothing is not shown as nothing."""
    return "Less than 0.1 %" if 0 < number < 0.001 * total else f"{100 * number / total:.1f} %"


def encode(task: Task, tokenizer: Any, max_length: int) -> EncodedTask:
    """Tokenise a task for inputs of at most `max_length` tokens; raises TicketError if its form cannot be made so."""
    form = objective_of(task)
    of_training = form.encode_training if isinstance(form, Causal) else form.encode
    evaluations = {name: form.encode(part, tokenizer, max_length) for name, part in task.evaluations.items()}
    return EncodedTask(task, of_training(task.train, tokenizer, max_length), evaluations)

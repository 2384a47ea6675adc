"""Recipes and choices by name: `paper` (as the text describes) and `released` (as the code does it, bugs included).

`released` gives the numbers that the released code gave for a tiny model (tests/data).

Sources: paper appendix A.1.2 with the numerals in spec/paper-numerals; released scripts, spec section 4. The values for
small encoders are our own tuning of the default encoder; no paper has any.
"""

from typing import Any, Literal

from supertickets.anatomy import Shape
from supertickets.tasks import task_name, text
from supertickets.tasks.builtin import BUILTIN
from supertickets.training.recipe import Recipe

Preset = Literal["paper", "released"]
Size = Literal["small", "base", "large"]
DEFAULT_SHAPE = Shape(layers=6, heads=12, hidden=384, ffn=1536)
"""The default model's, so that help can name its settings without its files."""
SEVERAL = "(several tasks)"
"""Stands for a task's name where several are trained together."""

# What differs between the presets apart from the tables below.
_CHOICES: dict[str, dict[str, Any]] = {
    "paper": {"selection": "sample"},
    "released": {
        "selection": "whole",
        "first_seed": 2018,
        "max_length": 512,
        "optimizer": "released",
        "lr_schedule": "released",
        "dropout_masks": "sequential",
        "order": "released",
        "keep_epoch": "last",
        "patience": None,
        "precision": "float32",
        "absolute": "token",
        "accumulation": "decaying",
        "counts": "ladder",
        "random": "with-replacement",
        "updates": "leaky",
    },
}

# Dropout before the output layer where it is not 0.1; MNLI's differs between the text and the released task file.
_DROPOUT: dict[str, dict[str, float]] = {
    "paper": {"mnli": 0.3, "cola": 0.05},
    "released": {"mnli": 0.2, "cola": 0.05},
}

# Epochs of the released scripts where they are not 6; the paper's text says at most 6, with early stopping. SNLI and
# SciTail: the default of the code base that the scripts are part of, which its own adaptation scripts leave as it is.
_RELEASED_EPOCHS: dict[str, dict[str, int]] = {
    "base": {"mnli": 3, "qnli": 3, "snli": 5, "scitail": 5, SEVERAL: 5},
    "large": {"mnli": 3, "qqp": 5, "qnli": 5, "sst2": 4, "snli": 5, "scitail": 5, SEVERAL: 5},
}
# The epoch whose weights the released scripts score, where it is not the last one.
_RELEASED_SCORED: dict[str, dict[str, int]] = {"base": {"rte": 4}, "large": {"rte": 5}}

# Small encoders need a larger learning rate and gain nothing after four epochs.
_SMALL: dict[str, Any] = {"learning_rate": 3e-4, "epochs": 4, "fine_tune_epochs": 4}
_SMALL_BUILTIN: dict[str, Any] = {**_SMALL, "batch_size": 16, "dropout": 0.1}


def size_of(shape: Shape) -> Size:
    """Return which of the tables a model falls under, by its hidden width."""
    return "large" if shape.hidden >= 1024 else "base" if shape.hidden > 512 else "small"


def task_dropout(preset: str, task: str) -> float:
    """Return the dropout before a task's output layer (appendix A.1.2; spec/super-tickets section 6)."""
    return _DROPOUT[preset].get(task_name(task), Recipe.model_fields["dropout"].default)


def preset_values(preset: str, shape: Shape, *tasks: str) -> dict[str, Any]:
    """Return the settings a preset has for a model and a task, or several that are trained together.

    What it does not name stays at the settings' default.
    """
    size, task = size_of(shape), tasks[0] if len(tasks) == 1 else SEVERAL
    values = dict(_CHOICES[preset])
    if task in _DROPOUT[preset]:
        values["dropout"] = _DROPOUT[preset][task]
    if preset == "released":
        of = "large" if size == "large" else "base"
        values["epochs"] = _RELEASED_EPOCHS[of].get(task, 6)
        values["score_epoch"] = _RELEASED_SCORED[of].get(task)
    if size == "small" and preset == "paper":
        values |= _SMALL_BUILTIN if BUILTIN.keys() >= {*tasks} else _SMALL
    return values


# Chen et al. (2020), spec/bert-tickets section 2: AdamW, no warm-up, no decay, the last step's weights; by task what
# differs from GLUE's. Small encoders need ten times the learning rate (our own tuning of the default encoder).
_WEIGHTS: dict[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 2e-5,
    "epochs": 3,
    "batch_size": 32,
    "max_length": 128,
    "warmup": 0.0,
    "weight_decay": 0.0,
    "patience": None,
    "keep_epoch": "last",
}
_WEIGHTS_BY_TASK: dict[str, dict[str, Any]] = {
    "squad": {"learning_rate": 3e-5, "epochs": 2, "batch_size": 16, "max_length": 384},
    **{task: {"learning_rate": 5e-5, "epochs": 1, "batch_size": 16, "max_length": 512} for task in text.NAMES},
}
# What the released code does otherwise (spec sections 3 and 7): D2, D3, and for masked LM D1 and D5.
_WEIGHTS_RELEASED: dict[str, Any] = {
    "lr_schedule_over": "all",
    "output_layer": "carry",
    "first_seed": 57,
    "dropout_masks": "sequential",
}
_WEIGHTS_RELEASED_MLM: dict[str, Any] = {"rewind": ("none",), "prune_at_init": True}


def weight_preset_values(preset: str, shape: Shape, task: str) -> dict[str, Any]:
    """Return the settings a preset has for tickets of weights on a task: a recipe, and how they are looked for."""
    values = _WEIGHTS | _WEIGHTS_BY_TASK.get(task, {})
    if size_of(shape) == "small":
        values["learning_rate"] = 10 * values["learning_rate"]
    if preset == "released":
        values |= _WEIGHTS_RELEASED | (_WEIGHTS_RELEASED_MLM if task == "mlm" else {})
    return values

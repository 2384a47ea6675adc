"""Base models: a name into a local folder, a folder into a dense model with a new output layer and its tokenizer."""

from supertickets.models.base import DEFAULT_MODEL, BaseModel, counted_layers, find_model, first_layers, own_files
from supertickets.models.checkpoint import load_model, quiet_transformers
from supertickets.models.source import (
    STOCK_CLASSES,
    ModelSource,
    dense_size,
    form_of_class,
    new_modules,
    prunable_shapes,
    prunable_weights,
)
from supertickets.models.tokenizer import load_tokenizer

__all__ = [
    "DEFAULT_MODEL",
    "STOCK_CLASSES",
    "BaseModel",
    "ModelSource",
    "counted_layers",
    "dense_size",
    "find_model",
    "first_layers",
    "form_of_class",
    "load_model",
    "load_tokenizer",
    "new_modules",
    "own_files",
    "prunable_shapes",
    "prunable_weights",
    "quiet_transformers",
]

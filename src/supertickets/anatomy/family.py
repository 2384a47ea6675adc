"""What a model family calls its parts. A family is data: names of modules and of config fields, no code."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from supertickets.errors import unknown_name


@dataclass(frozen=True)
class Shape:
    """Sizes of an encoder that tickets and costs depend on."""

    layers: int
    heads: int
    hidden: int
    ffn: int

    @property
    def head_size(self) -> int:
        """Width of one head's query, key and value."""
        return self.hidden // self.heads


@dataclass(frozen=True)
class Family:
    """Where a family of encoders keeps heads and FFNs; module paths are relative to one layer.

    `config_*` name the fields of config.json; `task_dropout` is the one that sets the dropout before the output layer.
    With `positions_after_padding` (RoBERTa) positions are counted from the config's padding index plus 1 on.
    """

    model_types: tuple[str, ...]
    layers: str
    attention: str
    query: str
    key: str
    value: str
    attention_output: str
    ffn_in: str
    ffn_out: str
    attention_heads: str = "num_attention_heads"
    attention_width: str | None = "all_head_size"
    config_layers: str = "num_hidden_layers"
    config_heads: str = "num_attention_heads"
    config_hidden: str = "hidden_size"
    config_ffn: str = "intermediate_size"
    task_dropout: str = "classifier_dropout"
    positions_after_padding: bool = False

    def shape(self, config: Mapping[str, Any]) -> Shape:
        """Return the sizes that a config.json of this family states."""
        return Shape(
            *(
                int(config[name])
                for name in (self.config_layers, self.config_heads, self.config_hidden, self.config_ffn)
            )
        )

    def max_length(self, config: Mapping[str, Any]) -> int:
        """Return how many tokens an input may have."""
        reserved = int(config.get("pad_token_id", 1)) + 1 if self.positions_after_padding else 0
        return int(config["max_position_embeddings"]) - reserved


_FAMILIES: dict[str, Family] = {}


def register_family(family: Family) -> None:
    """Make a family known under each of its `model_types` (config.json's `model_type`)."""
    for model_type in family.model_types:
        _FAMILIES[model_type] = family


def family_of(model_type: str) -> Family:
    """Return the family of a `model_type`; raises UnknownNameError for one that is not registered."""
    if model_type not in _FAMILIES:
        raise unknown_name("model family", model_type, _FAMILIES)
    return _FAMILIES[model_type]

"""What a model family calls its parts. A family is data: names of modules and of config fields, no code.

A package adds one in its pyproject.toml, under the `model_type` of its config.json:

    [project.entry-points."supertickets.families"]
    camembert = "my_package.camembert:CAMEMBERT"
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from supertickets.registry import Registry


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


FAMILIES: Registry[Family] = Registry(
    "model family",
    "families",
    {
        "bert": "supertickets.anatomy.bert:BERT",
        "electra": "supertickets.anatomy.bert:BERT",
        "roberta": "supertickets.anatomy.bert:ROBERTA",
        "xlm-roberta": "supertickets.anatomy.bert:ROBERTA",
        "distilbert": "supertickets.anatomy.distilbert:DISTILBERT",
    },
)
"""Families by the `model_type` of config.json."""


def family_of(model_type: str) -> Family:
    """Return the family of a `model_type`; raises UnknownNameError for one that is not registered."""
    return FAMILIES[model_type]

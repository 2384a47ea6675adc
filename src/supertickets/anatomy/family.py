"""What a model family calls its parts. A family is data: names of modules and of config fields, no code.

A package adds one in its pyproject.toml, under the `model_type` of its config.json:

    [project.entry-points."supertickets.families"]
    camembert = "my_package.camembert:CAMEMBERT"
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supertickets.anatomy.parts import FFN, Attention, Part, size_of, width
from supertickets.registry import Registry


@dataclass(frozen=True)
class Shape:
    """Sizes of a model that tickets and costs depend on; those of one structure count numbers.

    `weights` are in matrices, `biases` all others; `output_biases` those of an FFN that are no neuron's. A key/value
    head is apart only where query heads share some. `whole_weights` are those of an attention that stay whole when it
    loses heads, but for the last (OLMo 2's queries and keys, with a norm over all heads). Layers are `applied` so many
    times, without an entry each once (all but ALBERT's). There are more `attentions` than layers where a decoder has
    two in each of its layers.
    """

    layers: int
    heads: int
    hidden: int
    ffn: int
    head_size: int = 0
    kv_heads: int = 0
    head_weights: int = 0
    head_biases: int = -1
    kv_weights: int = 0
    kv_biases: int = 0
    ffn_weights: int = 0
    ffn_biases: int = -1
    output_biases: int = -1
    applied: tuple[int, ...] = ()
    attentions: int = 0
    whole_weights: int = 0

    def __post_init__(self) -> None:
        """Fill in what is not given: the sizes of an encoder such as BERT."""
        size = self.head_size or self.hidden // max(1, self.heads)
        filled = {
            "head_size": size,
            "kv_heads": self.kv_heads or self.heads,
            "head_weights": self.head_weights or 4 * size * self.hidden,
            "head_biases": self.head_biases if self.head_biases >= 0 else 3 * size,
            "ffn_weights": self.ffn_weights or 2 * self.hidden * self.ffn,
            "ffn_biases": self.ffn_biases if self.ffn_biases >= 0 else self.hidden + self.ffn,
            "output_biases": self.output_biases if self.output_biases >= 0 else self.hidden,
            "attentions": self.attentions or self.layers,
        }
        for name, value in filled.items():
            object.__setattr__(self, name, value)

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of axes (see `anatomy.parts`)."""
        return {"h": self.heads, "g": self.kv_heads, "d": self.head_size, "n": self.ffn}

    @property
    def of_tickets(self) -> tuple[int, ...]:
        """The shape of tickets for it (see `Ticket.shape`)."""
        sizes = self.layers, self.heads
        return sizes if self.attentions == self.layers else (*sizes, self.attentions)

    def kept(self, heads: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
        """Return what stays of the axes of attention, from what stays of a layer's query heads `[heads]`.

        A key/value head stays while a query head of its group does.
        """
        groups = np.logical_or.reduce(heads.reshape(self.kv_heads, -1), axis=1)
        return {"h": heads, "g": groups}


@dataclass(frozen=True)
class Stack:
    """Layers that are alike: `layers` in the model, all else in one of them; `config_layers` says how many."""

    layers: str
    attentions: tuple[Attention, ...]
    ffn: FFN
    config_layers: str


@dataclass(frozen=True)
class Family:
    """Where a family of models keeps heads and FFNs: `layers` in the model, all else in one of them.

    A `decoder` beside these, the encoder's, has as many heads and neurons in each attention module and FFN: `same` are
    pairs of the config's fields that must be equal for that. In `layers`, `*` is any number. `config_*` name the fields
    of config.json (`a|b`: the first that is set, `a*b`: their product); `config_depth` says how many layers an input
    passes, where that is more than there are, and `config_groups` in how many groups they are applied (see `order`).
    `task_dropout` sets the dropout before the output layer (None: it has none of its own). With
    `positions_after_padding` (RoBERTa) positions are counted from the config's padding index plus 1 on. A `causal`
    model classifies a text by its last token, which it finds by the config's padding id. Of `positions`, its config may
    ask for any; `unread` are fields of configs that transformers passes over, each with the one that it reads (`a.b`:
    in an object), which must be equal; `aside` are modules of the encoder that no task reads, and
    `embedding_projection` begins the names of linears that belong to the embeddings. Not all compute under autocast
    `in_bfloat16`. New weights spread as the config says, or `spread_by_width` by that over the square root of the
    hidden size.
    """

    layers: str
    attention: Attention
    ffn: FFN
    config_layers: str = "num_hidden_layers"
    config_depth: str | None = None
    config_groups: str | None = None
    config_heads: str = "num_attention_heads"
    config_kv_heads: str = "num_key_value_heads"
    config_head_size: str = "head_dim"
    config_hidden: str = "hidden_size"
    config_ffn: str = "intermediate_size"
    config_positions: str | None = "max_position_embeddings"
    config_spread: str = "initializer_range|init_std"
    spread_by_width: bool = False
    task_dropout: str | None = "classifier_dropout"
    positions_after_padding: bool = False
    causal: bool = False
    decoder: Stack | None = None
    same: tuple[tuple[str, str], ...] = ()
    positions: tuple[str, ...] = ("absolute",)
    unread: tuple[tuple[str, str], ...] = ()
    aside: tuple[str, ...] = ()
    embedding_projection: str = "embeddings_project"
    in_bfloat16: bool = True

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """Its layers, those of the decoder behind those of the encoder."""
        first = Stack(self.layers, (self.attention,), self.ffn, self.config_layers)
        return (first,) if self.decoder is None else (first, self.decoder)

    def shape(self, config: Mapping[str, Any]) -> Shape:
        """Return the sizes that a config.json of this family states.

        Raises KeyError for one that is missing, ValueError where a decoder has others than its encoder.
        """
        heads, hidden, ffn = (
            int(_field(config, name)) for name in (self.config_heads, self.config_hidden, self.config_ffn)
        )
        numbers = self.layers_of(config)
        layers = sum(numbers)
        if differ := [pair for pair in self.same if _field(config, pair[0]) != _field(config, pair[1])]:
            raise ValueError(f"{' and '.join(differ[0])} differ, which is not supported")
        size = int(_field(config, self.config_head_size, hidden // max(1, heads)))
        kv_heads = int(_field(config, self.config_kv_heads, heads))
        plain = Shape(layers, heads, hidden, ffn, size, kv_heads)
        head, kv, neuron = (
            _numbers(parts, axis, plain, config)
            for parts, axis in ((self.attention.parts, "h"), (self.attention.parts, "g"), (self.ffn.parts, "n"))
        )
        output = hidden if _stated(self.ffn.bias, config) else 0
        return replace(
            plain,
            head_weights=head[0] + size * hidden,
            head_biases=head[1],
            kv_weights=kv[0],
            kv_biases=kv[1],
            ffn_weights=ffn * (neuron[0] + hidden),
            ffn_biases=ffn * neuron[1] + output,
            output_biases=output,
            applied=self._applied(config),
            attentions=sum(n * len(stack.attentions) for n, stack in zip(numbers, self.stacks, strict=True)),
            whole_weights=hidden * sum(size_of(axes, plain.sizes) for axes in self.attention.joint_norms.values()),
        )

    def layers_of(self, config: Mapping[str, Any]) -> list[int]:
        """Return how many layers each of the stacks has; raises KeyError if a config does not say."""
        return [int(_field(config, stack.config_layers)) for stack in self.stacks]

    def depth(self, config: Mapping[str, Any]) -> int:
        """Return how many layers an input passes: more than there are where layers are applied several times."""
        return sum(self.layers_of(config)) if self.config_depth is None else int(_field(config, self.config_depth))

    def order(self, config: Mapping[str, Any]) -> list[int]:
        """Return the groups of layers that an input passes, in their order; a group is one layer but for ALBERT's."""
        layers, groups = sum(self.layers_of(config)), self._groups(config)
        passed = self.depth(config) * groups // max(1, layers)
        return [int(i / (passed / groups)) for i in range(passed)]  # as transformers does, with what it rounds

    def _groups(self, config: Mapping[str, Any]) -> int:
        return sum(self.layers_of(config)) if self.config_groups is None else int(_field(config, self.config_groups))

    def _applied(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        """Return how many times each layer is applied; nothing if each is once."""
        if self.config_depth is None:
            return ()
        layers, order = sum(self.layers_of(config)), self.order(config)
        found = tuple(order.count(layer * self._groups(config) // layers) for layer in range(layers))
        return found if set(found) != {1} else ()

    def first_layers(self, config: Mapping[str, Any], layers: int) -> dict[str, Any]:
        """Return the fields of a config, and their values, that are others if a model has its first layers only.

        Raises ValueError, with the reason, where its layers are no single row of layers with weights of their own.
        """
        if self.decoder is not None:
            raise ValueError("it has a decoder beside its encoder")
        if self.config_depth is not None or "*" in self.config_layers:
            raise ValueError("its layers share their weights")
        found: dict[str, Any] = {name: layers for name in self.config_layers.split("|") if config.get(name) is not None}
        lists = {name: config.get(name) for name in _A_LAYER_EACH}
        return found | {name: [*values][:layers] for name, values in lists.items() if isinstance(values, list | tuple)}

    def states_size(self, config: Mapping[str, Any]) -> bool:
        """Return whether a config states the size of a head; otherwise the hidden size is divided among the heads."""
        return _field(config, self.config_head_size, 0) != 0

    def spread(self, config: Mapping[str, Any]) -> float:
        """Return the standard deviation of new weights."""
        spread = float(_field(config, self.config_spread))
        return spread / float(_field(config, self.config_hidden)) ** 0.5 if self.spread_by_width else spread

    def max_length(self, config: Mapping[str, Any]) -> int:
        """Return how many tokens an input may have: any number, where positions are relative."""
        if self.config_positions is None:
            return _ANY_LENGTH
        reserved = int(config.get("pad_token_id", 1)) + 1 if self.positions_after_padding else 0
        return int(_field(config, self.config_positions)) - reserved


_ANY_LENGTH = 1_000_000
_A_LAYER_EACH = ("layer_types", "no_rope_layers")
"""Fields of configs that are lists with an entry for each layer."""


def _field(config: Mapping[str, Any], names: str, default: Any = None) -> Any:
    """Return the first of a config's fields that is set; raises KeyError if none is and there is no default."""
    for name in names.split("|"):
        if "*" in name:
            return prod(int(one) if one.isdigit() else int(_field(config, one)) for one in name.split("*"))
        if config.get(name) is not None:
            return config[name]
    if default is None:
        raise KeyError(names)
    return default


def _stated(bias: bool | str, config: Mapping[str, Any]) -> bool:
    """Return whether there is a bias: as the family says, or as the config does in the field that it names."""
    if not isinstance(bias, str):
        return bias
    name, _, default = bias.partition("|")
    return bool(config.get(name, default))


def _numbers(parts: Iterable[Part], axis: str, shape: Shape, config: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many numbers of matrices, and how many others, belong to one structure of an axis."""
    weights = others = 0
    for part in (part for part in parts if part.when(config)):
        places = width(part.axes, axis, shape.sizes)
        weights += places * shape.hidden if part.matrix else 0
        others += places if not part.matrix or _stated(part.bias, config) else 0
    return weights, others


FAMILIES: Registry[Family] = Registry(
    "model family",
    "families",
    {
        model_type: f"supertickets.anatomy.{place}"
        for place, model_types in {
            "albert:ALBERT": ("albert",),
            "bart:BART": ("bart", "mbart"),
            "bert:BERT": ("bert", "electra", "ernie"),
            "bert:ESM": ("esm",),
            "bert:MEGATRON_BERT": ("megatron-bert",),
            "bert:REMBERT": ("rembert",),
            "bert:ROBERTA": (
                *("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "data2vec-text", "roberta-prelayernorm"),
            ),
            "deberta:DEBERTA": ("deberta",),
            "deberta:DEBERTA_V2": ("deberta-v2",),
            "distilbert:DISTILBERT": ("distilbert",),
            "gpt:GPT2": ("gpt2",),
            "gpt:GPT_NEOX": ("gpt_neox",),
            "gpt:OPT": ("opt",),
            "gpt:PHI": ("phi",),
            "gpt:STARCODER2": ("starcoder2",),
            "llama:GEMMA2": ("gemma2", "gemma3_text"),
            "llama:EUROBERT": ("eurobert",),
            "llama:LLAMA": ("llama", "smollm3"),
            "llama:MISTRAL": ("mistral",),
            "llama:OLMO2": ("olmo2",),
            "llama:PHI3": ("phi3",),
            "llama:QWEN2": ("qwen2",),
            "llama:QWEN3": ("gemma", "qwen3"),
            "modernbert:MODERNBERT": ("modernbert",),
            "modernbert:MODERNBERT_DECODER": ("modernbert-decoder",),
            "mpnet:MPNET": ("mpnet",),
            "t5:T5": ("t5", "mt5"),
            "nomic:GTE": ("gte",),
            "nomic:JINA": ("jina_embeddings_v3",),
            "nomic:NOMIC_BERT": ("nomic_bert",),
        }.items()
        for model_type in model_types
    },
)
"""Families by the `model_type` of config.json."""


_NO_CLASS = "transformers has no class of it that classifies texts"
_NOT_YET = {
    "its FFNs are mixtures of experts": ("dbrx", "granitemoe", "mixtral", "olmoe", "phimoe", "qwen2_moe", "qwen3_moe"),
    "its attention has latent keys and values": ("deepseek_v2", "deepseek_v3", "minicpm3"),
    "it has layers of linear attention or state spaces": (
        *("falcon_h1", "jamba", "mamba", "mamba2", "qwen3_next", "recurrent_gemma", "rwkv"),
    ),
    "its encoder has local attention": ("big_bird", "led", "longformer", "longt5", "pegasus_x"),
    "its tokenizer gives each token more than an id (shape and pronunciation), which is not read": ("roc_bert",),
    _NO_CLASS: ("codegen", "cohere", "cohere2", "ernie4_5", "granite", "lfm2", "pegasus", "vaultgemma"),
}
"""Why architectures that people ask for have no family: a part that is no head or FFN as families describe them, or no
stock class for the output layer of a task."""


def why_unsupported(model_type: str) -> str:
    """Return why an architecture is not supported, if that is known (or else where to read how), and which are."""
    reason = next((why for why, model_types in _NOT_YET.items() if model_type in model_types), None)
    supported = f"supported are {', '.join(sorted(FAMILIES))}"
    if reason is not None:
        return f"is not supported: {reason}; {supported}"
    return f"is not supported; {supported}. CONTRIBUTING.md says how to add a model family"


def family_of(model_type: str) -> Family:
    """Return the family of a `model_type`; raises UnknownNameError for one that is not registered."""
    return FAMILIES[model_type]

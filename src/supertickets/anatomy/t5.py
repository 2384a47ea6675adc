from collections.abc import Mapping
from typing import Any

from supertickets.anatomy.family import Family, Stack
from supertickets.anatomy.parts import FFN, Attention, Part, rows

_GATED = ("wi_0", "wi_1")


def _attention(module: str) -> Attention:
    parts = rows(module, "q", "k", "v", bias=False)
    # The number of heads that the module knows of is that of the bias table, which all layers read.
    return Attention(module, parts, f"{module}.o", attributes={}, table=("position_bias", 1), empty="output")


def _ffn(module: str) -> FFN:
    def part(name: str) -> Part:
        def when(config: Mapping[str, Any]) -> bool:
            return bool(config.get("feed_forward_proj", "relu").startswith("gated-") == (name in _GATED))

        return Part(f"{module}.{name}", "n", bias=False, when=when)

    return FFN(tuple(map(part, ("wi", *_GATED))), f"{module}.wo", bias=False)


T5 = Family(
    layers="encoder.block",
    attention=_attention("layer.0.SelfAttention"),
    ffn=_ffn("layer.1.DenseReluDense"),
    decoder=Stack(
        "decoder.block",
        (_attention("layer.0.SelfAttention"), _attention("layer.1.EncDecAttention")),
        _ffn("layer.2.DenseReluDense"),
        "num_decoder_layers|num_layers",
    ),
    config_layers="num_layers",
    config_heads="num_heads",
    config_head_size="d_kv",
    config_hidden="d_model",
    config_ffn="d_ff",
    config_positions=None,
    config_spread="initializer_factor",
    spread_by_width=True,
)
"""T5, FLAN-T5 and mT5, as classifiers: their decoder reads the text again."""

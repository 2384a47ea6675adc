from supertickets.anatomy.family import Family, Stack
from supertickets.anatomy.parts import FFN, Attention, Part, rows


def _attention(module: str) -> Attention:
    parts = rows(module, "q_proj", "k_proj", "v_proj")
    return Attention(module, parts, f"{module}.out_proj", empty="output")


_FFN = FFN((Part("fc1", "n"),), "fc2")
BART = Family(
    layers="encoder.layers",
    attention=_attention("self_attn"),
    ffn=_FFN,
    decoder=Stack("decoder.layers", (_attention("self_attn"), _attention("encoder_attn")), _FFN, "decoder_layers"),
    same=(
        ("encoder_attention_heads", "decoder_attention_heads"),
        ("encoder_ffn_dim", "decoder_ffn_dim"),
    ),
    config_layers="encoder_layers",
    config_heads="encoder_attention_heads",
    config_hidden="d_model",
    config_ffn="encoder_ffn_dim",
)
"""BART and mBART, as classifiers: their decoder reads the text again."""

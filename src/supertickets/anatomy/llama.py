"""Decoders (and EuroBERT) whose query heads may share key/value heads, with gated FFNs."""

from dataclasses import replace

from supertickets.anatomy.family import Family
from supertickets.anatomy.parts import FFN, Attention, Part, rows


def _attention(bias: bool | str) -> Attention:
    parts = (Part("self_attn.q_proj", bias=bias), *rows("self_attn", "k_proj", "v_proj", axes="g d", bias=bias))
    return Attention("self_attn", parts, "self_attn.o_proj", empty="output")


def _ffn(bias: bool | str, gate: str | None = None) -> FFN:
    return FFN(rows("mlp", "gate_proj", "up_proj", axes="n", bias=bias), "mlp.down_proj", bias, gate)


LLAMA = Family(
    layers="layers", attention=_attention("attention_bias"), ffn=_ffn("mlp_bias"), task_dropout=None, causal=True
)
"""Llama, SmolLM3."""
EUROBERT = replace(LLAMA, causal=False)
MISTRAL = replace(LLAMA, attention=_attention(False), ffn=_ffn(False))
QWEN2 = replace(MISTRAL, attention=_attention(True))
QWEN3 = replace(MISTRAL, attention=_attention("attention_bias"))
"""Qwen3 and Gemma."""
GEMMA2 = replace(QWEN3, ffn=_ffn(False, gate="post_feedforward_layernorm"))
"""Gemma 2 and 3: a norm after the FFN would undo a gate before it."""
OLMO2 = replace(
    GEMMA2,
    attention=Attention(
        "self_attn",
        (Part("self_attn.v_proj", "g d", bias="attention_bias"),),
        "self_attn.o_proj",
        joint_norms={"self_attn.q_norm": "h d", "self_attn.k_norm": "g d"},
        empty="output",
    ),
)
PHI3 = Family(
    layers="layers",
    attention=Attention(
        "self_attn",
        (Part("self_attn.qkv_proj", "h d + g d + g d", bias=False),),
        "self_attn.o_proj",
        config={"num_attention_heads": "h"},
        empty="output",
    ),
    ffn=FFN((Part("mlp.gate_up_proj", "2 n", bias=False),), "mlp.down_proj", bias=False),
    task_dropout=None,
    causal=True,
)

from dataclasses import replace

from supertickets.anatomy.family import Family
from supertickets.anatomy.parts import FFN, Attention, Part, rows


def _attention(bias: bool) -> Attention:
    return Attention("self_attn", rows("self_attn", "q_proj", "k_proj", "v_proj", bias=bias), "self_attn.o_proj")


NOMIC_BERT = Family(
    layers="layers",
    attention=_attention(bias=False),
    ffn=FFN(rows("mlp", "gate_proj", "up_proj", axes="n", bias=False), "mlp.down_proj", bias=False),
    config_layers="num_hidden_layers|n_layer",
    config_heads="num_attention_heads|n_head",
    config_hidden="hidden_size|n_embd",
    config_ffn="intermediate_size|n_inner",
    config_positions="max_position_embeddings|max_trained_positions",
    positions=("rope", "rotary"),
    unread=(
        ("n_layer", "num_hidden_layers"),
        ("n_head", "num_attention_heads"),
        ("n_embd", "hidden_size"),
        ("n_inner", "intermediate_size"),
        ("max_trained_positions", "max_position_embeddings"),
        ("layer_norm_epsilon", "layer_norm_eps"),
        ("rotary_emb_base", "rope_parameters.rope_theta"),
    ),
)
"""The checkpoints of its makers have the fields of GPT-2 in their configs."""
GTE = Family(
    layers=NOMIC_BERT.layers,
    attention=_attention(bias=True),
    ffn=replace(NOMIC_BERT.ffn, bias=True),
    positions=NOMIC_BERT.positions,
)
JINA = replace(GTE, ffn=FFN((Part("mlp.fc1", "n"),), "mlp.fc2"))

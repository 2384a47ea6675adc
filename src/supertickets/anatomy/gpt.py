"""Decoders with an FFN of two matrices."""

from supertickets.anatomy.family import Family
from supertickets.anatomy.parts import FFN, Attention, Part, rows

GPT2 = Family(
    layers="h",
    attention=Attention(
        "attn", (Part("attn.c_attn", "3 h d"),), "attn.c_proj", empty="output", dropout="resid_dropout"
    ),
    ffn=FFN((Part("mlp.c_fc", "n"),), "mlp.c_proj"),
    config_layers="n_layer",
    config_heads="n_head",
    config_hidden="n_embd",
    config_ffn="n_inner|4*n_embd",
    config_positions="n_positions",
    task_dropout=None,
    causal=True,
)
GPT_NEOX = Family(
    layers="layers",
    attention=Attention(
        "attention",
        (Part("attention.query_key_value", "h 3 d", bias="attention_bias|True"),),
        "attention.dense",
        empty="output",
    ),
    ffn=FFN((Part("mlp.dense_h_to_4h", "n"),), "mlp.dense_4h_to_h"),
    causal=True,
)
OPT = Family(
    layers="decoder.layers",
    attention=Attention(
        "self_attn", rows("self_attn", "q_proj", "k_proj", "v_proj", bias="enable_bias|True"), "self_attn.out_proj",
        empty="output",
    ),
    ffn=FFN((Part("fc1", "n", bias="enable_bias|True"),), "fc2", bias="enable_bias|True"),
    config_ffn="ffn_dim",
    task_dropout=None,
    causal=True,
    embedding_projection="decoder.project_",  # in and out
)  # fmt: skip
PHI = Family(
    layers="layers",
    attention=Attention(
        "self_attn",
        (Part("self_attn.q_proj"), *rows("self_attn", "k_proj", "v_proj", axes="g d")),
        "self_attn.dense",
        empty="output",
    ),
    ffn=FFN((Part("mlp.fc1", "n"),), "mlp.fc2"),
    task_dropout=None,
    causal=True,
)
STARCODER2 = Family(
    layers="layers",
    attention=Attention(
        "self_attn",
        (
            Part("self_attn.q_proj", bias="use_bias|True"),
            *rows("self_attn", "k_proj", "v_proj", axes="g d", bias="use_bias|True"),
        ),
        "self_attn.o_proj",
        empty="output",
        dropout="residual_dropout",
    ),
    ffn=FFN((Part("mlp.c_fc", "n", bias="use_bias|True"),), "mlp.c_proj", bias="use_bias|True"),
    task_dropout=None,
    causal=True,
)

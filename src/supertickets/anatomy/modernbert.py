from dataclasses import replace

from supertickets.anatomy.family import Family
from supertickets.anatomy.parts import FFN, Attention, Part, rows

MODERNBERT = Family(
    layers="layers",
    attention=Attention("attn", (Part("attn.Wqkv", "3 h d", bias="attention_bias"),), "attn.Wo"),
    ffn=FFN((Part("mlp.Wi", "2 n", bias="mlp_bias"),), "mlp.Wo", bias="mlp_bias"),
)
MODERNBERT_DECODER = replace(
    MODERNBERT,
    attention=Attention(
        "attn",
        rows("attn", "q_proj", "k_proj", "v_proj", bias="attention_bias"),
        "attn.Wo",
        empty="output",
        dropout="out_drop",
    ),
    causal=True,
)

from dataclasses import replace

from supertickets.anatomy.family import Family
from supertickets.anatomy.parts import FFN, Attention, Part, rows


def _attention(bias: bool) -> Attention:
    return Attention("self_attn", rows("self_attn", "q_proj", "k_proj", "v_proj", bias=bias), "self_attn.o_proj")


NOMIC_BERT = Family(
    layers="layers",
    attention=_attention(bias=False),
    ffn=FFN(rows("mlp", "gate_proj", "up_proj", axes="n", bias=False), "mlp.down_proj", bias=False),
)
GTE = replace(NOMIC_BERT, attention=_attention(bias=True), ffn=replace(NOMIC_BERT.ffn, bias=True))
JINA = replace(GTE, ffn=FFN((Part("mlp.fc1", "n"),), "mlp.fc2"))

from supertickets.anatomy.family import Family
from supertickets.anatomy.parts import FFN, Attention, Part, rows

MPNET = Family(
    layers="encoder.layer",
    attention=Attention(
        "attention.attn",
        rows("attention.attn", "q", "k", "v"),
        "attention.attn.o",
        argument=("position_bias", 1),  # the encoder's, for all heads of all layers
    ),
    ffn=FFN((Part("intermediate.dense", "n"),), "output.dense"),
    task_dropout=None,
)

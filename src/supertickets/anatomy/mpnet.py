from dataclasses import replace

from supertickets.anatomy.bert import BERT
from supertickets.anatomy.parts import Attention, rows

MPNET = replace(
    BERT,
    attention=Attention(
        "attention.attn",
        rows("attention.attn", "q", "k", "v"),
        "attention.attn.o",
        argument=("position_bias", 1),  # the encoder's, for all heads of all layers
    ),
    task_dropout=None,
    positions_after_padding=True,  # from 1, whatever the config says of padding
)

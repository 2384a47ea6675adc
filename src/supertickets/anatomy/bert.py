from dataclasses import replace

from supertickets.anatomy.family import Family
from supertickets.anatomy.parts import FFN, Attention, Part, rows

BERT = Family(
    layers="encoder.layer",
    attention=Attention("attention.self", rows("attention.self", "query", "key", "value"), "attention.output.dense"),
    ffn=FFN((Part("intermediate.dense", "n"),), "output.dense"),
)
"""BERT, ELECTRA and others: the same modules under the same names."""
ROBERTA = replace(BERT, positions_after_padding=True)
ESM = replace(ROBERTA, task_dropout=None, positions=("absolute", "rotary"), aside=("contact_head",))
MEGATRON_BERT = replace(BERT, task_dropout=None)
REMBERT = replace(
    BERT, task_dropout="classifier_dropout_prob", embedding_projection="encoder.embedding_hidden_mapping_in"
)

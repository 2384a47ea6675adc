from dataclasses import replace

from supertickets.anatomy.family import Family

BERT = Family(
    layers="encoder.layer",
    attention="attention.self",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    ffn_in="intermediate.dense",
    ffn_out="output.dense",
)
"""BERT and ELECTRA: the same modules under the same names."""
ROBERTA = replace(BERT, positions_after_padding=True)

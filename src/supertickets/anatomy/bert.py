from dataclasses import replace

from supertickets.anatomy.family import Family, register_family

BERT = Family(
    model_types=("bert",),
    layers="encoder.layer",
    attention="attention.self",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    ffn_in="intermediate.dense",
    ffn_out="output.dense",
)
register_family(BERT)

# Same modules under the same names.
register_family(replace(BERT, model_types=("roberta", "xlm-roberta"), positions_after_padding=True))
register_family(replace(BERT, model_types=("electra",)))

from supertickets.anatomy.family import Family
from supertickets.anatomy.parts import FFN, Attention, Part, rows

ALBERT = Family(
    layers="encoder.albert_layer_groups.*.albert_layers",
    attention=Attention("attention", rows("attention", "query", "key", "value"), "attention.dense"),
    ffn=FFN((Part("ffn", "n"),), "ffn_output"),
    config_layers="num_hidden_groups*inner_group_num",
    config_depth="num_hidden_layers*inner_group_num",
    config_groups="num_hidden_groups",
    task_dropout="classifier_dropout_prob",
    embedding_projection="encoder.embedding_hidden_mapping_in",
)
"""ALBERT applies the layers of each group several times: a ticket is one of the shared layers, and acts every time."""

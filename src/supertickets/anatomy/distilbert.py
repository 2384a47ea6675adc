from supertickets.anatomy.family import Family
from supertickets.anatomy.parts import FFN, Attention, Part, rows

DISTILBERT = Family(
    layers="transformer.layer",
    attention=Attention(
        "attention",
        rows("attention", "q_lin", "k_lin", "v_lin"),
        "attention.out_lin",
        attributes={"n_heads": "h", "dim": "h d"},
    ),
    ffn=FFN((Part("ffn.lin1", "n"),), "ffn.lin2"),
    config_layers="n_layers",
    config_heads="n_heads",
    config_hidden="dim",
    config_ffn="hidden_dim",
    task_dropout="seq_classif_dropout",
)

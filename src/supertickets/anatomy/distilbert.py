from supertickets.anatomy.family import Family

DISTILBERT = Family(
    layers="transformer.layer",
    attention="attention",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    ffn_in="ffn.lin1",
    ffn_out="ffn.lin2",
    attention_heads="n_heads",
    attention_width="dim",
    config_layers="n_layers",
    config_heads="n_heads",
    config_hidden="dim",
    config_ffn="hidden_dim",
    task_dropout="seq_classif_dropout",
)

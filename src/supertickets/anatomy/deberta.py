from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from supertickets.anatomy.bert import BERT
from supertickets.anatomy.parts import Attention, Part, rows


def _position(kind: str) -> Any:
    """Return whether a config has projections of relative positions: `c2p` of keys, `p2c` of queries."""

    def there(config: Mapping[str, Any]) -> bool:
        kinds = config.get("pos_att_type") or ()
        relative = bool(config.get("relative_attention")) and not config.get("share_att_key", False)
        return relative and kind in (kinds.split("|") if isinstance(kinds, str) else kinds)

    return there


DEBERTA = replace(
    BERT,
    attention=Attention(
        "attention.self",
        (
            Part("attention.self.in_proj", "h 3 d", bias=False),
            Part("attention.self.q_bias", matrix=False),
            Part("attention.self.v_bias", matrix=False),
            Part("attention.self.pos_proj", bias=False, when=_position("c2p")),
            Part("attention.self.pos_q_proj", when=_position("p2c")),
        ),
        "attention.output.dense",
        empty="context",
    ),
    task_dropout="cls_dropout",
    in_bfloat16=False,  # transformers fills a mask with the least float32, which a bfloat16 is too small for
)
DEBERTA_V2 = replace(
    BERT,
    attention=Attention(
        "attention.self",
        (
            *rows("attention.self", "query_proj", "key_proj", "value_proj"),
            Part("attention.self.pos_key_proj", when=_position("c2p")),
            Part("attention.self.pos_query_proj", when=_position("p2c")),
        ),
        "attention.output.dense",
        empty="context",
    ),
    config_head_size="attention_head_size",
    task_dropout="cls_dropout",
)
"""DeBERTa v2 and v3, whose positions share the projections of keys and queries."""

"""Tiny random models of every family, with weights large enough that attention is far from uniform.

With the usual 0.02 initialisation a whole ticket moves the outputs by 1e-4, and wrong code passes.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from supertickets.models import ModelSource
from supertickets.tasks import Form

LAYERS, HEADS, HIDDEN, FFN, VOCABULARY = 3, 4, 32, 48, 120
FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert", "electra")
_RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 8}
_HEAD_SIZE = {"head_dim": HIDDEN // HEADS}
_SHARED_KV = {**_HEAD_SIZE, "num_key_value_heads": 2}
_T5: dict[str, Any] = {
    "num_layers": 1,
    "num_decoder_layers": LAYERS - 1,
    "num_heads": HEADS,
    "d_model": HIDDEN,
    "d_kv": 16,
    "d_ff": FFN,
    "decoder_start_token_id": 0,
}
_BART: dict[str, Any] = {
    "encoder_layers": 1,
    "decoder_layers": LAYERS - 1,
    "encoder_attention_heads": HEADS,
    "d_model": HIDDEN,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": FFN,
    "decoder_ffn_dim": FFN,
    "decoder_start_token_id": 2,
}
TWO_STACKS: dict[str, dict[str, Any]] = {
    "bart": _BART,
    "mbart": _BART,
    "mt5": _T5 | {"feed_forward_proj": "gated-gelu"},
    "t5": _T5 | {"feed_forward_proj": "relu"},
}
"""Encoders with decoders: one layer and two, so five attention modules and three FFNs."""
ATTENTIONS = LAYERS + 2
OTHERS: dict[str, dict[str, Any]] = {
    "albert": {"num_hidden_groups": LAYERS, "num_hidden_layers": 2 * LAYERS, "embedding_size": 16},
    "camembert": {},
    "data2vec-text": {},
    "deberta": _RELATIVE,
    "deberta-v2": {**_RELATIVE, "share_att_key": False, "position_buckets": 4},
    "ernie": {},
    "esm": {"position_embedding_type": "rotary", "mask_token_id": 4, "token_dropout": True},
    "eurobert": {**_SHARED_KV, "attention_bias": True},
    "gemma": {**_HEAD_SIZE, "num_key_value_heads": HEADS},
    "gemma2": _SHARED_KV,
    "gemma3_text": _SHARED_KV,
    "gpt2": {"n_layer": LAYERS, "n_head": HEADS, "n_embd": HIDDEN, "n_inner": FFN, "n_positions": 40},
    "gpt_neox": {},
    "gte": {},
    "jina_embeddings_v3": {},
    "llama": _SHARED_KV,
    "megatron-bert": {},
    "mistral": _SHARED_KV,
    "modernbert": {"attention_bias": True},
    "modernbert-decoder": {},
    "mpnet": {},
    "nomic_bert": _HEAD_SIZE,
    "olmo2": {"num_key_value_heads": 2},
    "opt": {"ffn_dim": FFN, "word_embed_proj_dim": HIDDEN},
    "phi": {"num_key_value_heads": 2, "qk_layernorm": True},
    "phi3": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "rembert": {"input_embedding_size": 16},
    "roberta-prelayernorm": {},
    "smollm3": {"num_key_value_heads": 2},
    "starcoder2": {"num_key_value_heads": 2},
    "xlm-roberta-xl": {},
    **TWO_STACKS,
}
"""Families that are tried once each (tests/test_families.py), with what their tiny models need."""
_PADS_WITH_1 = ("roberta", "camembert", "data2vec", "mpnet", "jina")


def pads_with_1(family: str) -> bool:
    """Return whether a family's models count positions, or may, from padding index 1 on."""
    return any(name in family for name in _PADS_WITH_1)


def tiny_config(family: str, **more: Any) -> PretrainedConfig:
    if family == "distilbert":
        sizes: dict[str, Any] = {"n_layers": LAYERS, "n_heads": HEADS, "dim": HIDDEN, "hidden_dim": FFN}
    elif family in TWO_STACKS:
        sizes = {}
    else:
        sizes = {
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "hidden_size": HIDDEN,
            "intermediate_size": FFN,
        }
    if family == "electra":
        sizes["embedding_size"] = 16
    if family in OTHERS:
        pad = int(pads_with_1(family))
        tokens = {
            "pad_token_id": pad,
            "cls_token_id": 1 - pad,
            "bos_token_id": 1 - pad,
            "sep_token_id": 2,
            "eos_token_id": 2,
        }
        sizes |= tokens | OTHERS[family]
    return AutoConfig.for_model(family, vocab_size=VOCABULARY, max_position_embeddings=40, **{**sizes, **more})


def make_loud(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Give every matrix N(0, 0.5) and every bias N(0, 0.2)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
            elif name.endswith("bias"):
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def save_tiny_model(
    folder: Path,
    family: str = "bert",
    seed: int = 0,
    heads: int = HEADS,
    scale: float = 0.15,
    auto: type = AutoModel,
    mask: bool = False,
) -> Path:
    """Save a tiny encoder (or what `auto` makes) with a word tokenizer as a Hugging Face folder.

    With `mask` the tokenizer has a mask token.
    """
    config = tiny_config(family)
    if heads != HEADS:
        config.num_attention_heads = heads
    torch.manual_seed(seed)
    model = auto.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    specials = ["<s>", "<pad>", "</s>", "<unk>"] if pads_with_1(family) else ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    if family == "qwen2":
        specials[0] = "<|endoftext|>"  # its tokenizer's class adds it
    names = dict(
        zip(
            ["cls", "pad", "sep", "unk"],
            specials if pads_with_1(family) else [specials[i] for i in (1, 0, 2, 3)],
            strict=True,
        )
    )
    if mask:
        names["mask"] = "<mask>" if pads_with_1(family) else "[MASK]"
        specials = [*specials, names["mask"]]
    words = specials + [f"w{i}" for i in range(VOCABULARY - len(specials))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=names["unk"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    cls, sep = names["cls"], names["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, words.index(cls)), (sep, words.index(sep))],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{f"{name}_token": token for name, token in names.items()},
        model_max_length=40,
        model_input_names=["input_ids", "attention_mask"]
        + (["token_type_ids"] if family in ("bert", "electra") else []),
    ).save_pretrained(folder)
    return folder


ROLES = ("query", "key", "value", "attention_output", "ffn_in", "ffn_out")
_BERT = ("encoder.layer", "attention.self.query", "attention.self.key", "attention.self.value",
         "attention.output.dense", "intermediate.dense", "output.dense")  # fmt: skip
_DISTILBERT = ("transformer.layer", "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin",
               "ffn.lin1", "ffn.lin2")  # fmt: skip


def linears(model: PreTrainedModel) -> list[dict[str, nn.Linear]]:
    """Return each layer's six linears by what they do; written down apart from the families' data."""
    layers, *paths = _DISTILBERT if model.config.model_type == "distilbert" else _BERT
    found = model.base_model.get_submodule(layers)
    return [dict(zip(ROLES, map(layer.get_submodule, paths), strict=True)) for layer in found]


def without_dropout(source: ModelSource) -> ModelSource:
    """Let a source build models without any dropout."""
    build = source.build

    def quiet(outputs: int, dropout: float, seed: int, form: Form = "sequence") -> PreTrainedModel:
        model = build(outputs, dropout, seed, form)
        model.config.attention_probs_dropout_prob = 0.0
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return model

    source.build = quiet  # type: ignore[method-assign]
    return source

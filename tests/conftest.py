"""Tiny random models of every family, with weights large enough that attention is far from uniform.

With the usual 0.02 initialisation a whole ticket moves the outputs by 1e-4, and wrong code passes.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from supertickets.models import ModelSource
from supertickets.tasks import Form

LAYERS, HEADS, HIDDEN, FFN, VOCABULARY = 3, 4, 32, 48, 120
FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert", "electra")
SHARED = Path(__file__).resolve().parents[2] / "shared"


def tiny_config(family: str, **more: object) -> AutoConfig:
    if family == "distilbert":
        sizes = {"n_layers": LAYERS, "n_heads": HEADS, "dim": HIDDEN, "hidden_dim": FFN}
    else:
        sizes = {
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "hidden_size": HIDDEN,
            "intermediate_size": FFN,
        }
    if family == "electra":
        sizes["embedding_size"] = 16
    return AutoConfig.for_model(family, vocab_size=VOCABULARY, max_position_embeddings=40, **sizes, **more)


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


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def loud_model(family: str) -> PreTrainedModel:
    """A tiny float64 model with a two-class output layer."""
    return make_loud(AutoModelForSequenceClassification.from_config(tiny_config(family, num_labels=2)).double()).eval()


@pytest.fixture
def inputs(family: str) -> dict[str, torch.Tensor]:
    """Five inputs of 4 to 12 tokens, padded."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, VOCABULARY, (5, 12), generator=generator)
    mask = (torch.arange(12) < torch.tensor([12, 4, 7, 9, 5])[:, None]).long()
    pad = 1 if "roberta" in family else 0
    return {"input_ids": torch.where(mask.bool(), ids, pad), "attention_mask": mask}


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
    specials = ["<s>", "<pad>", "</s>", "<unk>"] if "roberta" in family else ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    names = dict(
        zip(
            ["cls", "pad", "sep", "unk"],
            specials if "roberta" in family else [specials[i] for i in (1, 0, 2, 3)],
            strict=True,
        )
    )
    if mask:
        names["mask"] = "<mask>" if "roberta" in family else "[MASK]"
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


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny-bert")


def write_words(
    path: Path,
    examples: int,
    seed: int,
    label: Callable[[list[int]], object] = lambda w: int(2 * sum(i < 12 for i in w) > len(w)),
) -> Path:
    """Write a JSONL file of texts of words w0...; by default the majority of low words decides the class."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(examples):
        n = int(torch.randint(3, 9, (1,), generator=generator))
        words = torch.randint(0, 24, (n,), generator=generator).tolist()
        rows.append({"text": " ".join(f"w{word}" for word in words), "label": label(words)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("words")
    return {
        "train_file": write_words(folder / "train.jsonl", 64, 0),
        "dev_file": write_words(folder / "dev.jsonl", 40, 1),
    }

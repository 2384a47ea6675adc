import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Tests run side by side. With more threads than cores, each operation on a tiny tensor waits for one that has no turn.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from helpers.browser import browser, reset_screen, why_not
from helpers.models import FAMILIES, VOCABULARY, make_loud, save_tiny_model, tiny_config
from helpers.optional import lack
from helpers.trials import write_words
from supertickets.models import source
from supertickets.models.base import BaseModel

pytest_plugins = ["helpers.medium", "helpers.several"]


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Files need not outlast a power failure here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def models_are_read_once() -> Iterator[None]:
    """A model that one process has read is not read again for another study: a lab keeps it in the same way."""
    read, known = source.load_model, dict[Any, Any]()

    def once(base: BaseModel, kind: Any, dtype: Any, outputs: int | None = None) -> Any:
        asked = base.weight_hash, base.files_hash, base.folder, base.layers, kind, dtype, outputs
        if asked not in known:
            known[asked] = read(base, kind, dtype, outputs)
        return known[asked]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "load_model", once)
        yield


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


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("words")
    return {
        "train_file": write_words(folder / "train.jsonl", 64, 0),
        "dev_file": write_words(folder / "dev.jsonl", 40, 1),
    }


@pytest.fixture(scope="session")
def one_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if reason := why_not():
        lack(reason)
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def driver(one_browser: Any) -> Any:
    """A real browser, with the screen that it starts with."""
    reset_screen(one_browser)
    return one_browser

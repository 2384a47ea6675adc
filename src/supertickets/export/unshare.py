"""A model whose layers share their weights (ALBERT), as one that has each layer's weights for itself."""

import json
import re
import shutil
from pathlib import Path

from supertickets.errors import TicketError
from supertickets.models import find_model
from supertickets.models.base import SAFE_WEIGHTS
from supertickets.models.checkpoint import read_state
from supertickets.storage import atomic_folder, check_free, user_path


def unshare(model: str, out: Path | str) -> Path:
    """Save a model in `out` with a copy of the shared layers for each time that they are applied; return the folder.

    Its config is a stock one, with as many groups of layers as layers, and it computes the same bit for bit. Its layers
    are pruned one by one then, and trained apart; the file is larger. Raises TicketError for a model whose layers share
    nothing, and if `out` is not empty.
    """
    from safetensors.torch import save_file

    base, out = find_model(model), user_path(out)
    groups, _, rest = base.family.layers.partition(".*.")
    if not rest or not base.shape.applied:
        raise TicketError(f"model {base.name!r}: its layers do not share weights; expected a model such as ALBERT.")
    check_free(out)
    order = base.family.order(base.config)
    group = re.compile(rf"(.*{re.escape(groups)}\.)(\d+)(\..*)")
    state = {}
    for name, tensor in read_state(base).items():
        if (found := group.fullmatch(name)) is None:
            state[name] = tensor
            continue
        for layer, applied in enumerate(order):
            if applied == int(found[2]):
                state[f"{found[1]}{layer}{found[3]}"] = tensor.clone()
    with atomic_folder(out) as new:
        for path in base.files:
            if path.name not in base.weights:
                shutil.copyfile(path, new / path.name)
        save_file(state, new / SAFE_WEIGHTS, metadata={"format": "pt"})
        config = json.dumps(base.config | {"num_hidden_groups": len(order)}, indent=2)
        (new / "config.json").write_text(f"{config}\n", encoding="utf-8")
    return out

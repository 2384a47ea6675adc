"""Batches: padded as one would by hand, whatever the examples are."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from supertickets.training.batches import Encoded

CPU = torch.device("cpu")
examples = st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=9), min_size=1, max_size=8)


def by_hand(split: Encoded, rows: list[int]) -> dict[str, list[list[int]]]:
    width = max(len(split.ids[row]) for row in rows)
    found: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "token_type_ids": []}
    for row in rows:
        padding = width - len(split.ids[row])
        found["input_ids"].append([*split.ids[row].tolist(), *[split.pad_id] * padding])
        found["attention_mask"].append([1] * len(split.ids[row]) + [0] * padding)
        if split.segments is not None:
            found["token_type_ids"].append([*split.segments[row].tolist(), *[0] * padding])
    return {name: values for name, values in found.items() if values}


@given(texts=examples, pairs=st.booleans(), pad=st.integers(0, 99), data=st.data())
def test_a_batch_is_padded_to_its_longest_example(
    texts: list[list[int]], pairs: bool, pad: int, data: st.DataObject
) -> None:
    ids = [np.array(text, np.int32) for text in texts]
    segments = [(one % 2).astype(np.int32) for one in ids] if pairs else None
    split = Encoded(ids, segments, np.arange(len(ids)), pad)
    rows = data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=1, max_size=10))
    for chosen in (rows, np.array(rows)):
        inputs, targets = split.collate(chosen, CPU)
        assert {name: value.tolist() for name, value in inputs.items()} == by_hand(split, rows)
        assert all(value.dtype == torch.int64 for value in inputs.values())
        assert targets.tolist() == rows
    other = Encoded(ids, segments, np.arange(len(ids)), pad + 1)
    padded = len({len(ids[row]) for row in rows}) > 1
    filled = [one.collate(rows, CPU)[0]["input_ids"].tolist() for one in (other, split)]
    assert (filled[0] != filled[1]) == padded  # control

"""The mean of several models' weights."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor


def mean_weights(models: Iterable[Mapping[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """Return the weighted mean of models' tensors by name, each in its own shape and precision.

    `shares` has a number a model, 1 in all. Sums are in float64, so that the mean of equal models is that model. Models
    are read one after the other. What has no fractions (positions, counts) must be the same in all. Raises ValueError
    for models with other names, shapes, or numbers of that kind. Source: Wortsman et al., "Model soups" (ICML 2022),
    section 2, the uniform soup.

    >>> one, other = {"bias": torch.tensor([1.0, 2.0])}, {"bias": torch.tensor([3.0, 2.0])}
    >>> mean_weights([one, other], [0.5, 0.5])["bias"].tolist()
    [2.0, 2.0]
    """
    first: dict[str, Tensor] = {}
    totals: dict[str, Tensor] = {}
    for model, share in zip(models, shares, strict=True):
        first = first or dict(model)
        if {name: value.shape for name, value in model.items()} != {name: value.shape for name, value in first.items()}:
            raise ValueError("the weights of these models have other names or shapes: they have no mean")
        for name, value in model.items():
            if value.is_floating_point():
                weighted = share * value.detach().double()
                totals[name] = totals[name] + weighted if name in totals else weighted
            elif not torch.equal(value, first[name]):
                raise ValueError(f"{name} differs among these models and has no mean")
    return {name: totals[name].to(value.dtype) if name in totals else value for name, value in first.items()}

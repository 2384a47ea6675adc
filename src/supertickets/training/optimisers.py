"""Optimisers and learning-rate schedules, by the names that a recipe uses."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_linear_schedule_with_warmup

from supertickets.training.recipe import Recipe


def decays(parameter: nn.Parameter) -> bool:
    """Return whether weight decay applies: to matrices, not to biases and LayerNorms."""
    return parameter.ndim >= 2


def build_optimizer(parameters: Iterable[nn.Parameter], recipe: Recipe) -> Optimizer:
    """Return the recipe's optimiser with decoupled weight decay: theta shrinks by lr_t * weight_decay a step."""
    found = list(parameters)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in found if decays(p)], "decay": recipe.weight_decay},
        {"params": [p for p in found if not decays(p)], "decay": 0.0},
    ]
    optimizer: Optimizer
    if recipe.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=0.0, fused=True)
    elif recipe.optimizer == "released":
        optimizer = ReleasedAdamax(groups, lr=recipe.learning_rate)
    elif all(p.device.type == "cpu" for p in found):
        return AdamaxInBlocks(groups, lr=recipe.learning_rate)
    else:
        optimizer = torch.optim.Adamax(groups, lr=recipe.learning_rate, foreach=True)
    optimizer.register_step_pre_hook(_decay)
    return optimizer


def _decay(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Shrink decaying parameters before a step, as AdamW does; torch's Adamax only knows decay inside the gradient."""
    with torch.no_grad():
        for group in optimizer.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if group["decay"] and moved:
                torch._foreach_mul_(moved, 1.0 - group["lr"] * group["decay"])


class AdamaxInBlocks(torch.optim.Adamax):
    """torch's Adamax for CPUs with decoupled weight decay (`decay` of a group), a few rows of a parameter at a time.

    An update goes over its numbers seven times, for which a block stays in the cache; word embeddings do not. State and
    bits are those of torch's own, after the same decay.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do one update of all parameters that have a gradient."""
        for group in self.param_groups:
            (b1, b2), eps, lr = group["betas"], group["eps"], group["lr"]
            stays = 1.0 - lr * group["decay"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"], state["exp_inf"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                state["step"] += 1
                rate = lr / (1 - b1 ** state["step"].item())
                for theta, grad, m, u in _in_blocks(parameter, parameter.grad, state["exp_avg"], state["exp_inf"]):
                    if group["decay"]:
                        theta.mul_(stays)
                    m.lerp_(grad, 1 - b1)
                    torch.maximum(u.mul_(b2), grad.abs().add_(eps), out=u)
                    theta.addcdiv_(m, u, value=-rate)


_BLOCK = 2**16
"""Numbers in a block; four arrays of it, and one that is made on the way, are to fit in a core's second-level cache."""


def _in_blocks(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Return tensors of one shape in blocks of rows, or as they are where they are small."""
    if tensors[0].numel() <= _BLOCK:
        return [tensors]
    rows = max(1, _BLOCK * len(tensors[0]) // tensors[0].numel())
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


class ReleasedAdamax(Optimizer):
    """The released code's Adamax (spec section 4): no bias correction, eps inside and outside the maximum."""

    def __init__(self, params: Iterable[Any], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do one update: m <- b1 m + (1 - b1) g; u <- max(b2 u, |g| + eps); theta <- theta - lr m / (u + eps)."""
        for group in self.param_groups:
            (b1, b2), eps = group["betas"], group["eps"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["m"], state["u"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                state["m"].mul_(b1).add_(parameter.grad, alpha=1 - b1)
                torch.maximum(state["u"].mul_(b2), parameter.grad.abs().add_(eps), out=state["u"])
                parameter.addcdiv_(state["m"], state["u"] + eps, value=-group["lr"])


def released_factor(step: int, total: int, warmup: float) -> float:
    """Return the released schedule's factor: up to 1.0 over the warm-up, a jump down to 1 - warmup, then to 0."""
    done = step / total
    return done / warmup if done < warmup else 1.0 - done


def build_schedule(optimizer: Optimizer, recipe: Recipe, steps: int) -> LambdaLR:
    """Return the recipe's schedule over `steps` updates."""
    if recipe.lr_schedule == "released":
        return LambdaLR(optimizer, lambda step: max(released_factor(step, steps, recipe.warmup), 0.0))
    return get_linear_schedule_with_warmup(optimizer, round(recipe.warmup * steps), steps)


def go_to(schedule: LambdaLR, step: int) -> None:
    """Put a schedule where it is after `step` updates."""
    schedule.last_epoch = step
    for group, base, factor in zip(
        schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
    ):
        group["lr"] = base * factor(step)

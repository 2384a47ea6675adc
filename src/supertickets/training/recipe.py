from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator

Precision = Literal["float32", "bfloat16"]


class Recipe(BaseModel):
    """How a model is fine-tuned; every field can change the result. Defaults: the paper's appendix A.1.2.

    `released` values are what the released code does instead (spec section 4), kept for comparison.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(6, ge=1, description="training epochs at most")
    batch_size: int = Field(32, ge=1, description="examples a step")
    learning_rate: float = Field(5e-5, gt=0, description="peak learning rate")
    max_length: int = Field(128, ge=4, description="longest input in tokens; longer ones are cut")
    optimizer: Literal["adamax", "adamw", "released"] = Field("adamax", description="optimiser")
    lr_schedule: Literal["linear", "released"] = Field("linear", description="the learning rate over the steps")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay of matrices")
    max_grad_norm: float = Field(1.0, gt=0, description="global l2 norm that gradients are clipped to")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout before the output layer")
    order: Literal["bucketed", "released"] = Field("bucketed", description="how examples become batches")
    patience: int | None = Field(3, ge=0, description="stop after so many epochs without a better dev score (0: never)")
    keep_epoch: Literal["best", "last"] = Field("best", description="the epoch whose weights a training ends with")
    precision: Precision = Field("float32", description="arithmetic of the forward pass; weights are float32")
    processes: int = Field(1, ge=1, description="processes of one training, as `accelerate launch` starts them")
    threads: int = Field(1, ge=1, description="CPU threads of one training; the bits of a result depend on it")

    @field_validator("patience")
    @classmethod
    def _never(cls, patience: int | None) -> int | None:
        return patience or None  # one value for never, so that equal recipes have equal keys

    @field_serializer("patience", when_used="json")
    def _never_as_typed(self, patience: int | None) -> int | None:
        return patience or 0


class Span(BaseModel):
    """Which part of a recipe's training there is: its steps from the share `skip` on, up to the share `stop`.

    The learning rate is what it is there in the whole. Its schedule is `lr_horizon` trainings long.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    skip: float = Field(0.0, ge=0, lt=1)
    stop: float = Field(1.0, gt=0, le=1)
    lr_horizon: int = Field(1, ge=1)


class Sharing(BaseModel):
    """How several tasks train one encoder; what a training of one task does not read. Defaults: Algorithm 1."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sampling: Literal["proportional", "annealed", "uniform"] = Field(
        "proportional", description="how often each task's batches come: by size, by size at first then evener, equally"
    )
    updates: Literal["strict", "leaky"] = Field(
        "strict",
        description="what a step of a task may change: its ticket alone, or (leaky) what momentum and decay still move",
    )

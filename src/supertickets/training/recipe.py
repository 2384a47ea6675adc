from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator

Precision = Literal["float32", "bfloat16"]


class Recipe(BaseModel):
    """How a model is fine-tuned; every field can change the result. Defaults: the paper's appendix A.1.2.

    `released` values are what the released code does instead (spec section 4), kept for comparison.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(6, ge=1, description="maximum number of training epochs")
    batch_size: int = Field(32, ge=1, description="examples per update step")
    learning_rate: float = Field(5e-5, gt=0, description="peak learning rate")
    max_length: int = Field(128, ge=4, description="maximum input length in tokens; longer inputs are truncated")
    optimizer: Literal["adamax", "adamw", "released"] = Field(
        "adamax", description="optimizer; released: Adamax without bias correction, as in the authors' code"
    )
    lr_schedule: Literal["linear", "released"] = Field(
        "linear",
        description="learning rate schedule: linear (warmup, then linear decay) or released (as in the released code)",
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="fraction of the steps used for learning rate warmup")
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay of the weight matrices")
    max_grad_norm: float = Field(1.0, gt=0, description="maximum l2 norm of the gradients (for gradient clipping)")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout before the output layer")
    dropout_masks: Literal["keyed", "sequential"] = Field(
        "keyed",
        description="dropout masks: keyed (they depend on seed, step and place in the model alone, so that a ticket "
        "and the dense model of a seed drop the same) or sequential (drawn one after another, as in the released code)",
    )
    order: Literal["bucketed", "released"] = Field(
        "bucketed",
        description="how examples are batched: bucketed (similar lengths together) or released (as in the released "
        "code)",
    )
    patience: int | None = Field(
        3, ge=0, description="stop after this many epochs without a better dev score (0: never)"
    )
    keep_epoch: Literal["best", "last"] = Field("best", description="epoch whose weights a training ends with")
    precision: Precision = Field("float32", description="precision of the forward pass; weights are float32")
    # How threads split a sum decides its last bits, so their number is part of a trial; that of workers is not.
    threads: int = Field(
        1, ge=1, description="CPU threads per training; results are reproducible for the same number only"
    )

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
        "proportional",
        description="how often tasks are sampled: by training set size (proportional), by size at first and then more "
        "evenly (annealed), or equally often (uniform)",
    )
    updates: Literal["strict", "leaky"] = Field(
        "strict",
        description="weights that a training step of a task may change: only its ticket (strict), or also others, "
        "through momentum and weight decay, as in the released code (leaky)",
    )

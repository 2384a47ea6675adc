from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ScoringSettings(BaseModel):
    """How importance is measured; the defaults are the paper's text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    importance: Literal["sensitivity", "magnitude", "taylor", "fisher", "movement", "random"] = Field(
        "sensitivity", description="measure of importance; sensitivity is the paper's"
    )
    absolute: Literal["example", "token"] = Field(
        "example", description="take |.| of an example's derivative (paper) or at each of its positions (released code)"
    )
    accumulation: Literal["mean", "decaying"] = Field(
        "mean", description="mean over examples, or the released code's sum over batches of mean losses, never zeroed"
    )
    score_epoch: int | None = Field(
        None,
        ge=1,
        description="measure importance on the weights after this epoch; default, and where a training ends sooner: on "
        "those that it ends with",
    )

    def read(self) -> "ScoringSettings":
        """Return these settings with what their measure does not read put at its default."""
        read = READ[self.importance]
        return ScoringSettings(importance=self.importance, **{name: getattr(self, name) for name in read})


READ: dict[str, tuple[str, ...]] = {
    "sensitivity": ("absolute", "accumulation", "score_epoch"),
    "fisher": ("absolute", "score_epoch"),
    **dict.fromkeys(("magnitude", "taylor", "movement"), ("score_epoch",)),
    "random": (),
}
"""The other settings that each measure of importance reads."""

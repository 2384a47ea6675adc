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

    def read(self) -> "ScoringSettings":
        """Return these settings with what their measure does not read put at its default."""
        read = READ.get(self.importance, ())
        return ScoringSettings(importance=self.importance, **{name: getattr(self, name) for name in read})


READ = {"sensitivity": ("absolute", "accumulation"), "fisher": ("absolute",)}
"""The other settings that a measure of importance reads."""

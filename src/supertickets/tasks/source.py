"""Where a task's examples come from, as flags and YAML keys say it."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from supertickets.storage import UserPath
from supertickets.tasks.labels import label_text


class TaskFiles(BaseModel):
    """Where a task's examples are: a built-in generator, GLUE and SQuAD (a folder or the hub), SNLI, SciTail and
    WikiText (a folder), or the user's files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: str
    data: UserPath | None = Field(
        None, description="folder of the task's files (without it, GLUE and SQuAD come from the hub)"
    )
    train_file: UserPath | None = Field(
        None,
        description="your own training file: .csv, .tsv, .jsonl or .parquet; for mlm plain text, for squad also .json",
    )
    dev_file: UserPath | None = Field(
        None, description="your own evaluation file (without it, a share of the training file)"
    )
    text: str = Field("text", description="column of the text")
    text_pair: str | None = Field(None, description="column of the second text, if there is one")
    label: str = Field("label", description="column of the label or target")
    regression: bool = Field(False, description="targets are real numbers")
    labels: tuple[str, ...] | None = Field(
        None, description="every class of your own task, in the order of the model's outputs; default: sorted"
    )
    positive: str | None = Field(None, description="class that metric f1 is of; default: the second one")
    metrics: tuple[str, ...] | None = Field(None, description="metrics of your own task; their mean is the score")
    dev_share: float = Field(0.1, gt=0, lt=1, description="share of the training file that becomes the dev set")

    @field_validator("labels", "positive", mode="before")
    @classmethod
    def _as_in_files(cls, value: Any) -> Any:
        """Read labels as files' are: 1.0 is `1`, true is `true`."""
        if isinstance(value, list | tuple):
            return [label_text(one) for one in value]
        return None if value is None else label_text(value)


class TaskSource(TaskFiles):
    """Where a task's examples come from, and which part of them is trained on."""

    fraction: float = Field(
        1.0, gt=0, le=1, description="share of the training set to train on, rounded down; smaller ones are parts"
    )
    fraction_seed: int = Field(0, ge=0, description="seed of the order from which fractions are taken")

"""Where a task's examples come from, as flags and YAML keys say it."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from supertickets.storage import UserPath
from supertickets.tasks.labels import label_text


class TaskFiles(BaseModel):
    """Where a task's examples are: in this package, GLUE and SQuAD (a folder or the hub), SNLI, SciTail and
    WikiText (a folder), or the user's files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: str
    data: UserPath | None = Field(
        None,
        description="folder with the task's files; default: GLUE and SQuAD are downloaded from the hub, mlm and clm "
        "use a small built-in corpus; snli and scitail need it",
    )
    train_file: UserPath | None = Field(
        None,
        description="your own training file: .csv, .tsv, .jsonl or .parquet; for --task mlm and clm plain text, for "
        "--task squad also .json, for --task ner columns of words and tags (.conll, .txt, ...) or .jsonl, .parquet",
    )
    dev_file: UserPath | None = Field(None, description="your own dev file; default: --dev-share of the training file")
    text: str = Field("text", description="column with the text")
    text_pair: str | None = Field(None, description="column with the second text, if there is one")
    label: str = Field("label", description="column with the label or target")
    regression: bool = Field(False, description="the targets are real numbers")
    multi_label: bool = Field(
        False, description="an example may have any number of labels: lists, or text with --label-separator between"
    )
    label_separator: str = Field(",", min_length=1, description="what separates an example's labels in a text")
    labels: tuple[str, ...] | None = Field(
        None, description="all classes of your own task, in the order of the model's outputs; default: sorted"
    )
    positive: str | None = Field(None, description="class for which metric f1 is computed; default: the second one")
    metrics: tuple[str, ...] | None = Field(
        None,
        description="metrics for your own task; their mean is the score: accuracy, f1, macro_f1, matthews; with "
        "--regression pearson, spearman, r2, mae, rmse (mae and rmse are not part of the score); with --multi-label "
        "micro_f1, macro_f1",
    )
    dev_share: float = Field(0.1, gt=0, lt=1, description="fraction of --train-file to use as the dev set")

    @property
    def table_fields(self) -> list[str]:
        """Which of the settings that are about columns of a table are not at their defaults."""
        fields = ("text", "text_pair", "label", "regression", "multi_label", "label_separator", "labels", "positive")
        return [one for one in (*fields, "metrics") if getattr(self, one) != TaskFiles.model_fields[one].default]

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
        1.0,
        gt=0,
        le=1,
        description="fraction of the training set to train on; smaller fractions are subsets of larger ones",
    )
    fraction_seed: int = Field(0, ge=0, description="random seed that decides which examples are in a fraction")

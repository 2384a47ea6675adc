"""Fine-tunings an hour: `--workers auto`, `--workers 1`, and a plain loop over the transformers Trainer.

All three do the same dense trainings (default encoder, the built-in task `acceptability`, the same optimiser, schedule,
batch size, epochs and precision, evaluation after each epoch). Each runs in processes of its own, including start-up,
and they take turns; a worker computes with one thread, the Trainer with all. The Trainer's have no weight decay and
other dropout masks. Memory is what all processes of an arm take at the same time, at most (looked at every second;
what they share counts once). Scores are the last epoch's, means over few seeds, of which some do not learn the task
(one of our four ended at 33, the others at 70 to 74, without weight decay too): they do not tell which learns better.
"""

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the arms are run as scripts, too
from figures import ENCODER, Figure, of_pairs

TASK = "acceptability"
ARMS = ("auto", "one worker", "transformers Trainer")
EVERY = 1.0  # seconds between two looks at memory, each of which takes some 20 ms


def lab_arm(asked: dict[str, Any], trainings: int, workers: str) -> None:
    """Dense trainings only, with the recipe that `find` has for the task."""
    from supertickets.evidence.runs import TaskInfo
    from supertickets.lab.lab import Lab
    from supertickets.lab.machine import Machine
    from supertickets.lab.steps import Step
    from supertickets.models import find_model
    from supertickets.studies.config import fill
    from supertickets.studies.find import FindSettings
    from supertickets.studies.study import full_ticket, trial_of
    from supertickets.tasks import load_task
    from supertickets.training.devices import choose_precision, find_device

    base = find_model(ENCODER)
    settings = fill(FindSettings, asked, base.shape)
    settings = settings.model_copy(update={"patience": None, "precision": choose_precision("auto", find_device())})
    task = TaskInfo.of(base, settings.source, load_task(settings.source))
    trials = [trial_of(settings, task, full_ticket(task), seed) for seed in range(trainings)]
    steps = [Step({"kind": "dense", "seed": trial.seed}, lambda done, trial=trial: trial) for trial in trials]
    machine = Machine(workers="auto" if workers == "auto" else int(workers))
    with tempfile.TemporaryDirectory() as folder, Lab(Path(folder), machine) as lab:
        runs = lab.run(steps).runs
        assert all(run.finished for run in runs), [run.failure for run in runs]
        tell([run.outcome.epochs[-1]["score"] for run in runs])


def trainer_arm(asked: dict[str, Any], trainings: int) -> None:
    """What one would write by hand: the stock model, dynamic padding, a loop over seeds, all threads."""
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        get_linear_schedule_with_warmup,
        set_seed,
    )

    from supertickets.models import find_model
    from supertickets.studies.config import fill
    from supertickets.studies.find import FindSettings
    from supertickets.tasks import load_task
    from supertickets.tasks.metrics import evaluate
    from supertickets.training.devices import choose_precision, find_device

    base = find_model(ENCODER)
    recipe = fill(FindSettings, asked, base.shape)
    data = load_task(recipe.source)
    tokenizer = AutoTokenizer.from_pretrained(base.folder)

    def rows(split: object) -> list[dict]:
        found = tokenizer(split.text, split.pair, truncation=True, max_length=recipe.max_length)
        return [
            {**{name: found[name][i] for name in found}, "labels": split.targets[i].item()} for i in range(len(split))
        ]

    train, dev = rows(data.train), rows(data.dev)
    scores = []
    for seed in range(trainings):
        set_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(
            base.folder, num_labels=data.outputs, dtype=torch.float32, local_files_only=True
        )
        # Without weight decay: torch's Adamax only has the coupled kind, which here drowns the gradient.
        optimizer = torch.optim.Adamax(model.parameters(), lr=recipe.learning_rate, foreach=True)
        steps = -(-len(train) // recipe.batch_size) * recipe.epochs
        schedule = get_linear_schedule_with_warmup(optimizer, round(recipe.warmup * steps), steps)
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                model=model,
                args=TrainingArguments(
                    output_dir=folder,
                    num_train_epochs=recipe.epochs,
                    per_device_train_batch_size=recipe.batch_size,
                    per_device_eval_batch_size=2 * recipe.batch_size,
                    max_grad_norm=recipe.max_grad_norm,
                    bf16=choose_precision("auto", find_device()) == "bfloat16",
                    train_sampling_strategy="group_by_length",
                    eval_strategy="epoch",
                    save_strategy="no",
                    logging_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                    use_cpu=not torch.cuda.is_available(),
                ),
                train_dataset=train,
                eval_dataset=dev,
                data_collator=DataCollatorWithPadding(tokenizer),
                optimizers=(optimizer, schedule),
                compute_metrics=lambda found: evaluate(data.metrics, found.label_ids, np.asarray(found.predictions)),
            )
            trainer.train()
            scores.append([entry["eval_score"] for entry in trainer.state.log_history if "eval_score" in entry][-1])
    tell(scores)


def tell(scores: list[float]) -> None:
    """Print what came out."""
    print(json.dumps({"scores": scores}))


def memory_of(root: int) -> float:
    """Return the megabytes that a process and all its descendants take now, pages that several share counted once.

    `getrusage` would leave workers out: they are children of a process that goes on running.
    """
    parents = dict[int, int]()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    family, kilobytes = [root], 0
    for process in family:
        family += [child for child, parent in parents.items() if parent == process]
        with suppress(OSError):
            found = re.search(r"^Pss: +(\d+) kB$", Path(f"/proc/{process}/smaps_rollup").read_text(), re.M)
            kilobytes += int(found[1]) if found else 0
    return kilobytes / 1024


def one_arm(name: str, trainings: int, smallest: bool) -> dict[str, Any]:
    """Run an arm in a process of its own; return its seconds, scores and memory."""
    started, megabytes = time.monotonic(), 0.0
    command = [sys.executable, __file__, name, str(trainings), *(["smallest"] if smallest else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while True:
        try:
            said, failure = process.communicate(timeout=EVERY)
            break
        except subprocess.TimeoutExpired:
            megabytes = max(megabytes, memory_of(process.pid))
    if process.returncode:
        raise SystemExit(failure)
    seconds = time.monotonic() - started
    return {"seconds": seconds, "megabytes": megabytes, **json.loads(said.strip().splitlines()[-1])}


def figures(smallest: bool) -> Iterator[Figure]:
    trainings, rounds = (1, 1) if smallest else (4, 2)
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for _ in range(rounds):
        for arm in ARMS:
            found[arm].append(one_arm(arm, trainings, smallest))
    hours = {arm: np.array([3600 * trainings / turn["seconds"] for turn in turns]) for arm, turns in found.items()}
    for arm in ARMS:
        yield of_pairs(f"{arm}: fine-tunings an hour", hours[arm])
        yield Figure(f"{arm}: mean score", statistics.mean(statistics.mean(turn["scores"]) for turn in found[arm]))
        yield Figure(f"{arm}: memory", max(turn["megabytes"] for turn in found[arm]), "MB")
    for arm in ARMS[1:]:
        yield of_pairs(f"auto beside {arm}", hours["auto"] / hours[arm], "x", at_least=1.0)


if __name__ == "__main__":
    arm, trainings, *rest = sys.argv[1:]
    asked: dict[str, Any] = {"task": TASK, "model": ENCODER, **({"epochs": 1, "fraction": 0.01} if rest else {})}
    if arm == "transformers Trainer":
        trainer_arm(asked, int(trainings))
    else:
        lab_arm(asked, int(trainings), "auto" if arm == "auto" else "1")

"""Trials per hour: --workers auto, --workers 1, and a plain loop over the transformers Trainer, in one run.

    python benchmarks/throughput.py --trainings 6 --rounds 2

All three do the same dense trainings (default encoder, a built-in task, the same optimiser, schedule, batch size,
epochs and precision, evaluation after each epoch). Each runs in its own process, including start-up, and they take
turns, so that changes in the machine's speed affect all of them. Only the ratios carry over to other machines.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ARMS = ("auto", "one worker", "transformers Trainer")


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

    base = find_model("default")
    settings = fill(FindSettings, asked, base.shape)
    settings = settings.model_copy(update={"patience": None, "precision": choose_precision("auto", find_device())})
    task = TaskInfo.of(base, settings.source, load_task(settings.source))
    trials = [trial_of(settings, task, full_ticket(task), seed) for seed in range(trainings)]
    steps = [Step({"kind": "dense", "seed": trial.seed}, lambda done, trial=trial: trial) for trial in trials]
    machine = Machine(workers="auto" if workers == "auto" else int(workers))
    with tempfile.TemporaryDirectory() as folder, Lab(Path(folder), machine) as lab:
        runs = lab.run(steps).runs
        assert all(run.finished for run in runs), [run.failure for run in runs]
        print(json.dumps([run.outcome.score for run in runs]))


def trainer_arm(asked: dict[str, Any], trainings: int) -> None:
    """What one would write by hand: the stock model, dynamic padding, a loop over seeds, all threads."""
    import numpy as np
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

    base = find_model("default")
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
            scores.append(trainer.evaluate()["eval_score"])
    print(json.dumps(scores))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="acceptability")
    parser.add_argument("--trainings", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--smallest", action="store_true", help="one round of one training, an epoch of few examples")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    asked: dict[str, Any] = {"task": options.task}
    if options.smallest:
        options.trainings, options.rounds = 1, 1
        asked |= {"epochs": 1, "fraction": 0.01}
    if options.arm == "transformers Trainer":
        trainer_arm(asked, options.trainings)
        return 0
    if options.arm:
        lab_arm(asked, options.trainings, "auto" if options.arm == "auto" else "1")
        return 0
    hours: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for turn in range(options.rounds):
        for arm in ARMS:
            command = [sys.executable, __file__, "--arm", arm, "--task", options.task]
            command += ["--smallest"] if options.smallest else []
            started = time.monotonic()
            done = subprocess.run(
                [*command, "--trainings", str(options.trainings)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                print(done.stderr)
                return 1
            seconds = time.monotonic() - started
            hours[arm].append(options.trainings * 3600 / seconds)
            scores = json.loads(done.stdout.strip().splitlines()[-1])
            print(
                f"round {turn + 1}, {arm}: {seconds:.0f} s, {hours[arm][-1]:.0f} trials an hour, "
                f"mean score {statistics.mean(scores):.1f}",
                flush=True,
            )
    for arm in ARMS[1:]:
        ratios = [a / b for a, b in zip(hours["auto"], hours[arm], strict=True)]
        print(f"auto against {arm}: {statistics.median(ratios):.2f} times as many (median of {len(ratios)} pairs)")
    return 0


if __name__ == "__main__":
    sys.exit(main())

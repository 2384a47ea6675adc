"""Train the same trials with two versions of the code; compare their keys and every bit of the results.

    git worktree add ../before main
    python scripts/same_bits.py --before ../before/src

Every kind of trial is run once: dense, cut, scored by each measure, several tasks on one encoder, weights kept at zero,
parts of a training, other initial weights, masked tokens, questions, and trainings that are stopped and resume from a
checkpoint. A tiny random model and made-up tasks are used, on the CPU. Prints what differs, and exits with 1 if
anything does, or if a training with another seed does not. Without `--before` the code is compared with itself.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))


START, FIRST = "kept weights", "the first"
"""The trial that others start from, and what they have as `start` until it has run."""


class StoppedError(Exception):
    pass


def train_all(places: dict[str, str], only: list[str]) -> dict[str, dict[str, Any]]:
    """Return what comes out of each trial, by its name; `only` some of them, if any are named."""
    from supertickets.lab.jobs import Job
    from supertickets.lab.trial import Trial
    from supertickets.lab.workbench import Workbench
    from supertickets.models import find_model
    from supertickets.tasks import load_task

    bench, found = Workbench("cpu", checkpoint_every=0.0), {}
    base = find_model(places["model"])
    with tempfile.TemporaryDirectory() as temporary:
        for name, (parts, content, stops) in trials_of(places).items():
            if only and name not in only:
                continue
            tasks = [task | {"data_hash": load_task(task["source"]).fingerprint()} for task in parts]
            if content.get("start") == FIRST:
                first = found[START]
                content["start"] = {"trial": first["key"], "folder": Path(temporary) / first["key"]}
                content["start"] |= {"weights": first["files"]["weights.safetensors"], "ticket": parts[0]["ticket"]}
            trial = Trial(model=places["model"], weight_hash=base.weight_hash, tasks=tasks, **content)
            job = Job(trial, Path(temporary) / trial.key, True, name)
            for stop in (*stops, None):

                def report(event: dict[str, Any], stop: int | None = stop) -> None:
                    if event["step"] == stop:
                        raise StoppedError

                try:
                    outcome = bench.run(job, report)
                except StoppedError:
                    continue
            cost = {part: value for part, value in outcome.cost.items() if part != "seconds"}
            said = {part: getattr(outcome, part) for part in ("key", "status", "epochs", "best_epoch", "files")}
            found[name] = {**said, "cost": cost}
    return found


def trials_of(places: dict[str, str]) -> dict[str, tuple[list[dict[str, Any]], dict[str, Any], tuple[int, ...]]]:
    """Return each trial's tasks, its other fields, and the steps at which it is stopped."""
    from supertickets.tasks import TaskSource
    from supertickets.tickets import Ticket

    def task(name: str, ticket: Ticket, **more: Any) -> dict[str, Any]:
        files = {part: Path(places[f"{name}-{part}"]) for part in ("train_file", "dev_file")}
        return {"source": TaskSource(task=name, **files), "ticket": ticket, **more}

    full = Ticket.full(3, 4)
    part = Ticket.from_pruned(3, 4, [(0, 0), (1, 2)], [1])
    other = Ticket.from_pruned(3, 4, [(0, 1), (1, 2), (2, 0)], [0])
    recipe = {"epochs": 3, "batch_size": 8, "learning_rate": 1e-2, "max_length": 16, "patience": None}
    dense: dict[str, Any] = {"recipe": recipe, "seed": 0}
    words, several = [task("words", full)], [task("words", part), task("lengths", other, dropout=0.3)]
    pruning = {"pruning": {}}
    weights = dense | {"mask": {"how": "magnitude", "sparsity": 0.5, **pruning}, "prune": {"sparsity": 0.7, **pruning}}
    found: dict[str, Any] = {
        "dense": (words, dense, ()),
        "another seed": (words, dense | {"seed": 1}, ()),
        "cut": ([task("words", part)], dense, ()),
        "patience": (words, {**dense, "recipe": recipe | {"epochs": 12, "patience": 2}}, ()),
        "last epoch": (words, {**dense, "recipe": recipe | {"keep_epoch": "last"}}, ()),
        "diverged": (words, {**dense, "recipe": recipe | {"learning_rate": 1e30}}, ()),
        "as released": (
            words,
            {**dense, "recipe": recipe | {"optimizer": "released", "lr_schedule": "released", "order": "released"}},
            (),
        ),
        "bfloat16 adamw": (words, {**dense, "recipe": recipe | {"optimizer": "adamw", "precision": "bfloat16"}}, (9,)),
        "two threads": (words, {**dense, "recipe": recipe | {"threads": 2}}, ()),
        "stopped": (words, dense, (1, 8, 13, 24)),
        START: (words, dense, ()),
        "sharing": (several, {**dense, "sharing": {}}, (5, 14)),
        "leaky": (several, {**dense, "sharing": {"updates": "leaky", "sampling": "annealed"}}, (20,)),
        "weights at zero": (words, weights, (10,)),
        "random weights": (words, {**weights, "initial": "random"}, ()),
        "first part": (words, {**dense, "span": {"stop": 0.4}}, ()),
        "last part": (words, {**dense, "span": {"skip": 0.4, "lr_horizon": 2}}, (3,)),
        "from another's": (words, {**dense, "start": FIRST}, ()),
        "mlm": ([task("mlm", full)], dense, (4,)),
        "squad": ([task("squad", part)], dense, (4,)),
        "score epoch, stopped": (words, {**dense, "scoring": {"score_epoch": 1}}, (12,)),
        "decaying": (words, {**dense, "scoring": {"accumulation": "decaying", "absolute": "token"}}, ()),
    }
    for measure in ("sensitivity", "magnitude", "taylor", "fisher", "movement", "random"):
        found[measure] = (words, {**dense, "scoring": {"importance": measure}}, ())
        found[f"{measure}, cut"] = ([task("words", part)], {**dense, "scoring": {"importance": measure}}, ())
    return found


def make_places(root: Path) -> dict[str, str]:
    """Write a model and files of examples; return where they are."""
    from helpers.models import save_tiny_model
    from helpers.trials import write_words

    places = {"model": str(save_tiny_model(root / "model", mask=True))}
    for seed, split in enumerate(("train_file", "dev_file")):
        words = write_words(root / f"words-{split}.jsonl", 64, seed)
        lengths = write_words(root / f"lengths-{split}.jsonl", 48, seed, label=lambda found: len(found) % 3)
        texts = [json.loads(line)["text"] for line in words.read_text().splitlines()]
        plain = root / f"{split}.txt"
        plain.write_text("\n".join(texts) + "\n")
        questions = [
            {"id": f"q{i}", "question": "w1", "context": text, "answers": [text.split()[i % 3]]}
            for i, text in enumerate(texts)
        ]
        squad = root / f"squad-{split}.json"
        squad.write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": _paragraphs(questions)}]}))
        for name, path in (("words", words), ("lengths", lengths), ("mlm", plain), ("squad", squad)):
            places[f"{name}-{split}"] = str(path)
    return places


def _paragraphs(questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "context": one["context"],
            "qas": [
                {
                    "id": one["id"],
                    "question": one["question"],
                    "answers": [{"text": a, "answer_start": one["context"].index(a)} for a in one["answers"]],
                }
            ],
        }
        for one in questions
    ]


def run_with(source: Path, places: Path, only: list[str]) -> dict[str, Any]:
    """Return what comes out of the trials with the code in a folder."""
    command = [sys.executable, __file__, "--places", str(places), *(part for name in only for part in ("--only", name))]
    environment = {**os.environ, "PYTHONPATH": str(source.resolve()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    made = json.loads(done.stdout.splitlines()[-1])
    if not Path(made["code"]).is_relative_to(source.resolve()):
        raise SystemExit(f"{source}: the code of {made['code']} ran instead")
    return dict(made["found"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="the other version's src/ folder")
    parser.add_argument("--only", action="append", default=[], help="trials to run; default: all")
    parser.add_argument("--smallest", action="store_true", help="three trials")
    parser.add_argument("--places", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.places is not None:
        import supertickets

        found = train_all(json.loads(options.places.read_text()), options.only)
        print(json.dumps({"code": supertickets.__file__, "found": found}))
        return 0
    only = ["dense", "another seed", "sharing"] if options.smallest else options.only
    with tempfile.TemporaryDirectory() as temporary:
        places = Path(temporary) / "places.json"
        made = make_places(Path(temporary))
        places.write_text(json.dumps(made))
        known = trials_of(made)
        if unknown := [name for name in only if name not in known]:
            parser.error(f"--only {unknown[0]}: no such trial; expected one of {', '.join(known)}")
        if any(known[name][1].get("start") == FIRST for name in only):
            only = [*only, START]
        here = ROOT / "src"
        old, new = (run_with(source, places, only) for source in (options.before or here, here))
    differ = {name: [part for part in old[name] if old[name][part] != new[name][part]] for name in old}
    for name, parts in differ.items():
        print(f"{name}: {'differs in ' + ', '.join(parts) if parts else 'the same'}")
    blind = "dense" in new and new["dense"]["files"] == new.get("another seed", {"files": {}})["files"]
    print(f"{len(old)} trials, {sum(map(bool, differ.values()))} differ")
    if blind:
        print("failed: another seed came to the same")
    return int(any(differ.values()) or blind)


if __name__ == "__main__":
    sys.exit(main())

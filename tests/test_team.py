"""Who trains together: only what a launcher started; and whose random numbers are whose."""

import os
from pathlib import Path

import pytest
import torch
from accelerate import PartialState

from supertickets.models import ModelSource, find_model
from supertickets.tasks import TaskSource, load_task
from supertickets.tickets import Ticket
from supertickets.training import loop, team
from supertickets.training.devices import find_device
from supertickets.training.loop import Learner, Trainer
from supertickets.training.objectives import encode
from supertickets.training.recipe import Recipe
from supertickets.training.team import Team, find_team

LAUNCH = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29555"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("WORLD_SIZE", *LAUNCH):
        monkeypatch.delenv(name, raising=False)
    team._say_alone.cache_clear()
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, ""),
        ({"WORLD_SIZE": "1"}, ""),
        ({"WORLD_SIZE": "0"}, ""),
        ({"WORLD_SIZE": "4"}, "because RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT, which"),
        ({**LAUNCH, "WORLD_SIZE": "4", "LOCAL_RANK": ""}, "because LOCAL_RANK, which torchrun and `accelerate launch`"),
        ({**LAUNCH, "WORLD_SIZE": "many"}, "WORLD_SIZE=many in the environment is ignored because it is not a"),
        ({**LAUNCH, "WORLD_SIZE": "-3"}, "because it is not a number of processes: each training runs on one process."),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE= in the environment is ignored"),
    ]
    + [({**LAUNCH, "WORLD_SIZE": "4", name: ""}, f"because {name}, which") for name in LAUNCH],
)
def test_alone_unless_a_launcher_started_several(
    environment: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], variables: dict[str, str], said: str
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    before = dict(os.environ)
    assert [find_team() for _ in range(3)] == [Team()] * 3
    spoken = capfd.readouterr().err
    assert said in spoken
    assert spoken.count("\n") == bool(said)  # one sentence, once
    assert dict(os.environ) == before


def test_a_launch_is_one(environment: pytest.MonkeyPatch) -> None:
    """Control: with all that a launcher sets, accelerate is asked, and says who this process is."""
    environment.setattr(team, "process_state", lambda: type("State", (), {"process_index": 2, "num_processes": 4}))
    for name, value in {**LAUNCH, "WORLD_SIZE": "4"}.items():
        environment.setenv(name, value)
    assert find_team() == Team(2, 4)


def test_nothing_waits_for_processes_that_nobody_started(environment: pytest.MonkeyPatch) -> None:
    """accelerate takes LOCAL_RANK alone, which scripts for clusters set, for a launch, and asks for the rest of it."""
    environment.setattr(PartialState, "_shared_state", {})
    environment.setenv("WORLD_SIZE", "4")
    environment.setenv("LOCAL_RANK", "2")
    assert find_device("auto").type in ("cpu", "cuda", "mps")
    assert team.process_state().num_processes == 1
    PartialState._shared_state.clear()
    with pytest.raises(ValueError, match="expected"):  # control
        PartialState()


def test_processes_of_a_team_do_not_repeat_what_other_seeds_draw() -> None:
    def dropped(seed: int, rank: int) -> torch.Tensor:
        torch.manual_seed(Team(rank, 4).seed(seed))
        return torch.nn.functional.dropout(torch.ones(256))

    seeds = {(seed, rank): Team(rank, 4).seed(seed) for seed in range(50) for rank in range(4)}
    assert len(set(seeds.values())) == len(seeds)
    assert all(seeds[seed, 0] == seed for seed in range(50))  # as without a team
    assert not torch.equal(dropped(0, 1), dropped(1, 0))
    torch.manual_seed(0 + 1)  # control: seed + rank would give the next seed's numbers
    assert torch.equal(torch.nn.functional.dropout(torch.ones(256)), dropped(1, 0))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_training_draws_by_its_rank(
    tiny_model: Path, words: dict[str, Path], monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    monkeypatch.setattr(loop, "find_team", lambda: Team(rank, 1))
    source, task = ModelSource(find_model(str(tiny_model))), load_task(TaskSource(task="words", **words))
    learner = Learner(encode(task, source.tokenizer, 16), source.build(2, 0.1, 7), Ticket.full(3, 4))
    seen: list[int] = []
    recipe = Recipe(epochs=1, batch_size=32, max_length=16)
    Trainer([learner], recipe, 7, torch.device("cpu"), lambda event: seen.append(torch.initial_seed())).train()
    assert set(seen) == {Team(rank, 1).seed(7)}
    assert (7 in seen) == (rank == 0)

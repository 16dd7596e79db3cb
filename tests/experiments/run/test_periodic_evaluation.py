"""Evaluation during training: its numbers, the best checkpoint, and that training does not notice it."""

import csv
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults.comparison import TIMES, differences, read_model, same

from envs.single_env import environment_spec
from experiments.evaluate import main as evaluate
from experiments.evaluation import protocol
from experiments.evaluation.protocol import play_checkpoint
from experiments.options import Evaluate
from experiments.run.checkpoint_file import read
from experiments.run.run_folder import RunFolder
from experiments.settings.arguments import Arguments
from experiments.single_run import resume, run

NORMALISED = "policy_kwargs={normalize_observations: false, normalize_returns: false}"
SETTINGS = {"CartPole-v1": ("n_steps=32",), "Pendulum-v1": ("n_steps=100", "normalize=true", NORMALISED)}
UPDATES = {"CartPole-v1": 5, "Pendulum-v1": 3}


def arguments(out: Path, task: str, updates: int, eval_every: int) -> Arguments:
    """Return the arguments of a run with two environments."""
    return Arguments(
        out=out,
        env=(task,),
        set=(SETTINGS[task],),
        steps=updates * {"CartPole-v1": 64, "Pendulum-v1": 200}[task],
        n_envs=2,
        device="cpu",
        vec_env="dummy",
        episodes=2,
        checkpoint_every=4,
        eval_every=eval_every,
    )


def train(out: Path, task: str, eval_every: int) -> RunFolder:
    """Make a run, and return its folder."""
    assert run(arguments(out, task, UPDATES[task], eval_every)) == 0
    return RunFolder.of(out, task, "trpo", 0)


def rows(folder: RunFolder) -> list[dict[str, str]]:
    """Return the rows of progress.csv."""
    with folder.progress.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module", autouse=True)
def few_episodes() -> Iterator[None]:
    """Play three episodes only, in environments that draw from the global generators."""
    played = protocol.play

    def play(*args: Any, **options: Any) -> Any:
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        returns, *rest = played(*args, **options)
        return returns - 1000, *rest  # all are below the training returns

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "EPISODES_IN_TRAINING", 3)
        patch.setattr(protocol, "play", play)
        yield


@pytest.fixture(scope="module")
def evaluated(few_episodes: None, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Return a run with an evaluation every two updates."""
    return train(tmp_path_factory.mktemp("evaluated"), "CartPole-v1", 2)


@pytest.mark.parametrize("task", ["CartPole-v1", pytest.param("Pendulum-v1", marks=pytest.mark.slow)])
def test_training_does_not_notice_it(task: str, tmp_path: Path, evaluated: RunFolder) -> None:
    """Everything but the columns of the evaluation has the same bits, also with a `VecNormalize`."""
    with_it = evaluated if task == "CartPole-v1" else train(tmp_path / "with", task, 2)
    without = train(tmp_path / "without", task, 0)
    models = [read_model(folder.model) for folder in (with_it, without)]
    assert all(same(models[0][name], models[1][name]) for name in models[1])
    kept = [
        [
            {name: cell for name, cell in row.items() if name not in TIMES and not name.startswith("eval/")}
            for row in rows(folder)
        ]
        for folder in (with_it, without)
    ]
    assert kept[0] == kept[1]
    returns = [json.loads(folder.evaluation.read_text())["returns"] for folder in (with_it, without)]
    assert returns[0] == returns[1]


def test_a_row_has_the_evaluation_of_the_policy_that_collected_it(evaluated: RunFolder) -> None:
    """The untrained policy is evaluated, too; every number is that of the final evaluation's protocol."""
    found = [row["eval/mean_reward"] for row in rows(evaluated)]
    assert [k for k, cell in enumerate(found) if cell] == [0, 2, 4]
    settings, spec = evaluated.read_settings(), environment_spec("CartPole-v1")
    path, content = evaluated.read_checkpoint("checkpoint-000000256")  # after four updates
    returns, lengths, _ = play_checkpoint(
        (path, content),
        settings,
        spec,
        episodes=protocol.EPISODES_IN_TRAINING,
        seed=protocol.FIRST_SEED_IN_TRAINING,
    )
    assert float(found[4]) == np.mean(returns)
    assert float(rows(evaluated)[4]["eval/mean_ep_length"]) == np.mean(lengths)


def test_the_best_policy_is_kept(evaluated: RunFolder, tmp_path: Path) -> None:
    """By its evaluation, not by the training return; `--checkpoint best` plays it."""
    scores = {
        64 * k: float(row["eval/mean_reward"])
        for k, row in enumerate(rows(evaluated))
        if row["eval/mean_reward"]
    }
    best = max(scores, key=lambda step: (scores[step], -step))
    document = read(evaluated.checkpoints / "best.ckpt")
    assert document["score"] == scores[best]
    assert document["content"]["agent"]["moving"]["num_timesteps"] == best
    assert document["content"]["updates"] == best // 64
    out = tmp_path / "best.json"
    options = {"episodes": protocol.EPISODES_IN_TRAINING, "seed": protocol.FIRST_SEED_IN_TRAINING}
    assert evaluate(Evaluate(evaluated.path, "best", out=out, **options)) == 0
    assert json.loads(out.read_text())["mean_return"] == scores[best]


def test_a_resumed_run_has_the_same_bits(
    evaluated: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an abort between an evaluation and the next checkpoint, and after an extension."""
    played = protocol.play_checkpoint

    def fail(checkpoint: Any, *args: Any, **options: Any) -> Any:
        if checkpoint[1]["updates"] == 2:
            raise RuntimeError("the machine fails")
        return played(checkpoint, *args, **options)

    monkeypatch.setattr(protocol, "play_checkpoint", fail)
    assert run(arguments(tmp_path, "CartPole-v1", 4, 2)) == 1
    monkeypatch.setattr(protocol, "play_checkpoint", played)
    folder = RunFolder.of(tmp_path, "CartPole-v1", "trpo", 0)
    assert resume(Arguments(resume=folder.path)) == 0
    assert resume(Arguments(resume=folder.path, steps=5 * 64)) == 0
    assert differences(folder.path, evaluated.path, every_checkpoint=False) == []
    assert same(*(read(each.checkpoints / "best.ckpt")["score"] for each in (folder, evaluated)))

"""The commands that make the runs of a report again."""

import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.report.pooling import Group
from experiments.report.reproduce import NEUTRAL, commands
from experiments.report.run_record import RunRecord
from experiments.settings.arguments import Arguments
from experiments.settings.configuration import resolve
from experiments.settings.run_settings import RunSettings


def group(settings: RunSettings, seeds: tuple[int, ...] = (0, 1, 2), out: str = ".") -> Group:
    """Return a group of runs with these settings, in folders of `out`."""
    records = tuple(
        RunRecord(
            path=Path(out, f"seed-{seed}"),
            algorithm=settings.algo,
            environment=settings.env,
            seed=seed,
            budget=settings.n_timesteps,
            settings={},
            versions={},
            hardware={},
            config=yaml.safe_dump(asdict(replace(settings, seed=seed)), sort_keys=False),
            log={},
            evaluation=[],  # type: ignore[arg-type]
        )
        for seed in seeds
    )
    return Group(settings.env, settings.algo, records)


def settings_of(*words: str) -> list[RunSettings]:
    """Return the settings of every algorithm and task of a command line, with the first seed."""
    parsed = Arguments.parse(list(words))
    return [resolve(parsed.single(a, e, parsed.seed)) for e in parsed.env for a in parsed.algo]


@pytest.mark.parametrize(
    "line",
    [
        "--algo npg --env CartPole-v1 --steps 3000",
        "--algo npg vpg --env CartPole-v1 Acrobot-v1 --steps 3000 --seed 4 --episodes 7 --set n_envs=3 "
        "npg.target_kl=0.5 'npg.policy_kwargs={net_arch: [8, 8], activation_fn: ReLU}' "
        "vpg.learning_rate=1e-3",
        "--algo npg --env Pendulum-v1 --steps 3000 --geometry 5 --checkpoint-every 2 --eval-every 3 "
        "--vec-env envpool --set normalize=true 'policy_kwargs={normalize_observations: false}'",
    ],
)
def test_the_command_gives_the_same_settings(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One command line for all algorithms and tasks resolves to what was recorded."""
    monkeypatch.setattr("sys.argv", ["npg"])
    recorded = settings_of(*shlex.split(line))
    seed = recorded[0].seed
    found = commands([group(settings, (seed, seed + 1, seed + 2)) for settings in recorded])
    assert found.missing == ()
    (text,) = found.lines
    assert text.startswith("npg train") and "--seeds 3" in text
    again = settings_of(*shlex.split(text)[2:])
    ignored = NEUTRAL - {"seed"}
    compared = [{k: v for k, v in asdict(s).items() if k not in ignored} for s in (*recorded, *again)]
    assert compared[: len(recorded)] == compared[len(recorded) :]


def test_gaps_between_seeds_and_other_budgets_need_more_commands() -> None:
    """A grid has consecutive seeds and one budget."""
    (npg,), (vpg,) = (
        settings_of("--algo", "npg", "--steps", "9"),
        settings_of("--algo", "vpg", "--steps", "8"),
    )
    lines = commands([group(npg, (0, 1, 5)), group(vpg, (0, 1))]).lines
    assert [("--seeds 2" in line, "--seed 5" in line) for line in lines] == [
        (True, False),
        (False, True),
        (True, False),
    ]


def test_the_runs_are_made_where_the_report_reads_them() -> None:
    """Unless a folder was moved."""
    (npg,) = settings_of("--algo", "npg", "--env", "CartPole-v1", "--steps", "9")
    for out, expected in (
        ("compare/CartPole-v1/npg", "compare"),
        ("CartPole-v1/npg", "."),
        ("elsewhere/npg", None),
        (".", None),
    ):
        (line,) = commands([group(npg, out=out)]).lines
        words = shlex.split(line)
        assert (words[words.index("--out") + 1] if "--out" in words else None) == expected


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"policy": "evil_module:Policy"}, "is a class of its user"),
        ({"algo": "evil_module:Agent"}, "is a class of its user"),
        ({"algo": "sarsa"}, "not an algorithm of this version"),
        ({"hyperparameters": {"target_kl": "x"}}, "target_kl"),
    ],
)
def test_no_command_and_no_import_for_what_cannot_be_checked(change: dict[str, Any], reason: str) -> None:
    """A run may be a stranger's: it names no module that is imported, and what is wrong is said."""
    (npg,) = settings_of("--algo", "npg", "--steps", "9")
    found = commands([group(replace(npg, **change))])
    assert found.lines == () and reason in found.missing[0]

"""The search for settings: its spaces, its study on disk, and what it leaves behind."""

import csv
import functools
import importlib
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from episodes import Episodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from agents import ALGORITHMS
from agents.rollout.finite import NonFiniteError
from envs import TensorVecEnv
from experiments import train, training_envs
from experiments.algorithms import names
from experiments.run.run_folder import RunFolder, RunInUseError
from experiments.settings.arguments import Arguments
from experiments.settings.configuration import build, resolve
from experiments.settings.run_settings import RunSettings
from experiments.settings.tuning_seeds import check_reported
from experiments.tuning import result as tuning_result
from experiments.tuning import search as tuning
from experiments.tuning.search import tune
from experiments.tuning.search_space import SearchSpace, read, with_values
from experiments.tuning.spaces import searched_settings
from experiments.tuning.study import (
    RESERVED,
    RETRIES,
    TUNING_SEEDS,
    Search,
    open_study,
    requeue_stale,
)
from experiments.tuning.training_return import REPORTS, TrainingReturn, report_or_prune

OPTIONS = {"n_steps": 16, "n_critic_updates": 1}
READ_ONCE = functools.cache(tuning_result.versions)
TRIED = {optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED}


def make_env(configuration: RunSettings, seed: int) -> VecEnv:
    """Build the training environments as train.py does."""
    env = make_vec_env("CartPole-v1", configuration.n_envs, seed=seed)
    return VecNormalize(env, gamma=read(configuration, "gamma")) if configuration.normalize else env


def configuration_of(algo: str = "vpg", env_id: str = "CartPole-v1") -> RunSettings:
    """Read the shipped settings."""
    return resolve(Arguments(algo=(algo,), env=(env_id,)))


@pytest.fixture(autouse=True)
def _versions_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading them asks git."""
    monkeypatch.setattr(tuning_result, "versions", READ_ONCE)


@pytest.fixture
def search(tmp_path: Path) -> Search:
    """A search whose trials take a fraction of a second."""
    base = with_values(replace(configuration_of(), n_timesteps=320, n_envs=2), OPTIONS)
    return Search("vpg", "CartPole-v1", base, make_env, tmp_path / "tuning", device="cpu")


@pytest.fixture
def closed_form(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Put a function of the settings in the place of training; return its values. No figure is drawn."""
    values: list[float] = []

    def objective(search: Search, trial: optuna.Trial) -> float:
        configuration = search.space.suggest(trial)
        distance = np.log(read(configuration, "learning_rate") / 1e-3) ** 2
        values.append(-float(distance) - read(configuration, "gae_lambda"))
        return values[-1]

    monkeypatch.setattr(tuning, "training_return", objective)
    monkeypatch.setattr(tuning_result.TuningResult, "_draw", lambda *_: None)
    return values


def drawn(result: tuning.TuningResult) -> list[tuple[dict, float | None]]:
    """Return coordinates and values of the trials that count, in order."""
    return [(trial.params, trial.value) for trial in result.trials if trial.state in TRIED]


# --- spaces -------------------------------------------------------------------------------------------------


def test_every_algorithm_has_a_space_of_five_to_eight_settings() -> None:
    """What a comparison can hold can be tuned, by few enough settings for a few dozen trials."""
    for algo in names():
        assert searched_settings(algo)
        assert 5 <= len(SearchSpace.of(algo, configuration_of(algo)).settings) <= 8, algo


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("algo", names())
def test_every_sample_builds_an_agent_and_survives_yaml(algo: str, env_id: str, tmp_path: Path) -> None:
    """Thirty random samples: values in range, whole minibatches, no warning; best.yaml says the same."""
    base = replace(configuration_of(algo, env_id), n_envs=2)
    if algo == "cpo":  # its section has no limit: that depends on the task
        base = replace(base, hyperparameters={**base.hyperparameters, "cost_limit": 1.0})
    space = SearchSpace.of(algo, base)
    sampler = optuna.samplers.RandomSampler(seed=0)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler)
    env = make_vec_env(env_id, 2)
    normalised = VecNormalize(env)
    search = Search(algo, env_id, base, make_env, tmp_path)
    seen = set()
    for number in range(30):
        trial = study.ask()
        configuration = space.suggest(trial)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            wrapped = normalised if configuration.normalize else env
            agent = build(replace(configuration, device="cpu"), wrapped)
        assert agent.n_steps == read(configuration, "n_steps")
        frozen = study.tell(trial, 0.0)
        assert space.configuration(frozen.params) == configuration
        if number % 5 == 0:
            path = tmp_path / "best.yaml"
            path.write_text(tuning.TuningResult(search, [frozen], {}).section())
            assert resolve(Arguments(algo=(algo,), env=(env_id,), config=path)) == configuration
        seen.add(str(configuration))
    assert len(seen) == 30


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1", "Pendulum-v1", "Hopper-v5", "default"])
@pytest.mark.parametrize("algo", names())
def test_the_base_is_in_its_space(algo: str, env_id: str) -> None:
    """Trial 0 is within every range, and is exactly the shipped configuration."""
    base = configuration_of(algo, env_id)
    space = SearchSpace.of(algo, base)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Optuna's, of a value out of range
        trial = optuna.trial.FixedTrial(space.base_coordinates)
        assert space.suggest(trial) is base
    assert set(space.kept) == ({"ent_coef"} if algo in ALGORITHMS else set())


def test_a_value_outside_extends_its_range() -> None:
    """The user's own value is in the space, whatever it is."""
    base = with_values(configuration_of("npg"), {"target_kl": 0.7, "n_steps": 100, "gamma": 0.5})
    described = SearchSpace.of("npg", base).described()
    assert described["target_kl"] == "0.001 … 0.7, logarithmic"
    assert described["n_steps"].endswith(", 100")
    assert described["1 - gamma"] == "0.0001 … 0.5, logarithmic"


def test_rollouts_leave_room_for_ten_updates() -> None:
    """With 8 environments and 20 000 steps no rollout is longer than 250 steps; the base's own is there."""
    base = replace(configuration_of("npg"), n_timesteps=20_000, n_envs=8)
    assert SearchSpace.of("npg", base).described()["n_steps"] == "16, 32, 64, 128"
    longer = with_values(base, {"n_steps": 1000})
    assert SearchSpace.of("npg", longer).described()["n_steps"] == "16, 32, 64, 128, 1000"


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize("bonus", [0.01, "lin_0.01"])
def test_an_entropy_bonus_varies_if_there_is_one(algo: str, bonus: float | str) -> None:
    """Also the initial value of a schedule; without one, none is tried."""
    space = SearchSpace.of(algo, with_values(configuration_of(algo), {"ent_coef": bonus}))
    assert space.kept == () and space.described()["ent_coef"] == "1e-05 … 0.1, logarithmic"
    sample = space.configuration(space.base_coordinates | {"ent_coef": 0.02})
    assert read(sample, "ent_coef") == ("lin_0.02" if isinstance(bonus, str) else 0.02)


def test_a_value_without_a_place_stays() -> None:
    """Zero on a logarithmic axis is kept, in every sample, and named."""
    base = with_values(configuration_of("npg"), {"cg_damping": 0, "gamma": 1.0})
    space = SearchSpace.of("npg", base)
    assert set(space.kept) == {"cg_damping", "gamma", "ent_coef"}
    trial = optuna.trial.FixedTrial(space.base_coordinates | {"target_kl": 0.05})
    sample = space.suggest(trial)
    assert read(sample, "cg_damping") == 0 and read(sample, "gamma") == 1.0
    assert read(sample, "target_kl") == 0.05


def test_a_schedule_stays_a_schedule() -> None:
    """Of lin_0.001 the first value is searched."""
    base = configuration_of("sb3:ppo")
    assert read(base, "learning_rate") == "lin_0.001"
    space = SearchSpace.of("sb3:ppo", base)
    sample = space.configuration(space.base_coordinates | {"learning_rate": 0.00212345})
    assert read(sample, "learning_rate") == "lin_0.002123"


def test_minibatches_are_whole() -> None:
    """A batch size that divides no rollout becomes the divisor nearest in ratio; the base's may stay."""
    base = with_values(replace(configuration_of("sb3:ppo"), n_envs=3), {"n_steps": 100, "batch_size": 64})
    space = SearchSpace.of("sb3:ppo", base)
    assert read(space.configuration(space.base_coordinates), "batch_size") == 64
    other = space.base_coordinates | {"n_epochs": 7}
    assert read(space.configuration(other), "batch_size") == 60
    assert read(space.configuration(other | {"n_steps": 64}), "batch_size") == 64


def test_images_have_no_normaliser_to_switch() -> None:
    """CnnPolicy scales pixels itself."""
    axes = SearchSpace.of("trpo", configuration_of("trpo", "Catch-v0")).described()
    assert axes and not any("normalize" in axis for axis in axes)


def test_vec_normalize_is_switched_where_the_base_has_it() -> None:
    """Never both normalisers: check_policy would refuse the file."""
    base = with_values(configuration_of("npg"), {"normalize": True, "policy_kwargs": None})
    axes = SearchSpace.of("npg", base).described()
    assert "normalize" in axes and "policy_kwargs.normalize_observations" not in axes


def test_idle_settings_are_rejected() -> None:
    """With a fixed step size, target_kl would be searched for nothing; an unknown name is named."""
    with pytest.raises(ValueError, match=r"step_size=0.1 it has no effect; remove step_size"):
        SearchSpace.of("npg", with_values(configuration_of("npg"), {"step_size": 0.1}))
    with pytest.raises(ValueError, match=r"no search space for 'ngp'; did you mean 'npg'"):
        SearchSpace.of("ngp", configuration_of())


# --- the objective ------------------------------------------------------------------------------------------


def test_objective_is_the_mean_of_the_last_training_returns(search: Search) -> None:
    """The default's value equals that of plain training, read off Monitor; files and summary agree."""
    result = tune(search, 3)
    expected = []
    for seed in TUNING_SEEDS:
        env = make_env(search.configuration, seed)
        agent = build(replace(search.configuration, seed=seed, device="cpu"), env)
        agent.learn(search.configuration.n_timesteps)
        assert agent.num_timesteps == search.configuration.n_timesteps
        monitors = [np.asarray(returns) for returns in env.env_method("get_episode_rewards")]
        assert 0 < sum(map(len, monitors)) < 100
        expected.append(np.concatenate(monitors).mean())
    assert result.default is not None and result.best is not None
    assert result.default.value == pytest.approx(np.mean(expected), rel=1e-6)
    assert result.best.value >= result.default.value
    path = search.folder / "best.yaml"
    assert resolve(Arguments(algo=("vpg",), env=(search.env_id,), config=path)) == result.configuration
    comment = path.read_text()
    for part in ("1000000, 1001000", "study.db", "3 complete", f"{result.best.value:.6g}", "torch"):
        assert part in comment
    with (search.folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["outcome"] for row in rows] == ["complete"] * 3
    assert float(rows[0]["return"]) == result.default.value and rows[0]["default"] == "True"
    assert (search.folder / "history.png").stat().st_size > 1000
    assert "learning_rate" in str(result) and "logarithmic" in str(result)


def test_best_settings_train_for_the_configured_steps(
    tmp_path: Path, closed_form: list[float], capsys: pytest.CaptureFixture
) -> None:
    """A search with short trials leaves best.yaml with the budget of the configuration (case U5)."""
    given = Arguments(algo=("vpg",), steps=320, tune=2, jobs=1, out=tmp_path, device="cpu")
    assert train.main(given) == 0
    path = tmp_path / "CartPole-v1" / "vpg" / "tuning" / "best.yaml"
    assert f"--config {path}" in capsys.readouterr().out and "at 320 steps" in path.read_text()
    found = resolve(Arguments(algo=("vpg",), config=path)).n_timesteps
    assert found == configuration_of("vpg").n_timesteps > 320


def test_trials_step_the_environments_that_were_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """--vec-env holds for trials, and for the next command; such trials compare with no others."""
    given = Arguments(
        algo=("vpg",), steps=320, tune=2, jobs=1, out=tmp_path, device="cpu", vec_env="tensor", n_envs=4
    )
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            train, "make_env", lambda settings: made.append(training_envs.make_env(settings)) or made[-1]
        )
        assert train.main(given) == 0
    assert made and all(isinstance(env, TensorVecEnv) for env in made)
    assert "best.yaml" in (out := capsys.readouterr().out) and "--vec-env tensor" in out
    assert train.main(replace(given, vec_env="auto")) == 2
    assert "another search, with vec_env='tensor', not None" in capsys.readouterr().err


def test_training_ends_at_the_budget() -> None:
    """A rollout longer than the budget gets no more steps, and reports come at tenths of it."""
    base = with_values(replace(configuration_of("sb3:a2c"), n_envs=3), {"n_steps": 1000})
    agent = build(replace(base, device="cpu"), make_vec_env("CartPole-v1", 3, seed=0))
    reports: list[int] = []
    callback = TrainingReturn(600, lambda mean, step: reports.append(step))
    agent.learn(600, callback)
    assert agent.num_timesteps == 600
    assert reports == list(range(reports[0], REPORTS + 1)) and reports[0] <= 3


def test_returns_are_raw(search: Search) -> None:
    """VecNormalize divides rewards; the objective is in the task's own units, one a step on CartPole."""
    base = with_values(search.configuration, {"normalize": True, "policy_kwargs": None})
    result = tune(replace(search, configuration=base), 1)
    assert result.default is not None and result.default.value is not None
    assert 9 <= result.default.value <= 60


def test_what_sb3_writes_into_its_options_stays_out_of_the_search(search: Search) -> None:
    """A2C puts a class into the policy_kwargs it is given; the study and best.yaml keep the user's."""
    base = with_values(
        replace(configuration_of("sb3:a2c"), n_timesteps=320), {"policy_kwargs": {"log_std_init": -2}}
    )
    peer = replace(search, algo="sb3:a2c", configuration=base)
    result = tune(peer, 1)
    assert result.configuration == base and base.hyperparameters["policy_kwargs"] == {"log_std_init": -2}
    path = search.folder / "best.yaml"
    assert resolve(Arguments(algo=("sb3:a2c",), env=(search.env_id,), config=path)) == base
    assert len(tune(peer, 1).trials) == 1


# --- the study on disk --------------------------------------------------------------------------------------


def test_a_search_that_goes_on_is_the_search(
    search: Search, closed_form: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted, broken and repeated, it draws what it would have drawn in one go, TPE included."""
    whole = tune(replace(search, folder=search.folder / "whole"), 14)
    finish, calls = tuning.training_return, []

    def interrupted(search: Search, trial: optuna.Trial) -> float:
        calls.append(trial.number)
        value = finish(search, trial)
        if len(calls) == 1:  # the default
            raise KeyboardInterrupt
        if len(calls) == 13:  # one that TPE drew
            raise RuntimeError
        return value

    monkeypatch.setattr(tuning, "training_return", interrupted)
    parts = replace(search, folder=search.folder / "parts")
    with pytest.raises(KeyboardInterrupt):
        tune(parts, 14)
    with pytest.raises(RuntimeError):
        tune(parts, 14)
    assert (parts.folder / "best.yaml").exists()
    result = tune(parts, 14)
    assert drawn(result) == drawn(whole)
    assert len({str(trial) for trial in drawn(whole)}) == 14, "no trial draws what another drew"
    assert result.counts == "14 complete, 2 interrupted"
    assert result.default is not None and result.default.number == 1
    assert len(tune(parts, 14).trials) == 16, "a search that is done does nothing"
    assert tune(parts, 15).counts == "15 complete, 2 interrupted", "the number is that of trials in all"


def test_a_killed_trial_is_repeated_a_few_times(search: Search, closed_form: list[float]) -> None:
    """What SIGKILL leaves RUNNING is failed and drawn again with its settings; not for ever."""
    search.folder.mkdir()
    for _ in range(RETRIES):
        study = open_study(search)
        requeue_stale(study)
        search.space.suggest(study.ask())
    result = tune(search, 1)
    assert result.counts == f"1 complete, {RETRIES} interrupted"
    assert result.default is not None and result.default.params == search.space.base_coordinates
    study = open_study(search)
    for _ in range(RETRIES + 1):
        search.space.suggest(study.ask())
        requeue_stale(study)
    assert [t.state.name for t in tune(search, 1).trials if not t.state.is_finished()] == []


def test_pruned_trials_count_and_the_default_is_never_pruned(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial behind the median of five others ends early; the default, however bad, is trained fully."""
    steps = []

    def objective(search: Search, trial: optuna.Trial) -> float:
        search.space.suggest(trial)
        worth = -100.0 if trial.user_attrs else 10.0 - 20.0 * (trial.number > 5)
        for step in range(1, REPORTS + 1):
            report_or_prune(trial, 0, REPORTS, worth, step)
        steps.append(trial.number)
        return worth

    monkeypatch.setattr(tuning, "training_return", objective)
    result = tune(search, 8)
    assert steps == [0, 1, 2, 3, 4, 5]
    assert result.counts == "6 complete, 2 pruned"
    # The default again, among five that are ahead of it.
    open_study(search).enqueue_trial(search.space.base_coordinates, user_attrs={"default": True})
    assert tune(search, 9).counts == "7 complete, 2 pruned"


def test_failed_trials_are_named_and_the_search_goes_on(search: Search) -> None:
    """NaN rewards and rejected settings fail the trial with their reason; the others train."""
    calls: list[int] = []

    def faulty(configuration: RunSettings, seed: int) -> VecEnv:
        calls.append(seed)
        if len(calls) == 1:
            return make_vec_env(lambda: Episodes([float("nan")]), configuration.n_envs, seed=seed)
        if len(calls) == 2:
            raise ValueError("no such terrain")
        return make_env(configuration, seed)

    result = tune(replace(search, make_env=faulty), 4)
    assert result.counts == "2 complete, 2 failed"
    assert len(tune(replace(search, make_env=faulty), 4).trials) == 4, "failed trials count"
    reasons = sorted(result.failures)
    assert reasons[0].startswith(NonFiniteError.__name__) and reasons[1] == "ValueError: no such terrain"
    assert result.default is None and "default    no value" in str(result)
    assert "1 times: ValueError: no such terrain" in str(result)


def test_a_search_in_which_everything_fails_says_why(search: Search) -> None:
    """Without one complete trial there is no best: the reason is the error, and the CSV has it."""
    endless = replace(search, make_env=lambda c, _: make_vec_env(lambda: Episodes([1.0] * 999), c.n_envs))
    with pytest.raises(ValueError, match=r"no trial of 2 has a value.*no training return after 320 steps"):
        tune(endless, 2)
    assert "no episode ended" in (search.folder / "trials.csv").read_text()
    assert not (search.folder / "best.yaml").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: replace(s, configuration=replace(s.configuration, n_timesteps=640)),
            "n_timesteps=320, not 640",
        ),
        (lambda s: replace(s, seeds=(1_000_000,)), r"seeds=\[1000000, 1001000\], not \[1000000\]"),
        (lambda s: replace(s, algo="npg", configuration=configuration_of("npg")), "algo='vpg', not 'npg'"),
        (
            lambda s: replace(s, configuration=with_values(s.configuration, {"gamma": 0.5})),
            "range of 1 - gamma='0.0001 … 0.2, logarithmic', not '0.0001 … 0.5",
        ),
    ],
)
def test_another_search_in_the_study_is_rejected(
    search: Search, closed_form: list[float], change: Callable[[Search], Search], message: str
) -> None:
    """Trials of different budgets, seeds, algorithms or spaces do not compare."""
    tune(search, 1)
    with pytest.raises(
        ValueError, match=f"another search, with .*{message}.*choose another --out, or delete"
    ):
        tune(change(search), 2)
    assert len(tune(search, 1).trials) == 1


@pytest.mark.parametrize("name", ["study.db", "study.journal"])
@pytest.mark.parametrize("text", ["no database\n" * 100, "{}\n{}\n"])
def test_a_file_that_is_no_study_is_rejected(search: Search, name: str, text: str) -> None:
    """The error names the file and the fix."""
    search.folder.mkdir()
    (search.folder / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name} is not an Optuna study .*; delete it"):
        tune(search, 1)


def test_a_record_that_a_dead_node_cut_is_dropped(search: Search, closed_form: list[float]) -> None:
    """Whatever part of it was written, the study is as it was before the record."""
    search.folder.mkdir()
    whole = tune(search, 3, jobs=1, executor=Pickling(1))
    path = search.folder / "study.journal"
    text = path.read_bytes()
    for cut in (b"{", b'{"op_code":4,"worker_id":"a","study_', text.splitlines()[-1]):
        path.write_bytes(text + cut)
        assert drawn(tune(search, 3)) == drawn(whole)
        assert tune(search, 4).counts == "4 complete"


def test_tuning_seeds_are_never_reported(search: Search) -> None:
    """Neither side may take the other's; seeds of a study are apart by more than its environments."""
    assert min(np.diff(TUNING_SEEDS)) >= 1000 and min(TUNING_SEEDS) >= RESERVED
    with pytest.raises(ValueError, match=r"tuning seeds must be at least 900000"):
        tune(replace(search, seeds=(0, 1)), 1)
    with pytest.raises(ValueError, match=r"at least 1 trial and 1 job, got 0 and 1"):
        tune(search, 0)
    check_reported(range(1000))
    with pytest.raises(
        ValueError, match=r"seeds from 900000 on are for tuning; choose one below, got 1000000"
    ):
        check_reported([0, 1_000_000])
    assert not search.folder.exists()


def test_one_command_at_a_time(search: Search, closed_form: list[float]) -> None:
    """A second command is rejected while the first is there, and accepted afterwards."""
    first = RunFolder(search.folder)
    first.claim()
    with pytest.raises(RunInUseError, match="another command is writing"):
        tune(search, 1)
    first.close()
    assert tune(search, 1).counts == "1 complete"


def test_workers_share_the_trials(search: Search, closed_form: list[float]) -> None:
    """A worker's trial counts, and samples what another at the same place does not."""
    tune(search, 1)
    study = open_study(search)
    for number in (1, 2):
        tuning.work(search, pickle.loads(pickle.dumps(tuning.ask(study, number))))
    result = tune(search, 3)
    assert result.counts == "3 complete"
    other = tune(replace(search, folder=search.folder / "other"), 3)
    assert drawn(result)[1:] != drawn(other)[1:]


class Pickling(ThreadPoolExecutor):
    """Workers that receive pickled arguments, as processes do."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future:  # type: ignore[override]
        """Run a function in a thread."""
        return super().submit(fn, *pickle.loads(pickle.dumps(args)))


def test_the_command_takes_the_trials_of_its_workers(
    search: Search, closed_form: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With SQLite, two workers could take the same one from Optuna's queue; at most `jobs` are running."""
    asked, running = [], []
    ask = tuning.ask

    def counted(study: optuna.Study, number: int = 0) -> optuna.Trial:
        running.append(len(study.get_trials(states=(optuna.trial.TrialState.RUNNING,))))
        asked.append(threading.current_thread())
        return ask(study, number)

    monkeypatch.setattr(tuning, "ask", counted)
    result = tune(search, 6, jobs=2, executor=Pickling(2))
    assert result.counts == "6 complete" and [trial.number for trial in result.trials] == list(range(6))
    assert {*asked} == {threading.main_thread()} and max(running) == 1
    assert result.default is not None and len({str(trial) for trial in drawn(result)}) == 6


def test_a_trial_that_is_repeated_keeps_its_settings(search: Search, closed_form: list[float]) -> None:
    """A cluster repeats it if a node died; if that was after its end, nothing happens."""
    tune(search, 1)
    study = open_study(search)
    sent = pickle.dumps(tuning.ask(study, 1))
    first = pickle.loads(sent)
    first.study.sampler = optuna.samplers.RandomSampler(seed=99)
    search.space.suggest(first)  # and the node dies
    for _ in range(2):
        tuning.work(search, pickle.loads(sent))
        assert len(closed_form) == 2
    (_, repeated) = study.trials
    assert repeated.params == first.params and repeated.value == closed_form[-1]
    assert tune(search, 2).counts == "2 complete"


def test_a_shared_study_is_a_journal(search: Search, closed_form: list[float]) -> None:
    """It stays one when a search on one machine continues it; a study.db is not continued in a journal."""
    search.folder.mkdir()
    result = tune(search, 3, jobs=2, executor=Pickling(2))
    assert result.counts == "3 complete"
    assert (search.folder / "study.journal").exists() and not (search.folder / "study.db").exists()
    assert "study.journal" in (search.folder / "best.yaml").read_text()
    assert tune(search, 5).counts == "5 complete"
    local = replace(search, folder=search.folder / "local")
    tune(local, 1)
    with pytest.raises(ValueError, match=r"study.db is of a search on one machine.*without --cluster, or"):
        tune(local, 2, jobs=2, executor=Pickling(2))
    assert tune(local, 2).counts == "2 complete"


@pytest.mark.slow
def test_two_jobs_make_the_trials(search: Search) -> None:
    """Processes share one study: no trial is lost or made twice."""
    result = tune(search, 5, jobs=2)
    assert [trial.number for trial in result.trials] == list(range(5))
    assert result.counts == "5 complete" and result.default is not None


def make_no_env(configuration: RunSettings, seed: int) -> VecEnv:
    """End the process, as the kernel does when memory runs out."""
    os._exit(3)


@pytest.mark.slow
def test_a_dead_worker_ends_the_command(search: Search) -> None:
    """The error says how to resume, and the dead worker's trials are in the queue."""
    with pytest.raises(ChildProcessError, match="repeat the command to resume"):
        tune(replace(search, make_env=make_no_env), 2, jobs=2)
    assert tune(search, 2, jobs=1).counts.startswith("2 complete, ")


SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
from experiments.tuning.search import tune
from experiments.tuning.study import Search
import {module} as tests

if __name__ == "__main__":
    base = tests.with_values(replace(tests.configuration_of(), n_timesteps=60_000), {{"n_steps": 64}})
    search = Search("vpg", "CartPole-v1", base, tests.make_env, Path(sys.argv[1]), device="cpu")
    tune(search, 9, int(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("jobs", "by"), [(1, "SIGINT"), (2, "SIGINT"), (1, "SIGKILL"), (2, "SIGKILL")])
def test_a_command_that_is_ended_can_be_repeated(tmp_path: Path, jobs: int, by: str) -> None:
    """No process outlives the command; the study is intact, its trials are in the queue."""
    script = tmp_path / "search.py"
    script.write_text(SCRIPT.format(module="tests.experiments.tuning.test_tuning"))
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": f"{root}:{root / 'tests'}"}
    folder = tmp_path / "tuning"
    command = [sys.executable, str(script), str(folder), str(jobs)]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    base = with_values(replace(configuration_of(), n_timesteps=60_000), {"n_steps": 64})
    search = Search("vpg", "CartPole-v1", base, make_env, folder, device="cpu")
    deadline = time.monotonic() + 120
    while states(folder, "RUNNING") < jobs:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.5)
    process.send_signal(signal.Signals[by])
    process.wait(60)
    time.sleep(1.0)
    study = open_study(search)  # rolls back what a killed process was writing
    assert states(folder, "RUNNING") == (jobs if by == "SIGKILL" else 0), "workers end with the command"
    requeue_stale(study)
    assert states(folder, "RUNNING") == 0
    interrupted = states(folder, "FAIL")
    assert states(folder, "WAITING") == interrupted
    assert interrupted == jobs or by == "SIGKILL"


def states(folder: Path, name: str) -> int:
    """Return how many trials are in a state, from beside the command that makes them."""
    path = folder / "study.db"
    if not path.exists():
        return 0
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        try:
            return connection.execute("select count(*) from trials where state = ?", (name,)).fetchone()[0]
        except sqlite3.OperationalError:  # its tables are being made
            return 0


def test_without_optuna_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna is an extra."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "experiments.tuning.study")
    with pytest.raises(ImportError, match=r'pip install -c constraints.txt -e "\.\[tune\]"'):
        importlib.import_module("experiments.tuning.study")

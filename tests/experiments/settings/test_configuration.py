"""Settings of a run: files, sections, overrides."""

from pathlib import Path

import pytest
from free_costs import ALGORITHMS

from agents.base import PolicyGradientAgent
from envs import make_vec_env
from experiments.settings.arguments import Arguments
from experiments.settings.configuration import build, parse_override, resolve
from experiments.settings.run_settings import RunSettings

TASKS = [
    *("CartPole-v1", "Acrobot-v1", "MountainCarContinuous-v0", "Pendulum-v1", "LunarLander-v3"),
    *("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Swimmer-v5", "Ant-v5", "default"),
]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_shipped_sections_build_an_agent(algo: str, task: str) -> None:
    """Every shipped section has only known names and values in range, and whole minibatches."""
    configuration = resolve(Arguments(algo=(algo,), env=(task,)))
    env_id = "Pendulum-v1" if configuration.hyperparameters.get("use_sde") else "CartPole-v1"
    env = make_vec_env(env_id, configuration.n_envs)
    limit = {"cost_limit": 1.0} if algo == "cpo" else {}  # which `default` leaves to the user
    agent = ALGORITHMS[algo](configuration.policy, env, **configuration.hyperparameters | limit)
    assert isinstance(agent, PolicyGradientAgent)
    states = agent.n_steps * configuration.n_envs
    assert states % (agent.batch_size or states) == 0


def write(folder: Path, text: str) -> Path:
    """Write a configuration file."""
    path = folder / "npg.yaml"
    path.write_text(text)
    return path


def read(path: Path, env_id: str, *overrides: str) -> RunSettings:
    """Resolve NPG's settings from a file."""
    return resolve(Arguments(algo=("npg",), env=(env_id,), config=path, set=(overrides,)))


def test_section_wins_over_constructor_and_override_over_section(tmp_path: Path) -> None:
    """Every hyper-parameter is resolved, from the most specific place."""
    path = write(tmp_path, "A-v0: {n_timesteps: 1e3, gamma: 0.9, target_kl: 0.5}\n".replace("1e3", "1000"))
    found = read(path, "A-v0", "target_kl=1e-3", "n_envs=4")
    assert found.n_timesteps == 1000 and found.n_envs == 4 and found.policy == "MlpPolicy"
    assert found.hyperparameters["gamma"] == 0.9
    assert found.hyperparameters["target_kl"] == 1e-3
    assert found.hyperparameters["cg_max_steps"] == 15
    assert "seed" not in found.hyperparameters


def test_default_section_serves_the_others(tmp_path: Path) -> None:
    """An environment without a section uses `default`, unchanged."""
    path = write(tmp_path, "default: {n_timesteps: 7}\nA-v0: {n_timesteps: 8}\n")
    assert read(path, "B-v0").n_timesteps == 7
    assert read(path, "A-v0").n_timesteps == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A-v0: {n_timesteps: 1, gama: 1}", "no setting 'gama'; did you mean 'gamma'"),
        ("B-v0: {n_timesteps: 1}", "neither a section 'A-v0' nor one called 'default'"),
        ("A-v0: {gamma: 1}", "lacks n_timesteps"),
        ("A-v0: {n_timesteps: 1.5}", "n_timesteps must be an integer"),
        ("A-v0: {n_timesteps: 1, normalize: 2}", "normalize must be true or false, got 2"),
        ("A-v0: {n_timesteps: 1, policy_kwargs: 3}", "policy_kwargs must be a mapping"),
        ("A-v0: {n_timesteps: 1, policy_kwargs: 'f()'}", "policy_kwargs: cannot read"),
        ("A-v0: [1, 2", "not valid YAML"),
        ("- 1", "must map environment ids to settings"),
        ("", "must map environment ids to settings"),
    ],
)
def test_bad_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    """The error says what is wrong with which file."""
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path, text), "A-v0")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1),
        ("a=1e-3", 1e-3),
        ("a=-1E3", -1000),
        ("a=1.5e1", 15),
        ("a=1.0e+3", 1000),
        ("a=.5e-1", 0.05),
        ("a=1.0", 1.0),
        ("a='1e3'", "1e3"),
        ("a=lin_1e-3", "lin_1e-3"),
        ("a=e3", "e3"),
        ("a={log_std_init: -1e0, net_arch: [1e1]}", {"log_std_init": -1, "net_arch": [10]}),
        ("a=true", True),
        ("a=null", None),
        ("a=word", "word"),
        ("a={net_arch: [8]}", {"net_arch": [8]}),
    ],
)
def test_override_values_are_yaml(text: str, value: object) -> None:
    """Numbers, booleans, words and mappings; 1e-3 is a number although YAML 1.1 has it a word."""
    name, found = parse_override(text)
    assert (name, found) == ("a", value) and type(found) is type(value)


def test_files_have_numbers_with_exponents(tmp_path: Path) -> None:
    """Of whole numbers too, on every level, and in schedules."""
    path = write(
        tmp_path,
        "A-v0: {n_timesteps: 1e4, n_steps: 1e2, target_kl: 1e-3, learning_rate: lin_1e-3, "
        "policy_kwargs: {net_arch: [1e1], log_std_init: -1e0}}\n",
    )
    found = read(path, "A-v0", "cg_max_steps=1e1")
    assert (found.n_timesteps, found.hyperparameters["n_steps"]) == (10_000, 100)
    assert found.hyperparameters["target_kl"] == 0.001 and found.hyperparameters["cg_max_steps"] == 10
    assert found.hyperparameters["policy_kwargs"] == {"net_arch": [10], "log_std_init": -1}
    agent = build(found, make_vec_env("Pendulum-v1"))
    assert agent.lr_schedule(1.0) == 0.001


def test_options_have_numbers_with_exponents() -> None:
    """Of every type, and those of the other commands too."""
    words = "--steps 1e4 --seed 1e3 --seeds 1e1 --n-envs 1e1 --episodes 2e1 --jobs 1e0 --geometry 1e2"
    found = Arguments.parse([*words.split(), "--checkpoint-every", "1e1", "--worker-timeout", "1e-1"])
    numbers = found.steps, found.seed, found.seeds, found.n_envs, found.episodes, found.jobs, found.geometry
    assert numbers == (10_000, 1000, 10, 10, 20, 1, 100)
    assert all(isinstance(number, int) for number in numbers[1:])
    assert (found.checkpoint_every, found.worker_timeout) == (10, 0.1)
    assert Arguments.parse(["--seed", str(2**60 + 1)]).seed == 2**60 + 1


@pytest.mark.parametrize("value", ["1.5", "1e-3", "many", "nan", "1e400"])
def test_a_whole_number_is_required(value: str, capsys: pytest.CaptureFixture) -> None:
    """By the error of the option."""
    with pytest.raises(SystemExit) as exited:
        Arguments.parse(["--seeds", value])
    assert exited.value.code == 2 and "--seeds" in capsys.readouterr().err

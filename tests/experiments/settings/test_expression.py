"""RL Zoo's values that are written as Python, and the forms of its files."""

from pathlib import Path

import pytest
from torch import nn, optim

from agents.policy.names import with_classes
from experiments.settings.arguments import Arguments
from experiments.settings.configuration import build, resolve
from experiments.settings.expression import read_expression
from experiments.training_envs import make_env

SECTION = """
CartPole-v1:
  n_timesteps: !!float 1e5
  policy: 'MlpPolicy'
  n_envs: 2
  n_steps: 32
  learning_rate: lin_7e-4
  gamma: 9e-1
  normalize: "{'norm_obs': False, 'norm_reward': True}"
  policy_kwargs: "dict( log_std_init=-2.7, ortho_init=False, activation_fn=nn.ReLU,
                        net_arch=dict(pi=[8], vf=[8]), optimizer_kwargs=dict(eps=1e-5) )"
  env_wrapper:
    - gymnasium.wrappers.TimeLimit: {max_episode_steps: 9}
    - gymnasium.wrappers.FlattenObservation
  frame_stack: 4
"""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("dict(a=-1, b=[1, 2.5], c=dict(d=None))", {"a": -1, "b": [1, 2.5], "c": {"d": None}}),
        ("{'norm_obs': False}", {"norm_obs": False}),
        ("dict(activation_fn=nn.ReLU, x=Name)", {"activation_fn": "nn.ReLU", "x": "Name"}),
        (" dict() ", {}),
    ],
)
def test_literals_dict_and_names(text: str, value: object) -> None:
    """As plain data."""
    assert read_expression(text, "x") == value


@pytest.mark.parametrize(
    "text",
    [
        *(
            "__import__('os')",
            "dict(a=f())",
            "dict(**b)",
            "{**b}",
            "dict([(1, 2)])",
            "a.b.c",
            "[x for x in y]",
        ),
        *("1 +", "lambda: 0", "dict(a=b'x')", "-x", "(" * 500 + ")" * 500),
    ],
)
def test_nothing_else_is_read(text: str) -> None:
    """The message has the setting and the form to use."""
    with pytest.raises(ValueError, match=r"policy_kwargs: cannot read .* write it as YAML"):
        read_expression(text, "policy_kwargs")


def test_a_section_in_rl_zoos_forms_builds_an_agent(tmp_path: Path) -> None:
    """All forms at once."""
    (tmp_path / "trpo.yml").write_text(SECTION)
    words = Arguments(config=tmp_path / "trpo.yml", device="cpu", vec_env="dummy")
    settings = resolve(words)
    assert settings.normalize == {"norm_obs": False, "norm_reward": True} and settings.n_timesteps == 100_000
    assert settings.hyperparameters["gamma"] == 0.9 and settings.frame_stack == 4
    env = make_env(settings)
    agent = build(settings, env)
    normaliser = agent.get_vec_normalize_env()
    assert normaliser is not None and (normaliser.norm_obs, normaliser.gamma) == (False, 0.9)
    assert agent.observation_space.shape == (16,)
    assert agent.policy.activation_fn is nn.ReLU and agent.policy.optimizer.defaults["eps"] == 1e-5
    env.close()


def test_rl_zoos_optimizer_of_a2c() -> None:
    """It is SB3's, not torch's."""
    found = with_classes({"optimizer_class": "RMSpropTFLike"})["optimizer_class"]
    assert issubclass(found, optim.Optimizer) and found.__name__ == "RMSpropTFLike"


def test_a_date_is_text() -> None:
    """An argument of an environment, say: config.yaml could not be read again with a date."""
    assert resolve(Arguments(env_kwargs=(("start=2024-01-01",),))).env_kwargs == {"start": "2024-01-01"}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("env_wrapper: a_package_that_is_missing.wrappers.X", "env_wrapper is in a_package_that_is_missing"),
        ("normalize: {norm_ob: true}", "normalize may have norm_obs"),
        ("policy_kwargs: dict(a=f())", "policy_kwargs: cannot read"),
    ],
)
def test_what_is_rejected_names_the_key(section: str, message: str, tmp_path: Path) -> None:
    """And what to do."""
    (tmp_path / "own.yaml").write_text(f"default: {{n_timesteps: 10, {section}}}")
    with pytest.raises(ValueError, match=message):
        resolve(Arguments(config=tmp_path / "own.yaml"))

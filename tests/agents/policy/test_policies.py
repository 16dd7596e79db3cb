"""Policies that carry their own normalisers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents import TRPO
from agents.policy.normalisation import ObservationNormaliser, RunningMoments
from agents.policy.policies import CnnPolicy, MlpPolicy

OWN = {"normalize_observations": True, "normalize_returns": True}
SMALL = {"n_steps": 128, "batch_size": 64, "n_critic_updates": 2, "seed": 0, "device": "cpu"}


def test_moments_are_those_of_all_values_together() -> None:
    """Updates in pieces give mean and variance of the whole."""
    values = torch.randn(100, 3).double() * 5 + 1e3
    moments = RunningMoments((3,))
    for part in values.split([1, 60, 39]):
        moments.update(part)
    assert torch.allclose(moments.mean, values.mean(0))
    assert torch.allclose(moments.variance, values.var(0, correction=0))
    assert moments.count == 100


def test_moments_before_and_without_spread() -> None:
    """Nothing seen leaves values alone; a constant is normalised to zero, not to NaN."""
    moments = RunningMoments()
    assert moments(torch.tensor([0.5, -2.0])).tolist() == [0.5, -2.0]
    moments.update(torch.full((5,), 7.0))
    assert moments(torch.tensor([7.0])).tolist() == [0.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_moments_reject_bad_numbers(bad: float) -> None:
    """One NaN changes nothing, in no buffer."""
    moments = RunningMoments()
    moments.update(torch.randn(10))
    before = {name: value.clone() for name, value in moments.state_dict().items()}
    moments.update(torch.tensor([1.0, bad]))
    assert all(torch.equal(before[name], value) for name, value in moments.state_dict().items())


def test_only_measurements_are_normalised() -> None:
    """Of a dictionary, boxes are; images and choices are left to SB3's preprocessing."""
    space = spaces.Dict(
        {
            "speed.x": spaces.Box(-1, 1, (2,), np.float32),
            "camera": spaces.Box(0, 255, (3, 36, 36), np.uint8),
            "gear": spaces.Discrete(4),
        }
    )
    normaliser = ObservationNormaliser(space)
    observations = {
        "speed.x": torch.tensor([[1.0, 2.0], [3.0, 6.0]]),
        "camera": torch.full((2, 3, 36, 36), 9, dtype=torch.uint8),
        "gear": torch.tensor([1, 3]),
    }
    normaliser.update(observations)
    result = normaliser(observations)
    assert torch.allclose(result["speed.x"], torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    assert result["camera"] is observations["camera"] and result["gear"] is observations["gear"]


def test_saved_model_predicts_on_raw_observations(tmp_path: Path) -> None:
    """Loaded from model.zip, and from policy.save alone, actions are bitwise the same."""
    agent = TRPO("MlpPolicy", "Pendulum-v1", policy_kwargs=OWN, **SMALL).learn(256)
    observations = np.random.default_rng(0).uniform(-8, 8, (50, 3)).astype(np.float32)
    expected, _ = agent.predict(observations, deterministic=True)
    agent.save(tmp_path / "model.zip")
    agent.policy.save(tmp_path / "policy.pt")
    assert agent.policy.observation_normaliser.get_submodule("moments_0").count == 256
    for loaded in (TRPO.load(tmp_path / "model.zip", device="cpu"), MlpPolicy.load(tmp_path / "policy.pt")):
        assert np.array_equal(loaded.predict(observations, deterministic=True)[0], expected)


def test_statistics_rest_during_rollout_and_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """The update sees the policy that acted: its KL to itself is 0 and the ratios start at 1."""
    agent = TRPO("MlpPolicy", "Pendulum-v1", policy_kwargs=OWN, **SMALL).learn(256, log_interval=None)
    evaluations = []
    step = agent.policy_step

    def spy(batch: object, objective: object) -> object:
        evaluations.append(objective.evaluate(torch.zeros_like(objective.parameters.vector())))
        assert torch.allclose(objective._old_ratio, torch.ones(128), atol=1e-4)
        return step(batch, objective)

    monkeypatch.setattr(agent, "policy_step", spy)
    agent.learn(256, reset_num_timesteps=False, log_interval=None)
    assert [e.kl for e in evaluations] == [0.0, 0.0]


def test_new_return_statistics_leave_every_value() -> None:
    """The last layer is rescaled against the change of units."""
    agent = TRPO("MlpPolicy", "Pendulum-v1", policy_kwargs=OWN, **SMALL)
    observations = torch.randn(20, 3)
    torch.nn.init.normal_(agent.policy.value_net.weight)  # it begins at 0, where scaling it shows nothing
    agent.policy.observe_returns(torch.randn(100) - 5)
    before = agent.policy.predict_values(observations)
    agent.policy.observe_returns(torch.randn(100) * 30 - 700)
    assert torch.allclose(agent.policy.predict_values(observations), before, atol=1e-3)
    agent.policy.observe_returns(torch.full((5,), float("nan")))
    assert torch.allclose(agent.policy.predict_values(observations), before, atol=1e-3)
    assert torch.allclose(agent.policy.forward(observations)[1], before, atol=1e-3)


def test_features_are_separate_by_default_and_the_flag_is_saved(tmp_path: Path) -> None:
    """The critic has its own extractor; sharing is possible, and policy.save keeps what was chosen."""
    image = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    for shared in (None, True, False):
        kwargs = {} if shared is None else {"share_features_extractor": shared}
        policy = CnnPolicy(image, spaces.Discrete(2), lambda _: 1e-3, **kwargs)
        assert (policy.pi_features_extractor is policy.vf_features_extractor) is bool(shared)
        policy.save(tmp_path / "policy.pt")
        loaded = CnnPolicy.load(tmp_path / "policy.pt")
        observations = torch.randint(0, 255, (4, 3, 36, 36), dtype=torch.uint8)
        assert torch.equal(loaded.predict_values(observations), policy.predict_values(observations))
        assert loaded.share_features_extractor is bool(shared)


def test_adam_is_fused_unless_the_user_says_otherwise() -> None:
    """Only Adam knows the option, and an own choice is kept."""

    def optimizer(**kwargs: object) -> torch.optim.Optimizer:
        return TRPO("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, **SMALL).policy.optimizer

    assert optimizer().defaults["fused"]
    assert not optimizer(optimizer_kwargs={"fused": False}).defaults["fused"]
    assert "fused" not in optimizer(optimizer_class=torch.optim.RMSprop).defaults

"""Moments on devices that have no float64 (case R24), and what VecNormalize takes."""

import copy
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch.overrides import TorchFunctionMode

import npg.host
from agents import TRPO
from agents.policy import normalisation
from agents.policy.normalisation import RunningMoments
from agents.rollout import batch


class WithoutFloat64(TorchFunctionMode):
    """While entered, a tensor of float64 is an error, as on an Apple GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function and check its result."""
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            raise TypeError(f"{func.__name__} made a tensor of float64")
        return result


def test_moments_move_to_a_device_without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU plays an Apple GPU: a tensor of float64 cannot be moved there; back, they are float64 again."""
    values = 1000 + torch.randn(512, 3, generator=torch.Generator().manual_seed(0))
    moments = RunningMoments((3,))
    moments.update(values)
    exact = copy.deepcopy(moments)

    def without_float64(device: torch.device) -> torch.dtype:
        return npg.host.scalar_dtype(torch.device("mps"))

    def move(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return tensor.clone()

    for module in (normalisation, batch):
        monkeypatch.setattr(module, "scalar_dtype", without_float64)
    module = torch.nn.Sequential(moments)
    module._apply(move)
    assert {buffer.dtype for buffer in module.buffers()} == {torch.float32}
    with WithoutFloat64():
        for _ in range(100):
            moments.update(values)
        normalised = moments(values)
        assert batch.standardise(values[:, 0]).dtype == torch.float32
    for _ in range(100):
        exact.update(values)
    assert torch.allclose(normalised, exact(values), atol=1e-3)
    monkeypatch.undo()
    module.to("cpu")
    assert {buffer.dtype for buffer in module.buffers()} == {torch.float64}
    assert torch.equal(moments.count, exact.count)


@pytest.mark.parametrize("constant", [8.907462, -1e6, 3e-4])
def test_rounding_of_a_constant_is_no_signal(constant: float) -> None:
    """E.g. of an agent that saw float64 in training and float32 later; small quantities are normalised."""
    moments = RunningMoments()
    value = torch.full((100,), constant, dtype=torch.float64)
    moments.update(value)
    moved = torch.nextafter(value.float(), torch.full((100,), torch.inf))
    assert (moments(value) == 0).all()
    for other in (value.float(), value.float().double(), moved, moved.double()):
        assert (moments(other).abs() < 0.02).all()
    moments = RunningMoments()
    small = 1e-6 * torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    moments.update(small)
    assert moments(small).std().item() == pytest.approx(1, rel=1e-4)


def test_moments_stay_exact_in_a_policy_of_another_dtype() -> None:
    """`half` is for the network."""
    assert RunningMoments().half().mean.dtype == torch.float64


OBSERVATIONS, RETURNS = {"normalize_observations": True}, {"normalize_returns": True}


@pytest.mark.parametrize(
    ("policy_kwargs", "outer", "doubled"),
    [
        (OBSERVATIONS | RETURNS, {}, True),
        (OBSERVATIONS, {}, True),
        (RETURNS, {}, True),
        (OBSERVATIONS, {"norm_obs": False}, False),
        (RETURNS, {"norm_reward": False}, False),
        ({}, {}, False),
        (OBSERVATIONS | RETURNS, None, False),
    ],
)
def test_double_normalisation_warns_once(
    policy_kwargs: dict, outer: dict | None, doubled: bool, tmp_path: Path
) -> None:
    """When an agent is made, and when it is loaded; with what to leave out."""
    env = DummyVecEnv([lambda: gym.make("CartPole-v1")])
    made = env if outer is None else VecNormalize(env, **outer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        agent = TRPO("MlpPolicy", made, n_steps=16, batch_size=16, policy_kwargs=policy_kwargs, device="cpu")
        agent.learn(32).save(tmp_path / "agent")
        TRPO.load(tmp_path / "agent", env=made)
    found = [each for each in caught if "VecNormalize and the policy" in str(each.message)]
    assert len(found) == 2 * doubled
    assert not doubled or found[0].filename == __file__


def test_set_env_warns_of_double_normalisation() -> None:
    """As the constructor does, from the caller's line."""
    env = DummyVecEnv([lambda: gym.make("CartPole-v1")])
    agent = TRPO("MlpPolicy", env, n_steps=16, batch_size=16, policy_kwargs=OBSERVATIONS, device="cpu")
    with pytest.warns(UserWarning, match="VecNormalize and the policy") as caught:
        agent.set_env(VecNormalize(env, norm_reward=False))
    assert [each.filename for each in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.set_env(VecNormalize(env, norm_obs=False))

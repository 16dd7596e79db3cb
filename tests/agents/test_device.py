"""device="auto": a GPU only where it was measured to be faster."""

import pytest
import torch

from agents import TRPO, base, device

SMALL = {"n_steps": 16, "batch_size": 16}


def test_the_faster_device_is_chosen(monkeypatch: pytest.MonkeyPatch, parameters) -> None:
    """The choice follows the measurement; the policy itself is not moved."""
    policy = TRPO("MlpPolicy", "CartPole-v1", **SMALL, device="cpu").policy.to("meta")
    monkeypatch.setattr(device.copy, "deepcopy", lambda policy: torch.nn.Linear(1, 1))
    for here, there in ((1.0, 2.0), (2.0, 1.0)):
        monkeypatch.setattr(
            device, "seconds", lambda p, *_, here=here, there=there: there if p is policy else here
        )
        chosen = device.faster_device(policy, 1, 16)
        assert chosen.type == ("cpu" if here < there else "meta")
    assert policy.device.type == "meta"


def test_measuring_changes_nothing(parameters) -> None:
    """Neither a parameter nor the random numbers to come."""
    policy = TRPO("MlpPolicy", "CartPole-v1", **SMALL, seed=0, device="cpu").policy
    before, state = parameters(policy), torch.get_rng_state()
    assert device.seconds(policy, 2, 8) > 0
    assert torch.equal(parameters(policy), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_device_that_was_asked_for_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is anything where there is but one."""
    monkeypatch.setattr(base, "faster_device", lambda *_: pytest.fail("measured"))
    assert TRPO("MlpPolicy", "CartPole-v1", **SMALL, device="meta").device.type == "meta"
    if not torch.cuda.is_available():
        assert TRPO("MlpPolicy", "CartPole-v1", **SMALL, device="auto").device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.parametrize("choice", ["cpu", "cuda"])
def test_auto_moves_everything(monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    """Policy, buffer and optimizer follow the choice, and training works there."""
    monkeypatch.setattr(base, "faster_device", lambda *_: torch.device(choice))
    agent = TRPO("MlpPolicy", "CartPole-v1", **SMALL, device="auto").learn(32)
    assert agent.policy.device.type == choice
    assert agent.rollout_buffer.device.type == choice

"""The algorithms under test: ours, and as controls sb3-contrib's TRPO and SB3's A2C.

    pytest tests/agents/conformance --algorithm my_package:MyAlgorithm

runs the suite on any other on-policy SB3 algorithm.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

OURS = ("agents:VPG", "agents:NPG", "agents:TRPO", "agents:ACKTR")
CONTROLS = ("sb3_contrib:TRPO", "stable_baselines3:A2C")
SMALL = {"n_steps": 16, "batch_size": 16, "n_critic_updates": 1, "seed": 0, "device": "cpu"}
SMALL |= {"cg_max_steps": 3}

Make = Callable[..., OnPolicyAlgorithm]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every test each algorithm in turn; controls are slow but in tests marked `with_controls`."""
    if "algorithm" in metafunc.fixturenames:
        mark = [] if metafunc.definition.get_closest_marker("with_controls") else [pytest.mark.slow]
        controls = [pytest.param(name, marks=mark) for name in CONTROLS]
        constrained = pytest.param("free_costs:FreeCPO", marks=pytest.mark.slow)  # TRPO with a critic more
        names = metafunc.config.getoption("--algorithm") or [*OURS, constrained, *controls]
        metafunc.parametrize("algorithm", names, indirect=True)


@pytest.fixture
def algorithm(request: pytest.FixtureRequest) -> type[OnPolicyAlgorithm]:
    """The class."""
    module, _, name = request.param.partition(":")
    return getattr(
        pytest.importorskip(module) if module == "sb3_contrib" else importlib.import_module(module), name
    )


@pytest.fixture
def make(algorithm: type[OnPolicyAlgorithm]) -> Make:
    """A function that builds a small agent, with the small settings that the class accepts."""
    known = inspect.signature(algorithm).parameters
    small = {name: value for name, value in SMALL.items() if name in known}

    def build(policy: str, env: Any, **kwargs: Any) -> OnPolicyAlgorithm:
        return algorithm(policy, env, **{**small, **kwargs})

    return build


@pytest.fixture
def weights() -> Callable[[torch.nn.Module], torch.Tensor]:
    """A function that copies a module's parameters into one vector."""
    return lambda module: torch.cat([p.detach().reshape(-1).clone() for p in module.parameters()])

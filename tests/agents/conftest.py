"""What the tests of the agents share."""

from collections.abc import Callable

import pytest
import torch
from free_costs import ALGORITHMS

from agents.base import PolicyGradientAgent


@pytest.fixture(params=ALGORITHMS, ids=str)
def agent_class(request: pytest.FixtureRequest) -> type[PolicyGradientAgent]:
    """Every agent in turn."""
    return ALGORITHMS[request.param]


@pytest.fixture
def parameters() -> Callable[[torch.nn.Module], torch.Tensor]:
    """A function that copies a module's parameters into one vector."""
    return lambda module: torch.cat([p.detach().reshape(-1).clone() for p in module.parameters()])

"""What the tests of the experiments share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small networks are faster, and floating-point sums reproducible, on one thread."""
    torch.set_num_threads(1)

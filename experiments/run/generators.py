"""Save and restore the global random number generators bit for bit."""

import random
from typing import Any

import numpy as np
import torch


def take_generators() -> dict[str, Any]:
    """Return the states of Python's, NumPy's and torch's global generators, on the CPU and all GPUs."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002 - libraries draw from it
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_generators(state: dict[str, Any]) -> None:
    """Set the global generators to the states that `take_generators` returned.

    With an empty list of GPU states, `{**state, "cuda": []}`, the generators of GPUs are not changed.

    Raises:
        ValueError: the states are those of a different number of GPUs; no generator is changed.
    """
    here = torch.cuda.device_count()
    if state["cuda"] and len(state["cuda"]) != here:
        raise ValueError(
            f"the generators of {len(state['cuda'])} GPUs were saved and {here} are here; resume on as many, "
            "or leave those generators as they are with 'cuda': []"
        )
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])

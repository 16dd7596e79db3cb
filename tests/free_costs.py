"""All algorithms, with a CPO for environments without costs, for tests of what agents have in common."""

from typing import Any

import numpy as np

from agents import ALGORITHMS as REGISTERED
from agents import CPO


class FreeCPO(CPO):
    """CPO with a cost of 0 in every step."""

    cost_limit = 1e9

    def read_costs(self, info: dict[str, Any]) -> np.ndarray:
        """Return 0."""
        return np.zeros(len(self.limits))


ALGORITHMS = {**REGISTERED, "cpo": FreeCPO}
WITHOUT_COSTS = tuple(name for name in REGISTERED if name != "cpo")  # on the command line

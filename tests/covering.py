"""The few cases of a parametrised test that stand for all: see the marker `covering` in conftest.py."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


def choose_covering(cases: Sequence[Mapping[str, Any]], strength: int) -> set[int]:
    """Return indices of cases in which each combination of `strength` parameters' values occurs.

    Each next case has the most new combinations, and of these cases the values that were chosen least.
    """
    values = [sorted((name, repr(value)) for name, value in case.items()) for case in cases]
    left = [set(itertools.combinations(each, strength)) for each in values]
    counts: Counter[tuple[str, str]] = Counter()
    chosen = set()
    while any(left):
        best = max(
            range(len(cases)), key=lambda i: (len(left[i]), -sum(counts[value] for value in values[i]))
        )
        chosen.add(best)
        counts.update(values[best])
        covered = left[best].copy()
        for combinations in left:
            combinations -= covered
    return chosen

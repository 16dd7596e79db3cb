"""Group runs that repeat one experiment, and may be averaged."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from experiments.report.run_record import LeftOut, RunRecord

# Settings that change how long a run takes or is observed, but not what it learns.
NEUTRAL = {"device", "vec_env", "evaluation_episodes", "geometry", "checkpoint_every", "target_kl_joint"}
NEUTRAL |= {"worker_timeout"}
MOST_NAMED = 4  # differences in one sentence


@dataclass(frozen=True, eq=False)
class Group:
    """The runs of one algorithm on one task, with equal settings and different seeds.

    Attributes:
        environment: Gymnasium's id.
        algorithm: its name.
        records: the runs by seed, at least one.
    """

    environment: str
    algorithm: str
    records: tuple[RunRecord, ...]

    @property
    def budget(self) -> int:
        """Environment steps of every run."""
        return self.records[0].budget

    @property
    def settings(self) -> Mapping[str, Any]:
        """What every run was made with, `NEUTRAL` settings excepted."""
        return self.records[0].settings


def pool(records: Iterable[RunRecord]) -> tuple[list[Group], list[LeftOut]]:
    """Group runs by task and algorithm.

    Of two runs with one seed the first in the given order counts. Of runs with different settings or budgets
    the largest set that agrees counts, of equally large ones the first: averaging over different experiments
    says nothing about either.

    Returns:
        The groups by environment and algorithm, and the runs that stay out.
    """
    kept: dict[tuple[str, str, int], RunRecord] = {}
    left_out = []
    for record in records:
        first = kept.setdefault((record.environment, record.algorithm, record.seed), record)
        if first is not record:
            name = f"{record.algorithm} on {record.environment}, seed {record.seed}"
            reason = f"a second run of {name}; {first.path} came first. Report one of them"
            left_out.append(LeftOut(record.path, reason))
    together: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in kept.values():
        together[record.environment, record.algorithm].append(record)
    groups = []
    for (environment, algorithm), runs in sorted(together.items()):
        kinds: dict[tuple[tuple[str, str], ...], list[RunRecord]] = defaultdict(list)
        for run in runs:
            kinds[tuple(sorted(compared_settings(run).items()))].append(run)
        chosen = max(kinds.values(), key=len)
        groups.append(Group(environment, algorithm, tuple(sorted(chosen, key=lambda run: run.seed))))
        for run in runs:
            if run not in chosen:
                reason = f"differs from the other runs of {algorithm} on {environment}: "
                reason += f"{difference(run, chosen[0])}. Report it apart, or repeat it with their settings"
                left_out.append(LeftOut(run.path, reason))
    return groups, left_out


def compared_settings(record: RunRecord) -> dict[str, str]:
    """Return all that must agree between repetitions, as text."""
    settings = {name: str(value) for name, value in record.settings.items() if name not in NEUTRAL}
    return settings | {"n_timesteps": str(record.budget)}


def difference(record: RunRecord, other: RunRecord) -> str:
    """Return a clause that names the settings in which a run differs from another."""
    ours, theirs = compared_settings(record), compared_settings(other)
    clauses = [
        f"{name} is {ours.get(name, 'absent')}, not {theirs.get(name, 'absent')}"
        for name in sorted(ours | theirs)
        if ours.get(name) != theirs.get(name)
    ]
    if (more := len(clauses) - MOST_NAMED) > 0:
        clauses[MOST_NAMED:] = [f"and {more} more settings differ"]
    return ", ".join(clauses)

"""Group runs that repeat the same experiment, so that they can be averaged."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from experiments.report.run_record import LeftOut, RunRecord

# Settings that affect the duration of a run or its recording, but not what it learns.
NEUTRAL = {"device", "vec_env", "evaluation_episodes", "geometry", "checkpoint_every", "target_kl_joint"}
NEUTRAL |= {"worker_timeout", "eval_every", "track"}
FEW_SEEDS = 5  # with fewer, single seeds are drawn instead of an interval
MOST_NAMED = 4  # largest number of differences in one sentence


@dataclass(frozen=True, eq=False)
class Group:
    """The runs of one algorithm on one task, with equal settings and different seeds.

    Attributes:
        environment: Gymnasium id.
        algorithm: name of the algorithm.
        records: the runs in the order of their seeds, at least one.
    """

    environment: str
    algorithm: str
    records: tuple[RunRecord, ...]

    @property
    def few(self) -> bool:
        """Whether there are too few seeds to draw an interval."""
        return len(self.records) < FEW_SEEDS

    @property
    def budget(self) -> int:
        """Environment steps of every run."""
        return self.records[0].budget

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the first run; those of the others differ in `NEUTRAL` ones at most."""
        return self.records[0].settings


def pool(records: Iterable[RunRecord]) -> tuple[list[Group], list[LeftOut]]:
    """Group runs by task and algorithm.

    If two runs have the same seed, the first one is used. If runs have different settings or budgets, the
    largest set that agrees is used, or the first of equally large ones, since an average over different
    experiments is meaningless.

    Returns:
        The groups in the order of environment and algorithm, and the runs that are left out.
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
    """Return the settings that must be equal in all runs of a group, as text."""
    settings = {name: str(value) for name, value in record.settings.items() if name not in NEUTRAL}
    return settings | {"n_timesteps": str(record.budget)}


def difference(record: RunRecord, other: RunRecord) -> str:
    """Return a clause that names the settings in which two runs differ."""
    ours, theirs = compared_settings(record), compared_settings(other)
    clauses = [
        f"{name} is {ours.get(name, 'absent')}, not {theirs.get(name, 'absent')}"
        for name in sorted(ours | theirs)
        if ours.get(name) != theirs.get(name)
    ]
    if (more := len(clauses) - MOST_NAMED) > 0:
        clauses[MOST_NAMED:] = [f"and {more} more settings differ"]
    return ", ".join(clauses)

"""What a run is doing, told to the process that is about to kill it."""

import functools
from pathlib import Path
from typing import Any, Self

import numpy as np

NAMES = ("start", "workers", "rollout", "update", "checkpoint", "log", "evaluation", "model")


class Phases:
    """The present phase and how often each has begun, in a file that two processes map.

    Phases nest: a checkpoint is taken, and a row of the log written, between two rollouts.
    """

    def __init__(self, path: Path):
        if not path.exists():
            path.write_bytes(bytes(8 * (1 + len(NAMES))))
        self._numbers = np.memmap(path, dtype=np.int64, mode="r+")

    @property
    def now(self) -> str:
        """The phase that the run is in, or was killed in."""
        return NAMES[self._numbers[0]]

    def begun(self, name: str) -> int:
        """Return how often a phase has begun."""
        return int(self._numbers[1 + NAMES.index(name)])

    def tell(self, owner: Any, attribute: str, name: str) -> None:
        """Let a function tell when it begins and ends."""
        function = getattr(owner, attribute)

        @functools.wraps(function)
        def told(*args: Any, **kwargs: Any) -> Any:
            before = self._numbers[0]
            self._numbers[1 + NAMES.index(name)] += 1
            self._numbers[0] = NAMES.index(name)
            try:
                return function(*args, **kwargs)
            finally:
                self._numbers[0] = before

        setattr(owner, attribute, told)

    @classmethod
    def watch(cls, path: str) -> Self:
        """Let the run in this process tell its phases."""
        from agents.base import PolicyGradientAgent
        from envs.workers.worker_pool import WorkerPool
        from experiments import single_run
        from experiments.run.checkpointing import Checkpointing
        from experiments.run.csv_log import CsvLog
        from experiments.run.run_folder import RunFolder

        phases = cls(Path(path))
        phases._numbers[1] += 1  # of "start"
        phases.tell(WorkerPool, "_build", "workers")
        phases.tell(PolicyGradientAgent, "collect_rollouts", "rollout")
        phases.tell(PolicyGradientAgent, "train", "update")
        phases.tell(Checkpointing, "save", "checkpoint")
        phases.tell(CsvLog, "write", "log")
        phases.tell(RunFolder, "save", "model")
        phases.tell(single_run, "evaluate", "evaluation")
        return phases

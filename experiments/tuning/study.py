"""A study of Optuna's on disk, for one command at a time, which may be ended at any moment."""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from experiments.settings.configuration import RUN_KEYS
from experiments.settings.run_settings import RunSettings
from experiments.settings.tuning_seeds import RESERVED, TUNING_SEEDS
from experiments.tuning.search_space import SearchSpace

try:
    import optuna
    from optuna.trial import FrozenTrial, TrialState
    from sqlalchemy.exc import DatabaseError
except ImportError:
    raise ImportError(
        'tuning needs Optuna; install it with: pip install -c constraints.txt -e ".[tune]"'
    ) from None

RETRIES = 3  # of a trial that was interrupted
LEAST_IMPORTANCE = 10  # complete trials, below which importances are noise
BUSY = 60  # seconds to wait for another worker's write
# Attributes of a trial.
DEFAULT, FAILURE, ATTEMPTS = "default", "failure", "attempts"

STARTUP = 10  # random trials before there is a model; half as many complete ones before any is pruned
UNPRUNED = 3  # intermediate values that every trial may reach


class StudyInUseError(FileExistsError):
    """Another command is searching in the study's folder."""


@dataclass(frozen=True)
class Search:
    """What all trials of a study have in common; with several jobs, pickled.

    Args:
        algo: a name that `experiments.algorithms.build` knows.
        env_id: of the task.
        configuration: where the search begins, its budget, and all that it does not vary.
        make_env: (configuration, seed) -> training environments with Monitor's episode statistics, in a
            `VecNormalize` where `configuration.normalize`.
        folder: of study.db, trials.csv, best.yaml and history.png.
        seeds: of a trial's runs.
        device: of the agents.
    """

    algo: str
    env_id: str
    configuration: RunSettings
    make_env: Callable[[RunSettings, int], VecEnv]
    folder: Path
    seeds: tuple[int, ...] = TUNING_SEEDS
    device: str = "auto"

    @property
    def space(self) -> SearchSpace:
        """What the search may choose."""
        return SearchSpace.of(self.algo, self.configuration)

    @property
    def identity(self) -> dict[str, Any]:
        """What has to stay the same for trials to be comparable."""
        settings = {name: getattr(self.configuration, name) for name in RUN_KEYS}
        ranges = {f"range of {axis}": extent for axis, extent in self.space.described().items()}
        run = {"algo": self.algo, "env": self.env_id, "seeds": self.seeds}
        return {**run, **settings, **self.configuration.hyperparameters, **ranges}

    def check(self) -> None:
        """Check the seeds, and that there is a space around the configuration.

        Raises:
            ValueError: a seed may be one of a reported run, or there is no space.
        """
        if not self.seeds or min(self.seeds) < RESERVED:
            raise ValueError(
                f"tuning seeds must be at least {RESERVED}, apart from those of reported runs, "
                f"got {self.seeds}"
            )
        SearchSpace.of(self.algo, self.configuration)


@contextlib.contextmanager
def opened(search: Search) -> Iterator[optuna.Study]:
    """Open or begin the study of a search, quietly.

    Raises:
        ValueError: the file holds another search, or no study.
    """
    path = search.folder / "study.db"
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = None
    try:
        try:
            storage = optuna.storages.RDBStorage(
                f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": BUSY}}
            )
            study = optuna.create_study(
                storage=storage,
                study_name="tuning",
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(STARTUP // 2, UNPRUNED),
            )
        except DatabaseError as error:
            raise ValueError(f"{path} is no study of Optuna's ({error.orig}); delete it") from None
        check_same(path, study, search.identity)
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial(search.space.base_coordinates, user_attrs={DEFAULT: True})
        yield study
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()
        optuna.logging.set_verbosity(verbosity)


def check_same(path: Path, study: optuna.Study, identity: Mapping[str, Any]) -> None:
    """Check that a study is of this search; one that was just begun becomes so."""
    now = json.loads(json.dumps(identity))
    was = study.user_attrs.get("identity")
    if was is None:
        study.set_user_attr("identity", now)
    elif was != now:
        names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
        changes = ", ".join(f"{name}={was.get(name)!r}, not {now.get(name)!r}" for name in names)
        raise ValueError(
            f"{path} holds another search, with {changes}; choose another --out, or delete {path.parent}"
        )


def value(trial: FrozenTrial) -> float:
    """Return what a complete trial was worth."""
    assert trial.value is not None
    return float(trial.value)


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that count: complete, pruned, or failed by their settings and not by an interrupt."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or FAILURE in trial.user_attrs
    ]


def reclaim(study: optuna.Study, search: Search) -> None:
    """Fail the trials that nobody is running any more, and put them back into the queue."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        attempts = trial.user_attrs.get(ATTEMPTS, 0) + 1
        coordinates = search.space.base_coordinates if trial.user_attrs.get(DEFAULT) else trial.params
        if coordinates and attempts <= RETRIES:
            study.enqueue_trial(coordinates, user_attrs={**trial.user_attrs, ATTEMPTS: attempts})
        study.tell(trial.number, state=TrialState.FAIL)


def importances(study: optuna.Study) -> dict[str, float]:
    """Return how much each axis explains of what makes a trial good, as shares; empty where unknown."""
    values = [value(trial) for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    if len(values) < LEAST_IMPORTANCE or len(set(values)) == 1:
        return {}
    return optuna.importance.get_param_importances(study)


@contextlib.contextmanager
def lock(folder: Path, shared: bool = False) -> Iterator[Callable[[], None]]:
    """Keep other commands out of a folder; gives a function that lets this command's workers in.

    The lock is held as long as the command, or a worker that outlived it, lives.

    Raises:
        StudyInUseError: another command holds it.
    """
    handle = os.open(folder, os.O_RDONLY)

    def take(kind: int) -> None:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyInUseError(
                f"another command is searching in {folder}; wait for it, or choose another --out"
            ) from None

    try:
        take(fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield lambda: take(fcntl.LOCK_SH)
    finally:
        os.close(handle)

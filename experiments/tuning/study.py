"""An Optuna study on disk.

A search on one machine stores it in study.db, by Optuna's SQLite backend. SQLite needs a file system's locks,
which many network file systems lack, so a search on a cluster stores it in study.journal, by Optuna's
JournalStorage: records are only appended, and the lock is a file that is created exclusively, which works on
NFS since version 3. Whichever file there is, the study stays in it.

Optuna's retry callback queues interrupted trials again. Optuna detects these by heartbeats, which are off:
only one command at a time holds the folder's lock, and its workers end with it, so any trial that is running
when a command starts was interrupted. A heartbeat would detect that only after a grace period, during which
the search would sample the same trial again.
"""

import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from experiments.extras import needs
from experiments.settings.run_settings import RunSettings
from experiments.settings.tuning_seeds import RESERVED, TUNING_SEEDS
from experiments.tuning.search_space import SearchSpace

with needs("tune"):
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    from optuna.trial import FrozenTrial, TrialState
    from sqlalchemy.exc import DatabaseError
    from sqlalchemy.pool import NullPool

RETRIES = 3  # largest number of repetitions of an interrupted trial
FEWEST_FOR_IMPORTANCES = 10  # complete trials; with fewer, importances are noise
LONGEST = 2**20  # bytes of a record of study.journal
LOCK_TIMEOUT = 60  # seconds to wait while another worker writes to study.db
STARTUP = 10  # random trials before TPE fits a model; pruning starts after half as many complete ones
UNPRUNED = 3  # intermediate values before a trial may be pruned
DEFAULT, FAILURE = "default", "failure"  # names of a trial's attributes


@dataclass(frozen=True)
class Search:
    """What all trials of a study have in common; it is pickled for worker processes.

    Args:
        algo: name of the algorithm; see `experiments.algorithms`.
        env_id: Gymnasium id of the task.
        configuration: the initial settings, including the training budget and all that does not vary.
        make_env: (configuration, seed) -> training environments with Monitor's episode statistics, wrapped in
            a `VecNormalize` if `configuration.normalize`.
        folder: folder of the study, trials.csv, best.yaml and history.png.
        seeds: seeds of the runs of each trial.
        device: device of the agents.
        full_timesteps: n_timesteps in best.yaml, if trials are shorter than the runs to come.
        modules: modules that a worker process has to import first, e.g. a user's algorithm.

    Raises:
        ValueError: a seed could be that of a reported run, or the configuration has no search space.
    """

    algo: str
    env_id: str
    configuration: RunSettings
    make_env: Callable[[RunSettings, int], VecEnv]
    folder: Path
    seeds: tuple[int, ...] = TUNING_SEEDS
    device: str = "auto"
    full_timesteps: int | None = None
    modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.seeds or min(self.seeds) < RESERVED:
            raise ValueError(
                f"tuning seeds must be at least {RESERVED}, apart from those of reported runs, "
                f"got {self.seeds}"
            )
        SearchSpace.of(self.algo, self.configuration)

    @property
    def space(self) -> SearchSpace:
        """The settings that vary."""
        return SearchSpace.of(self.algo, self.configuration)

    @property
    def study(self) -> Path:
        """The file of the study: the one that exists, or else that of a search on one machine."""
        journal = self.folder / "study.journal"
        return journal if journal.exists() else self.folder / "study.db"

    @property
    def identity(self) -> dict[str, Any]:
        """All settings that must be equal for trials to be comparable."""
        ranges = {f"range of {axis}": extent for axis, extent in self.space.described().items()}
        run = {"algo": self.algo, "env": self.env_id, "seeds": self.seeds}
        if self.configuration.vec_env in ("envpool", "tensor"):  # all others give the same results
            run["vec_env"] = self.configuration.vec_env
        return {**run, **self.configuration.section(), **self.configuration.hyperparameters, **ranges}


def open_study(search: Search, *, shared: bool = False) -> optuna.Study:
    """Open or create the study of a search.

    Args:
        search: the search.
        shared: whether several machines write into the study.

    Raises:
        ValueError: the file is of a search on one machine, but is to be shared; it belongs to another search;
            or it is not a study.
    """
    path = search.study
    if shared and path.suffix == ".db":
        if path.exists():
            raise ValueError(
                f"{path} is of a search on one machine, and SQLite files cannot be shared by machines; "
                "repeat the command without --cluster, or choose another --out"
            )
        path = path.with_suffix(".journal")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=storage_of(path),
            study_name="tuning",
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(STARTUP // 2, UNPRUNED),
        )
    except (DatabaseError, ValueError, KeyError) as error:
        reason = getattr(error, "orig", error)
        raise ValueError(f"{path} is not an Optuna study ({reason}); delete it") from None
    check_identity(path, study, search.identity)
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(search.space.base_coordinates, user_attrs={DEFAULT: True})
    return study


class JournalLock(JournalFileOpenLock):
    """Also remove an incomplete last record, which a node has left that died while it wrote.

    Optuna would append to it, and could not read the journal any more.
    """

    def __init__(self, path: Path):
        super().__init__(str(path))
        self._journal = path

    def acquire(self) -> bool:
        """Acquire the lock."""
        super().acquire()
        with self._journal.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(end - LONGEST, 0))
            tail = file.read()
            if tail and not tail.endswith(b"\n"):
                file.truncate(end - len(tail) + tail.rfind(b"\n") + 1)
        return True


def storage_of(path: Path) -> optuna.storages.BaseStorage:
    """Open or create the file of a study."""
    if path.suffix == ".journal":
        path = path.absolute()  # a process of Ray may have another working directory
        return optuna.storages.JournalStorage(JournalFileBackend(str(path), JournalLock(path)))
    return optuna.storages.RDBStorage(
        f"sqlite:///{path}",
        engine_kwargs={"connect_args": {"timeout": LOCK_TIMEOUT}, "poolclass": NullPool},
    )


def check_identity(path: Path, study: optuna.Study, identity: Mapping[str, Any]) -> None:
    """Raise ValueError if a study belongs to another search; store the identity in a new study."""
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


def return_of(trial: FrozenTrial) -> float:
    """Return the value of a complete trial."""
    assert trial.value is not None
    return float(trial.value)


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that are complete, pruned, or failed because of their settings; none interrupted."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or FAILURE in trial.user_attrs
    ]


def requeue_stale(study: optuna.Study) -> None:
    """Fail running trials, whose processes have ended, and queue each again at most `RETRIES` times."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        retry = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        retry(study, trial)


def importances(study: optuna.Study) -> dict[str, float]:
    """Return each axis's share of the variance in returns; empty if there are too few trials."""
    values = [return_of(trial) for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    if len(values) < FEWEST_FOR_IMPORTANCES or len(set(values)) == 1:
        return {}
    return optuna.importance.get_param_importances(study)

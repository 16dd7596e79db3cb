"""Write rows to MLflow."""

import logging
import os
import time
from typing import Any

from stable_baselines3.common.logger import KVWriter

from agents.untrusted_file import reject_link
from experiments.extras import needs
from experiments.settings.run_settings import flattened
from experiments.terminal import show
from experiments.tracking.tracked_run import PROJECT, TrackedRun, numbers

TAG = "npg_run"  # with the ID of the run
LONGEST = 500  # characters of a parameter's value
QUICK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class MlflowWriter(KVWriter):
    """Write rows to a run of MLflow, which is found by its ID and resumed.

    The server is that of MLFLOW_TRACKING_URI, the experiment that of MLFLOW_EXPERIMENT_NAME. Without a URI,
    or if the server does not answer, the run is in mlflow.db, a database beside the folders of the tasks.

    Args:
        run: the run.
    """

    def __init__(self, run: TrackedRun):
        with needs("mlflow"):
            from mlflow import MlflowClient
            from mlflow.entities import Metric, Param
        self._metric = Metric
        for name in ("mlflow", "alembic"):  # they report every table that they create
            logging.getLogger(name).setLevel(logging.WARNING)
        database = run.folder.absolute().parents[2] / "mlflow.db"
        reject_link(database)
        local = f"sqlite:///{database}"
        self._client = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", local))
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        for key, value in QUICK.items():
            os.environ.setdefault(key, value)
        try:
            experiment = self._experiment(name)
        except Exception as error:  # of the network, of the server, or of MLflow
            if self._client.tracking_uri == local:
                raise
            reason = " ".join(str(error).split())
            show(f"mlflow: {reason:.200}; the run is tracked in {local}", error=True)
            self._client = MlflowClient(tracking_uri=local)
            experiment = self._experiment(name)
        found = self._client.search_runs([experiment], f"tags.{TAG} = '{run.id}'") if run.resumed else []
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            tags = {TAG: run.id, "group": run.group}
            tags |= {key: str(run.settings[key]) for key in ("algo", "env", "seed") if key in run.settings}
            self._id = self._client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
            settings = [Param(key, str(value)[:LONGEST]) for key, value in flattened(run.settings)]
            self._client.log_batch(self._id, params=settings)
        self._last = 0

    def _experiment(self, name: str) -> str:
        for _ in range(2):  # another process may create it at the same time
            if (found := self._client.get_experiment_by_name(name)) is not None:
                return str(found.experiment_id)
            try:
                return str(self._client.create_experiment(name))
            except Exception as error:
                failure = error
        raise failure

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Write a row at an environment step."""
        self._last = max(int(time.time() * 1000), self._last + 1)  # rows are in the order of their times
        row = numbers(key_values, key_excluded).items()
        self._client.log_batch(self._id, [self._metric(key, value, self._last, step) for key, value in row])

    def close(self) -> None:
        """Mark the run as ended."""
        self._client.set_terminated(self._id)


make = MlflowWriter

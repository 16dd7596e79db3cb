"""Write rows to Weights & Biases."""

import os
from typing import Any

from stable_baselines3.common.logger import KVWriter

from agents.untrusted_file import reject_link
from experiments.extras import needs
from experiments.terminal import show
from experiments.tracking.tracked_run import PROJECT, STEPS, TrackedRun, numbers

TIMEOUT = 30.0  # seconds that the service has to answer


class WandbWriter(KVWriter):
    """Write rows to a run of wandb, which is resumed by its ID.

    WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY and WANDB_BASE_URL mean what they mean for wandb. Without a login,
    or if the service does not answer, the run is written into `wandb/` in the run folder, for `wandb sync`.

    Args:
        run: the run.
    """

    def __init__(self, run: TrackedRun):
        with needs("wandb"):
            import wandb
        reject_link(run.folder / "wandb")
        options: dict[str, Any] = {
            "project": os.environ.get("WANDB_PROJECT", PROJECT),
            "dir": str(run.folder),
            "id": run.id,
            "name": run.name,
            "group": run.group,
            "config": dict(run.settings),
            "resume": "allow",
            "settings": wandb.Settings(console="off", init_timeout=TIMEOUT, silent=True),
        }
        try:
            self._run = wandb.init(**options)
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            show(f"wandb: {reason:.200}; the run is tracked offline, in {run.folder / 'wandb'}", error=True)
            wandb.teardown()  # else its service still has the run that failed
            self._run = wandb.init(**options, mode="offline")
        self._run.define_metric("*", step_metric=STEPS)

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Write a row, whose axis is the environment step."""
        self._run.log({**numbers(key_values, key_excluded), STEPS: step})

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


make = WandbWriter

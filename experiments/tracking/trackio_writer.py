"""Write rows to Trackio."""

from typing import Any

from stable_baselines3.common.logger import KVWriter

from experiments.extras import needs
from experiments.settings.run_settings import flattened
from experiments.tracking.tracked_run import PROJECT, TrackedRun, numbers


class TrackioWriter(KVWriter):
    """Write rows to a run of Trackio, which is resumed by its name.

    Trackio keeps runs in a database on this machine (TRACKIO_DIR); TRACKIO_SPACE_ID is its variable for a
    Space that also receives them.

    Args:
        run: the run.
    """

    def __init__(self, run: TrackedRun):
        with needs("trackio"):
            import trackio
        self._run = trackio.init(
            PROJECT,
            name=f"{run.name} {run.id}",  # Trackio knows a run by its name
            group=run.group,
            config={key: value for key, value in flattened(run.settings) if not key.startswith("_")},
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Write a row at an environment step."""
        self._run.log(numbers(key_values, key_excluded), step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


make = TrackioWriter

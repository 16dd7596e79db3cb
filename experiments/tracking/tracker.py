"""Track a run: every row of its log, once, even if the run is resumed."""

import json
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, Self

from stable_baselines3.common.logger import KVWriter

from agents.untrusted_file import read_text
from experiments.extras import needs
from experiments.failure import describe_failure
from experiments.run.generators import restore_generators, take_generators
from experiments.run.run_folder import RunFolder, write_json
from experiments.run.run_log import RowWriter
from experiments.settings.run_settings import RunSettings
from experiments.terminal import show
from experiments.tracking import mlflow_writer, trackio_writer, wandb_writer
from experiments.tracking.tracked_run import TrackedRun

Make = Callable[[TrackedRun], KVWriter]
TRACKERS: dict[str, Make] = {
    "wandb": wandb_writer.make,
    "mlflow": mlflow_writer.make,
    "trackio": trackio_writer.make,
}
FINAL = ("mean_return", "std_return", "iqm_return", "mean_length")  # of the final evaluation
ID = re.compile("[a-z0-9]{1,32}")
MOST = 4096  # bytes of tracking.json


class Tracker(RowWriter):
    """Write each row of a run's log to a tracker.

    tracking.json in the run folder has the run's ID, the environment step of the last row that was sent, and
    the number of rows of that step. A resumed run repeats some rows, with the same numbers, and sends only
    those that are new; if the process was killed, the last one may be sent twice. An error of the tracker
    ends the tracking, not the training.

    Args:
        settings: the run's settings, with the name of a tracker or "module:make", whose module is imported.
        document: content of config.yaml.
        folder: the run folder.
    """

    def __init__(self, settings: RunSettings, document: Mapping[str, Any], folder: RunFolder):
        self._path = folder.tracking
        state = self._read()
        self._state = state or {"id": uuid.uuid4().hex[:16], "step": 0, "rows": 0}
        self._at = (0, 0)  # the last row of the log: its step, and which row of this step it is
        self._writer: KVWriter | None = None
        name = f"{settings.algo} {settings.env} seed {settings.seed}"
        run = TrackedRun(
            folder=folder.path,
            id=self._state["id"],
            name=name,
            group=f"{settings.env}/{settings.algo}",
            settings=document,
            resumed=bool(state),
        )
        with self._without_failing():
            self._writer = find_tracker(settings.track)(run)
            write_json(self._path, self._state)

    def start(self, steps: Sequence[int]) -> None:
        """Begin after the rows of these environment steps, which a resumed run does not repeat."""
        if steps:
            self._at = (steps[-1], steps.count(steps[-1]))

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Send a row, unless it was sent before the run was resumed."""
        self._at = (step, self._at[1] + 1 if step == self._at[0] else 1)
        if self._writer is None or self._at <= (self._state["step"], self._state["rows"]):
            return
        with self._without_failing():
            self._writer.write(key_values, key_excluded, step)
            self._state["step"], self._state["rows"] = self._at
            write_json(self._path, self._state)

    def write_final(self, result: Mapping[str, Any]) -> None:
        """Send the final evaluation; empty if there was none."""
        values = {f"final/{name}": result[name] for name in FINAL if name in result}
        if self._writer is not None and values:
            with self._without_failing():
                self._writer.write(values, dict.fromkeys(values, ()), result["steps"])

    def close(self) -> None:
        """Do nothing: the final evaluation comes after the log is closed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the tracker."""
        if self._writer is not None:
            with self._without_failing():
                self._writer.close()
        self._writer = None

    def _read(self) -> dict[str, Any]:
        """Return the content of tracking.json; empty if there is none, or none of a run."""
        with suppress(OSError, ValueError, AttributeError, RecursionError):
            state = json.loads(read_text(self._path, MOST))
            kept = {name: state.get(name) for name in ("id", "step", "rows")}
            if ID.fullmatch(str(kept["id"])) and type(kept["step"]) is type(kept["rows"]) is int:
                return kept
        return {}

    @contextmanager
    def _without_failing(self) -> Iterator[None]:
        """Stop tracking at an error, and leave the random number generators of the training as they are."""
        generators = take_generators()
        try:
            yield
        except ImportError:
            raise
        except Exception as error:  # of a package, a service, or the user's own writer
            self._writer = None
            show(
                f"{describe_failure(error, 'in the tracking')}\nThe run continues without tracking.",
                error=True,
            )
        finally:
            restore_generators(generators)


def find_tracker(name: str) -> Make:
    """Return the function that makes a tracker's writer; nothing is imported.

    Raises:
        ValueError: the name is unknown, or names a module that was not imported.
    """
    if name in TRACKERS:
        return TRACKERS[name]
    module, colon, attribute = name.rpartition(":")
    if not colon:
        raise ValueError(f"--track must be one of {', '.join(TRACKERS)}, or module:make; got {name!r:.60}")
    make = getattr(sys.modules.get(module), attribute, None)
    if not callable(make):
        raise ValueError(f"{module} was not imported or has no {attribute}, which --track {name} names")
    return make  # type: ignore[no-any-return]


def check_tracker(name: str) -> None:
    """Check that a tracker can be used; an empty name is for none.

    Raises:
        ImportError: its package is not installed.
        ValueError: see `find_tracker`.
    """
    if name:
        find_tracker(name)
    if name in TRACKERS:
        with needs(name):
            import_module(name)

"""Many runs, several at a time, each a process of its own."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from experiments.progress import progress_bar
from experiments.run.csv_log import last_row
from experiments.run.run_folder import RunFolder

POLL = 0.5  # seconds
PATIENCE = 60.0  # seconds that an interrupted run has for saving its model
LAST_LINES = 3


class GridStopped(KeyboardInterrupt):
    """A grid was asked to end by another signal than Ctrl-C's.

    Attributes:
        code: the command's exit code, 128 plus the signal's number.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


@contextmanager
def heeding(*numbers: int) -> Iterator[None]:
    """Let signals raise `GridStopped`, so that no run outlives its grid; in the main thread only."""

    def stopped(number: int, _: object) -> None:
        raise GridStopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stopped) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class Cell:
    """One run of a grid.

    Args:
        label: names it in front of its progress bar.
        command: that makes it.
        folder: that it writes.
        n_timesteps: of it, for the progress bar.
    """

    label: str
    command: Sequence[str]
    folder: RunFolder
    n_timesteps: int
    process: subprocess.Popen | None = field(default=None, init=False)
    bar: tqdm | None = field(default=None, init=False)

    @property
    def log(self) -> Path:
        """What the run printed; it lies beside the folder, and stays where the run failed."""
        return self.folder.path.with_name(f"{self.folder.path.name}.log")

    def start(self, position: int) -> None:
        """Start the process, apart from the terminal's Ctrl-C, which is the grid's to pass on."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join(place or os.getcwd() for place in sys.path)  # the same packages as here
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        if sys.stderr.isatty():
            self.bar = progress_bar(self.n_timesteps, self.label, "step", position=position, leave=False)

    def show(self) -> int:
        """Bring the bar up to date, and return the logged environment steps, at most `n_timesteps`."""
        latest = last_row(self.folder.progress)
        steps = min(int(latest.get("time/total_timesteps") or 0), self.n_timesteps)
        if self.bar is not None:
            if episode_return := latest.get("rollout/ep_rew_mean"):
                self.bar.set_postfix({"return": f"{float(episode_return):.1f}"}, refresh=False)
            self.bar.n = steps
            self.bar.refresh()
        return steps

    def end(self) -> str | None:
        """Clear up after the process; return None, or why the run failed."""
        assert self.process is not None
        if self.bar is not None:
            self.bar.close()
        code = self.process.returncode
        if code == 0:
            self.log.unlink(missing_ok=True)
            return None
        lines = self.log.read_text(errors="replace").strip().splitlines()
        said = " / ".join(line.strip() for line in lines[-LAST_LINES:]) or "it printed nothing"
        ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{ended}: {said} (all of it in {self.log})"


def run_grid(cells: Sequence[Cell], jobs: int) -> dict[str, str]:
    """Make all runs that are not finished, and show how far each and the whole is.

    Args:
        cells: the runs.
        jobs: processes at a time.

    Returns:
        Why runs failed, by label; the others are finished.

    Raises:
        KeyboardInterrupt: after the running ones were asked to save and end; repeat the grid to go on. For
            SIGTERM and SIGHUP a `GridStopped`.
    """
    waiting = [cell for cell in cells if not cell.folder.finished]
    if len(waiting) < len(cells):
        print(f"{len(cells) - len(waiting)} of {len(cells)} runs are finished already")
    failures: dict[str, str] = {}
    running: list[Cell | None] = [None] * jobs
    total = progress_bar(sum(cell.n_timesteps for cell in waiting), "all runs", "step", position=0)
    done = ended = 0
    count = len(waiting)
    try:
        with heeding(signal.SIGTERM, signal.SIGHUP):
            while waiting or any(running):
                for slot, cell in enumerate(running):
                    if cell is None and waiting:
                        running[slot] = waiting.pop(0)
                        running[slot].start(slot + 1)  # type: ignore[union-attr]
                    elif cell is not None and cell.process is not None and cell.process.poll() is not None:
                        running[slot] = None
                        done += cell.n_timesteps
                        ended += 1
                        if (failure := cell.end()) is not None:
                            failures[cell.label] = failure
                            total.write(f"failed: {cell.label}: {failure}", file=sys.stderr)
                total.set_postfix({"ended": f"{ended}/{count}", "failed": len(failures)}, refresh=False)
                total.update(done + sum(cell.show() for cell in running if cell) - total.n)
                time.sleep(POLL)
    except KeyboardInterrupt:
        stop([cell for cell in running if cell])
        raise
    finally:
        total.close()
    return failures


def stop(cells: Sequence[Cell]) -> None:
    """Let running processes save what they have; kill those that take too long, or all at a second Ctrl-C."""
    processes = [cell.process for cell in cells if cell.process is not None]
    print("\ninterrupted; waiting for the running ones to save their models", file=sys.stderr)
    try:
        for process in processes:
            process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + PATIENCE
        for process in processes:
            process.wait(max(deadline - time.monotonic(), 0.0))
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        for process in processes:
            process.kill()
    for cell in cells:
        if cell.process is not None:
            cell.process.wait()
            if cell.bar is not None:
                cell.bar.close()
            cell.log.unlink(missing_ok=True)

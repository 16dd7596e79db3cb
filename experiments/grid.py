"""Run a grid: many runs, several at a time, each in its own process."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from experiments.progress import progress_bar
from experiments.run.csv_log import last_row
from experiments.run.run_folder import RunFolder
from experiments.run.stop_signals import Stopped
from experiments.run_process import RunProcess, start_process
from experiments.terminal import printable, show

POLL = 0.5  # seconds
PATIENCE = 60.0  # seconds that interrupted runs have for saving their models
LAST_LINES = 3
STOPPING = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))  # Windows has no SIGHUP


@contextmanager
def raise_on_signal(*numbers: int) -> Iterator[None]:
    """Raise `Stopped` in the block at each of these signals; outside the main thread, do nothing."""

    def raise_stopped(number: int, _: object) -> None:
        raise Stopped(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, raise_stopped) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class Cell:
    """One run of a grid.

    Args:
        label: text before its progress bar.
        command: command line of its process.
        folder: folder that it writes.
        n_timesteps: its number of environment steps, for the progress bar.
    """

    label: str
    command: Sequence[str]
    folder: RunFolder
    n_timesteps: int
    process: RunProcess = field(init=False)
    bar: tqdm = field(init=False)

    @property
    def log(self) -> Path:
        """File with the output of the process, next to the run folder; it is kept if the run failed."""
        return self.folder.path.with_name(f"{self.folder.path.name}.log")

    def start(self, start: "Start") -> None:
        """Start the process, and show a progress bar."""
        self.bar = progress_bar(self.n_timesteps, self.label, "step", disable=not sys.stderr.isatty())
        self.process = start(self.command, self.log)

    def update_bar(self) -> int:
        """Update the bar, and return the number of logged environment steps, at most `n_timesteps`."""
        latest = last_row(self.folder.progress)
        steps = min(int(latest.get("time/total_timesteps") or 0), self.n_timesteps)
        if episode_return := latest.get("rollout/ep_rew_mean"):
            self.bar.set_postfix({"return": f"{float(episode_return):.1f}"}, refresh=False)
        if steps == self.n_timesteps:
            self.bar.set_description_str(f"{self.label}: evaluating", refresh=False)
        self.bar.n = steps
        self.bar.refresh()
        return steps

    def end(self) -> str | None:
        """Clean up after the process has ended; return the reason if the run failed, or else None."""
        self.bar.close()
        code = self.process.returncode
        assert code is not None
        if code == 0:
            self.log.unlink(missing_ok=True)
            return None
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        lines = [line for line in lines if line.startswith("error: ")] or lines
        printed = " / ".join(line.strip() for line in lines[-LAST_LINES:]) or "it printed nothing"
        reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{reason}: {printed} (all of it in {self.log})"


Start = Callable[[Sequence[str], Path], RunProcess]  # (command, log) -> its process


def run_grid(cells: Sequence[Cell], jobs: int, start: Start = start_process) -> dict[str, str]:
    """Make all runs that are not finished, with one progress bar per run and one for all.

    Args:
        cells: the runs.
        jobs: largest number of processes at a time.
        start: starts a process, on this machine by default.

    Returns:
        {label: reason} of the runs that failed; the others are finished.

    Raises:
        Stopped: SIGINT, SIGTERM or SIGHUP was received, and the running processes have ended; repeat the grid
            to resume.
    """
    waiting = [cell for cell in cells if not cell.folder.finished]
    if len(waiting) < len(cells):
        show(f"{len(cells) - len(waiting)} of {len(cells)} runs are finished already")
    failures: dict[str, str] = {}
    running: list[Cell] = []
    ended: list[Cell] = []
    count = len(waiting)
    with (
        raise_on_signal(*STOPPING),
        closing(progress_bar(sum(cell.n_timesteps for cell in waiting), "all runs", "step")) as total,
    ):
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    waiting[0].start(start)
                    running.append(waiting.pop(0))
                for cell in [cell for cell in running if cell.process.poll() is not None]:
                    running.remove(cell)
                    ended.append(cell)
                    if (failure := cell.end()) is not None:
                        failures[cell.label] = failure
                        total.write(printable(f"failed: {cell.label}: {failure}"), file=sys.stderr)
                steps = sum(cell.n_timesteps for cell in ended) + sum(cell.update_bar() for cell in running)
                evaluating = sum(cell.bar.n == cell.n_timesteps for cell in running)
                counts = {"ended": f"{len(ended)}/{count}", "failed": len(failures), "evaluating": evaluating}
                total.set_postfix(counts, refresh=False)
                total.update(steps - total.n)
                time.sleep(POLL)
        except Stopped:
            stop(running)
            raise
    return failures


def stop(cells: Sequence[Cell]) -> None:
    """Interrupt processes and wait until they have saved; kill all that are left at a timeout or signal."""
    show("\ninterrupted; waiting for the running ones to save their models", error=True)
    try:
        for cell in reversed(cells):  # else one that waits for a core would start as soon as another stops
            cell.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + PATIENCE
        for cell in cells:
            cell.process.wait(max(deadline - time.monotonic(), 0.0))
    except (Stopped, subprocess.TimeoutExpired):
        for cell in cells:
            cell.process.kill()
    for cell in cells:
        cell.process.wait()
        cell.bar.close()
        cell.log.unlink(missing_ok=True)

"""Measure several configurations in interleaved rounds, each in its own process.

The order is A, B, C, A, B, C, ..., so that noise and drift of the machine affect all configurations equally.
Every configuration has its own process, since thread settings and imports belong to a process. While another
configuration is measured, the process and its children are stopped, so that idle workers do not use the CPU.
"""

import gc
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from multiprocessing.connection import Connection
from typing import Any, Self

import torch
from measurement import progress

Measure = Callable[[], dict[str, float]]
# setting -> a context that prepares everything and yields the function that makes a measurement
MeasureFactory = Callable[[Any], AbstractContextManager[Measure]]
CLOSE_TIMEOUT = 30.0  # seconds for a process to close its environments


class MeasurementError(RuntimeError):
    """A process failed; the message is its traceback."""


class MeasuredProcess:
    """A process that is stopped except while it measures.

    Args:
        factory: makes, in the process, the function that measures.
        setting: the argument of the factory.
        threads: number of torch's threads; 0 for torch's default.

    Raises:
        MeasurementError: the factory failed.
    """

    def __init__(self, factory: MeasureFactory, setting: Any, threads: int = 0):
        context = multiprocessing.get_context("spawn")
        self._pipe, child_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(child_end, factory, setting, threads))
        self._process.start()
        child_end.close()
        try:
            self._receive()
        except BaseException:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    def measure(self) -> dict[str, float]:
        """Measure once.

        Raises:
            MeasurementError: the measurement failed.
        """
        self._signal(signal.SIGCONT)
        self._pipe.send(True)
        result = self._receive()
        self._signal(signal.SIGSTOP)
        return result

    def close(self) -> None:
        """End the process and its children."""
        self._signal(signal.SIGCONT)
        with suppress(OSError):
            self._pipe.send(False)
        self._process.join(CLOSE_TIMEOUT)
        if self._process.is_alive():
            self._signal(signal.SIGKILL)
            self._process.join()
        self._pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        with suppress(ProcessLookupError):  # the process has ended, or has not created its group yet
            os.killpg(self._process.pid, number)

    def _receive(self) -> dict[str, float]:
        try:
            result = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise MeasurementError(f"the process ended with exit code {self._process.exitcode}") from error
        if isinstance(result, str):
            raise MeasurementError(result)
        return result


def _serve(pipe: Connection, factory: MeasureFactory, setting: Any, threads: int) -> None:
    """Measure whenever the pipe requests it, until it requests the end."""
    os.setpgid(0, 0)
    if threads:
        torch.set_num_threads(threads)
    try:
        with factory(setting) as measure_once:
            pipe.send({})
            while pipe.recv():
                gc.collect()
                pipe.send(measure_once())
    except EOFError:
        return
    except Exception:
        pipe.send(traceback.format_exc())


def interleave(
    configurations: dict[str, tuple[MeasureFactory, Any, int]], rounds: int, warm_ups: int = 1
) -> tuple[dict[str, list[dict[str, float]]], dict[str, str]]:
    """Measure configurations in interleaved rounds.

    Args:
        configurations: {name: (factory, setting, threads)}.
        rounds: number of rounds to record.
        warm_ups: number of rounds before these, which are not recorded.

    Returns:
        {name: results of every round}, and {name: traceback} of the configurations that failed.
    """
    results: dict[str, list[dict[str, float]]] = {}
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        ready = {}
        for name, (factory, setting, threads) in configurations.items():
            progress(f"starting {name}")
            try:
                ready[name] = stack.enter_context(MeasuredProcess(factory, setting, threads))
            except MeasurementError as error:
                failures[name] = str(error)
        for number in range(-warm_ups, rounds):
            for name in list(ready):
                try:
                    measured = ready[name].measure()
                except MeasurementError as error:
                    failures[name] = str(error)
                    del ready[name]
                    results.pop(name, None)  # no incomplete series
                    continue
                text = ", ".join(f"{key} {value:.4g}" for key, value in measured.items())
                progress(f"{'warm-up' if number < 0 else f'round {number + 1}/{rounds}'}: {name}: {text}")
                if number >= 0:
                    results.setdefault(name, []).append(measured)
    for name, text in failures.items():
        progress(f"{name} is left out: {text}")
    return results, failures
